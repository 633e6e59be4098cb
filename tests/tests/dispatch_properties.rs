//! Random histories on a real server: overlapping transactions in several sessions, workers that die at named points.
//!
//! Each history is played and then checked: each committed event has exactly one job, rolled back ones have none, and per
//! aggregate jobs were stored in the order of positions. A failing history prints its seed; `SEED=… HISTORIES=1` plays it
//! again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use relay::dispatch::read::Found;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, counting, write_event};
use tokio_postgres::Client;

/// Sessions that write.
const WRITERS: usize = 5;
/// Aggregates that they write about.
const AGGREGATES: usize = 4;
/// Steps of one history.
const STEPS: usize = 70;

/// A session with its transaction, if one is open.
struct Writer {
    client: Client,
    open: bool,
    savepoints: usize,
    /// Aggregates whose lock it holds.
    locked: BTreeSet<usize>,
    /// Events of the open transaction, with the savepoint depth they were written at.
    written: Vec<(i64, usize)>,
}

/// What the history did, for the closing line.
#[derive(Debug, Default)]
struct Tally {
    histories: usize,
    events: usize,
    rolled_back: usize,
    prepared: usize,
    savepoints: usize,
    killed: BTreeMap<&'static str, usize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_committed_event_is_dispatched_once_and_in_order() -> Result<()> {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (first, histories) = (number("SEED", 1), number("HISTORIES", 40));
    let mut tally = Tally::default();
    // A few pairs of databases, used again: each history goes on where the one before it ended, as in production.
    let mut databases = Databases::new().await?;
    for seed in first..first + histories {
        if (seed - first) % 10 == 9 {
            databases = Databases::new().await?;
        }
        history(&databases, seed, &mut tally).await.with_context(|| format!("SEED={seed} HISTORIES=1"))?;
    }
    println!("{tally:?}");
    ensure!(tally.killed.len() == 4, "every point of death was met");
    Ok(())
}

async fn history(databases: &Databases, seed: u64, tally: &mut Tally) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let client = databases.app.connect(Role::Owner).await?;
        writers.push(Writer { client, open: false, savepoints: 0, locked: BTreeSet::new(), written: Vec::new() });
    }
    let control = databases.app.connect(Role::Superuser).await?;
    // Jobs are copied, or inserted, however few they are.
    let copy_from = if dice.random_bool(0.6) { 0 } else { usize::MAX };
    let mut worker = Dispatcher::new(databases, counting()).await?.copy_from(copy_from);
    let mut prepared: Vec<(String, BTreeSet<usize>, Vec<i64>)> = Vec::new();
    let (mut committed, mut rolled_back) = (BTreeSet::new(), BTreeSet::new());
    let mut number = i64::try_from(seed)? * 10_000;

    for step in 0..STEPS {
        let who = dice.random_range(0..WRITERS);
        let taken: BTreeSet<usize> = (0..WRITERS)
            .filter(|other| *other != who)
            .flat_map(|other| writers[other].locked.clone())
            .chain(prepared.iter().flat_map(|(_, locked, _)| locked.clone()))
            .collect();
        let writer = &mut writers[who];
        match dice.random_range(0..100) {
            // A transaction may have its id long before its first event.
            0..15 if !writer.open => {
                writer.client.batch_execute("BEGIN").await?;
                if dice.random_bool(0.5) {
                    writer.client.batch_execute("SELECT pg_current_xact_id()").await?;
                }
                writer.open = true;
            }
            // The writer's rule: the aggregate's lock first. It is not waited for, so that no history deadlocks.
            0..50 => {
                let aggregate = dice.random_range(0..AGGREGATES);
                if taken.contains(&aggregate) {
                    continue;
                }
                number += 1;
                write_event(&writer.client, &format!("a{aggregate}"), number).await?;
                if writer.open {
                    writer.locked.insert(aggregate);
                    writer.written.push((number, writer.savepoints));
                } else {
                    committed.insert(number);
                }
            }
            50..56 if writer.open => {
                writer.savepoints += 1;
                tally.savepoints += 1;
                writer.client.batch_execute(&format!("SAVEPOINT s{}", writer.savepoints)).await?;
            }
            56..60 if writer.savepoints > 0 => {
                let depth = writer.savepoints;
                writer.client.batch_execute(&format!("ROLLBACK TO s{depth}; RELEASE s{depth}")).await?;
                writer.savepoints -= 1;
                let (kept, gone): (Vec<_>, Vec<_>) = writer.written.drain(..).partition(|(_, at)| *at < depth);
                writer.written = kept;
                rolled_back.extend(gone.into_iter().map(|(n, _)| n));
            }
            60..64 if writer.open && prepared.len() < 3 => {
                let name = format!("{}_{seed}_{step}", databases.app.name());
                writer.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await?;
                let written = writer.written.drain(..).map(|(n, _)| n).collect();
                prepared.push((name, std::mem::take(&mut writer.locked), written));
                (writer.open, writer.savepoints) = (false, 0);
                tally.prepared += 1;
            }
            64..68 if !prepared.is_empty() => {
                let (name, _, written) = prepared.swap_remove(dice.random_range(0..prepared.len()));
                finish_prepared(&control, &name, written, dice.random_bool(0.8), &mut committed, &mut rolled_back)
                    .await?;
            }
            64..80 if writer.open => {
                finish(writer, dice.random_bool(0.8), &mut committed, &mut rolled_back).await?;
            }
            80..92 => {
                worker.step().await?;
            }
            point => {
                if let Some(name) = die(&mut worker, point, dice.random_range(1..10)).await? {
                    *tally.killed.entry(name).or_default() += 1;
                }
                worker = Dispatcher::new(databases, counting()).await?.copy_from(copy_from);
            }
        }
    }
    for writer in &mut writers {
        if writer.open {
            finish(writer, dice.random_bool(0.8), &mut committed, &mut rolled_back).await?;
        }
    }
    for (name, _, written) in prepared {
        finish_prepared(&control, &name, written, true, &mut committed, &mut rolled_back).await?;
    }
    worker.drain().await?;
    tally.histories += 1;
    tally.events += committed.len();
    tally.rolled_back += rolled_back.len();
    check(databases, seed, &committed).await
}

/// A worker's death at a named point. Its connections end with it; what was not committed is gone.
async fn die(worker: &mut Dispatcher, point: i32, steps: usize) -> Result<Option<&'static str>> {
    let Found::Batch(batch) = worker.read().await? else { return Ok(None) };
    Ok(Some(match point % 4 {
        0 => "before the insert",
        1 => {
            worker.store_without_commit(&batch).await?;
            "between insert and commit"
        }
        2 => match worker.die_in_commit(&batch, steps).await {
            None => "in the hand-over",
            Some(done) => {
                done?;
                "after the commit"
            }
        },
        _ => {
            worker.commit(&batch).await?;
            "after the commit"
        }
    }))
}

async fn finish(
    writer: &mut Writer,
    commit: bool,
    committed: &mut BTreeSet<i64>,
    rolled_back: &mut BTreeSet<i64>,
) -> Result<()> {
    writer.client.batch_execute(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
    let into = if commit { committed } else { rolled_back };
    into.extend(writer.written.drain(..).map(|(n, _)| n));
    (writer.open, writer.savepoints) = (false, 0);
    writer.locked.clear();
    Ok(())
}

async fn finish_prepared(
    control: &Client,
    name: &str,
    written: Vec<i64>,
    commit: bool,
    committed: &mut BTreeSet<i64>,
    rolled_back: &mut BTreeSet<i64>,
) -> Result<()> {
    control.batch_execute(&format!("{} PREPARED '{name}'", if commit { "COMMIT" } else { "ROLLBACK" })).await?;
    if commit { committed } else { rolled_back }.extend(written);
    Ok(())
}

/// Exactly the committed events of this history have a job, one each, in the order of positions per aggregate.
async fn check(databases: &Databases, seed: u64, committed: &BTreeSet<i64>) -> Result<()> {
    let range = (i64::try_from(seed)? * 10_000, i64::try_from(seed)? * 10_000 + 9_999);
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let stored: Vec<i64> = jobs
        .query(
            "SELECT (args ->> 'number')::bigint AS number FROM aftercommit.jobs
              WHERE (args ->> 'number')::bigint BETWEEN $1 AND $2 ORDER BY ctid",
            &[&range.0, &range.1],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let once: BTreeSet<i64> = stored.iter().copied().collect();
    ensure!(once.len() == stored.len(), "twice: {stored:?}");
    ensure!(&once == committed, "lost {:?}, phantom {:?}", committed - &once, &once - committed);

    let app = databases.app.connect(Role::Superuser).await?;
    let rows = app
        .query(
            "SELECT aggregate_id, (payload ->> 'number')::bigint AS number FROM aftercommit.outbox
              WHERE (payload ->> 'number')::bigint BETWEEN $1 AND $2 ORDER BY position",
            &[&range.0, &range.1],
        )
        .await?;
    let mut order: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        order.entry(row.get(0)).or_default().push(row.get(1));
    }
    for (aggregate, positions) in order {
        let dispatched: Vec<i64> = stored.iter().copied().filter(|n| positions.contains(n)).collect();
        ensure!(dispatched == positions, "{aggregate}: {dispatched:?} instead of {positions:?}");
    }
    Ok(())
}
