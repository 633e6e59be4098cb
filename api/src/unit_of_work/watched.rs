//! What metrics and traces see of a unit of work, however it ends: told when it is dropped.

use shared::trace::Span;

use crate::domain::Recorded;
use crate::metrics::{self, Worked};

/// See the module.
pub struct Watched {
    outcome: Worked,
    events: Vec<&'static str>,
    span: Span,
}

impl Watched {
    /// One that has begun. Unless it is told otherwise it failed.
    pub fn begun() -> Self {
        Self { outcome: Worked::Failed, events: Vec::new(), span: Span::within("unit of work") }
    }

    /// These events were stored, if the unit of work is committed.
    pub fn stored(&mut self, events: &[Recorded]) {
        self.events.extend(events.iter().map(|event| event.event_type));
        if let Some(event) = events.first() {
            self.span.set("aftercommit.event_id", event.event_id.to_string());
            self.span.set("aftercommit.event_type", event.event_type);
        }
    }

    /// Its span, which what follows from its events is below of.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// How it ended.
    pub fn ended(&mut self, outcome: Worked) {
        self.outcome = outcome;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        metrics::worked(self.outcome, &self.events);
        self.span.set("aftercommit.outcome", self.outcome.as_str());
        if matches!(self.outcome, Worked::Failed | Worked::Unknown) {
            self.span.failed(self.outcome.as_str());
        }
    }
}
