//! The rows that every contender stores: the product's, made by its own handlers.

use anyhow::{Context, Result};
use relay::handlers::{self, Registry};
use relay::jobs::store::NewJob;
use serde_json::value::RawValue;
use shared::envelope::{Envelope, Head};
use tests::databases::{Databases, Role};
use time::OffsetDateTime;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// What is read of an event.
pub const COLUMNS: &str = "
    SELECT event_id, position, aftercommit.lane(aggregate_id), aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, occurred_at";

/// The product's handlers.
pub fn registry() -> Result<Registry> {
    handlers::register_all().context("the product's handlers")
}

/// The jobs that the handlers ask for after an event.
pub fn jobs_of(registry: &Registry, row: &Row) -> Result<Vec<NewJob>> {
    let Json(payload): Json<Box<RawValue>> = row.try_get(7)?;
    let Json(metadata): Json<Box<RawValue>> = row.try_get(8)?;
    let head = Head {
        event_id: row.try_get(0)?,
        position: row.try_get(1)?,
        lane: row.try_get(2)?,
        aggregate_type: row.try_get(3)?,
        aggregate_id: row.try_get(4)?,
        event_type: row.try_get(5)?,
        event_version: row.try_get(6)?,
        metadata,
        occurred_at: row.try_get(9)?,
    };
    let envelope = Envelope { head: head.into(), payload };
    let mut jobs = Vec::new();
    for handled in registry.publish(&envelope) {
        jobs.extend(handled.outcome?.into_iter().map(|job| NewJob::new(&envelope, handled.handler, 0, job)));
    }
    Ok(jobs)
}

/// `insert`: many rows in one statement, as peers do. The limit stores nothing twice and needs no conflict clause; the
/// textbook relay does, as it dies between its two commits now and then.
macro_rules! insert {
    ($conflict:literal) => {
        concat!(
            "
    INSERT INTO jobs (job_id, event_id, handler, name, generation, kind, args, metadata, occurred_at, expires_at,
                      max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
    SELECT *
      FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::jsonb[], $8::json[],
                  $9::timestamptz[], $10::timestamptz[],
                  $11::smallint[], $12::float8[], $13::float8[], $14::float8[], $15::float8[])",
            $conflict
        )
    };
}

/// Without a conflict clause.
pub const INSERT: &str = insert!("");

/// With one.
pub const INSERT_ONCE: &str = insert!("\n        ON CONFLICT (job_id) DO NOTHING");

/// Rows of jobs as the columns of a statement.
#[derive(Default)]
pub struct Columns<'a> {
    job_id: Vec<Uuid>,
    event_id: Vec<Uuid>,
    handler: Vec<&'a str>,
    name: Vec<&'a str>,
    generation: Vec<i32>,
    kind: Vec<&'a str>,
    args: Vec<Json<&'a RawValue>>,
    metadata: Vec<Json<&'a RawValue>>,
    occurred_at: Vec<OffsetDateTime>,
    expires_at: Vec<Option<OffsetDateTime>>,
    max_attempts: Vec<i16>,
    initial: Vec<f64>,
    multiplier: Vec<f64>,
    max_interval: Vec<f64>,
    jitter: Vec<f64>,
}

impl<'a> Columns<'a> {
    /// The columns of some jobs.
    pub fn new(jobs: &'a [NewJob]) -> Self {
        let mut columns = Self::default();
        for new in jobs {
            columns.job_id.push(new.job_id);
            columns.event_id.push(new.event.event_id);
            columns.handler.push(new.handler);
            columns.name.push(&new.job.name);
            columns.generation.push(new.generation);
            columns.kind.push(new.job.kind);
            columns.args.push(Json(&new.job.args));
            columns.metadata.push(Json(new.metadata()));
            columns.occurred_at.push(new.event.occurred_at);
            columns.expires_at.push(new.job.expires_after.map(|after| new.event.occurred_at + after));
            columns.max_attempts.push(new.job.retry.max_attempts);
            columns.initial.push(new.job.retry.initial);
            columns.multiplier.push(new.job.retry.multiplier);
            columns.max_interval.push(new.job.retry.max_interval);
            columns.jitter.push(new.job.retry.jitter);
        }
        columns
    }

    /// As a statement takes them.
    pub fn parameters(&self) -> [&(dyn ToSql + Sync); 15] {
        [
            &self.job_id,
            &self.event_id,
            &self.handler,
            &self.name,
            &self.generation,
            &self.kind,
            &self.args,
            &self.metadata,
            &self.occurred_at,
            &self.expires_at,
            &self.max_attempts,
            &self.initial,
            &self.multiplier,
            &self.max_interval,
            &self.jitter,
        ]
    }
}

/// How many jobs are there.
pub async fn stored(databases: &Databases) -> Result<i64> {
    let client: Client = databases.jobs.connect(Role::Superuser).await?;
    Ok(client.query_one("SELECT count(*) FROM aftercommit.jobs", &[]).await?.get(0))
}
