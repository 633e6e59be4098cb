//! What became of the events that were shown: each change is a line.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use shared::telemetry::complain;
use shared::terminal::{bad, faint, print, print_json_line, strong};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::answer::Form;
use crate::cli::jobs::list::state;
use crate::databases::{self, PATIENCE};
use crate::dispatch::cursor;
use crate::dispatch::lanes::LANES;
use crate::jobs::JobState;
use crate::operate::jobs::JobRow;
use crate::operate::{FailureFilter, JobFilter, Slice, failures, jobs};
use crate::outbox::OutboxRow;
use crate::outbox::listing::EventRow;
use crate::postgres::within;
use crate::text::{aggregate, event_type};
use crate::verify::has_passed;

/// Events whose results are awaited at most; beyond, the oldest are let go.
const AWAITED: usize = 1_000;
/// Jobs and failures asked for at a time.
const ROWS: i64 = 10_000;

/// What was shown so far.
pub(super) struct Follow {
    form: Form,
    with_results: bool,
    events: usize,
    awaited: BTreeMap<(i64, Uuid), Awaited>,
}

/// An event whose results are awaited.
struct Awaited {
    row: OutboxRow,
    jobs: HashMap<Uuid, (Option<JobState>, i16)>,
    failures: HashMap<String, i32>,
}

impl Follow {
    pub(super) fn new(form: Form, with_results: bool) -> Self {
        Self { form, with_results, events: 0, awaited: BTreeMap::new() }
    }

    /// How many events were shown.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Whether it is known what became of all of them.
    pub(super) fn awaits_nothing(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Shows an event.
    pub(super) fn event(&mut self, row: &OutboxRow) {
        self.events += 1;
        let event = EventRow::of(&row.envelope);
        match self.form {
            Form::Json => print_json_line(&json!({"event": event.to_json()})),
            Form::Text => print(&format!(
                "{}  {}  {}  {}\n",
                now(),
                strong(&event_type(&event.event_type)),
                aggregate(&event.aggregate_type, &event.aggregate_id),
                faint(&format!("{} lane {}", event.event_id, event.lane)),
            )),
        }
        if !self.with_results {
            return;
        }
        if self.awaited.len() >= AWAITED {
            self.awaited.pop_first();
            complain("too many events at once: what becomes of the oldest is not followed");
        }
        let awaited = Awaited { row: row.clone(), jobs: HashMap::new(), failures: HashMap::new() };
        self.awaited.insert((event.position, event.event_id), awaited);
    }

    /// Asks what became of the events, and shows what is new.
    pub(super) async fn results(&mut self, client: &Client) -> Result<(), databases::Error> {
        if self.awaited.is_empty() {
            return Ok(());
        }
        // Cursors first: the jobs of what they had passed then are there.
        let lanes: Vec<i16> = (0..LANES).collect();
        let cursors = within(PATIENCE, cursor::load(client, &lanes)).await?;
        let events: Vec<Uuid> = self.awaited.keys().map(|(_, event_id)| *event_id).collect();
        let of_events = JobFilter { event_ids: Some(events.clone()), ..JobFilter::default() };
        let found = jobs::list(client, &of_events, Slice::first(ROWS)).await?;
        let of_events = FailureFilter { event_ids: Some(events), ..FailureFilter::default() };
        let failed = failures::list(client, &of_events, &Slice::first(ROWS)).await?;

        let form = self.form;
        for job in found.iter().rev() {
            let Some(awaited) = self.of(job.event_id) else { continue };
            if awaited.jobs.insert(job.job_id, (job.state, job.attempt)) != Some((job.state, job.attempt)) {
                show_job(form, job);
            }
        }
        for failure in &failed {
            let Some(awaited) = self.of(failure.event_id) else { continue };
            if awaited.failures.insert(failure.handler.clone(), failure.attempts) != Some(failure.attempts) {
                match form {
                    Form::Json => print_json_line(&json!({"failure": failure.to_json()})),
                    Form::Text => print(&format!(
                        "{}    {} {} {}  {}\n",
                        now(),
                        failure.handler,
                        bad("failed"),
                        failure.error,
                        faint(&failure.event_id.to_string())
                    )),
                }
            }
        }
        self.awaited.retain(|(_, event_id), awaited| {
            let settled = has_passed(&cursors, &awaited.row)
                && awaited.jobs.values().all(|(state, _)| state.is_none_or(JobState::is_final));
            if settled && awaited.jobs.is_empty() && awaited.failures.is_empty() {
                match form {
                    Form::Json => print_json_line(&json!({"unhandled": event_id})),
                    Form::Text => print(&format!("{}    no handler  {}\n", now(), faint(&event_id.to_string()))),
                }
            }
            !settled
        });
        Ok(())
    }

    fn of(&mut self, event_id: Uuid) -> Option<&mut Awaited> {
        self.awaited.iter_mut().find(|((_, of), _)| *of == event_id).map(|(_, awaited)| awaited)
    }
}

fn show_job(form: Form, job: &JobRow) {
    if form == Form::Json {
        return print_json_line(&json!({"job": job.to_json()}));
    }
    let error = match job.state {
        Some(JobState::Retrying | JobState::Dead | JobState::Cancelled | JobState::Expired) => {
            job.last_error.as_deref().unwrap_or_default()
        }
        _ => "",
    };
    print(&format!(
        "{}    {} {} {} {error} {}\n",
        now(),
        job.handler,
        job.kind,
        state(job),
        faint(&job.event_id.to_string())
    ));
}

fn now() -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]Z");
    faint(&OffsetDateTime::now_utc().format(format).unwrap_or_default())
}
