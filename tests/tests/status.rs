//! What status promises: its numbers are those of the databases, each says what it is worth, and either half is told
//! when the other is away.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use shared::shutdown::CancellationToken;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, Step, context, counting, write_event};
use tests::services::run_relay;
use tests::wait::until;

async fn status(databases: &Databases) -> Result<(Option<i32>, Value)> {
    let finished = run_relay(databases, &["status", "--json"]).await?;
    Ok((finished.code(), serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))?))
}

fn exact(number: u64) -> Value {
    json!({"number": number, "is": "exact"})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_system_is_at_rest() -> Result<()> {
    let databases = Databases::new().await?;
    let (code, status) = status(&databases).await?;
    assert_eq!(code, Some(0), "{status}");
    assert_eq!((&status["lag_seconds"], &status["backlog"]), (&json!(0.0), &exact(0)));
    assert_eq!(status["lanes"].as_array().map(Vec::len), Some(16));
    assert_eq!(status["jobs_database"]["relays"], json!([]));
    let text = run_relay(&databases, &["status"]).await?.success()?.stdout;
    assert!(text.contains("lag") && text.contains("0 of 16 held"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_and_backlog_are_those_of_what_is_not_dispatched() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, open) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    write_event(&writer, "a", 1).await?;
    open.batch_execute("BEGIN").await?;
    write_event(&open, "late", 2).await?;
    write_event(&writer, "late", 3).await?;
    dispatcher.drain().await?;
    let (_, at_rest) = status(&databases).await?;
    assert_eq!((&at_rest["lag_seconds"], &at_rest["backlog"]), (&json!(0.0), &exact(0)), "{at_rest}");

    open.batch_execute("COMMIT").await?;
    let old = uuid::Uuid::now_v7();
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             VALUES ($1, 'counter', 'a', 'counter.counted', '{\"number\": 4}', now() - interval '1 hour')",
            &[&old],
        )
        .await?;
    write_event(&writer, "a", 5).await?;
    let (_, behind) = status(&databases).await?;
    assert_eq!(behind["backlog"], exact(3), "the one that committed late, and two more: {behind}");
    let lag = behind["lag_seconds"].as_f64().context("lag")?;
    assert!((3600.0..3700.0).contains(&lag), "{lag}");
    assert_eq!(behind["application_database"]["oldest_waiting"]["event_id"], old.to_string());
    let waiting: u64 =
        behind["lanes"].as_array().context("lanes")?.iter().filter_map(|lane| lane["waiting"]["number"].as_u64()).sum();
    assert_eq!(waiting, 3);

    dispatcher.drain().await?;
    assert_eq!(status(&databases).await?.1["backlog"], exact(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_over_of_an_open_window_does_not_wait() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let fill = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
                SELECT gen_random_uuid(), 'counter', 'hot', 'counter.counted', jsonb_build_object('number', n)
                  FROM generate_series(1, $1::integer) AS n";
    writer.execute(fill, &[&4_500_i32]).await?;
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    let Step::Dispatched(first) = dispatcher.step().await? else { panic!("a slice") };
    assert!(first < 4_500);
    write_event(&writer, "hot", 9_999).await?;
    let (_, behind) = status(&databases).await?;
    assert_eq!(behind["backlog"], exact(4_501 - first as u64), "{first} handed over: {}", behind["lanes"]);

    // More than is counted.
    writer.execute(fill, &[&12_000_i32]).await?;
    let (_, behind) = status(&databases).await?;
    assert_eq!(behind["backlog"], json!({"number": 10_000, "is": "at_least"}));
    let text = run_relay(&databases, &["status"]).await?.success()?.stdout;
    assert!(text.contains("10,000+ events"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_and_the_lanes_they_hold_are_seen() -> Result<()> {
    let databases = Databases::new().await?;
    let stop = CancellationToken::new();
    let contexts = [context(&databases, counting())?, context(&databases, counting())?];
    let names = contexts.each_ref().map(|context| context.name.clone());
    let relays = contexts.map(|context| {
        let stop = stop.clone();
        tokio::spawn(async move { relay::dispatch::run(&context, 0, &stop).await })
    });
    let shared = until("both relays to hold their shares", async || {
        let (_, status) = status(&databases).await?;
        let held = |name: &String| {
            let lanes = status["lanes"].as_array().into_iter().flatten();
            lanes.filter(|lane| lane["held_by"]["name"] == *name).count()
        };
        Ok(names.iter().all(|name| held(name) == 8).then_some(status))
    })
    .await?;
    assert_eq!(shared["jobs_database"]["dispatching_sessions"], 2);
    assert_eq!(shared["jobs_database"]["relays"].as_array().map(Vec::len), Some(2), "{shared}");
    stop.cancel();
    for relay in relays {
        relay.await?;
    }
    let gone = until("the relays to go", async || {
        let (_, status) = status(&databases).await?;
        Ok((status["jobs_database"]["relays"] == json!([])).then_some(status))
    });
    assert_eq!(gone.await?["lanes"][0]["held_by"], Value::Null);
    Ok(())
}

/// Jobs as dispatch makes them, in the states asked for.
async fn make_jobs(databases: &Databases, kind: &str, state: &str, count: i32, minutes_due: f64) -> Result<()> {
    let client = databases.jobs.connect(Role::Superuser).await?;
    client
        .execute(
            "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state, run_at,
                                           max_attempts, attempt, claimed_by, finished_at,
                                           retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
             SELECT gen_random_uuid(), gen_random_uuid(), 'h', 'n', $1, '{}', now(), $2,
                    now() - $4 * interval '1 minute', 5, 1,
                    CASE WHEN $2 = 'running' THEN gen_random_uuid() END,
                    CASE WHEN $2 IN ('succeeded', 'dead', 'cancelled', 'expired') THEN now() END, 5, 3, 900, 0.25
               FROM generate_series(1, $3)",
            &[&kind, &state, &count, &minutes_due],
        )
        .await?;
    client.batch_execute("ANALYZE aftercommit.jobs").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_counted_by_kind_and_state_in_a_small_table_and_a_large_one() -> Result<()> {
    let databases = Databases::new().await?;
    for (kind, state, count, minutes_due) in [
        ("email", "available", 5, 10.0),
        ("email", "available", 3, -60.0),
        ("email", "retrying", 2, 30.0),
        ("email", "running", 4, 0.0),
        ("other", "available", 7, -60.0),
        ("email", "dead", 6, 0.0),
        ("other", "dead", 1, 0.0),
        ("other", "cancelled", 2, 0.0),
        ("email", "expired", 3, 0.0),
        ("email", "succeeded", 40, 0.0),
    ] {
        make_jobs(&databases, kind, state, count, minutes_due).await?;
    }
    let client = databases.jobs.connect(Role::Superuser).await?;
    client.batch_execute("UPDATE aftercommit.jobs SET crash_count = 3 WHERE state = 'retrying'").await?;
    let check = |jobs: &Value| {
        assert_eq!(jobs["by_kind"]["email"]["available"], exact(8), "{jobs}");
        assert_eq!(jobs["by_kind"]["email"]["retrying"], exact(2));
        assert_eq!(jobs["by_kind"]["other"]["available"], exact(7));
        assert_eq!((&jobs["by_state"]["running"], &jobs["by_state"]["dead"]), (&exact(4), &exact(7)));
        assert_eq!((&jobs["by_state"]["cancelled"], &jobs["by_state"]["expired"]), (&exact(2), &exact(3)));
        assert_eq!(jobs["due"]["email"]["count"], exact(7));
        let oldest = jobs["due"]["email"]["oldest_seconds"].as_f64().unwrap_or_default();
        assert!((1800.0..1900.0).contains(&oldest), "{oldest}");
        assert_eq!(jobs["due"].get("other"), None, "nothing of it is due");
    };
    let (_, small) = status(&databases).await?;
    check(&small["jobs_database"]["jobs"]);
    assert_eq!(small["jobs_database"]["jobs"]["by_state"]["succeeded"], exact(40));

    make_jobs(&databases, "email", "succeeded", 15_000, 0.0).await?;
    let (_, large) = status(&databases).await?;
    check(&large["jobs_database"]["jobs"]);
    let succeeded = &large["jobs_database"]["jobs"]["by_state"]["succeeded"];
    assert_eq!(succeeded, &json!({"number": 15_040, "is": "about"}));

    make_jobs(&databases, "bulk", "available", 10_500, 1.0).await?;
    let (_, full) = status(&databases).await?;
    let jobs = &full["jobs_database"]["jobs"];
    check(jobs);
    assert_eq!(jobs["by_kind"]["bulk"]["available"], json!({"number": 10_000, "is": "at_least"}));
    assert_eq!(jobs["due"]["bulk"]["count"], json!({"number": 10_000, "is": "at_least"}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_failures_are_counted_by_handler() -> Result<()> {
    let databases = Databases::new().await?;
    let client = databases.jobs.connect(Role::Superuser).await?;
    client
        .batch_execute(
            "INSERT INTO aftercommit.dispatch_failures
                    (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error, resolved_at)
             SELECT gen_random_uuid(), CASE WHEN n % 3 = 0 THEN 'a' ELSE 'b' END, 0, 't', 'i', 'e', 'x',
                    CASE WHEN n % 2 = 0 THEN now() END
               FROM generate_series(1, 60) AS n",
        )
        .await?;
    let (_, status) = status(&databases).await?;
    let failures = &status["jobs_database"]["dispatch_failures"];
    assert_eq!(failures, &json!({"open": exact(30), "by_handler": {"a": exact(10), "b": exact(20)}}));
    Ok(())
}
