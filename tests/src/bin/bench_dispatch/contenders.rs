//! Who runs: this relay, a textbook relay, and the insert alone. Each returns how many seconds it took.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use relay::dispatch::{self, Left, Worker};
use relay::handlers::{self, Registry};
use relay::health::Health;
use relay::jobs::store::{self, NewJob};
use relay::wake::Bell;
use serde_json::value::RawValue;
use shared::envelope::Envelope;
use tests::databases::{Databases, Role};
use tests::dispatcher::url;
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

fn registry() -> Result<Registry> {
    Ok(handlers::register_all()?)
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
        team.push(Worker::connect(&context).await?);
    }
    while team.iter().any(|worker| worker.lanes() != 16 / workers) {
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

/// The same job rows from memory, by the same statement, in chunks of 1,000, each a transaction of its own.
pub async fn limit(databases: &Databases, connections: usize) -> Result<f64> {
    let registry = registry()?;
    let app = databases.app.connect(Role::Superuser).await?;
    let rows = app.query(&format!("{COLUMNS} FROM aftercommit.outbox ORDER BY lane, position"), &[]).await?;
    let jobs = rows.iter().map(|row| jobs_of(&registry, row)).collect::<Result<Vec<_>>>()?.concat();
    let events = jobs.len();

    let shares: Vec<Vec<NewJob>> = jobs.chunks(events.div_ceil(connections)).map(<[_]>::to_vec).collect();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = databases.jobs.connect(Role::Jobs).await?;
        let statement = client.prepare(store::INSERT).await?;
        clients.push((client, statement));
    }
    let began = Instant::now();
    let running = clients.into_iter().zip(shares).map(|((mut client, statement), share)| {
        tokio::spawn(async move {
            for chunk in share.chunks(1_000) {
                let transaction = client.transaction().await?;
                store::insert(&transaction, &statement, chunk).await?;
                transaction.commit().await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        })
    });
    for connection in running.collect::<Vec<_>>() {
        connection.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(stored(databases).await? == events as i64, "every row was stored");
    Ok(seconds)
}

/// What most teams would write: a flag on the row, SKIP LOCKED, and an UPDATE.
pub async fn textbook(databases: &Databases, events: i64) -> Result<f64> {
    let registry = registry()?;
    let mut app = databases.app.connect(Role::Superuser).await?;
    app.batch_execute(
        "DROP TABLE IF EXISTS aftercommit.textbook;
         CREATE TABLE aftercommit.textbook (LIKE aftercommit.outbox INCLUDING ALL, dispatched_at timestamptz);
         DROP INDEX IF EXISTS aftercommit.textbook_lane_transaction_id_position_idx;
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
    let mut jobs_client = databases.jobs.connect(Role::Jobs).await?;
    let insert = jobs_client.prepare(store::INSERT).await?;

    let began = Instant::now();
    loop {
        let reading = app.transaction().await?;
        let rows = reading.query(&take, &[]).await?;
        if rows.is_empty() {
            break;
        }
        let jobs = rows.iter().map(|row| jobs_of(&registry, row)).collect::<Result<Vec<_>>>()?.concat();
        let storing = jobs_client.transaction().await?;
        store::insert(&storing, &insert, &jobs).await?;
        storing.commit().await?;
        let done: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
        reading.execute(&mark, &[&done]).await?;
        reading.commit().await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(stored(databases).await? == events, "every event became one job");
    Ok(seconds)
}

const COLUMNS: &str = "
    SELECT event_id, position, lane, aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at";

fn jobs_of(registry: &Registry, row: &Row) -> Result<Vec<NewJob>> {
    let Json(payload): Json<Box<RawValue>> = row.try_get(7)?;
    let Json(metadata): Json<Box<RawValue>> = row.try_get(8)?;
    let envelope = Envelope {
        event_id: row.try_get(0)?,
        position: row.try_get(1)?,
        lane: row.try_get(2)?,
        aggregate_type: row.try_get(3)?,
        aggregate_id: row.try_get(4)?,
        event_type: row.try_get(5)?,
        event_version: row.try_get(6)?,
        payload,
        metadata,
        occurred_at: row.try_get(9)?,
    };
    let mut jobs = Vec::new();
    for handled in registry.publish(&envelope) {
        jobs.extend(handled.outcome?.into_iter().map(|job| NewJob::new(&envelope, handled.handler, 0, job)));
    }
    Ok(jobs)
}

async fn stored(databases: &Databases) -> Result<i64> {
    let client: Client = databases.jobs.connect(Role::Superuser).await?;
    Ok(client.query_one("SELECT count(*) FROM aftercommit.jobs", &[]).await?.get(0))
}
