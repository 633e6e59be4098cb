//! A backlog of many slices, worked off by the real relay, which is killed in the middle of it.

use anyhow::{Context as _, Result, ensure};
use tests::databases::{Databases, Role};
use tests::mailbox::Mailbox;
use tests::services::{start_relay, verification_keys};
use tests::wait::until;
use tokio_postgres::Client;

/// Events to a fill.
const EVENTS: i64 = 20_000;

async fn fill(writer: &Client) -> Result<()> {
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'user', id::text, 'user.registered',
                    jsonb_build_object('user_id', id, 'email', 'ann@example.org', 'display_name', 'Ann')
               FROM generate_series(1, $1::bigint), gen_random_uuid() AS id",
            &[&EVENTS],
        )
        .await?;
    Ok(())
}

async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

const OPEN: &str = "SELECT count(*) FROM aftercommit.lane_cursors WHERE next IS NOT NULL";
const STORED: &str = "SELECT count(*) FROM aftercommit.jobs";
const TEMP: &str = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_in_the_middle_of_a_backlog_goes_on_where_it_was() -> Result<()> {
    let databases = Databases::new().await?;
    let app = databases.app.connect(Role::Superuser).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let mail = tempfile::tempdir()?;
    let (mailbox, keys) = (Mailbox::new(mail.path()), verification_keys());
    let relay = async || start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await;
    // This is about dispatch.
    jobs.batch_execute("INSERT INTO aftercommit.pauses (part, paused_by) VALUES ('delivery', 'test')").await?;

    // Where the relay is faster than the look, it is given more.
    let (mut written, mut open) = (0, 0);
    while open == 0 {
        ensure!(written < 10 * EVENTS, "never seen in the middle of a window");
        fill(&app).await?;
        written += EVENTS;
        let victim = relay().await?;
        until("a window that is being worked off, or its end", async || {
            let begun = number(&jobs, OPEN).await? > 0 && number(&jobs, STORED).await? > 0;
            Ok((begun || number(&jobs, STORED).await? == written).then_some(()))
        })
        .await?;
        victim.process.kill().await?;
        open = number(&jobs, OPEN).await?;
    }
    let stored = number(&jobs, STORED).await?;
    ensure!(stored < written, "{stored} of {written}, {open} windows open");

    let relay = relay().await?;
    until("the rest", async || {
        relay.process.fail_if_ended()?;
        Ok((number(&jobs, STORED).await? == written && number(&jobs, OPEN).await? == 0).then_some(()))
    })
    .await
    .with_context(|| format!("{stored} of {written} were there when it was killed"))?;
    ensure!(number(&jobs, "SELECT count(DISTINCT event_id) FROM aftercommit.jobs").await? == written, "each once");
    ensure!(relay.process.terminate().await?.success(), "it stops in order");
    ensure!(number(&app, TEMP).await? == 0, "the application database sorted on disk");
    Ok(())
}
