//! A job's id, computed: the same event, handler, name and generation always give the same id, so that the primary key
//! is what makes storing a job idempotent.
//!
//! The first 48 bits are the event's (its time, as events are UUIDv7), which keeps the key time-ordered; random ids
//! halve the insert rate. The rest is SHA-256 over the length-prefixed fields. Marked as UUIDv8, the version for custom
//! layouts (RFC 9562, 5.8).

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The id of a job. Pinned by golden values: were it to change, every replay would send again what was sent.
pub fn job_id(event_id: Uuid, handler: &str, name: &str, generation: i32) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(event_id.as_bytes());
    for field in [handler.as_bytes(), name.as_bytes()] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.update(generation.to_be_bytes());
    let digest = hash.finalize();

    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&event_id.as_bytes()[..6]);
    bytes[6..].copy_from_slice(&digest[..10]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The lowest and the highest id that a job of this event can have: its jobs are one range of the primary key.
pub fn job_id_range(event_id: Uuid) -> (Uuid, Uuid) {
    let mut low = [0x00; 16];
    let mut high = [0xff; 16];
    low[..6].copy_from_slice(&event_id.as_bytes()[..6]);
    high[..6].copy_from_slice(&event_id.as_bytes()[..6]);
    (Uuid::from_bytes(low), Uuid::from_bytes(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values() {
        let event_id = Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let ids = [
            ("send_welcome_email", "email", 0),
            ("send_welcome_email", "email", 1),
            ("send_welcome_emai", "lemail", 0),
        ]
        .map(|(handler, name, generation)| job_id(event_id, handler, name, generation).to_string());
        assert_eq!(
            ids,
            [
                "01890a5d-ac96-8c34-a21f-d62e29c9cbc6",
                "01890a5d-ac96-83df-a8df-656e671e5215",
                "01890a5d-ac96-8ae0-a89c-c352cc0cdd41",
            ]
        );
        let (low, high) = job_id_range(event_id);
        assert!(ids.iter().all(|id| low <= Uuid::parse_str(id).unwrap() && Uuid::parse_str(id).unwrap() <= high));
    }
}
