//! A large backlog, worked off by the real relay: started, killed half-way, started again.
//!
//! What is watched meanwhile: the memory of the process at its highest, the longest transaction of the relay in the
//! application database, and what that database wrote into temporary files. Delivery is paused: this is about dispatch.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::databases::{Database, DatabaseServer, Databases, Kind, Role};
use tests::mailbox::Mailbox;
use tests::services::{Service, start_relay, verification_keys};
use tests::wait::until;
use tokio_postgres::Client;

use crate::rows::stored;

/// Transactions of the writers hold so many events.
const TRANSACTION: i64 = 1_000;

/// What was seen of the relay.
#[derive(Debug, Default)]
struct Seen {
    peak_kib: u64,
    longest: Duration,
}

/// Fills an outbox, has it worked off, and says how it went.
pub async fn run(server: &std::sync::Arc<DatabaseServer>, events: i64, workers: usize) -> Result<String> {
    let databases = Databases { app: server.create(Kind::App).await?, jobs: server.create(Kind::Jobs).await? };
    let app = databases.app.connect(Role::Superuser).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    eprintln!("filling the outbox with {events} events");
    fill(&databases.app, events).await?;
    let last: i64 = app.query_one("SELECT max(position) FROM aftercommit.outbox", &[]).await?.get(0);
    jobs.batch_execute(PAUSE).await?;
    let temp_before = temp_bytes(&app).await?;

    let (keys, mail) = (verification_keys(), tempfile::tempdir()?);
    let (mailbox, workers_text) = (Mailbox::new(mail.path()), workers.to_string());
    let settings = [("DISPATCH_WORKERS", &*workers_text)];
    let mut seen = Seen::default();
    let began = Instant::now();
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &settings).await?;
    watch(&relay, &app, &jobs, &mut seen, |progress| progress.position * 2 > last || progress.done).await?;
    relay.process.kill().await?;
    let half = began.elapsed();
    eprintln!("killed after {:.1} s", half.as_secs_f64());
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &settings).await?;
    watch(&relay, &app, &jobs, &mut seen, |progress| progress.done).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(relay.process.terminate().await?.success(), "it stops in order");

    // A session reports its statistics before it ends.
    until("the relay's sessions to end", async || {
        let left: i64 = app.query_one(SESSIONS, &[]).await?.get(0);
        Ok((left == 0).then_some(()))
    })
    .await?;
    let temp = temp_bytes(&app).await? - temp_before;
    ensure!(stored(&databases).await? == events, "every event became one job");
    Ok(format!(
        "backlog: events={events} workers={workers} rate={:.0}/s killed_after={:.1}s seconds={seconds:.1} \
         peak_rss={}MiB longest_transaction={}ms temp_bytes={temp}",
        events as f64 / seconds,
        half.as_secs_f64(),
        seen.peak_kib / 1024,
        seen.longest.as_millis(),
    ))
}

/// Delivery of emails waits.
const PAUSE: &str = "INSERT INTO aftercommit.pauses (part, paused_by) VALUES ('delivery', 'bench')";

/// How far dispatch has come.
struct Progress {
    /// The position that the lane furthest behind has reached in its window; 0 before it has one.
    position: i64,
    /// Whether every lane has worked off a window and has none open.
    done: bool,
}

async fn watch(
    relay: &Service,
    app: &Client,
    jobs: &Client,
    seen: &mut Seen,
    until: impl Fn(&Progress) -> bool,
) -> Result<()> {
    loop {
        relay.process.fail_if_ended()?;
        seen.peak_kib = seen.peak_kib.max(peak_kib(relay.process.pid())?);
        if let Some(row) = app.query_opt(LONGEST, &[]).await? {
            let (seconds, doing): (f64, String) = (row.get(0), row.get(1));
            let longest = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            if longest > seen.longest {
                seen.longest = longest;
                eprintln!("the longest transaction so far, {} ms: {doing}", longest.as_millis());
            }
        }
        let row = jobs.query_one(PROGRESS, &[]).await?;
        if until(&Progress { position: row.get(0), done: row.get(1) }) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The relay's oldest open transaction in this database: its age in seconds, and what it is at.
const LONGEST: &str = "
    SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8,
           concat_ws(', ', state, wait_event, left(regexp_replace(query, '\\s+', ' ', 'g'), 100))
      FROM pg_stat_activity
     WHERE datname = current_database()
       AND usename = 'aftercommit_relay'
       AND xact_start IS NOT NULL
     ORDER BY xact_start
     LIMIT 1";

/// The relay's sessions in this database.
const SESSIONS: &str = "
    SELECT count(*)
      FROM pg_stat_activity
     WHERE datname = current_database()
       AND usename = 'aftercommit_relay'";

const PROGRESS: &str = "
    SELECT coalesce(min(CASE WHEN next IS NULL AND witness_position IS NOT NULL THEN 9223372036854775807
                             ELSE coalesce(after_position, 0) END), 0),
           bool_and(next IS NULL AND witness_position IS NOT NULL)
      FROM aftercommit.lane_cursors";

async fn temp_bytes(client: &Client) -> Result<i64> {
    let sql = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// The most memory that a process has had, as the kernel counts it.
fn peak_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Registrations of as many users, by four writers whose transactions interleave.
async fn fill(app: &Database, events: i64) -> Result<()> {
    const WRITERS: i64 = 4;
    let writers = (0..WRITERS).map(|writer| {
        let app = app.clone();
        tokio::spawn(async move {
            let client = app.connect(Role::Owner).await?;
            client.batch_execute("SET synchronous_commit = off").await?;
            let insert = client.prepare(FILL).await?;
            for first in (writer * TRANSACTION..events).step_by((WRITERS * TRANSACTION) as usize) {
                client.execute(&insert, &[&first, &(events.min(first + TRANSACTION) - 1)]).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    let client = app.connect(Role::Superuser).await?;
    client.batch_execute("VACUUM ANALYZE aftercommit.outbox").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

const FILL: &str = "
    INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, metadata, durable_at_commit)
    SELECT (lpad(to_hex(1764000000000 + n / 5), 12, '0') || '7' || substr(hash, 1, 3) || 'a' || substr(hash, 4, 15))::uuid,
           'user', hash, 'user.registered',
           jsonb_build_object('user_id', hash::uuid, 'email', 'user' || n || '@example.org', 'display_name', 'User ' || n),
           jsonb_build_object('traceparent', '00-' || hash || '-00f067aa0ba902b7-01'),
           true
      FROM generate_series($1::bigint, $2::bigint) AS n,
           md5(n::text) AS hash";
