//! What metrics see of a unit of work, however it ends: told when it is dropped.

use crate::domain::Recorded;
use crate::metrics::{self, Worked};

/// See the module.
pub struct Watched {
    outcome: Worked,
    events: Vec<&'static str>,
}

impl Watched {
    /// One that has begun. Unless it is told otherwise it failed.
    pub fn begun() -> Self {
        Self { outcome: Worked::Failed, events: Vec::new() }
    }

    /// These events were stored, if the unit of work is committed.
    pub fn stored(&mut self, events: &[Recorded]) {
        self.events.extend(events.iter().map(|event| event.event_type));
    }

    /// How it ended.
    pub fn ended(&mut self, outcome: Worked) {
        self.outcome = outcome;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        metrics::worked(self.outcome, &self.events);
    }
}
