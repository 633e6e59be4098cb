//! How soon after its commit an event is a job, and its mail is handed over: at idle, and at 500 events a second.
//!
//! The writer does what `api` does: the product's own statement in its own transaction, and after the commit a NOTIFY on
//! another connection, shared by the commits that happen meanwhile. The relay is the real process with its usual
//! settings. The mail server is in this process, so that one clock tells when COMMIT was answered and when the final
//! dot came in. When a job's commit happened, PostgreSQL's own commit timestamps tell, noted by a trigger of the bench.
//!
//! Beside them, on the same server in the same run: a bare LISTEN/NOTIFY round trip, and one synchronous commit. The way
//! to the mail server needs one of the first and two of the second (the jobs with their cursor, and the claim), which is
//! the `floor`; `ratio` is the median at idle over it. Run it by `cargo bench-latency`.

mod bare;
mod sink;
mod writer;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sink::Sink;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::measure;
use tests::services::{start_relay, verification_keys};
use tests::wait::until;
use writer::Writer;

/// Events at idle, one at a time.
const IDLE_EVENTS: u32 = 300;
/// Events under load, and the time between two of them.
const LOAD_EVENTS: u32 = 5_000;
const LOAD_PAUSE: Duration = Duration::from_millis(2);

#[tokio::main]
async fn main() -> Result<()> {
    let server = DatabaseServer::start(measure::server().setting("track_commit_timestamp", "on")).await?;
    let databases = Databases::on(&server).await?;
    note_commits(&databases).await?;
    let sink = Sink::start().await?;
    let relay =
        start_relay(&databases, &verification_keys(), "http://127.0.0.1:8080", &sink.url(), &[("LOG_LEVEL", "warn")])
            .await?
            .ready()
            .await?;
    let writer = Writer::connect(&databases).await?;
    // Connections, caches and prepared statements are warm after these.
    run(&databases, &sink, writer.spaced(50).await?, "warm-up").await?;

    let notify = Figures::of(bare::notify(&databases).await?);
    let commit = Figures::of(bare::commits(&databases).await?);
    let idle = run(&databases, &sink, writer.spaced(IDLE_EVENTS).await?, "idle").await?;
    let load = run(&databases, &sink, writer.steady(LOAD_EVENTS, LOAD_PAUSE).await?, "500/s").await?;
    relay.process.terminate().await?;
    // What it has to say comes before the figures.
    drop(relay);

    let floor = notify.p50 + 2.0 * commit.p50;
    println!(
        "latency: smtp_p50_ms={:.2} smtp_p99_ms={:.2} job_p50_ms={:.2} job_p99_ms={:.2} \
         smtp_500_p50_ms={:.2} smtp_500_p99_ms={:.2} job_500_p50_ms={:.2} job_500_p99_ms={:.2} \
         notify_p50_ms={:.2} notify_p99_ms={:.2} commit_p50_ms={:.2} commit_p99_ms={:.2} floor_ms={floor:.2} ratio={:.2}",
        idle.smtp.p50,
        idle.smtp.p99,
        idle.job.p50,
        idle.job.p99,
        load.smtp.p50,
        load.smtp.p99,
        load.job.p50,
        load.job.p99,
        notify.p50,
        notify.p99,
        commit.p50,
        commit.p99,
        idle.smtp.p50 / floor,
    );
    Ok(())
}

/// What was measured in one go.
struct Measured {
    smtp: Figures,
    job: Figures,
}

/// Median and 99th percentile, in milliseconds.
struct Figures {
    p50: f64,
    p99: f64,
}

impl Figures {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// Waits until the mails of events came in, and holds them against their commits.
async fn run(databases: &Databases, sink: &Sink, committed: HashMap<String, Instant>, name: &str) -> Result<Measured> {
    until("the mails", async || Ok((sink.count() >= committed.len()).then_some(()))).await?;
    let received = sink.take();
    let mut smtp = Vec::new();
    for (address, at) in &committed {
        // The mail may even be there before the writer has read the answer to its COMMIT.
        let received = received.get(address).map(|got| got.saturating_duration_since(*at));
        ensure!(received.is_some(), "a mail did not come in");
        smtp.extend(received.map(|time| time.as_secs_f64() * 1e3));
    }
    let measured = Measured { smtp: Figures::of(smtp), job: Figures::of(job_times(databases).await?) };
    eprintln!("{name}: smtp p50 {:.2} ms p99 {:.2} ms", measured.smtp.p50, measured.smtp.p99);
    Ok(measured)
}

/// Notes which transaction stored which job.
async fn note_commits(databases: &Databases) -> Result<()> {
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    jobs.batch_execute(
        "CREATE TABLE aftercommit.bench_stored (event_id uuid, stored_by xid);
         CREATE FUNCTION aftercommit.bench_store() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             INSERT INTO aftercommit.bench_stored SELECT event_id, pg_current_xact_id()::xid FROM stored;
             RETURN NULL;
         END $$;
         CREATE TRIGGER bench_store AFTER INSERT ON aftercommit.jobs
             REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION aftercommit.bench_store()",
    )
    .await?;
    Ok(())
}

/// From the commits of events to those of their jobs, for all that were noted since the last time.
async fn job_times(databases: &Databases) -> Result<Vec<f64>> {
    let (app, jobs) = (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    let stored = "
        WITH taken AS (DELETE FROM aftercommit.bench_stored RETURNING event_id, stored_by)
        SELECT event_id, extract(epoch FROM pg_xact_commit_timestamp(stored_by))::float8 FROM taken";
    let stored: HashMap<uuid::Uuid, f64> =
        jobs.query(stored, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let events: Vec<uuid::Uuid> = stored.keys().copied().collect();
    let committed = "
        SELECT event_id, extract(epoch FROM pg_xact_commit_timestamp(transaction_id::xid))::float8
          FROM aftercommit.outbox
         WHERE event_id = ANY ($1)";
    let committed = app.query(committed, &[&events]).await?;
    Ok(committed.iter().map(|row| (stored[&row.get(0)] - row.get::<_, f64>(1)) * 1e3).collect())
}
