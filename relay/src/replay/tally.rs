//! What a replay did, or would do: the difference between what handlers ask for and what is stored.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::store::{Batch, Stored};
use crate::jobs::JobState;
use crate::jobs::store::NewJob;

/// How many examples of each sort are kept; the rest is counted.
pub const EXAMPLES: usize = 100;

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Events that were chosen and read.
    pub events: u64,
    /// Those that no wanted handler is for.
    pub passed_by: u64,
    /// Per handler.
    pub handlers: BTreeMap<String, HandlerTally>,
    /// The first of the jobs that were stored, or would be.
    pub jobs: Vec<StoredJob>,
    /// The first of the failures.
    pub failures: Vec<Failed>,
    /// How many named events are not in the outbox.
    pub missing: u64,
    /// The first of them.
    pub missing_events: Vec<Uuid>,
    /// Told to stop before the end.
    pub interrupted: bool,
}

/// What became of one handler's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerTally {
    /// Events that it took.
    pub taken: u64,
    /// Jobs that were not there.
    pub stored: u64,
    /// Jobs that were there already, by state.
    pub existing: BTreeMap<String, u64>,
    /// Events that it could not take.
    pub failed: u64,
    /// Open failures of earlier that are resolved.
    pub resolved: u64,
    /// Open failures that this build has no handler for.
    pub unhandled: u64,
}

/// A job that was stored, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// Its id.
    pub job_id: Uuid,
    /// The event.
    pub event_id: Uuid,
    /// The handler that asked for it.
    pub handler: String,
    /// Its name within the handler.
    pub name: String,
    /// Its generation.
    pub generation: i32,
}

/// An event that a handler could not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The event.
    pub event_id: Uuid,
    /// The handler.
    pub handler: String,
    /// Why; free of values.
    pub error: String,
}

impl Tally {
    /// Jobs that were not there.
    pub fn stored(&self) -> u64 {
        self.handlers.values().map(|handler| handler.stored).sum()
    }

    /// Events that a handler could not take.
    pub fn failed(&self) -> u64 {
        self.handlers.values().map(|handler| handler.failed).sum()
    }

    /// Open failures that are resolved.
    pub fn resolved(&self) -> u64 {
        self.handlers.values().map(|handler| handler.resolved).sum()
    }

    /// Whether all that was asked for was done.
    pub fn is_complete(&self) -> bool {
        let unhandled: u64 = self.handlers.values().map(|handler| handler.unhandled).sum();
        !self.interrupted && self.missing == 0 && self.failed() == 0 && unhandled == 0
    }

    pub(super) fn missing(&mut self, event_id: Uuid) {
        self.missing += 1;
        keep(&mut self.missing_events, || event_id);
    }

    pub(super) fn unhandled(&mut self, handler: &str) {
        self.of(handler).unhandled += 1;
    }

    pub(super) fn add(&mut self, batch: Batch, stored: &Stored) {
        self.events += batch.events;
        self.passed_by += batch.passed_by;
        batch.done_handlers().for_each(|handler| self.of(handler).taken += 1);
        for new in &batch.jobs {
            let of = self.of(new.handler);
            match stored.existing.get(&new.job_id) {
                Some(state) => *of.existing.entry(state.clone()).or_default() += 1,
                None => {
                    of.stored += 1;
                    keep(&mut self.jobs, || StoredJob::of(new));
                }
            }
        }
        stored.resolved.iter().for_each(|handler| self.of(handler).resolved += 1);
        for failure in batch.failures {
            self.of(failure.handler).failed += 1;
            keep(&mut self.failures, || Failed {
                event_id: failure.event.event_id,
                handler: failure.handler.to_owned(),
                error: failure.error,
            });
        }
    }

    fn of(&mut self, handler: &str) -> &mut HandlerTally {
        if !self.handlers.contains_key(handler) {
            self.handlers.insert(handler.to_owned(), HandlerTally::default());
        }
        self.handlers.entry(handler.to_owned()).or_default()
    }

    /// For programs. What would be done has other names than what was done.
    pub fn to_json(&self, dry_run: bool) -> Value {
        let (stored, resolved) = if dry_run { ("would_store", "would_resolve") } else { ("stored", "resolved") };
        let handlers: serde_json::Map<String, Value> = self
            .handlers
            .iter()
            .map(|(name, of)| {
                let tally = json!({
                    "events": of.taken, stored: of.stored, "already_there": of.existing,
                    "failed": of.failed, resolved: of.resolved, "unhandled": of.unhandled,
                });
                (name.clone(), tally)
            })
            .collect();
        let jobs: Vec<Value> = self.jobs.iter().map(StoredJob::to_json).collect();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|f| json!({"event_id": f.event_id, "handler": f.handler, "error": f.error}))
            .collect();
        json!({
            "dry_run": dry_run,
            "interrupted": self.interrupted,
            "events": self.events,
            "passed_by": self.passed_by,
            stored: self.stored(),
            "failed": self.failed(),
            resolved: self.resolved(),
            "handlers": handlers,
            "jobs": jobs,
            "failures": failures,
            "missing": self.missing,
            "missing_events": self.missing_events,
        })
    }
}

impl StoredJob {
    fn of(new: &NewJob) -> Self {
        Self {
            job_id: new.job_id,
            event_id: new.event.event_id,
            handler: new.handler.to_owned(),
            name: new.job.name.to_string(),
            generation: new.generation,
        }
    }

    fn to_json(&self) -> Value {
        let Self { job_id, event_id, handler, name, generation } = self;
        json!({"job_id": job_id, "event_id": event_id, "handler": handler, "name": name, "generation": generation})
    }
}

impl HandlerTally {
    /// The states of the jobs that were there already, in the order of a job's life, for people.
    pub fn existing_text(&self) -> String {
        let order = |state: &str| JobState::ALL.iter().position(|known| known.as_str() == state);
        let mut states: Vec<_> = self.existing.iter().collect();
        states.sort_by_key(|(state, _)| (order(state).is_none(), order(state)));
        states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
    }
}

fn keep<T>(examples: &mut Vec<T>, example: impl FnOnce() -> T) {
    if examples.len() < EXAMPLES {
        examples.push(example());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_in_the_order_of_a_jobs_life() {
        let existing = [("succeeded", 3), ("available", 1), ("dead", 2)];
        let tally = HandlerTally {
            existing: existing.map(|(state, count)| (state.to_owned(), count)).into(),
            ..HandlerTally::default()
        };
        assert_eq!(tally.existing_text(), "1 available, 3 succeeded, 2 dead");
    }

    #[test]
    fn whatever_is_left_undone_is_not_complete() {
        assert!(Tally::default().is_complete());
        let mut missing = Tally::default();
        missing.missing(Uuid::nil());
        let mut unhandled = Tally::default();
        unhandled.unhandled("gone");
        let interrupted = Tally { interrupted: true, ..Tally::default() };
        let failed = HandlerTally { failed: 1, ..HandlerTally::default() };
        let failed = Tally { handlers: [("x".to_owned(), failed)].into(), ..Tally::default() };
        for tally in [missing, unhandled, interrupted, failed] {
            assert!(!tally.is_complete(), "{tally:?}");
        }
    }

    #[test]
    fn examples_are_bounded_and_counts_are_not() {
        let mut tally = Tally::default();
        (0..250).for_each(|n| tally.missing(Uuid::from_u128(n)));
        assert_eq!((tally.missing, tally.missing_events.len()), (250, EXAMPLES));
    }
}
