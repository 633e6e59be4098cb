//! One job, with everything that its row and its history tell.

use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::jobs::{JobRow, job_columns, job_row};
use super::moment;
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};
use crate::retry::RetryPolicy;

/// `job`: a job's row, and the process that holds it.
const JOB: &str = concat!(
    "
    SELECT ",
    job_columns!(),
    ",
           args::text, metadata::text, extract(epoch FROM occurred_at)::float8, claim,
           retry_initial, retry_multiplier, retry_max_interval, retry_jitter, retry_interval,
           (SELECT process.name FROM processes AS process WHERE process.process_id = jobs.claimed_by)
      FROM jobs
     WHERE job_id = $1"
);

/// `attempts`: a job's failed tries, in order.
const ATTEMPTS: &str = "
    SELECT claim, attempt, extract(epoch FROM started_at)::float8, duration, outcome, phase, code, error
      FROM job_attempts
     WHERE job_id = $1
     ORDER BY claim";

/// A job with its history.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDetail {
    /// What a listing shows.
    pub row: JobRow,
    /// What the kind needs: JSON, with addresses in it.
    pub args: String,
    /// The event's metadata: JSON.
    pub metadata: String,
    /// When the event happened.
    pub occurred_at: Option<OffsetDateTime>,
    /// How often it was claimed.
    pub claim: i64,
    /// How it is tried again.
    pub retry: RetryPolicy,
    /// The policy's state.
    pub retry_interval: Option<f64>,
    /// What the process calls itself that holds it.
    pub held_by: Option<String>,
    /// Its failed tries, in order.
    pub attempts: Vec<AttemptRow>,
}

/// A failed try.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// The claim that it was made under.
    pub claim: i64,
    /// Its number among the tries, counted anew after each retry by hand.
    pub attempt: i16,
    /// When it began.
    pub started_at: Option<OffsetDateTime>,
    /// How long it took, in seconds.
    pub duration: f64,
    /// What followed: `retry`, `dead`, `in_doubt`, `crashed`.
    pub outcome: String,
    /// How far it came, in the kind's own words.
    pub phase: Option<String>,
    /// The other side's reply code.
    pub code: Option<i32>,
    /// What went wrong.
    pub error: String,
}

/// Shows a job; none when there is none of that id.
///
/// # Errors
/// When the database does not answer.
pub async fn show(client: &Client, job_id: Uuid) -> Result<Option<JobDetail>, Error> {
    let rows = within(PATIENCE, client.query_typed(JOB, &[(&job_id, Type::UUID)])).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(JobDetail {
        row: job_row(row)?,
        args: row.try_get(16)?,
        metadata: row.try_get(17)?,
        occurred_at: moment(row.try_get(18)?),
        claim: row.try_get(19)?,
        retry: RetryPolicy {
            max_attempts: row.try_get(8)?,
            initial: row.try_get(20)?,
            multiplier: row.try_get(21)?,
            max_interval: row.try_get(22)?,
            jitter: row.try_get(23)?,
        },
        retry_interval: row.try_get(24)?,
        held_by: row.try_get(25)?,
        attempts: attempts(client, job_id).await?,
    }))
}

/// A job's failed tries, in order.
///
/// # Errors
/// When the database does not answer.
pub async fn attempts(client: &Client, job_id: Uuid) -> Result<Vec<AttemptRow>, Error> {
    let rows = within(PATIENCE, client.query_typed(ATTEMPTS, &[(&job_id, Type::UUID)])).await?;
    rows.iter()
        .map(|row| {
            Ok(AttemptRow {
                claim: row.try_get(0)?,
                attempt: row.try_get(1)?,
                started_at: moment(row.try_get(2)?),
                duration: row.try_get(3)?,
                outcome: row.try_get(4)?,
                phase: row.try_get(5)?,
                code: row.try_get(6)?,
                error: row.try_get(7)?,
            })
        })
        .collect()
}
