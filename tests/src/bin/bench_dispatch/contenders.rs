//! Who runs: this relay, a textbook relay, and the insert alone. Each returns how many seconds it took.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use relay::dispatch;
use relay::dispatch::memory::Memory;
use relay::dispatch::worker::{Left, Worker};
use relay::health::Health;
use relay::jobs::store::NewJob;
use relay::wake::Bell;
use tests::databases::{Database, Databases, Role};
use tests::dispatcher::url;
use tokio_util::sync::CancellationToken;

use crate::rows::{COLUMNS, Columns, INSERT, INSERT_ONCE, jobs_of, registry, stored};

/// The jobs of all events, in the order of time. They stay in memory to the end.
pub async fn all_jobs(app: &Database) -> Result<&'static [NewJob]> {
    let registry = registry()?;
    let client = app.connect(Role::Superuser).await?;
    let rows = client.query(&format!("{COLUMNS} FROM aftercommit.outbox ORDER BY position"), &[]).await?;
    Ok(Vec::leak(rows.iter().map(|row| jobs_of(&registry, row)).collect::<Result<Vec<_>>>()?.concat()))
}

/// This relay's workers, from the moment when each holds its lanes until nothing is left.
pub async fn ours(databases: &Databases, workers: usize, events: i64) -> Result<f64> {
    let context = Arc::new(dispatch::Context {
        application: url(&databases.app.url(Role::Relay))?,
        jobs: url(&databases.jobs.url(Role::Jobs))?,
        name: "bench".to_owned(),
        registry: registry()?,
        outbox_bell: Bell::default(),
        jobs_bell: Bell::default(),
        health: Health::default(),
        pauses: relay::operate::watch::Pauses::default(),
    });
    let mut team = Vec::new();
    for _ in 0..workers {
        team.push(Worker::connect(&context, &Memory::default()).await?);
    }
    while team.iter().any(|worker| worker.lanes().len() != 16 / workers) {
        for worker in &mut team {
            worker.balance().await?;
        }
    }
    let began = Instant::now();
    let running = team.into_iter().map(|mut worker| {
        let context = context.clone();
        tokio::spawn(async move {
            let never = CancellationToken::new();
            while worker.drain(&context, &never).await? == Left::More {
                worker.balance().await?;
            }
            Ok::<_, dispatch::Error>(())
        })
    });
    for worker in running.collect::<Vec<_>>() {
        worker.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(stored(databases).await? == events, "every event became one job");
    Ok(seconds)
}

/// The same job rows from memory by `INSERT … SELECT unnest`, in chunks of 1,000, each a transaction of its own. Rows and
/// columns are ready before the clock starts, and come in the order of time, which is what an index likes best.
pub async fn limit(databases: &Databases, connections: usize, jobs: &'static [NewJob]) -> Result<f64> {
    let mut teams = Vec::new();
    for share in jobs.chunks(jobs.len().div_ceil(connections)) {
        let client = databases.jobs.connect(Role::Jobs).await?;
        let statement = client.prepare(INSERT).await?;
        let chunks: Vec<_> = share.chunks(1_000).map(Columns::new).collect();
        teams.push((client, statement, chunks));
    }
    let began = Instant::now();
    let running = teams.into_iter().map(|(client, statement, chunks)| {
        tokio::spawn(async move {
            for chunk in chunks {
                // A statement by itself is a transaction.
                client.execute(&statement, &chunk.parameters()).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        })
    });
    for connection in running.collect::<Vec<_>>() {
        connection.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(stored(databases).await? == jobs.len() as i64, "every row was stored");
    Ok(seconds)
}

/// What most teams would write: a flag on the row, SKIP LOCKED, and an UPDATE.
pub async fn textbook(databases: &Databases, events: i64) -> Result<f64> {
    let registry = registry()?;
    let mut app = databases.app.connect(Role::Superuser).await?;
    app.batch_execute(
        "DROP TABLE IF EXISTS aftercommit.textbook;
         CREATE TABLE aftercommit.textbook (LIKE aftercommit.outbox INCLUDING ALL, dispatched_at timestamptz);
         DROP INDEX aftercommit.textbook_lane_transaction_id_position_aggregate_id_idx;
         INSERT INTO aftercommit.textbook (event_id, transaction_id, position, aggregate_type, aggregate_id, event_type,
                                           event_version, payload, metadata, occurred_at, durable_at_commit)
         OVERRIDING SYSTEM VALUE
         SELECT event_id, transaction_id, position, aggregate_type, aggregate_id, event_type,
                event_version, payload, metadata, occurred_at, durable_at_commit
           FROM aftercommit.outbox;
         CREATE INDEX textbook_waiting ON aftercommit.textbook (position) WHERE dispatched_at IS NULL",
    )
    .await?;
    app.batch_execute("VACUUM ANALYZE aftercommit.textbook").await?;
    app.batch_execute("CHECKPOINT").await?;
    let take = format!(
        "{COLUMNS} FROM aftercommit.textbook WHERE dispatched_at IS NULL ORDER BY position LIMIT 500 FOR UPDATE SKIP LOCKED"
    );
    let take = app.prepare(&take).await?;
    let mark = app.prepare("UPDATE aftercommit.textbook SET dispatched_at = now() WHERE event_id = ANY ($1)").await?;
    let jobs_client = databases.jobs.connect(Role::Jobs).await?;
    let insert = jobs_client.prepare(INSERT_ONCE).await?;

    let began = Instant::now();
    loop {
        let reading = app.transaction().await?;
        let rows = reading.query(&take, &[]).await?;
        if rows.is_empty() {
            break;
        }
        let jobs = rows.iter().map(|row| jobs_of(&registry, row)).collect::<Result<Vec<_>>>()?.concat();
        jobs_client.execute(&insert, &Columns::new(&jobs).parameters()).await?;
        let done: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
        reading.execute(&mark, &[&done]).await?;
        reading.commit().await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(stored(databases).await? == events, "every event became one job");
    app.batch_execute("DROP TABLE aftercommit.textbook").await?;
    Ok(seconds)
}
