//! The hand-over, whichever way jobs are stored: by COPY, which takes each for new, or by INSERT, which leaves alone
//! what is there.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use relay::dispatch::commit::{self, COPY_FROM};
use relay::dispatch::read::{Batch, Found};
use relay::handlers::register_all;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, Step, counting, dispatched};
use tests::services::run_relay;
use tests::wait::until;
use tokio_postgres::Client;

/// Enough for one batch that is copied.
const EVENTS: i64 = 3 * COPY_FROM as i64;

/// Writes events of 20 aggregates in one go.
async fn write(writer: &Client, first: i64, last: i64) -> Result<()> {
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'counter', 'a' || n % 20, 'counter.counted', jsonb_build_object('number', n)
               FROM generate_series($1::bigint, $2::bigint) AS n",
            &[&first, &last],
        )
        .await?;
    Ok(())
}

/// Databases with so many events, and who looks into that of the jobs.
async fn with_events(events: i64) -> Result<(Databases, Client)> {
    let databases = Databases::new().await?;
    write(&databases.app.connect(Role::Owner).await?, 1, events).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    Ok((databases, jobs))
}

async fn batch(worker: &mut Dispatcher) -> Result<Batch> {
    match worker.read().await? {
        Found::Batch(batch) => Ok(batch),
        other => anyhow::bail!("a batch, not {other:?}"),
    }
}

/// Each of the numbers has one job.
async fn ensure_once(databases: &Databases, first: i64, last: i64) -> Result<()> {
    let numbers = dispatched(databases).await?;
    let once: BTreeSet<i64> = numbers.iter().copied().collect();
    ensure!(once.len() == numbers.len(), "twice");
    ensure!(once == (first..=last).collect(), "{} of {}", once.len(), last - first + 1);
    Ok(())
}

/// COPY writes what INSERT writes: the same batch in two jobs databases, every column compared.
#[tokio::test(flavor = "multi_thread")]
async fn copied_jobs_are_those_that_would_be_inserted() -> Result<()> {
    let databases = Databases::new().await?;
    let other = Databases { app: databases.app.clone(), jobs: Databases::new().await?.jobs };
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            r#"INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, metadata, occurred_at)
               SELECT gen_random_uuid(), 'user', n::text, type,
                      jsonb_build_object('user_id', gen_random_uuid(), 'email', 'ann' || n || '@example.org',
                                         'display_name', E'\u00c4nne \\ "n"\t\U0001f600 ' || n),
                      CASE WHEN n % 2 = 0 THEN '{}' ELSE '{"traceparent": "00-\u00e9", "deep": [1.50, null, {"a": "\\"}]}' END::jsonb,
                      '1999-12-31 23:59:59.999999+00'::timestamptz + n * interval '77777777.777777 s' * 4
                 FROM generate_series(1, 60) AS n, unnest('{user.registered,user.email_verified}'::text[]) AS type"#,
        )
        .await?;
    let mut copying = Dispatcher::new(&databases, register_all()?).await?.copy_from(0);
    let mut inserting = Dispatcher::new(&other, register_all()?).await?.copy_from(usize::MAX);
    assert_eq!((copying.drain().await?, inserting.drain().await?), (120, 120));

    let rows = async |databases: &Databases| {
        let client = databases.jobs.connect(Role::Superuser).await?;
        let sql = "SELECT (to_jsonb(jobs) - 'run_at' - 'created_at')::text FROM aftercommit.jobs ORDER BY job_id";
        let rows = client.query(sql, &[]).await?;
        Ok::<_, anyhow::Error>(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>())
    };
    let (copied, inserted) = (rows(&databases).await?, rows(&other).await?);
    assert_eq!(copied.len(), 120);
    assert_eq!(copied, inserted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_replayed_before_are_dispatched_once() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(&format!(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'user', n::text, CASE n % 9 WHEN 0 THEN 'user.email_verified' ELSE 'user.registered' END,
                    jsonb_build_object('user_id', gen_random_uuid(), 'email', 'ann@example.org', 'display_name', 'Ann')
               FROM generate_series(1, {EVENTS}) AS n"
        ))
        .await?;
    let replayed = run_relay(&databases, &["replay", "--type", "user.email_verified"]).await?;
    assert_eq!(replayed.code(), Some(0), "{replayed:?}");
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let stored = "SELECT count(*), count(DISTINCT event_id) FROM aftercommit.jobs";
    assert_eq!(jobs.query_one(stored, &[]).await?.get::<_, i64>(0), EVENTS / 9);

    let mut worker = Dispatcher::new(&databases, register_all()?).await?;
    let batch = batch(&mut worker).await?;
    assert_eq!(batch.events as i64, EVENTS);
    assert_eq!(worker.commit(&batch).await?, (EVENTS - EVENTS / 9) as u64, "only what was not there is new");
    assert_eq!(worker.step().await?, Step::Idle);
    let row = jobs.query_one(stored, &[]).await?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (EVENTS, EVENTS));
    // The same worker, on the same connections, goes on as before.
    write(&writer, 1, EVENTS).await?;
    assert_eq!(worker.drain().await?, EVENTS as usize);
    Ok(())
}

/// As after a rebase to nothing, or a jobs database whose cursors alone were put back.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_are_run_again_store_nothing() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    write(&writer, 1, EVENTS).await?;
    assert_eq!(Dispatcher::new(&databases, counting()).await?.drain().await?, EVENTS as usize);
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    jobs.batch_execute(
        "UPDATE aftercommit.lane_cursors
            SET seen = '1:1:', witness_event_id = NULL, witness_transaction_id = NULL, witness_position = NULL",
    )
    .await?;
    write(&writer, EVENTS + 1, EVENTS + 50).await?;
    let mut worker = Dispatcher::new(&databases, counting()).await?;
    let batch = batch(&mut worker).await?;
    assert_eq!(batch.events as i64, EVENTS + 50);
    assert_eq!(worker.commit(&batch).await?, 50);
    assert_eq!(worker.step().await?, Step::Idle);
    ensure_once(&databases, 1, EVENTS + 50).await
}

/// A worker that lost its lanes meets the new owner's rows in the middle of its hand-over: it is fenced, and not led to store
/// them another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_overtaken_as_it_hands_over_stores_nothing() -> Result<()> {
    for events in [EVENTS, 5] {
        let (databases, jobs) = with_events(events).await?;
        let mut owner = Dispatcher::new(&databases, counting()).await?;
        let mut late = Dispatcher::new(&databases, counting()).await?;
        let (first, second) = (batch(&mut owner).await?, batch(&mut late).await?);
        owner.store_without_commit(&first).await?;
        let overtaken = tokio::spawn(async move { late.commit(&second).await });
        until("the second to wait for the first", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
            Ok((jobs.query_one(waiting, &[&databases.jobs.name()]).await?.get::<_, i64>(0) > 0).then_some(()))
        })
        .await?;
        owner.commit_stored().await?;
        ensure!(matches!(overtaken.await?, Err(commit::Error::Fenced)), "fenced");
        ensure_once(&databases, 1, events).await?;
        assert_eq!(owner.step().await?, Step::Idle);
    }
    Ok(())
}

/// Of the lanes of one hand-over another worker has moved one: none is moved, and nothing is stored, however it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn one_lane_that_was_moved_fences_all_of_a_batch() -> Result<()> {
    for events in [EVENTS, 40] {
        let (databases, jobs) = with_events(events).await?;
        let mut late = Dispatcher::new(&databases, counting()).await?;
        let found = batch(&mut late).await?;
        ensure!(found.cursors.len() > 2, "several lanes");
        let moved = found.cursors[1].lane;
        jobs.execute("UPDATE aftercommit.lane_cursors SET version = version + 1 WHERE lane = $1", &[&moved]).await?;
        let cursors = "SELECT array_agg(c::text ORDER BY lane) FROM aftercommit.lane_cursors AS c";
        let before: Vec<String> = jobs.query_one(cursors, &[]).await?.get(0);
        ensure!(matches!(late.commit(&found).await, Err(commit::Error::Fenced)), "fenced");
        ensure!(dispatched(&databases).await?.is_empty(), "nothing was stored");
        ensure!(jobs.query_one(cursors, &[]).await?.get::<_, Vec<String>>(0) == before, "no cursor was moved");
        Dispatcher::new(&databases, counting()).await?.drain().await?;
        ensure_once(&databases, 1, events).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_it_copies_leaves_nothing() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    write(&writer, 1, EVENTS).await?;
    // Dead after each of its steps in turn, until one hand-over comes to its end.
    let mut deaths = 0;
    loop {
        let mut worker = Dispatcher::new(&databases, counting()).await?;
        let found = match worker.read().await? {
            Found::Batch(batch) => batch,
            // Its COMMIT was on its way as it died.
            Found::Nothing => break,
            Found::Again | Found::Unflushed => continue,
        };
        deaths += 1;
        if let Some(done) = worker.die_in_commit(&found, deaths).await {
            assert_eq!(done? as i64, EVENTS);
            break;
        }
        drop(worker);
        let stored = dispatched(&databases).await?.len() as i64;
        ensure!(stored == 0 || stored == EVENTS, "{stored} jobs were left");
    }
    ensure!(deaths > 3, "it died {deaths} times");
    Dispatcher::new(&databases, counting()).await?.drain().await?;
    ensure_once(&databases, 1, EVENTS).await
}
