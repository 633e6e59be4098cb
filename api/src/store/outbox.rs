//! Events on their way into the outbox, together with the change that they tell of.
//!
//! The rule of the outbox is that the aggregate's row is locked first and the event inserted then. Here both are one
//! statement: the insert selects from the change, so it runs after it, and not at all when the change found no row.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::Recorded;

/// A statement that makes a change and stores its events: `$1` are the events, `$2` their metadata. The change must
/// return one row when it happened. Answers the transaction's id, which tells the fate of a COMMIT without answer.
macro_rules! with_events {
    ($change:literal) => {
        concat!(
            "WITH changed AS (",
            $change,
            ") INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata)
               SELECT e.event_id, e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.payload, $2
                 FROM changed,
                      ROWS FROM (jsonb_to_recordset($1) AS (event_id uuid, aggregate_type text, aggregate_id text,
                                                            event_type text, event_version integer, payload jsonb))
                      WITH ORDINALITY AS e
                ORDER BY e.ordinality
               RETURNING pg_current_xact_id()::text"
        )
    };
}
pub(super) use with_events;

/// What was stored, as far as the unit of work must remember it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The transaction that stored it.
    pub transaction_id: String,
    /// One of the events: it is there exactly when the transaction was committed.
    pub event_id: Uuid,
}

/// Events as the statement takes them.
pub(super) fn rows(recorded: &[Recorded]) -> Value {
    recorded
        .iter()
        .map(|event| {
            json!({
                "event_id": event.event_id,
                "aggregate_type": event.aggregate_type,
                "aggregate_id": event.aggregate_id,
                "event_type": event.event_type,
                "event_version": event.event_version,
                "payload": event.payload,
            })
        })
        .collect()
}

/// Purpose: whether a transaction is over. Null when it is too long ago to say.
pub const TRANSACTION_STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// Purpose: whether an event was committed.
pub const EVENT_EXISTS: &str = "SELECT EXISTS (SELECT FROM aftercommit.outbox WHERE event_id = $1)";
