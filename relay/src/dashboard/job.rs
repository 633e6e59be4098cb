//! One job: its state, its tries, its next try, and what can be done about it.

use minijinja::{Value, context};
use time::OffsetDateTime;
use uuid::Uuid;

use super::App;
use super::pages::Problem;
use super::view::Page;
use crate::mail;
use crate::operate::change::Change;
use crate::operate::job::{self, AttemptRow};
use crate::operate::jobs::JobRow;
use crate::text::span;

/// The page.
///
/// # Errors
/// When there is no such job, or the jobs database is away.
pub async fn page(app: &App, job_id: Uuid) -> Result<Page, Problem> {
    let connection = app.store.jobs().await?;
    let found = job::show(connection.client(), job_id).await?;
    connection.give_back();
    let Some(job) = found else {
        return Err(Problem::NotFound(format!("There is no job {job_id}. Is it the id of an event?")));
    };
    let refusal =
        |change: Change| job.row.state.map_or(Some("a newer relay must be asked"), |state| change.refusal(state));
    Ok(Page {
        title: format!("Job of {}", job.row.handler),
        section: "/jobs",
        template: "job.html",
        values: context! {
            job => row(&job.row),
            claim => job.claim,
            occurred_at => epoch(job.occurred_at),
            held_by => job.held_by.clone(),
            args => job.args.as_str(),
            metadata => job.metadata.as_str(),
            attempts => job.attempts.iter().map(attempt).collect::<Vec<_>>(),
            policy => format!(
                "{} tries; {} before the second, {:.1} times as long before each further one, at most {}, drawn within ±{:.0} %",
                job.retry.max_attempts,
                span(job.retry.initial),
                job.retry.multiplier,
                span(job.retry.max_interval),
                job.retry.jitter * 100.0,
            ),
            has_mail => job.row.kind.as_str() == mail::KIND,
            no_retry => refusal(Change::Retry),
            no_cancel => refusal(Change::Cancel),
        },
    })
}

/// A job for a template.
pub fn row(job: &JobRow) -> Value {
    context! {
        job_id => job.job_id.to_string(),
        event_id => job.event_id.to_string(),
        handler => job.handler.as_str(),
        name => job.name.as_str(),
        generation => job.generation,
        kind => job.kind.as_str(),
        state => job.state_name(),
        is_final => job.state.is_some_and(crate::jobs::JobState::is_final),
        attempt => job.attempt,
        max_attempts => job.max_attempts,
        crash_count => job.crash_count,
        run_at => epoch(job.run_at),
        expires_at => epoch(job.expires_at),
        created_at => epoch(job.created_at),
        finished_at => epoch(job.finished_at),
        in_doubt => job.in_doubt,
        last_error => job.last_error.clone(),
    }
}

/// A failed try for a template.
pub fn attempt(attempt: &AttemptRow) -> Value {
    context! {
        claim => attempt.claim,
        attempt => attempt.attempt,
        started_at => epoch(attempt.started_at),
        duration => span(attempt.duration),
        outcome => attempt.outcome.as_str(),
        phase => attempt.phase.clone(),
        code => attempt.code,
        error => attempt.error.as_str(),
    }
}

/// Seconds since 1970, as templates take times.
pub fn epoch(time: Option<OffsetDateTime>) -> Option<f64> {
    // A float holds the microseconds of this age.
    time.map(|time| time.unix_timestamp_nanos() as f64 / 1e9)
}
