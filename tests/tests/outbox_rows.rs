//! What a row of the outbox must be, whoever writes it: every limit is kept, and the error says which one was met, without
//! quoting the row.

use anyhow::{Context, Result, ensure};
use tests::databases::{Databases, Role};
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_is_kept_and_named() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Api).await?;
    // Column, a value on the limit or within it, a value beyond it, and what the error says.
    let limits = [
        ("aggregate_type", "repeat('t', 100)", "repeat('t', 101)", "1 to 100 bytes"),
        ("aggregate_type", "'user'", "''", "1 to 100 bytes"),
        ("aggregate_id", "repeat('ä', 100)", "repeat('ä', 101)", "1 to 200 bytes"),
        ("aggregate_id", "'1'", "''", "1 to 200 bytes"),
        ("event_type", "repeat('t', 100)", "repeat('t', 101)", "1 to 100 bytes"),
        ("event_type", "'a b'", "E'a\\nb'", "no control characters"),
        ("aggregate_id", "'~'", "E'\\x7f'", "no control characters"),
        ("event_version", "32767", "32768", "1 to 32767"),
        ("event_version", "1", "0", "1 to 32767"),
        (
            "payload",
            "'null'",
            "to_jsonb((SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 8000)))",
            "256 KiB",
        ),
        ("metadata", "'{}'", "'[]'", "an object"),
        (
            "metadata",
            "'{\"a\": 1}'",
            "jsonb_build_object('a', (SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 500)))",
            "16 KiB",
        ),
        ("occurred_at", "'2000-01-01 00:00:00+00'", "'1999-12-31 00:00:00+00'", "from 2000-01-01"),
        ("occurred_at", "'9999-01-01 00:00:00+00'", "'infinity'", "to 9999-01-01"),
    ];
    for (column, good, bad, says) in limits {
        let insert = |value: &str| {
            let usual = [
                ("event_id", "gen_random_uuid()"),
                ("aggregate_type", "'user'"),
                ("aggregate_id", "'secret-1'"),
                ("event_type", "'user.registered'"),
                ("payload", "'{}'"),
            ];
            let mut columns: Vec<(&str, &str)> = usual.into_iter().filter(|(name, _)| *name != column).collect();
            columns.push((column, value));
            let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
            format!("INSERT INTO aftercommit.outbox ({}) VALUES ({})", names.join(", "), values.join(", "))
        };
        writer.batch_execute(&insert(good)).await.with_context(|| format!("{column}: {good}"))?;
        let error =
            writer.batch_execute(&insert(bad)).await.err().with_context(|| format!("{column}: {bad} was taken"))?;
        let error = error.as_db_error().context("the server's")?;
        ensure!(error.code() == &SqlState::CHECK_VIOLATION && error.constraint() == Some("outbox_row"), "{error:?}");
        ensure!(error.message().contains(says), "{column}: {}", error.message());
        ensure!(!format!("{error:?}").contains("secret-1"), "the row is not quoted: {error:?}");
    }
    Ok(())
}

/// What sets the lane and keeps the limits is not to be got round, not even by the owner or as replication does.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_round_them() -> Result<()> {
    let databases = Databases::new().await?;
    let superuser = databases.app.connect(Role::Superuser).await?;
    superuser.batch_execute("SET session_replication_role = replica").await?;
    let insert = |aggregate_id: &str, lane: &str| {
        format!(
            "INSERT INTO aftercommit.outbox (event_id, lane, aggregate_type, aggregate_id, event_type, payload)
             VALUES (gen_random_uuid(), {lane}, 'user', {aggregate_id}, 'user.registered', '{{}}')"
        )
    };
    let code = async |sql: &str| superuser.batch_execute(sql).await.err().and_then(|error| error.code().cloned());
    ensure!(code(&insert("''", "3")).await == Some(SqlState::CHECK_VIOLATION));
    ensure!(code(&insert("NULL", "3")).await == Some(SqlState::NOT_NULL_VIOLATION));
    for lane in ["DEFAULT", "3", "99"] {
        superuser.batch_execute(&insert("'1'", lane)).await?;
    }
    ensure!(code("UPDATE aftercommit.outbox SET event_type = ''").await == Some(SqlState::CHECK_VIOLATION));
    superuser.batch_execute("UPDATE aftercommit.outbox SET lane = 99 WHERE lane <> 99").await?;
    let lanes =
        "SELECT array_agg(DISTINCT lane), (hashtextextended('user/1', 0) & 15)::smallint FROM aftercommit.outbox";
    let row = superuser.query_one(lanes, &[]).await?;
    ensure!(row.get::<_, Vec<i16>>(0) == [row.get::<_, i16>(1)], "every row is in its aggregate's lane");
    Ok(())
}
