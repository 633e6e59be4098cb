//! What a row of the outbox must be, whoever writes it: every limit is kept, and the error says which one was met, without
//! quoting the row. What is merely odd is taken, and stops no lane.

use anyhow::{Context, Result, ensure};
use relay::handlers::Registry;
use relay::jobs::Job;
use serde_json::value::RawValue;
use shared::envelope::Envelope;
use shared::event::Event;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Counted, Dispatcher};
use tests::services::run_relay;
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_is_kept_and_named() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Api).await?;
    // Column, a value on the limit or within it, a value beyond it, and how that is refused.
    let text =
        |uuids: usize| format!("(SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, {uuids}))");
    let (long, too_long) = (format!("to_json({})", text(7_000)), format!("to_json({})", text(8_000)));
    let (size, length) = (SqlState::CHECK_VIOLATION, SqlState::STRING_DATA_RIGHT_TRUNCATION);
    let limits = [
        ("aggregate_type", "repeat('ä', 100)", "repeat('ä', 101)", &length, "varying(100)"),
        ("aggregate_id", "repeat('ä', 200)", "repeat('ä', 201)", &length, "varying(200)"),
        ("event_type", "repeat('ä', 100)", "repeat('ä', 101)", &length, "varying(100)"),
        ("payload", long.as_str(), too_long.as_str(), &size, "event_json_256_kib_at_most"),
        ("metadata", long.as_str(), too_long.as_str(), &size, "event_json_256_kib_at_most"),
    ];
    for (column, good, bad, code, says) in limits {
        let insert = |value: &str| insert(["'user'", "'secret-1'", "'user.registered'"], column, value);
        writer.batch_execute(&insert(good)).await.with_context(|| format!("{column}: {good}"))?;
        let error =
            writer.batch_execute(&insert(bad)).await.err().with_context(|| format!("{column}: {bad} was taken"))?;
        let error = error.as_db_error().context("the server's")?;
        ensure!(error.code() == code && error.message().contains(says), "{column}: {error:?}");
        ensure!(!format!("{error:?}").contains("secret-1"), "the row is not quoted: {error:?}");
    }
    Ok(())
}

/// Inserts an event of this aggregate (type and id) and type, with one column of another value; all in SQL.
fn insert([aggregate_type, aggregate_id, event_type]: [&str; 3], column: &str, value: &str) -> String {
    let usual = [
        ("event_id", "gen_random_uuid()"),
        ("aggregate_type", aggregate_type),
        ("aggregate_id", aggregate_id),
        ("event_type", event_type),
        ("payload", "'{}'"),
    ];
    let mut columns: Vec<(&str, &str)> = usual.into_iter().filter(|(name, _)| *name != column).collect();
    columns.push((column, value));
    let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    format!("INSERT INTO aftercommit.outbox ({}) VALUES ({})", names.join(", "), values.join(", "))
}

/// The limits are not to be got round, not even by the owner or as replication does.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_round_them() -> Result<()> {
    let databases = Databases::new().await?;
    let superuser = databases.app.connect(Role::Superuser).await?;
    superuser.batch_execute("SET session_replication_role = replica").await?;
    superuser.batch_execute(&insert(["'user'", "'1'", "'user.registered'"], "payload", "'{}'")).await?;
    for (column, value, code) in [
        ("payload", "to_json(repeat('x', 300000))", SqlState::CHECK_VIOLATION),
        ("metadata", "to_json(repeat('x', 300000))", SqlState::CHECK_VIOLATION),
        ("aggregate_id", "repeat('x', 201)", SqlState::STRING_DATA_RIGHT_TRUNCATION),
        ("event_type", "NULL", SqlState::NOT_NULL_VIOLATION),
    ] {
        let update = format!("UPDATE aftercommit.outbox SET {column} = {value}");
        for sql in [insert(["'user'", "'1'", "'user.registered'"], column, value), update] {
            let error = superuser.batch_execute(&sql).await.err().with_context(|| format!("{sql} was taken"))?;
            ensure!(error.code() == Some(&code), "{sql}: {error:?}");
        }
    }
    Ok(())
}

/// An event whose handler passes on whatever it says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Anything(Box<RawValue>);

impl Event for Anything {
    const AGGREGATE_TYPE: &'static str = "thing";
    const TYPE: &'static str = "thing.happened";
    const VERSION: i32 = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_is_dispatched_or_set_aside() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Api).await?;
    let rows = [
        ("payload", r#"'{"a": "\u0000"}'"#),
        ("payload", r#"'"\ud83d"'"#),
        ("payload", "'[1e999999]'"),
        ("payload", "'null'"),
        ("payload", "(repeat('[', 501) || repeat(']', 501))::json"),
        ("payload", r#"'{"a": 1, "a":   2}'"#),
        ("payload", "(repeat('[', 500) || repeat(']', 500))::json"),
        ("metadata", "'[]'"),
        ("metadata", "'3'"),
        ("metadata", r#"'{"traceparent": "\u0000", "other": "\ud83d"}'"#),
        ("aggregate_id", "''"),
        ("aggregate_type", "''"),
        ("event_type", "''"),
        ("event_version", "0"),
        ("event_version", "-2147483648"),
        ("event_version", "2147483647"),
        ("event_id", "'00000000-0000-0000-0000-000000000000'"),
        ("aggregate_id", "E'a\\nb'"),
        ("aggregate_type", "E'\\x1b[2J'"),
        ("occurred_at", "'infinity'"),
        ("occurred_at", "'-infinity'"),
        ("occurred_at", "'294276-12-31 00:00:00+00'"),
        ("occurred_at", "'4713-01-01 00:00:00+00 BC'"),
    ];
    for (column, value) in rows {
        let insert = insert(["'thing'", "'1'", "'thing.happened'"], column, value);
        writer.batch_execute(&insert).await.with_context(|| format!("{column}: {value}"))?;
    }
    // The reason quotes it, and is longer than what is kept of reasons.
    let quoted = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
                  VALUES (gen_random_uuid(), 'counter', '1', 'counter.counted', to_json('a\"' || repeat(' x', 5000)))";
    writer.batch_execute(quoted).await?;
    // People see them on their lines, and how long they wait.
    let listed = run_relay(&databases, &["events", "list"]).await?.success()?;
    ensure!(listed.stdout.lines().count() == rows.len() + 2, "a head, and a line for each: {}", listed.stdout);
    ensure!(!listed.stdout.contains('\x1b'), "{:?}", listed.stdout);
    run_relay(&databases, &["status"]).await?.success()?;
    // Whichever way jobs are stored.
    for copy_from in [usize::MAX, 0] {
        let jobs = Databases::new().await?.jobs;
        let databases = Databases { jobs, ..databases.clone() };
        let mut registry = Registry::default();
        registry.on("pass_on", |event: &Envelope<Anything>| Ok(vec![Job::new("thing", "thing", &event.payload)?]))?;
        registry.on("count", |_: &Envelope<Counted>| Ok(vec![]))?;
        let mut worker = Dispatcher::new(&databases, registry).await?.copy_from(copy_from);
        assert_eq!(worker.drain().await?, rows.len() + 1);
        let jobs = databases.jobs.connect(Role::Superuser).await?;
        let stored: i64 = jobs.query_one("SELECT count(*) FROM aftercommit.jobs", &[]).await?.get(0);
        let failed =
            "SELECT count(*), count(*) FILTER (WHERE error LIKE '%cannot keep%') FROM aftercommit.dispatch_failures";
        let failed = jobs.query_one(failed, &[]).await?;
        // Four whose text jsonb cannot keep, three of versions that nobody knows, and one that can't be read; one has a type
        // that nobody handles.
        assert_eq!((stored, failed.get::<_, i64>(0), failed.get::<_, i64>(1)), (15, 8, 4));
    }
    Ok(())
}
