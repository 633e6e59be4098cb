//! Events: facts in the past tense that an aggregate records and handlers read.
//!
//! An event is immutable once committed, and its type and version say how its payload is read: a change of shape is a
//! new version, and [`Event::decode`] keeps reading the old ones. Nothing here does I/O.

pub mod user;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of event: how it is named in the outbox and how its payload is read.
pub trait Event: Serialize + DeserializeOwned {
    /// The type of the aggregate that records it, such as `user`.
    const AGGREGATE_TYPE: &'static str;
    /// Its name in the outbox, such as `user.registered`.
    const TYPE: &'static str;
    /// The version this build writes.
    const VERSION: i32;

    /// Reads a payload of the given version. Override it to keep reading versions older than [`Self::VERSION`].
    ///
    /// # Errors
    /// When this build does not know the version, or the payload lacks what the version promises.
    fn decode(version: i32, payload: &str) -> Result<Self, DecodeError> {
        if version != Self::VERSION {
            return Err(DecodeError::UnknownVersion { event_type: Self::TYPE, version });
        }
        serde_json::from_str(payload).map_err(|source| DecodeError::Payload { event_type: Self::TYPE, version, source })
    }
}

/// Why an event could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A version that this build does not know: most likely written by a newer one.
    #[error("{event_type} version {version} is not known to this build")]
    UnknownVersion {
        /// The event's type.
        event_type: &'static str,
        /// The version in the row.
        version: i32,
    },
    /// The payload does not have the shape of its version.
    #[error("{event_type} version {version} has a payload that cannot be read")]
    Payload {
        /// The event's type.
        event_type: &'static str,
        /// The version in the row.
        version: i32,
        /// What serde found; it names fields and types, never values of string fields.
        source: serde_json::Error,
    },
}
