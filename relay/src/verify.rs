//! Verify: does each event have its jobs, and each job its event?
//!
//! A dry run over the events of a span of time, in both directions, that stores nothing. An event counts once its lane's
//! cursor has passed it; what a handler could not take is a known failure and not a loss. So the answer is exact also
//! while relays are at work: cursors are read before the events that are held against them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Value, json};
use shared::database_url::DatabaseUrl;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::databases::{self, PATIENCE};
use crate::dispatch::cursor::{self, Cursor};
use crate::dispatch::lanes::LANES;
use crate::dispatch::registrations::{self, Registrations};
use crate::handlers::Registry;
use crate::jobs::id::job_id_range;
use crate::jobs::store::{GHOST, NewJob};
use crate::outbox::page::Filter;
use crate::outbox::{self, OutboxRow};
use crate::postgres::within;
use crate::replay::source::Source;
use crate::replay::{Error, Plan};

/// Findings named one by one; the rest is counted.
const NAMED: usize = 100;
/// Events of jobs held against the outbox at a time.
const PAGE: i64 = 5_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Events that were held against the jobs.
    pub events: u64,
    /// Events that dispatch has still to come to.
    pub waiting: u64,
    /// Failures that are known and kept: pairs of event and handler.
    pub set_aside: u64,
    /// Jobs that should be there and are not.
    pub missing: Vec<Missing>,
    /// How many such jobs there are.
    pub missing_count: u64,
    /// Events that jobs were made of, and that are not in the outbox.
    pub phantoms: BTreeSet<Uuid>,
    /// How many such events there are.
    pub phantom_count: u64,
    /// Those of them that are known ghosts, called off when history moved.
    pub ghosts: u64,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
}

/// A job that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The event.
    pub event_id: Uuid,
    /// The handler that asks for the job.
    pub handler: String,
    /// The job's name within the handler.
    pub name: String,
    /// The job.
    pub job_id: Uuid,
}

impl Findings {
    /// Whether everything is there, in both directions.
    pub fn is_sound(&self) -> bool {
        self.missing_count == 0 && self.phantom_count == 0 && !self.interrupted
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let missing =
            |m: &Missing| json!({"event_id": m.event_id, "handler": m.handler, "name": m.name, "job_id": m.job_id});
        json!({
            "sound": self.is_sound(),
            "events": self.events,
            "waiting": self.waiting,
            "set_aside": self.set_aside,
            "missing_jobs": self.missing_count,
            "missing": self.missing.iter().map(missing).collect::<Vec<_>>(),
            "events_gone": self.phantom_count,
            "gone": self.phantoms,
            "ghosts": self.ghosts,
            "interrupted": self.interrupted,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{} events verified, {} still to be dispatched, {} set aside as failures\n",
            self.events, self.waiting, self.set_aside
        );
        for missing in &self.missing {
            let Missing { event_id, handler, name, job_id } = missing;
            text += &format!("missing: job {job_id} ({handler}, {name}) of event {event_id}\n");
        }
        for event_id in &self.phantoms {
            text += &format!("gone: event {event_id}, of which there are jobs\n");
        }
        text += &match (self.is_sound(), self.interrupted) {
            (true, _) => "sound: every event has its jobs, every job its event\n".to_owned(),
            (false, true) => "interrupted\n".to_owned(),
            (false, false) => format!(
                "{} jobs are missing (`relay replay` with the same span stores them), {} events are gone ({} known ghosts)\n",
                self.missing_count, self.phantom_count, self.ghosts
            ),
        };
        text
    }
}

/// Verifies the events that happened from one time on, up to another, and the jobs made of them. `progress` is told how
/// many events have been verified.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn run(
    application: &DatabaseUrl,
    jobs: &DatabaseUrl,
    name: &str,
    registry: &Registry,
    filter: Filter,
    stop: &CancellationToken,
    progress: impl Fn(u64),
) -> Result<Findings, Error> {
    let jobs = databases::jobs(jobs, name).await?;
    let application = databases::application(application, name).await?;
    check(&application, &jobs, registry, filter, Reach::Everything, stop, progress).await
}

/// How far a check goes for events and jobs whose ids are not of their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything is looked at.
    Everything,
    /// Only what has an id from the span, or from an hour before, as UUIDv7 and the ids of jobs tell: by index, so that it
    /// costs what there is in the span and not what there is in all.
    Recent,
}

/// The same over sessions that are there.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn check(
    application: &Client,
    jobs: &Client,
    registry: &Registry,
    filter: Filter,
    reach: Reach,
    stop: &CancellationToken,
    progress: impl Fn(u64),
) -> Result<Findings, Error> {
    let registrations = within(PATIENCE, registrations::load(jobs)).await?;
    let plan = Plan { filter, dry_run: true, ..Plan::default() };
    let first = match (reach, plan.filter.from) {
        (Reach::Recent, Some(from)) => first_id(from),
        _ => Uuid::nil(),
    };
    let mut findings = Findings::default();
    let mut source = Source::behind(&plan, first);
    loop {
        findings.interrupted = stop.is_cancelled();
        if findings.interrupted {
            return Ok(findings);
        }
        let lanes: Vec<i16> = (0..LANES).collect();
        let cursors = within(PATIENCE, cursor::load(jobs, &lanes)).await?;
        let Some(work) = source.next(application, jobs, &plan).await? else { break };
        forward(jobs, registry, &registrations, &cursors, &work.rows, &mut findings).await?;
        progress(findings.events);
    }
    backward(application, jobs, &plan.filter, first, &mut findings).await?;
    Ok(findings)
}

/// An id that is below every UUIDv7 made since an hour before a time.
fn first_id(from: OffsetDateTime) -> Uuid {
    let milliseconds = (from - time::Duration::hours(1)).unix_timestamp_nanos() / 1_000_000;
    Uuid::from_u64_pair(u64::try_from(milliseconds).unwrap_or_default() << 16, 0)
}

/// `present`: which of some jobs are there; a ghost ($2) does not count, for its event is there.
const PRESENT: &str = "
    SELECT job_id
      FROM jobs
     WHERE job_id = ANY ($1)
       AND NOT (state = 'cancelled' AND coalesce(last_error, '') = $2)";

/// `failed`: which of some pairs of event and handler are known failures.
const FAILED: &str = "SELECT event_id, handler FROM dispatch_failures WHERE event_id = ANY ($1)";

/// Events without their jobs.
async fn forward(
    jobs: &Client,
    registry: &Registry,
    registrations: &Registrations,
    cursors: &[Cursor],
    rows: &[OutboxRow],
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut expected = Vec::new();
    let mut refused = HashSet::new();
    let (passed, waiting): (Vec<_>, Vec<_>) = rows.iter().partition(|row| has_passed(cursors, row));
    findings.events += passed.len() as u64;
    findings.waiting += waiting.len() as u64;
    for OutboxRow { envelope, .. } in passed {
        let wanted = |handler: &str| registrations.covers(handler, envelope.occurred_at);
        for handled in registry.publish_to(envelope, wanted) {
            match handled.outcome {
                Ok(made) => {
                    expected.extend(made.into_iter().map(|job| NewJob::new(envelope, handled.handler, 0, job)));
                }
                Err(_) => drop(refused.insert((envelope.event_id, handled.handler.to_owned()))),
            }
        }
    }
    let ids: Vec<Uuid> = expected.iter().map(|job| job.job_id).collect();
    let events: Vec<Uuid> = rows.iter().map(|row| row.envelope.event_id).collect();
    let present =
        within(PATIENCE, jobs.query_typed(PRESENT, &[(&ids, Type::UUID_ARRAY), (&GHOST, Type::TEXT)])).await?;
    let failed = within(PATIENCE, jobs.query_typed(FAILED, &[(&events, Type::UUID_ARRAY)])).await?;
    let present: HashSet<Uuid> = present.iter().map(|row| row.get(0)).collect();
    let failed: HashSet<(Uuid, String)> = failed.iter().map(|row| (row.get(0), row.get(1))).collect();
    for job in expected.iter().filter(|job| !present.contains(&job.job_id)) {
        let key = (job.event.event_id, job.handler.to_owned());
        // A handler that failed then and would not now: `relay replay --failed`.
        if failed.contains(&key) {
            refused.insert(key);
            continue;
        }
        findings.missing_count += 1;
        if findings.missing.len() < NAMED {
            let (event_id, handler) = key;
            findings.missing.push(Missing { event_id, handler, name: job.job.name.to_string(), job_id: job.job_id });
        }
    }
    findings.set_aside += refused.len() as u64;
    Ok(())
}

/// Whether a lane's cursor says that this row was handed over.
pub(crate) fn has_passed(cursors: &[Cursor], row: &OutboxRow) -> bool {
    let Some(cursor) = cursors.iter().find(|cursor| cursor.lane == row.envelope.lane) else { return false };
    let place = (row.envelope.position, row.envelope.event_id);
    let in_window = |window: &cursor::Window| {
        place <= window.after && (window.everything || window.next.finished(row.transaction_id))
    };
    cursor.seen.finished(row.transaction_id) || cursor.window.as_ref().is_some_and(in_window)
}

/// `jobs_of_span`: the events of the jobs made from events of a span of time, page by page. Events from before what was
/// pruned are gone because their time was up. $6 is the lowest id that a job of an event behind $1 can have.
const JOBS_OF_SPAN: &str = "
    SELECT event_id, bool_and(state = 'cancelled' AND coalesce(last_error, '') = $5)
      FROM jobs
     WHERE event_id > $1
       AND job_id  >= $6
       AND ($2::timestamptz IS NULL OR occurred_at >= $2)
       AND ($3::timestamptz IS NULL OR occurred_at <  $3)
       AND occurred_at >= coalesce((SELECT pruned_before FROM retention), '-infinity')
     GROUP BY event_id
     ORDER BY event_id
     LIMIT $4";

/// Jobs without their events.
async fn backward(
    application: &Client,
    jobs: &Client,
    filter: &Filter,
    first: Uuid,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut last = first;
    loop {
        let (lowest, _) = job_id_range(last);
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
            (&last, Type::UUID),
            (&filter.from, Type::TIMESTAMPTZ),
            (&filter.to, Type::TIMESTAMPTZ),
            (&PAGE, Type::INT8),
            (&GHOST, Type::TEXT),
            (&lowest, Type::UUID),
        ];
        let rows = within(PATIENCE, jobs.query_typed(JOBS_OF_SPAN, &parameters)).await?;
        let page: BTreeMap<Uuid, bool> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let events: Vec<Uuid> = page.keys().copied().collect();
        let (reading, _) = outbox::look(application, &[]).await?;
        let absent = reading.absent(&events).await?;
        reading.end().await?;
        for event_id in absent {
            findings.phantom_count += 1;
            findings.ghosts += u64::from(page.get(&event_id).copied().unwrap_or(false));
            if findings.phantoms.len() < NAMED {
                findings.phantoms.insert(event_id);
            }
        }
        match events.last() {
            Some(event_id) if events.len() as i64 == PAGE => last = *event_id,
            _ => return Ok(()),
        }
    }
}
