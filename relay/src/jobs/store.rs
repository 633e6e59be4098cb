//! Storing jobs: many in one statement, each once.

use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::value::RawValue;
use shared::envelope::{Envelope, Head};
use time::OffsetDateTime;
use tokio_postgres::types::Json;
use tokio_postgres::{Statement, Transaction};
use uuid::Uuid;

use super::Job;
use super::id::job_id;
use crate::postgres::{Column, column};

/// A job with everything that its row begins with.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Computed: see [`job_id`].
    pub job_id: Uuid,
    /// The event that it follows from.
    pub event: Arc<Head>,
    /// In place of the event's metadata, where the trace has gone on since.
    pub carried: Option<Box<RawValue>>,
    /// The handler that asked for it.
    pub handler: &'static str,
    /// 0, or the number of the `replay --again` that made it.
    pub generation: i32,
    /// What the handler asked for.
    pub job: Job,
}

impl NewJob {
    /// The row for a job that a handler asked for after an event.
    pub fn new(envelope: &Envelope, handler: &'static str, generation: i32, job: Job) -> Self {
        let job_id = job_id(envelope.event_id, handler, &job.name, generation);
        Self { job_id, event: Arc::clone(&envelope.head), carried: None, handler, generation, job }
    }

    /// The job's metadata: its event's, so that a trace goes on.
    pub fn metadata(&self) -> &RawValue {
        self.carried.as_ref().unwrap_or(&self.event.metadata)
    }

    pub(super) fn expires_at(&self) -> Option<OffsetDateTime> {
        // A time beyond what can be written means never.
        self.job.expires_after.and_then(|after| self.event.occurred_at.checked_add(after.try_into().ok()?))
    }
}

/// Rows to one INSERT.
const CHUNK: usize = 1_000;

/// What the last error of a job says whose event was lost when the history of the application database moved.
pub const GHOST: &str = "ghost: its event was lost when the history of the application database moved";

/// Stores jobs, on a condition; those that are there already stay as they are, but for ghosts whose event is back (a prepared
/// transaction whose commit was lost can be committed again). $16 is [`GHOST`].
macro_rules! insert_jobs {
    ($condition:literal) => {
        concat!(
            "
    INSERT INTO jobs (job_id, event_id, handler, name, generation, kind, args, metadata, occurred_at, expires_at,
                      max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
    SELECT *
      FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::jsonb[], $8::json[],
                  $9::timestamptz[], $10::timestamptz[],
                  $11::smallint[], $12::float8[], $13::float8[], $14::float8[], $15::float8[])",
            $condition,
            "
        ON CONFLICT (job_id) DO UPDATE
           SET state       = 'available',
               run_at      = now(),
               finished_at = NULL,
               last_error  = NULL
         WHERE jobs.state = 'cancelled'
           AND jobs.last_error = $16"
        )
    };
}
pub(crate) use insert_jobs;

/// `insert_jobs`: stores jobs.
pub const INSERT: &str = insert_jobs!("");

/// Stores jobs in the caller's transaction. Returns how many were new.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn insert(
    transaction: &Transaction<'_>,
    statement: &Statement,
    jobs: &[NewJob],
) -> Result<u64, tokio_postgres::Error> {
    // All are sent at once: the server works through them while what comes next is read and handled here.
    let chunks = jobs.chunks(CHUNK).map(|chunk| insert_chunk(transaction, statement, chunk));
    Ok(try_join_all(chunks).await?.into_iter().sum())
}

async fn insert_chunk(
    transaction: &Transaction<'_>,
    statement: &Statement,
    jobs: &[NewJob],
) -> Result<u64, tokio_postgres::Error> {
    transaction.execute_raw(statement, columns(jobs)).await
}

/// The parameters of [`INSERT`].
pub(crate) fn columns(jobs: &[NewJob]) -> [Column<'_>; 16] {
    [
        column(jobs, |j| j.job_id),
        column(jobs, |j| j.event.event_id),
        column(jobs, |j| j.handler),
        column(jobs, |j| &*j.job.name),
        column(jobs, |j| j.generation),
        column(jobs, |j| j.job.kind),
        column(jobs, |j| Json(&*j.job.args)),
        column(jobs, |j| Json(j.metadata())),
        column(jobs, |j| j.event.occurred_at),
        column(jobs, NewJob::expires_at),
        column(jobs, |j| j.job.retry.max_attempts),
        column(jobs, |j| j.job.retry.initial),
        column(jobs, |j| j.job.retry.multiplier),
        column(jobs, |j| j.job.retry.max_interval),
        column(jobs, |j| j.job.retry.jitter),
        Box::new(GHOST),
    ]
}
