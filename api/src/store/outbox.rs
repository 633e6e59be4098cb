//! Events on their way into the outbox, the first together with the change that it tells of: see [`super::statements`].

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

/// One of the [`super::statements`] with the event bound, and what it has in common with others of the same change.
pub(super) fn with_event<'q>(
    statement: &'static str,
    event: &'q Recorded,
    metadata: &'q Value,
) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(statement)
        .bind(event.event_id)
        .bind(event.aggregate_type)
        .bind(&event.aggregate_id)
        .bind(event.event_type)
        .bind(event.event_version)
        .bind(event.payload.to_string())
        .bind(metadata.to_string())
}

/// Purpose: whether a transaction is over. Null when it is too long ago to say.
pub const TRANSACTION_STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// Purpose: whether an event was committed.
pub const EVENT_EXISTS: &str = "SELECT EXISTS (SELECT FROM aftercommit.outbox WHERE event_id = $1)";
