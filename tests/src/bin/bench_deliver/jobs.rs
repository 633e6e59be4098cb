//! The preloaded table, and copies of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tests::databases::{Database, DatabaseServer, Kind, Role};
use tests::wait::until;

/// A jobs database full of jobs that are due.
pub struct Preloaded {
    server: Arc<DatabaseServer>,
    original: Database,
    jobs: i64,
    copies: AtomicU32,
}

/// A copy, to be drained.
pub struct Copy {
    pub database: Database,
    pub jobs: i64,
}

/// Jobs as dispatch makes them of registrations: time-ordered ids, some 300 bytes of arguments and metadata.
pub const ROWS: &str = "
    INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, metadata, occurred_at,
                                  max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - $1::bigint / 10 + n / 10), 12, '0')
            || '8' || substr(md5(n::text), 1, 3) || 'a' || substr(md5('x' || n), 1, 15))::uuid,
           gen_random_uuid(), 'send_verification_email', 'verification', $2,
           jsonb_build_object('template', 'welcome', 'locale', 'en', 'to', 'user' || n || '@example.org',
                              'name', 'User ' || n, 'user_id', gen_random_uuid()),
           jsonb_build_object('traceparent', '00-' || md5(n::text) || '-00f067aa0ba902b7-01'),
           now(), 5, 5, 3, 900, 0.25
    FROM generate_series(1, $1::bigint) AS n";

impl Preloaded {
    pub async fn fill(server: &Arc<DatabaseServer>, jobs: i64) -> Result<Self> {
        let original = server.create(Kind::Jobs).await?;
        let client = original.connect(Role::Superuser).await?;
        client.execute(ROWS, &[&jobs, &"noop"]).await?;
        client.batch_execute("VACUUM (ANALYZE, FREEZE) aftercommit.jobs").await?;
        Ok(Self { server: server.clone(), original, jobs, copies: AtomicU32::new(0) })
    }

    /// A fresh copy, all of it on disk.
    pub async fn copy(&self) -> Result<Copy> {
        let name = format!("copy_{}", self.copies.fetch_add(1, Ordering::Relaxed));
        let client = self.server.cluster().connect("postgres").await?;
        let make = format!("CREATE DATABASE {name} TEMPLATE {} STRATEGY file_copy", self.original.name());
        // The session that filled it may take a moment to end.
        until("a copy", async || Ok(client.batch_execute(&make).await.ok())).await?;
        let database = self.server.existing(&name);
        let warm = database.connect(Role::Superuser).await?;
        warm.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_prewarm('aftercommit.jobs')").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(Copy { database, jobs: self.jobs })
    }
}

impl Copy {
    /// How much WAL was written on the server so far.
    pub async fn wal(&self) -> Result<f64> {
        let client = self.database.connect(Role::Superuser).await?;
        Ok(client.query_one("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8", &[]).await?.get(0))
    }

    /// Versions of rows that wait for a vacuum.
    pub async fn dead_tuples(&self) -> Result<i64> {
        let client = self.database.connect(Role::Superuser).await?;
        let sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'";
        Ok(client.query_one(sql, &[]).await?.get(0))
    }
}
