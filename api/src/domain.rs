//! The aggregates: what may happen to them, and which events tell of it. No I/O, no clock, no SQL.

pub mod user;

use serde::Serialize;
use serde_json::Value;
use shared::event::Event;
use uuid::Uuid;

/// An event as an aggregate records it, before it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    pub event_id: Uuid,
    pub aggregate_type: &'static str,
    pub aggregate_id: String,
    pub event_type: &'static str,
    pub event_version: i32,
    pub payload: Value,
}

impl Recorded {
    /// Gives an event its identity.
    fn new<E: Event + Serialize>(aggregate_id: Uuid, event: &E) -> Self {
        Self {
            event_id: Uuid::now_v7(),
            aggregate_type: E::AGGREGATE_TYPE,
            aggregate_id: aggregate_id.to_string(),
            event_type: E::TYPE,
            event_version: E::VERSION,
            // Events are plain structs with named fields of text and numbers, which always become JSON.
            payload: serde_json::to_value(event).expect("an event is a plain struct"),
        }
    }
}
