//! Any number of relays: lanes are shared fairly, taken over when one dies, and idle relays cost next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use relay::dispatch::{self, Context};
use relay::health::Health;
use relay::wake::{Bell, listen_to_outbox};
use rustix::process::Signal;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::dispatcher::{counting, dispatched, url, write_event};
use tests::forwarder::Forwarder;
use tests::mailbox::Mailbox;
use tests::services::{start_relay, verification_keys};
use tests::wait::until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A relay's dispatch, as the service runs it. Dropped, it dies as a killed process does: its connections break.
struct Relay {
    _tasks: JoinSet<()>,
    context: Arc<Context>,
}

fn relay(databases: &Databases, name: &str) -> Result<Relay> {
    relay_that_hears_through(databases, name, databases.app.server().cluster().port())
}

/// The same with its LISTEN connection through another port.
fn relay_that_hears_through(databases: &Databases, name: &str, port: u16) -> Result<Relay> {
    let context = Arc::new(Context {
        application: url(&databases.app.url(Role::Relay))?,
        jobs: url(&databases.jobs.url(Role::Jobs))?,
        name: name.to_owned(),
        registry: counting(),
        outbox_bell: Bell::default(),
        jobs_bell: Bell::default(),
        health: Health::default(),
        pauses: relay::operate::watch::Pauses::default(),
    });
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let bell = context.outbox_bell.clone();
    let listened = url(&databases.app.through(port).url(Role::Relay))?;
    tasks.spawn(listen_to_outbox(listened, format!("{name} listener"), bell, stop.clone()));
    let worker = context.clone();
    tasks.spawn(async move { dispatch::run(&worker, 0, &stop).await });
    Ok(Relay { _tasks: tasks, context })
}

/// How many lanes each member holds, the most first.
async fn shares(jobs: &tokio_postgres::Client) -> Result<Vec<i64>> {
    let rows = jobs
        .query(
            "SELECT count(*) FILTER (WHERE objid > 0)
               FROM pg_locks
              WHERE locktype = 'advisory' AND objsubid = 2 AND granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              GROUP BY pid
             HAVING bool_or(objid = 0)
              ORDER BY 1 DESC",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn until_shared(jobs: &tokio_postgres::Client, expected: &[i64]) -> Result<()> {
    until(&format!("shares of {expected:?}"), async || Ok((shares(jobs).await? == expected).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_share_the_lanes_and_take_over_from_the_dead() -> Result<()> {
    let databases = Databases::new().await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let writer = databases.app.connect(Role::Owner).await?;

    let mut number = 0;
    let mut write = async |count: i64| {
        for _ in 0..count {
            number += 1;
            write_event(&writer, &format!("a{}", number % 23), number).await?;
        }
        Ok::<_, anyhow::Error>(number)
    };
    let first = relay(&databases, "first")?;
    until_shared(&jobs, &[16]).await?;
    write(200).await?;
    let second = relay(&databases, "second")?;
    write(200).await?;
    let third = relay(&databases, "third")?;
    until_shared(&jobs, &[6, 5, 5]).await?;
    write(200).await?;
    drop(second);
    write(200).await?;
    until_shared(&jobs, &[8, 8]).await?;
    drop(first);
    let total = write(200).await?;
    until_shared(&jobs, &[16]).await?;
    until("every event dispatched", async || Ok((dispatched(&databases).await?.len() as i64 >= total).then_some(())))
        .await?;
    drop(third);

    let numbers = dispatched(&databases).await?;
    ensure!(numbers.len() as i64 == total, "{} jobs for {total} events", numbers.len());
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    for number in numbers {
        let before = last.insert(number % 23, number).unwrap_or(0);
        ensure!(before < number, "{number} after {before}");
    }
    Ok(())
}

/// Nobody notifies here: the poll alone finds what is written, also when the LISTEN connection has been cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notification_costs_no_more_than_the_poll() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Superuser).await?;
    let relay = relay(&databases, "deaf")?;
    until("listening", async || Ok(relay.context.outbox_bell.connected().then_some(()))).await?;
    write_event(&writer, "a", 1).await?;
    until("the poll", async || Ok((dispatched(&databases).await? == [1]).then_some(()))).await?;
    let cut: bool = writer
        .query_one(
            "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'deaf listener'",
            &[],
        )
        .await?
        .get(0);
    ensure!(cut, "there was a listener");
    write_event(&writer, "a", 2).await?;
    until("the poll", async || Ok((dispatched(&databases).await? == [1, 2]).then_some(()))).await?;
    // And a notification is faster than either.
    until("listening again", async || Ok(relay.context.outbox_bell.connected().then_some(()))).await?;
    write_event(&writer, "a", 3).await?;
    writer.batch_execute("NOTIFY aftercommit_outbox").await?;
    until("the notification", async || Ok((dispatched(&databases).await? == [1, 2, 3]).then_some(()))).await?;
    Ok(())
}

/// The LISTEN connection is there and carries nothing: nobody is told, and nobody needs to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_listen_connection_costs_no_more_than_the_poll() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Superuser).await?;
    let forwarder = Forwarder::to(databases.app.server().cluster().port()).await?;
    let relay = relay_that_hears_through(&databases, "half open", forwarder.port())?;
    until("listening", async || Ok(relay.context.outbox_bell.connected().then_some(()))).await?;
    forwarder.freeze();
    for number in 1..=3 {
        write_event(&writer, "a", number).await?;
        writer.batch_execute("NOTIFY aftercommit_outbox").await?;
        until("the poll", async || Ok((dispatched(&databases).await?.len() as i64 == number).then_some(()))).await?;
    }
    ensure!(relay.context.outbox_bell.connected(), "it still believes that it hears");
    Ok(())
}

/// The statements of a whole relay process over both databases are counted by PostgreSQL for some seconds of idleness, after
/// a backlog: plans change with statistics.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_relay_costs_next_to_nothing() -> Result<()> {
    let server = DatabaseServer::start(
        DatabaseServer::for_tests().without_fsync().setting("shared_preload_libraries", "pg_stat_statements"),
    )
    .await?;
    let databases = Databases::on(&server).await?;
    let postgres = server.cluster().connect("postgres").await?;
    postgres.batch_execute("CREATE EXTENSION pg_stat_statements").await?;
    let (app, jobs) = (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    app.batch_execute(
        "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
         SELECT gen_random_uuid(), 'user', user_id::text, 'user.registered',
                jsonb_build_object('user_id', user_id, 'email', 'person' || n || '@example.org', 'display_name', 'Person')
           FROM (SELECT n, gen_random_uuid() AS user_id FROM generate_series(1, 5000) AS n) AS users",
    )
    .await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await?.ready().await?;
    let done = "SELECT count(*) FROM aftercommit.jobs WHERE state = 'succeeded'";
    until("the backlog", async || Ok((jobs.query_one(done, &[]).await?.get::<_, i64>(0) == 5_000).then_some(())))
        .await?;
    for database in [&app, &jobs] {
        database.batch_execute("VACUUM ANALYZE").await?;
    }
    let counted = "
        SELECT coalesce(sum(calls), 0)::bigint, coalesce(max(max_exec_time), 0), coalesce(sum(wal_records), 0)::bigint,
               coalesce(string_agg(calls || ' x ' || left(regexp_replace(query, '[[:space:]]+', ' ', 'g'), 100), chr(10) ORDER BY calls DESC), '')
          FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid
         WHERE rolname IN ('aftercommit_relay', 'aftercommit_jobs')";
    // Rest has come when some statements in a row have written nothing.
    let (mut last_written, mut calls_then) = (-1, 0);
    until("rest", async || {
        let row = postgres.query_one(counted, &[]).await?;
        let (calls, written): (i64, i64) = (row.get(0), row.get(2));
        if written != last_written {
            (last_written, calls_then) = (written, calls);
        }
        Ok((calls >= calls_then + 5).then_some(()))
    })
    .await?;

    const SECONDS: u64 = 30;
    postgres.batch_execute("SELECT pg_stat_statements_reset()").await?;
    tokio::time::sleep(Duration::from_secs(SECONDS)).await; // what is measured: idleness
    let row = postgres.query_one(counted, &[]).await?;
    let (calls, longest, written, what): (i64, f64, i64, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
    println!("idle: {} statements a minute, the longest took {longest:.2} ms:\n{what}", calls * 60 / SECONDS as i64);
    ensure!(calls > 0, "statements were counted");
    ensure!(calls as u64 * 60 <= 120 * SECONDS, "{calls} statements in {SECONDS} s:\n{what}");
    ensure!(written == 0, "{written} WAL records were written while idle:\n{what}");
    ensure!(relay.process.terminate().await?.success(), "it stops in order");
    Ok(())
}

/// A relay that is frozen holds its lanes until PostgreSQL ends its session; when it wakes, it stores nothing of what it
/// had read, and goes on with what is its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_loses_its_lanes_and_stores_nothing_when_it_wakes() -> Result<()> {
    let databases = Databases::new().await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    let frozen = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await?.ready().await?;
    until_shared(&jobs, &[16]).await?;
    // Frozen in the middle of its work, wherever that is.
    for number in 0..50 {
        write_event(&writer, &number.to_string(), number).await?;
    }
    frozen.process.signal(Signal::STOP)?;
    let _second = relay(&databases, "second")?;
    for number in 50..100 {
        write_event(&writer, &number.to_string(), number).await?;
    }
    until_shared(&jobs, &[16]).await?;
    let moved = "SELECT count(*) FROM aftercommit.lane_cursors WHERE moved_at > now() - interval '1 hour'";
    until("each lane moved by the second", async || {
        let numbers = dispatched(&databases).await?;
        Ok((50..100).all(|number| numbers.contains(&number)).then_some(()))
    })
    .await?;
    ensure!(jobs.query_one(moved, &[]).await?.get::<_, i64>(0) > 0, "cursors moved");
    frozen.process.signal(Signal::CONT)?;
    until_shared(&jobs, &[8, 8]).await?;
    for number in 100..120 {
        write_event(&writer, &number.to_string(), number).await?;
    }
    // The woken relay has other handlers than the test's: what it dispatches has no job here, and nothing is there twice.
    until("a share of its own", async || {
        let waiting = "SELECT bool_and(version > 0) FROM aftercommit.lane_cursors";
        Ok(jobs.query_one(waiting, &[]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    let numbers = dispatched(&databases).await?;
    let once: std::collections::BTreeSet<_> = numbers.iter().collect();
    ensure!(once.len() == numbers.len(), "a job is there twice");
    ensure!(frozen.process.terminate().await?.success(), "it stops in order");
    Ok(())
}
