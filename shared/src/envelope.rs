//! The envelope: an event with its identity, aggregate, time and metadata, as it stands in the outbox.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::{DecodeError, Event};

/// The key in an event's metadata that says when `api erase` blanked it.
pub const ERASED_AT: &str = "aftercommit.erased_at";

/// An outbox row. `P` is the payload: raw JSON as read, or a decoded event as handlers get it. All else is its
/// [`Head`], read as if its fields stood here.
#[derive(Clone, Debug)]
pub struct Envelope<P = Box<RawValue>> {
    /// Whatever is not the payload.
    pub head: Arc<Head>,
    /// What happened.
    pub payload: P,
}

/// An event's identity, aggregate, time and metadata. Shared, not copied: handlers, jobs and logs look at the same one.
#[derive(Clone, Debug)]
pub struct Head {
    /// Made by the writer, normally a UUIDv7.
    pub event_id: Uuid,
    /// The order within an aggregate (and within a lane); given by the database.
    pub position: i64,
    /// 0 to 15: a hash of the aggregate's id.
    pub lane: i16,
    /// Such as `user`.
    pub aggregate_type: String,
    /// The aggregate's identifier within its type.
    pub aggregate_id: String,
    /// Such as `user.registered`.
    pub event_type: String,
    /// The version of the payload's shape.
    pub event_version: i32,
    /// A JSON object, or what somebody took for one: trace context (`traceparent`, `tracestate`), `correlation_id`,
    /// `causation_id`, and whatever else the writer added. Kept raw: rows are written by any language, and an odd value
    /// here must not fail an event.
    pub metadata: Box<RawValue>,
    /// When the writer says that it happened.
    pub occurred_at: OffsetDateTime,
}

impl<P> Deref for Envelope<P> {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Envelope {
    /// The same envelope with its payload decoded.
    ///
    /// # Errors
    /// As [`Event::decode`].
    pub fn decode<E: Event>(&self) -> Result<Envelope<E>, DecodeError> {
        let payload = E::decode(self.event_version, self.payload.get())?;
        Ok(Envelope { head: Arc::clone(&self.head), payload })
    }
}

impl<P> Envelope<P> {
    /// Whether its payload was blanked: then there is nothing in it for any handler.
    pub fn is_erased(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Erased {
            #[serde(rename = "aftercommit.erased_at")]
            erased_at: Option<serde::de::IgnoredAny>,
        }
        // Nearly always the text alone says no.
        self.metadata.get().contains(ERASED_AT)
            && serde_json::from_str::<Erased>(self.metadata.get()).is_ok_and(|erased| erased.erased_at.is_some())
    }

    /// The W3C trace context that the writer left, if it is there and a string.
    pub fn traceparent(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Trace {
            traceparent: Option<String>,
        }
        serde_json::from_str::<Trace>(self.metadata.get()).ok()?.traceparent
    }
}
