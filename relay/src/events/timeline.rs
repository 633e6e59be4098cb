//! One event, from commit to delivery.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::databases::{self, PATIENCE};
use crate::dispatch::cursor;
use crate::operate::failures::{self, FailureRow};
use crate::operate::job::{self, JobDetail};
use crate::operate::{FailureFilter, JobFilter, Slice, jobs};
use crate::outbox;
use crate::outbox::listing::EventRow;
use crate::outbox::page::{Filter, Limit};
use crate::postgres::within;
use crate::text;
use crate::verify::has_passed;

/// Jobs of one event that are shown; a handler that asks for more is a story of its own.
const JOBS: i64 = 1_000;

/// Everything that is known of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The event as the outbox has it; none when it is gone: pruned, or lost with a part of history.
    pub event: Option<EventRow>,
    /// What happened, in the event's own words: JSON, with addresses in it.
    pub payload: Option<String>,
    /// Whether its lane's cursor has passed it.
    pub dispatched: Option<bool>,
    /// Handlers that could not take it.
    pub failures: Vec<FailureRow>,
    /// Jobs that were made of it, in the order of their ids, with their tries.
    pub jobs: Vec<JobDetail>,
}

impl Timeline {
    /// Whether anything is known of it.
    pub fn is_empty(&self) -> bool {
        self.event.is_none() && self.jobs.is_empty() && self.failures.is_empty()
    }

    /// As JSON; what the event and its jobs are about only when it is asked for, for there are addresses in it.
    pub fn to_json(&self, with_payload: bool) -> Value {
        let mut event = self.event.as_ref().map(EventRow::to_json);
        if let (Some(event), Some(payload), true) = (&mut event, &self.payload, with_payload) {
            event["payload"] = text::json(payload);
        }
        json!({
            "event": event,
            "dispatched": self.dispatched,
            "failures": self.failures.iter().map(FailureRow::to_json).collect::<Vec<_>>(),
            "jobs": self.jobs.iter().map(|job| job.to_json(with_payload)).collect::<Vec<_>>(),
        })
    }
}

/// Looks an event up in both databases.
///
/// # Errors
/// When one of them is away, or its state refuses.
pub async fn of(application: &Client, jobs: &Client, event_id: Uuid) -> Result<Timeline, databases::Error> {
    // Cursors first: what they had passed then, they have passed.
    let lanes: Vec<i16> = (0..crate::dispatch::lanes::LANES).collect();
    let cursors = within(PATIENCE, cursor::load(jobs, &lanes)).await?;
    let (reading, _) = outbox::look(application, &[]).await?;
    let (rows, _) = reading.by_id(&Filter::default(), &[event_id], &mut Limit::MOST.clone()).await?;
    reading.end().await?;
    let row = rows.first();
    let failed = FailureFilter { event_ids: Some(vec![event_id]), resolved_too: true, ..FailureFilter::default() };
    let failures = failures::list(jobs, &failed, &Slice::first(JOBS)).await?;
    let mut details = Vec::new();
    for row in jobs::list(jobs, &JobFilter::of_event(event_id), Slice::first(JOBS)).await?.iter().rev() {
        details.extend(job::show(jobs, row.job_id).await?);
    }
    Ok(Timeline {
        event: row.map(|row| EventRow::of(&row.envelope)),
        payload: row.map(|row| row.envelope.payload.get().to_owned()),
        dispatched: row.map(|row| has_passed(&cursors, row)),
        failures,
        jobs: details,
    })
}
