//! A jobs database with jobs in every state.

use anyhow::Result;
use relay::operate::{By, Operator};
use tests::databases::{Databases, Role};
use tests::dispatcher::url;
use tokio_postgres::Client;
use uuid::Uuid;

/// A pair of databases, a session as the relay's commands have it, and one behind the system's back.
pub struct Stage {
    pub databases: Databases,
    /// With the relay's role.
    pub client: Client,
    pub superuser: Client,
    pub ada: Operator,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        let databases = Databases::new().await?;
        let client = relay::databases::jobs(&url(&databases.jobs.url(Role::Jobs))?, "test").await?;
        let superuser = databases.jobs.connect(Role::Superuser).await?;
        Ok(Self { databases, client, superuser, ada: Operator::dashboard("ada") })
    }

    /// Jobs of a kind in a state, as dispatch and delivery leave them, with time-ordered ids.
    pub async fn jobs(&self, kind: &str, state: &str, count: i32) -> Result<Vec<Uuid>> {
        let rows = self
            .superuser
            .query(
                "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state,
                                               max_attempts, attempt, retry_interval, crash_count, claimed_by,
                                               finished_at, expires_at, last_error,
                                               retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
                 SELECT overlay(gen_random_uuid()::text PLACING lpad(to_hex(n), 8, '0') FROM 1 FOR 8)::uuid,
                        gen_random_uuid(), 'send_welcome_email', 'email', $1,
                        jsonb_build_object('template', CASE WHEN n % 2 = 0 THEN 'welcome' ELSE 'verify_email' END),
                        now(), $2, 5,
                        CASE $2 WHEN 'dead' THEN 5 WHEN 'available' THEN 0 ELSE 2 END,
                        CASE WHEN $2 IN ('dead', 'retrying') THEN 45 END,
                        CASE $2 WHEN 'dead' THEN 1 ELSE 0 END,
                        CASE $2 WHEN 'running' THEN gen_random_uuid() END,
                        CASE WHEN $2 IN ('succeeded', 'dead', 'cancelled', 'expired') THEN now() END,
                        CASE $2 WHEN 'expired' THEN now() - interval '1 hour' END,
                        CASE WHEN $2 IN ('dead', 'retrying') THEN '550 mailbox ' || n || ' unavailable' END,
                        5, 3, 900, 0.25
                   FROM generate_series(1, $3) AS n
                 RETURNING job_id",
                &[&kind, &state, &count],
            )
            .await?;
        let mut ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// How many jobs are in a state.
    pub async fn count(&self, state: &str) -> Result<i64> {
        let count = "SELECT count(*) FROM aftercommit.jobs WHERE state = $1";
        Ok(self.superuser.query_one(count, &[&state]).await?.get(0))
    }

    /// The audit trail, oldest first: who, what, on what, how many, why, whether it ended.
    pub async fn trail(&self) -> Result<Vec<(String, String, String, i64, Option<String>, bool)>> {
        let rows = self
            .superuser
            .query(
                "SELECT operator, action, filter::text, affected, reason, finished_at IS NOT NULL
                   FROM aftercommit.operator_actions ORDER BY action_id",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4), r.get(5))).collect())
    }
}

/// By somebody, for a reason.
pub fn by<'a>(operator: &'a Operator, reason: &'a str) -> By<'a> {
    By { operator, reason: Some(reason) }
}
