//! Who drains the table: relays, and the statement alone. Each returns how many seconds it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use relay::deliver::{self, ClaimedJob, Kind, Kinds, Lease, Outcome, Settings};
use relay::health::Health;
use relay::jobs::{claim, session};
use relay::operate::watch::Pauses;
use relay::wake::Bell;
use tests::databases::Role;
use tests::dispatcher::url;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::jobs::Copy;

/// A kind that is done at once.
struct Noop {
    left: AtomicI64,
    done: CancellationToken,
}

#[async_trait::async_trait]
impl Kind for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn concurrency(&self) -> usize {
        100
    }

    async fn perform(&self, _job: &ClaimedJob, lease: &Lease) -> Outcome {
        if let Err(lost) = lease.begin() {
            return lost.into();
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.cancel();
        }
        Outcome::Succeeded
    }
}

/// Relays, from their start until they have settled everything and said goodbye.
pub async fn ours(copy: &Copy, relays: usize) -> Result<f64> {
    let done = CancellationToken::new();
    let noop = Arc::new(Noop { left: copy.jobs.into(), done: done.clone() });
    let began = Instant::now();
    let mut running = vec![];
    for number in 1..=relays {
        let mut kinds = Kinds::default();
        kinds.on(noop.clone())?;
        let context = deliver::Context {
            jobs: url(&copy.database.url(Role::Jobs))?,
            name: format!("bench {number}"),
            kinds,
            settings: Settings::default(),
            bell: Bell::default(),
            pauses: Pauses::default(),
            health: Health::default(),
        };
        let done = done.clone();
        running.push(tokio::spawn(async move { deliver::run(&context, &done).await }));
    }
    for relay in running {
        relay.await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    check(copy, "attempt = 1 AND claim = 1").await?;
    Ok(seconds)
}

/// The statement that settles a batch and claims the next, and nothing else, on two connections.
pub async fn limit(copy: &Copy, batch: usize) -> Result<f64> {
    let began = Instant::now();
    let connections = (0..2).map(|_| {
        let database = copy.database.clone();
        tokio::spawn(async move {
            let client = database.connect(Role::Jobs).await?;
            client.batch_execute(session::SETTINGS).await?;
            let process = Uuid::new_v4();
            let known = "INSERT INTO aftercommit.processes (process_id, name, lease) VALUES ($1, 'bench', 30)";
            client.execute(known, &[&process]).await?;
            let claim = client.prepare(claim::CLAIM).await?;
            let (mut jobs, mut claims, limit) = (Vec::<Uuid>::new(), Vec::<i64>::new(), i64::try_from(batch)?);
            let front = (OffsetDateTime::UNIX_EPOCH, Uuid::nil());
            let mut mark = front;
            loop {
                let processes = vec![process; jobs.len()];
                let parameters: [&(dyn ToSql + Sync); 8] =
                    [&process, &"noop", &mark.0, &mark.1, &limit, &jobs, &claims, &processes];
                let rows = client.query(&claim, &parameters).await?;
                ensure!(rows[0].get::<_, i64>(0) == i64::try_from(jobs.len())?, "all were settled");
                (jobs, claims) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
                let started = mark;
                for row in &rows {
                    let Some(job) = row.get::<_, Option<Uuid>>(1) else { break };
                    mark = mark.max((row.get(2), job));
                    jobs.push(job);
                    claims.push(row.get(9));
                }
                // One look from the front at the end: the other connection may have left some behind the mark.
                if jobs.is_empty() && std::mem::replace(&mut mark, front) == front && started == front {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    check(copy, "attempt = 1 AND claim = 1").await?;
    Ok(seconds)
}

async fn check(copy: &Copy, and: &str) -> Result<()> {
    let client = copy.database.connect(Role::Superuser).await?;
    let sql = format!("SELECT count(*) FROM aftercommit.jobs WHERE state = 'succeeded' AND {and}");
    let done: i64 = client.query_one(&sql, &[]).await?.get(0);
    ensure!(done == copy.jobs, "{done} of {} jobs were done once", copy.jobs);
    Ok(())
}
