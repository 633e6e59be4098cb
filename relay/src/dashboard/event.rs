//! One event, from its commit through every handler and job to each try and the mail that was sent.

use minijinja::{Value, context};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::App;
use super::job::epoch;
use super::pages::Problem;
use super::view::Page;
use crate::jobs::JobState;
use crate::operate::failures::{self, FailureRow};
use crate::operate::job::{self, AttemptRow};
use crate::operate::jobs::{self, JobRow};
use crate::operate::{FailureFilter, JobFilter, Slice};
use crate::outbox::window::TransactionId;
use crate::postgres::within;
use crate::text::span;

/// Jobs of one event that are shown; a handler may ask for more.
const MOST_JOBS: i64 = 100;

/// `event`: one row of the outbox.
const EVENT: &str = "
    SELECT aftercommit.lane(aggregate_id), transaction_id, position, aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, extract(epoch FROM occurred_at)::float8, durable_at_commit
      FROM aftercommit.outbox
     WHERE event_id = $1";

/// `is_dispatched`: whether a lane's cursor, or the part of a window that is done, covers a row.
const IS_DISPATCHED: &str = "
    SELECT pg_visible_in_snapshot($2, seen)
           OR coalesce(pg_visible_in_snapshot($2, next) AND (after_position, after_event_id) >= ($3, $4), false)
      FROM lane_cursors
     WHERE lane = $1";

/// What the jobs database knows of an event.
struct Known {
    dispatched: Option<bool>,
    jobs: Vec<(JobRow, Vec<AttemptRow>)>,
    failures: Vec<FailureRow>,
}

/// The page.
///
/// # Errors
/// When there is no trace of it, or a database is away.
pub async fn page(app: &App, event_id: Uuid) -> Result<Page, Problem> {
    let rows = app.store.ask_application(EVENT, &[(&event_id, Type::UUID)]).await?;
    let row = rows.first();
    let known = known(app, event_id, row).await?;
    if row.is_none() && known.jobs.is_empty() && known.failures.is_empty() {
        let text =
            format!("There is no event {event_id} in the outbox, and no job or failure of it. Is it the id of a job?");
        return Err(Problem::NotFound(text));
    }
    let event = row.map(event).transpose()?;
    let handlers: Vec<&str> = row
        .map(|row| row.try_get::<_, &str>(5))
        .transpose()?
        .map(|of| app.registry.table().filter(|(known, _)| *known == of).map(|(_, handler)| handler).collect())
        .unwrap_or_default();
    Ok(Page {
        title: event
            .as_ref()
            .map_or_else(|| "Event".to_owned(), |event| event.get_attr("event_type").unwrap_or_default().to_string()),
        section: "/events",
        template: "event.html",
        values: context! {
            event_id => event_id.to_string(),
            event,
            steps => steps(row, &known)?,
            dispatched => known.dispatched,
            handlers,
            open_failures => known.failures.iter().filter(|failure| failure.resolved_at.is_none()).count(),
        },
    })
}

async fn known(app: &App, event_id: Uuid, row: Option<&Row>) -> Result<Known, Problem> {
    let connection = app.store.jobs().await?;
    let client = connection.client();
    let rows = jobs::list(client, &JobFilter::of_event(event_id), Slice::first(MOST_JOBS)).await?;
    let mut jobs = Vec::new();
    for row in rows.into_iter().rev() {
        let attempts = job::attempts(client, row.job_id).await?;
        jobs.push((row, attempts));
    }
    let filter = FailureFilter { event_ids: Some(vec![event_id]), resolved_too: true, ..FailureFilter::default() };
    let failures = failures::list(client, &filter, &Slice::first(MOST_JOBS)).await?;
    let dispatched = match row {
        None => None,
        Some(_) if !jobs.is_empty() || !failures.is_empty() => Some(true),
        Some(row) => {
            let key: (i16, TransactionId, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let parameters = [
                (&key.0 as _, Type::INT2),
                (&key.1 as _, Type::XID8),
                (&key.2 as _, Type::INT8),
                (&event_id as _, Type::UUID),
            ];
            let rows = within(super::store::PATIENCE, client.query_typed(IS_DISPATCHED, &parameters)).await?;
            rows.first().map(|row| row.try_get(0)).transpose()?
        }
    };
    connection.give_back();
    Ok(Known { dispatched, jobs, failures })
}

fn event(row: &Row) -> Result<Value, tokio_postgres::Error> {
    let Json(payload): Json<Box<RawValue>> = row.try_get(7)?;
    let Json(metadata): Json<Box<RawValue>> = row.try_get(8)?;
    let transaction_id: TransactionId = row.try_get(1)?;
    let (aggregate_type, aggregate_id): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
    let metadata_of = |name: &str| -> Option<String> {
        let values: serde_json::Value = serde_json::from_str(metadata.get()).ok()?;
        Some(values.get(name)?.as_str()?.to_owned())
    };
    Ok(context! {
        lane => row.try_get::<_, i16>(0)?,
        transaction_id => transaction_id.0,
        position => row.try_get::<_, i64>(2)?,
        aggregate => format!("{aggregate_type}/{aggregate_id}"),
        event_type => row.try_get::<_, &str>(5)?,
        event_version => row.try_get::<_, i32>(6)?,
        occurred_at => row.try_get::<_, Option<f64>>(9)?,
        durable => row.try_get::<_, bool>(10)?,
        trace_id => metadata_of("traceparent").and_then(|parent| parent.split('-').nth(1).map(str::to_owned)),
        correlation_id => metadata_of("correlation_id"),
        payload => payload.get(),
        metadata => metadata.get(),
    })
}

/// What happened, in the order of time. What has no time stands last.
fn steps(row: Option<&Row>, known: &Known) -> Result<Vec<Value>, tokio_postgres::Error> {
    let mut steps: Vec<(f64, Value)> = Vec::new();
    let mut add = |at: Option<f64>, step: Value| steps.push((at.unwrap_or(f64::INFINITY), step));
    if let Some(row) = row {
        let at: Option<f64> = row.try_get(9)?;
        add(at, context! { what => "committed", at });
    }
    for failure in &known.failures {
        let at = epoch(failure.last_failed_at);
        add(
            at,
            context! { what => "failed", at, handler => failure.handler.as_str(), error => failure.error.as_str(), attempts => failure.attempts, first => epoch(failure.first_failed_at) },
        );
        if failure.resolved_at.is_some() {
            let at = epoch(failure.resolved_at);
            add(at, context! { what => "resolved", at, handler => failure.handler.as_str() });
        }
    }
    for (job, attempts) in &known.jobs {
        let (handler, job_id) = (job.handler.as_str(), job.job_id.to_string());
        let job_id = job_id.as_str();
        let at = epoch(job.created_at);
        add(
            at,
            context! { what => "stored", at, handler, job_id, name => job.name.as_str(), kind => job.kind.as_str(), generation => job.generation },
        );
        for attempt in attempts {
            let at = epoch(attempt.started_at);
            add(at, context! { what => "tried", at, handler, job_id, attempt => super::job::attempt(attempt) });
        }
        let state = job.state_name();
        if job.state.is_some_and(JobState::is_final) {
            let at = epoch(job.finished_at);
            add(
                at,
                context! { what => "ended", at, handler, job_id, state, kind => job.kind.as_str(), attempt => job.attempt, error => job.last_error.clone() },
            );
        } else {
            add(
                None,
                context! { what => "waits", at => epoch(job.run_at), handler, job_id, state, attempt => job.attempt, max_attempts => job.max_attempts },
            );
        }
    }
    // Stable: what happened at the same moment stays in the order of its causes.
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let first = steps.first().map_or(f64::INFINITY, |(at, _)| *at);
    let after = |at: f64| Some(at - first).filter(|after| after.is_finite() && *after > 0.0).map(span);
    Ok(steps.into_iter().map(|(at, step)| context! { after => after(at), ..step }).collect())
}
