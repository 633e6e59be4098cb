//! Events on their way into the outbox, together with the change that they tell of: see [`super::statements`].

use serde_json::Value;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use crate::domain::Recorded;

/// What was stored, as far as the unit of work must remember it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The transaction that stored it.
    pub transaction_id: String,
    /// One of the events: it is there exactly when the transaction was committed.
    pub event_id: Uuid,
}

/// One of the [`super::statements`] with the events bound, and what they have in common.
pub(super) fn with_events<'q>(
    statement: &'static str,
    recorded: &'q [Recorded],
    metadata: &'q Value,
) -> Query<'q, Postgres, PgArguments> {
    fn column<'q, T>(recorded: &'q [Recorded], of: impl FnMut(&'q Recorded) -> T) -> Vec<T> {
        recorded.iter().map(of).collect()
    }
    sqlx::query(statement)
        .bind(column(recorded, |event| event.event_id))
        .bind(column(recorded, |event| event.aggregate_type))
        .bind(column(recorded, |event| event.aggregate_id.as_str()))
        .bind(column(recorded, |event| event.event_type))
        .bind(column(recorded, |event| event.event_version))
        .bind(column(recorded, |event| &event.payload))
        .bind(metadata)
}

/// Purpose: whether a transaction is over. Null when it is too long ago to say.
pub const TRANSACTION_STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// Purpose: whether an event was committed.
pub const EVENT_EXISTS: &str = "SELECT EXISTS (SELECT FROM aftercommit.outbox WHERE event_id = $1)";
