//! 1. Reading the outbox: where it stands, what is new, and the rows, all under one snapshot.
//!
//! Every read happens in a short `REPEATABLE READ READ ONLY` transaction that begins with a [`Look`]: an address can
//! lead to another server from one transaction to the next (a pooler, a virtual IP), so whether this is still the
//! history that the cursors point into is asked each time. Nothing here writes, and nothing here decides.

pub mod source;
pub mod types;
pub mod window;
pub mod look;
pub mod plan;
pub mod rows;
pub mod evidence;
pub mod page;
pub mod listing;
pub mod backlog;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use shared::envelope::{Envelope, Head};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::postgres::{self, within};
use types::Moment;
use window::TransactionId;

pub use evidence::Evidence;
pub use look::{Answer, Look, Question, glance, look};
pub use plan::{Plan, Slice};
pub use rows::{Range, Read, START, Stretch, Way};
pub use source::{Session, Source};

/// The bound on any one exchange with the application database. A transaction there is a look, at most 200 ms of planning
/// and a piece, and one statement that reads a batch: some tens of milliseconds where nothing is wrong, however large
/// the backlog. What is held up longer than this is given up, by the relay and by the server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows read at a time, and what counting stops at.
pub const SLICE_ROWS: usize = 1_000;

/// Bytes of payload and metadata read at a time; one row may be larger than what is left.
pub const SLICE_BYTES: usize = 8 << 20;

/// Why the outbox could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away, or refused a statement.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// Reading there would lose events: a standby's snapshots list no running transactions.
    #[error(
        "DATABASE_URL leads to a hot standby, where running transactions are invisible and events would be lost; \
         the relay reads from the primary, and goes on by itself if this server is promoted"
    )]
    Standby,
    /// Rows arrive there in another order than they were committed in.
    #[error(
        "the outbox is the target of a logical replication subscription, where rows arrive with the ids of another \
         cluster; the relay goes on by itself once the subscription is dropped"
    )]
    Subscribed,
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Which cluster, and which of its timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made by initdb, kept by physical copies.
    pub system_identifier: i64,
    /// Rises with each promotion.
    pub timeline: i32,
}

/// A row that vouches for a snapshot: as long as it is there, every transaction id below its own had been given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The row's event.
    pub event_id: Uuid,
    /// The transaction that wrote it.
    pub transaction_id: TransactionId,
    /// Its position.
    pub position: i64,
}

/// One run of one server: while it is the same, no transaction that is on disk can be undone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Server {
    /// Which history it continues.
    pub identity: Identity,
    /// When it was started.
    pub started: OffsetDateTime,
}

/// An outbox row as read.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// The event.
    pub envelope: Envelope,
    /// The transaction that wrote it.
    pub transaction_id: TransactionId,
    /// Whether its commit was on disk before it was visible.
    pub durable_at_commit: bool,
}

/// A read transaction, begun by a [`Look`]. Dropped without [`Reading::end`], the connection is of no more use.
pub struct Reading<'a> {
    source: Source<'a>,
}

impl Reading<'_> {
    /// Ends the transaction.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn end(self) -> Result<(), Error> {
        Ok(within(PATIENCE, self.source.client.batch_execute("COMMIT")).await?)
    }

    /// Ends the transaction without waiting for the answer, which nothing depends on: all of it was read. Were the connection
    /// broken, the next statement says so.
    pub fn end_soon(self) {
        let _ = self.source.client.batch_execute("COMMIT").now_or_never();
    }
}

fn outbox_row(row: &Row, lane: i16) -> Result<OutboxRow, tokio_postgres::Error> {
    let Json(payload): Json<Box<RawValue>> = row.try_get(7)?;
    let Json(metadata): Json<Box<RawValue>> = row.try_get(8)?;
    let Moment(occurred_at) = row.try_get(9)?;
    let head = Head {
        event_id: row.try_get(0)?,
        position: row.try_get(1)?,
        lane,
        aggregate_type: row.try_get(3)?,
        aggregate_id: row.try_get(4)?,
        event_type: row.try_get(5)?,
        event_version: row.try_get(6)?,
        metadata,
        occurred_at,
    };
    Ok(OutboxRow {
        envelope: Envelope { head: Arc::new(head), payload },
        transaction_id: row.try_get(2)?,
        durable_at_commit: row.try_get(10)?,
    })
}
