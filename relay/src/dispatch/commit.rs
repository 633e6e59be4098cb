//! The hand-over: jobs, failures and cursors in one transaction of the jobs database.
//!
//! This is what makes it exactly-once without two-phase commit: the cursor is in the database that the jobs go to.

use tokio_postgres::{Client, Statement, Transaction};

use super::checkpoint;
use super::cursor;
use super::read::{Batch, Failure};
use crate::jobs::store;
use crate::postgres::{self, SESSION_LEASE, within};

/// `insert_failures`: keeps what a handler could not take; a further failure of the same counts up.
pub const INSERT_FAILURES: &str = "
    INSERT INTO dispatch_failures AS failure
           (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
    SELECT *
      FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[])
        ON CONFLICT (event_id, handler) DO UPDATE
           SET attempts       = failure.attempts + 1,
               error          = excluded.error,
               last_failed_at = now(),
               resolved_at    = NULL";

/// Why a batch was not stored. Nothing of it was, unless the connection broke at COMMIT: then the cursors tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another worker has moved a lane since it was read: it owns the lane now.
    #[error("a lane was moved by another relay; nothing was stored, and the lanes are given up")]
    Fenced,
    /// The database is away, or refused a statement.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
}

/// The statements of a hand-over, prepared on one connection.
#[derive(Debug)]
pub struct Statements {
    advance: Statement,
    keep: Statement,
    insert_jobs: Statement,
    insert_failures: Statement,
}

impl Statements {
    /// Prepares them.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let (advance, keep, insert_jobs, insert_failures) = tokio::try_join!(
            client.prepare(cursor::ADVANCE),
            client.prepare(checkpoint::KEEP),
            client.prepare(store::INSERT),
            client.prepare(INSERT_FAILURES),
        )?;
        Ok(Self { advance, keep, insert_jobs, insert_failures })
    }
}

/// Stores a batch. Returns how many jobs were new.
///
/// # Errors
/// [`Error::Fenced`], or whatever PostgreSQL says.
pub async fn commit(client: &mut Client, statements: &Statements, batch: &Batch) -> Result<u64, Error> {
    // Longer than this and the session, with the lanes, is gone anyway.
    within(SESSION_LEASE, async {
        let transaction = client.transaction().await?;
        // Sent together: the fence costs no round trip of its own.
        let (moved, stored, set_aside, kept) = tokio::join!(
            cursor::advance(&transaction, &statements.advance, &batch.cursors),
            store::insert(&transaction, &statements.insert_jobs, &batch.jobs),
            insert_failures(&transaction, &statements.insert_failures, &batch.failures),
            checkpoint::keep(&transaction, &statements.keep, &batch.checkpoints),
        );
        set_aside?;
        kept?;
        if moved? != batch.cursors.len() as u64 {
            transaction.rollback().await?;
            return Ok(None);
        }
        let stored = stored?;
        transaction.commit().await?;
        Ok(Some(stored))
    })
    .await?
    .ok_or(Error::Fenced)
}

/// Stores failures in the caller's transaction; no event may be there twice for one handler.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn insert_failures(
    transaction: &Transaction<'_>,
    statement: &Statement,
    failures: &[Failure],
) -> Result<(), tokio_postgres::Error> {
    if failures.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(failures: &'a [Failure], of: impl FnMut(&'a Failure) -> T) -> Vec<T> {
        failures.iter().map(of).collect()
    }
    transaction
        .execute(
            statement,
            &[
                &column(failures, |f| f.event.event_id),
                &column(failures, |f| f.handler),
                &column(failures, |f| f.event.lane),
                &column(failures, |f| f.event.aggregate_type.as_str()),
                &column(failures, |f| f.event.aggregate_id.as_str()),
                &column(failures, |f| f.event.event_type.as_str()),
                &column(failures, |f| f.error.as_str()),
            ],
        )
        .await
        .map(drop)
}
