//! How fast jobs are delivered, beside PostgreSQL's own limit in the same run, and with a snapshot held open.
//!
//! Each run drains a fresh copy of the same preloaded table, on one server with fsync and synchronous commits on. Absolute
//! figures move from machine to machine: the ratios are what counts. Run it by `cargo bench-deliver`.
//!
//! - ours_1, ours_2: one and two relays, each with an engine and a connection of its own, and a kind of jobs that is done
//!   at once: from the start of the relays until everything is settled and they have said goodbye.
//! - limit: the engine's own statement (settle a batch, claim the next) and nothing else, on two connections, each with a
//!   low-water mark of its own; with the best batch size among a few, found at the beginning.
//! - held: ours_2 while another transaction keeps its snapshot open in the same database from before the start.
//! - smtp: the real relay, real mails, to a server that takes whatever comes, with the settings that are printed.
//! - dead tuples and WAL: of ours_2, by job.

mod jobs;
mod contenders;
mod mails;

use anyhow::{Context as _, Result};
use jobs::Preloaded;
use tests::databases::{DatabaseServer, Role};
use tests::measure::{self, median};

/// Rounds; the median of each figure is printed.
const ROUNDS: usize = 3;

/// Batch sizes to choose from for the limit.
const BATCHES: [usize; 4] = [250, 500, 1_000, 2_000];

#[tokio::main]
async fn main() -> Result<()> {
    let number = |name: &str, usual: i64| std::env::var(name).map_or(Ok(usual), |n| n.parse()).context(name.to_owned());
    let (jobs, mails) = (number("BENCH_JOBS", 200_000)?, number("BENCH_MAILS", 20_000)?);
    let server = DatabaseServer::start(
        measure::server()
            // Each run is too short for it, and a vacuum that falls into one of them would be luck.
            .setting("autovacuum_naptime", "1h"),
    )
    .await?;
    eprintln!("preloading {jobs} jobs");
    let preloaded = Preloaded::fill(&server, jobs).await?;
    let rate = |name: &str, seconds: f64| {
        let rate = jobs as f64 / seconds;
        eprintln!("{name} {rate:.0}/s");
        rate
    };

    let mut best = (0, 0.0);
    for batch in BATCHES {
        let found = rate(&format!("batch {batch}:"), contenders::limit(&preloaded.copy().await?, batch).await?);
        if found > best.1 {
            best = (batch, found);
        }
    }
    let [mut ours_1, mut ours_2, mut limit, mut held, mut dead, mut wal] = [const { Vec::new() }; 6];
    for round in 1..=ROUNDS {
        let rate = |name: &str, seconds: f64| rate(&format!("round {round}: {name}"), seconds);
        ours_1.push(rate("ours_1", contenders::ours(&preloaded.copy().await?, 1).await?));
        limit.push(rate("limit", contenders::limit(&preloaded.copy().await?, best.0).await?));

        let fresh = preloaded.copy().await?;
        let before = fresh.wal().await?;
        ours_2.push(rate("ours_2", contenders::ours(&fresh, 2).await?));
        wal.push((fresh.wal().await? - before) / jobs as f64);
        dead.push(fresh.dead_tuples().await? as f64 / jobs as f64);

        let fresh = preloaded.copy().await?;
        let holder = fresh.database.connect(Role::Superuser).await?;
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()").await?;
        held.push(rate("held", contenders::ours(&fresh, 2).await?));
        drop(holder);
    }
    let smtp = mails::deliver(&server, mails).await?;
    let [ours_1, ours_2, limit, held, dead, wal] = [ours_1, ours_2, limit, held, dead, wal].map(median);
    println!(
        "deliver: ours_1={ours_1:.0}/s ours_2={ours_2:.0}/s limit={limit:.0}/s ratio_limit={:.2} ratio_held={:.2} \
         smtp={smtp:.0}/s dead_tuples_per_job={dead:.2} wal_bytes_per_job={wal:.0}",
        ours_1.max(ours_2) / limit,
        held / ours_2,
    );
    Ok(())
}
