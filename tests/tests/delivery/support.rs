//! A jobs database, a mail server, and jobs to deliver.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::services::{Service, start_relay, verification_keys};
use tests::smtp_sink::SmtpSink;
use tests::wait::until;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

/// Short enough for tests, and long enough for a busy machine.
pub const LEASE: Duration = Duration::from_secs(3);

/// What every relay here is told.
const SETTINGS: [(&str, &str); 3] = [("DELIVERY_LEASE", "3s"), ("DELIVERY_POLL", "500ms"), ("SHUTDOWN_GRACE", "1s")];

/// Everything that a scenario needs.
pub struct Stage {
    pub sink: SmtpSink,
    pub databases: Databases,
    pub client: Client,
    pub keys: String,
}

/// A job as its row has it.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub state: String,
    pub attempt: i16,
    pub crash_count: i16,
    pub last_error: Option<String>,
    pub retry_interval: Option<f64>,
    pub claimed: bool,
}

/// A line of a job's history.
#[derive(Debug, PartialEq)]
pub struct Attempt {
    pub attempt: i16,
    pub outcome: String,
    pub phase: Option<String>,
    pub code: Option<i32>,
    pub error: String,
    /// Seconds since the first job of the test was made.
    pub started_at: f64,
    pub duration: f64,
}

/// How a job is tried again.
#[derive(Clone, Copy)]
pub struct Policy {
    pub max_attempts: i16,
    pub initial: f64,
    pub jitter: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_attempts: 5, initial: 0.2, jitter: 0.0 }
    }
}

impl Stage {
    /// Sets it; `None`, with a line that says so, where the mail server is missing.
    pub async fn set(test: &str) -> Result<Option<Self>> {
        Self::set_on(test, Databases::new().await?).await
    }

    /// The same on given databases.
    pub async fn set_on(test: &str, databases: Databases) -> Result<Option<Self>> {
        let Some(sink) = SmtpSink::start_or_skip(test).await else { return Ok(None) };
        let client = databases.jobs.connect(Role::Superuser).await?;
        Ok(Some(Self { sink, databases, client, keys: verification_keys() }))
    }

    /// Connects anew, to a server that was away.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.client = self.databases.jobs.connect(Role::Superuser).await?;
        Ok(())
    }

    /// Starts a relay, with settings beside the usual ones.
    pub async fn relay(&self, settings: &[(&str, &str)]) -> Result<Service> {
        self.relay_to(&self.sink.url(), settings).await
    }

    /// The same, with another way for its mail.
    pub async fn relay_to(&self, smtp_url: &str, settings: &[(&str, &str)]) -> Result<Service> {
        let settings = [&SETTINGS, settings].concat();
        start_relay(&self.databases, &self.keys, "https://accounts.example.net", smtp_url, &settings).await
    }

    /// A welcome to `to`.
    pub async fn job(&self, to: &str) -> Result<Uuid> {
        self.job_with(to, Policy::default()).await
    }

    pub async fn job_with(&self, to: &str, policy: Policy) -> Result<Uuid> {
        let args = json!({ "template": "welcome", "locale": "en", "to": to, "name": "Ada", "user_id": Uuid::now_v7() });
        self.row("email", &args.to_string(), policy, "").await
    }

    /// Any row; `extra` sets columns, as in `expires_at = now()`.
    pub async fn row(&self, kind: &str, args: &str, policy: Policy, extra: &str) -> Result<Uuid> {
        let job_id = Uuid::now_v7();
        let Policy { max_attempts, initial, jitter } = policy;
        // Noticed by no relay yet, should one be there: the notification comes with the commit.
        self.client
            .execute(
                "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, run_at,
                     max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
                 VALUES ($1, $1, 'handler', 'email', $2, $3::text::jsonb, '2026-05-01 10:00:00+00', 'infinity',
                     $4, $5, 2, 60, $6)",
                &[&job_id, &kind, &args, &max_attempts, &initial, &jitter],
            )
            .await?;
        let extra = if extra.is_empty() { String::new() } else { format!("{extra},") };
        self.client
            .execute(&format!("UPDATE aftercommit.jobs SET {extra} run_at = now() WHERE job_id = $1"), &[&job_id])
            .await?;
        self.client.execute("SELECT pg_notify('aftercommit_jobs', '')", &[]).await?;
        Ok(job_id)
    }

    /// How a job stands.
    pub async fn look(&self, job_id: Uuid) -> Result<Row> {
        let row = self
            .client
            .query_one(
                "SELECT state, attempt, crash_count, last_error, retry_interval, claimed_by IS NOT NULL
                 FROM aftercommit.jobs WHERE job_id = $1",
                &[&job_id],
            )
            .await?;
        Ok(Row {
            state: row.get(0),
            attempt: row.get(1),
            crash_count: row.get(2),
            last_error: row.get(3),
            retry_interval: row.get(4),
            claimed: row.get(5),
        })
    }

    /// Waits until a job is in a state.
    pub async fn wait_for(&self, job_id: Uuid, state: &str) -> Result<Row> {
        let what = format!("the job to be {state}");
        let found = until(&what, async || Ok(Some(self.look(job_id).await?).filter(|row| row.state == state)));
        match found.await {
            Ok(row) => Ok(row),
            Err(error) => {
                Err(error).with_context(|| format!("{job_id}")).context(format!("{:?}", self.look(job_id).await))
            }
        }
    }

    /// Waits until every job is in this state.
    pub async fn wait_for_all(&self, state: &str) -> Result<()> {
        until(&format!("all jobs to be {state}"), async || {
            let others: i64 = self
                .client
                .query_one("SELECT count(*) FROM aftercommit.jobs WHERE state <> $1", &[&state])
                .await?
                .get(0);
            Ok((others == 0).then_some(()))
        })
        .await
    }

    /// A job's history.
    pub async fn attempts(&self, job_id: Uuid) -> Result<Vec<Attempt>> {
        let rows = self
            .client
            .query(
                "SELECT attempt, outcome, phase, code, error, extract(epoch FROM started_at)::float8, duration
                 FROM aftercommit.job_attempts WHERE job_id = $1 ORDER BY claim",
                &[&job_id],
            )
            .await?;
        let first: f64 = rows.first().map_or(0.0, |row| row.get(5));
        let attempt = |row: &tokio_postgres::Row| Attempt {
            attempt: row.get(0),
            outcome: row.get(1),
            phase: row.get(2),
            code: row.get(3),
            error: row.get(4),
            started_at: row.get::<_, f64>(5) - first,
            duration: row.get(6),
        };
        Ok(rows.iter().map(attempt).collect())
    }

    /// Takes a job's row for the superuser's own, so that nobody else can write it.
    pub async fn lock<'a>(&self, locker: &'a mut Client, job_id: Uuid) -> Result<Transaction<'a>> {
        let lock = locker.transaction().await?;
        lock.execute("SELECT FROM aftercommit.jobs WHERE job_id = $1 FOR UPDATE", &[&job_id]).await?;
        Ok(lock)
    }

    /// Waits until a relay's statement waits for such a lock.
    pub async fn wait_until_a_relay_waits_for_the_lock(&self) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND usename = 'aftercommit_jobs' AND datname = current_database()";
        until("the settlement to be on its way", async || {
            let waiting: i64 = self.client.query_one(sql, &[]).await?.get(0);
            Ok((waiting > 0).then_some(()))
        })
        .await
    }

    /// Ends all sessions of relays on the jobs database.
    pub async fn end_sessions_of_relays(&self) -> Result<()> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE usename = 'aftercommit_jobs' AND datname = current_database()";
        self.client.execute(sql, &[]).await?;
        Ok(())
    }

    /// How many rows a query over the schema counts.
    pub async fn count(&self, of: &str) -> Result<i64> {
        Ok(self.client.query_one(&format!("SELECT count(*) FROM aftercommit.{of}"), &[]).await?.get(0))
    }
}
