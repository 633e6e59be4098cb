//! What the parts of the relay tell: one function for each thing that happens, called once per batch or try.

use std::time::Duration;

use time::OffsetDateTime;

use super::history::Totals;
use super::{
    ATTEMPT_SECONDS, ATTEMPTS, AUDIT_GONE, AUDIT_MISSING, AUDIT_TIME, BATCH_COMMIT, BATCH_EVENTS, BATCH_READ, BREAKER,
    DELIVERY_SECONDS, EVENTS, FENCED, GHOSTS, HANDLED, IN_FLIGHT, INTERRUPTIONS, LANES, LEASES_LOST, NEW_JOBS, QUEUED,
    REBASES, RESCUED, SMTP_CONNECTIONS, SMTP_IDLE, SMTP_REPLIES, UNKNOWN_EVENTS,
};
use crate::deliver::ClaimedJob;
use crate::jobs::transition::Decision;

/// Every outcome of a try.
pub const OUTCOMES: [&str; 8] =
    ["succeeded", "retry", "dead", "in_doubt", "cancelled", "expired", "away", "handed_back"];

/// The events of a batch by type, and the runs of their handlers, counted while the batch is put together.
#[derive(Debug, Default)]
pub struct Tally {
    types: Vec<(&'static str, u64)>,
    unknown: u64,
    runs: Vec<Runs>,
}

#[derive(Debug)]
struct Runs {
    event_type: &'static str,
    handler: &'static str,
    succeeded: u64,
    failed: u64,
}

impl Tally {
    /// An event, by the registry's word for its type; none for a type that it does not know.
    pub fn event(&mut self, event_type: Option<&'static str>) {
        let Some(event_type) = event_type else {
            self.unknown += 1;
            return;
        };
        // A handful of types: looking through them is faster than hashing.
        match self.types.iter_mut().find(|(known, _)| *known == event_type) {
            Some((_, count)) => *count += 1,
            None => self.types.push((event_type, 1)),
        }
    }

    /// A run of a handler.
    pub fn run(&mut self, event_type: &'static str, handler: &'static str, succeeded: bool) {
        let found = self.runs.iter_mut().find(|runs| runs.handler == handler && runs.event_type == event_type);
        let runs = match found {
            Some(runs) => runs,
            None => {
                self.runs.push(Runs { event_type, handler, succeeded: 0, failed: 0 });
                // It was just put there.
                let Some(runs) = self.runs.last_mut() else { return };
                runs
            }
        };
        *if succeeded { &mut runs.succeeded } else { &mut runs.failed } += 1;
    }
}

/// A batch was committed.
pub fn committed(tally: &Tally, events: usize, new_jobs: u64, read: Duration, commit: Duration) {
    let mut failures = 0;
    for (event_type, count) in &tally.types {
        EVENTS.add(&[("event_type", event_type)], *count);
    }
    if tally.unknown > 0 {
        EVENTS.add(&[("event_type", shared::metrics::OTHER)], tally.unknown);
        UNKNOWN_EVENTS.add(&[], tally.unknown);
    }
    for Runs { event_type, handler, succeeded, failed } in &tally.runs {
        for (outcome, count) in [("succeeded", *succeeded), ("failed", *failed)] {
            HANDLED.add(&[("event_type", event_type), ("handler", handler), ("outcome", outcome)], count);
        }
        failures += failed;
    }
    NEW_JOBS.add(&[], new_jobs);
    BATCH_EVENTS.observe(&[], events as f64);
    BATCH_READ.observe(&[], read.as_secs_f64());
    BATCH_COMMIT.observe(&[], commit.as_secs_f64());
    Totals::count(Totals { events: events as u64, failures, ..Totals::default() });
}

/// A worker holds so many lanes.
pub fn lanes(worker: usize, held: usize) {
    LANES.set(&[("worker", &worker.to_string())], held as f64);
}

/// A worker lost a database or a fence.
pub fn interrupted() {
    INTERRUPTIONS.add(&[], 1);
}

/// An audit ended.
pub fn audited(missing_jobs: u64, events_gone: u64) {
    AUDIT_MISSING.set(&[], missing_jobs as f64);
    AUDIT_GONE.set(&[], events_gone as f64);
    AUDIT_TIME.set(&[], OffsetDateTime::now_utc().unix_timestamp() as f64);
}

/// Cursors were put back, and jobs of lost events were found.
pub fn rebased(lanes: usize, cancelled: u64, delivered: u64) {
    REBASES.add(&[], lanes as u64);
    GHOSTS.add(&[("fate", "cancelled")], cancelled);
    GHOSTS.add(&[("fate", "delivered")], delivered);
}

/// A claim ended: a try of a kind's job, or none when it was handed back or too late.
pub fn ended(kind: &'static str, job: &ClaimedJob, decision: &Decision, duration: Duration) {
    let outcome = match decision {
        Decision::Succeeded => "succeeded",
        Decision::Retry { .. } | Decision::Dead(_) => decision.attempt_outcome().unwrap_or("retry"),
        Decision::CalledOff(_) => "cancelled",
        Decision::Expired => "expired",
        Decision::HandBack { reason: Some(_) } => "away",
        Decision::HandBack { reason: None } | Decision::Later(_) => "handed_back",
    };
    ATTEMPTS.add(&[("kind", kind), ("outcome", outcome)], 1);
    match decision {
        Decision::Succeeded => {
            ATTEMPT_SECONDS.observe(&[("kind", kind)], duration.as_secs_f64());
            if let Some(since) = since_event(job) {
                DELIVERY_SECONDS.observe(&[("kind", kind)], since);
            }
            Totals::count(Totals { deliveries: 1, ..Totals::default() });
        }
        Decision::Retry { .. } | Decision::Dead(_) => {
            ATTEMPT_SECONDS.observe(&[("kind", kind)], duration.as_secs_f64());
            Totals::count(Totals { failures: 1, ..Totals::default() });
        }
        _ => {}
    }
}

/// Seconds since the event: by its id when that tells the time (a UUIDv7), else by the time its writer gave.
fn since_event(job: &ClaimedJob) -> Option<f64> {
    let by_id = job.event_id.get_timestamp().filter(|_| job.event_id.get_version_num() == 7);
    let happened = match by_id.map(|time| time.to_unix()) {
        Some((seconds, nanoseconds)) => {
            let seconds = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
            seconds + time::Duration::nanoseconds(nanoseconds.into())
        }
        None => job.occurred_at?,
    };
    Some((OffsetDateTime::now_utc() - happened).as_seconds_f64().max(0.0))
}

/// What is in hand of a kind.
pub fn line(kind: &'static str, in_flight: usize, queued: usize, breaker_open: bool) {
    IN_FLIGHT.set(&[("kind", kind)], in_flight as f64);
    QUEUED.set(&[("kind", kind)], queued as f64);
    BREAKER.set(&[("kind", kind)], f64::from(u8::from(breaker_open)));
}

/// Claims of another relay were taken over.
pub fn rescued(jobs: i64) {
    RESCUED.add(&[], jobs.unsigned_abs());
}

/// This relay was taken for dead.
pub fn lease_lost() {
    LEASES_LOST.add(&[], 1);
}

/// The end of a try came too late to be written.
pub fn fenced(jobs: usize) {
    FENCED.add(&[], jobs as u64);
}

/// The mail server said something.
pub fn smtp_reply(code: u16) {
    let class = match code / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => shared::metrics::OTHER,
    };
    SMTP_REPLIES.add(&[("class", class)], 1);
}

/// A connection to the mail server was made, or could not be.
pub fn smtp_connection(opened: bool) {
    SMTP_CONNECTIONS.add(&[("outcome", if opened { "opened" } else { "failed" })], 1);
}

/// So many connections to the mail server lie idle.
pub fn smtp_idle(connections: usize) {
    SMTP_IDLE.set(&[], connections as f64);
}
