//! Pauses: persisted, heeded by every relay at once, and shown.

use anyhow::{Context as _, Result, ensure};
use relay::operate::pauses::{self, Part};
use tests::databases::{Databases, Role};
use tests::http;
use tests::mailbox::Mailbox;
use tests::services::{Service, start_relay, verification_keys};
use tests::wait::until;
use uuid::Uuid;

use crate::support::{Stage, by};

/// A registration, written as any other service would: by plain SQL.
async fn register(databases: &Databases, address: &str) -> Result<Uuid> {
    let writer = databases.app.connect(Role::Owner).await?;
    let event = Uuid::now_v7();
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES ($1, 'user', gen_random_uuid()::text, 'user.registered',
                     jsonb_build_object('user_id', gen_random_uuid(), 'email', $2::text, 'display_name', 'Ada'))",
            &[&event, &address],
        )
        .await?;
    writer.batch_execute("NOTIFY aftercommit_outbox").await?;
    Ok(event)
}

/// Waits until a relay says that it heeds the pauses, and nothing but them.
async fn heeded(relay: &Service, expected: &[&str]) -> Result<()> {
    until("the pauses to be heeded", async || {
        let told = http::get(&format!("{}/readyz", relay.url)).await?;
        let paused = told.json()?["paused"].as_object().context("pauses")?.clone();
        Ok((told.status == 200 && paused.keys().map(String::as_str).eq(expected.iter().copied())).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_relay_heeds_a_pause_at_once_and_one_that_starts_into_it_too() -> Result<()> {
    let mut stage = Stage::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let (databases, keys) = (stage.databases.clone(), verification_keys());
    let start =
        async || start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await?.ready().await;
    let first = start().await?;
    register(&databases, "before@example.org").await?;
    mailbox.wait_for("before@example.org", 1).await?;

    let (email, ada) = (Part::Delivery(Some("email".to_owned())), stage.ada.clone());
    ensure!(pauses::pause(&mut stage.client, &email, by(&ada, "the provider is down")).await?);
    ensure!(!pauses::pause(&mut stage.client, &email, by(&ada, "again")).await?, "it is paused already");
    heeded(&first, &["delivery of email"]).await?;
    let second = start().await?;
    heeded(&second, &["delivery of email"]).await?;
    let told = http::get(&format!("{}/readyz", second.url)).await?;
    ensure!(told.body.contains("delivery of email is paused by ada: the provider is down"), "{}", told.body);

    // Dispatch goes on; what it stores waits untouched.
    for number in 0..5 {
        register(&databases, &format!("during{number}@example.org")).await?;
    }
    until("the jobs", async || Ok((stage.count("available").await? == 5).then_some(()))).await?;
    let untouched = "SELECT count(*) FROM aftercommit.jobs WHERE state = 'available' AND claim = 0 AND attempt = 0";
    stage.superuser.batch_execute("NOTIFY aftercommit_jobs").await?;
    register(&databases, "last@example.org").await?;
    until("all", async || Ok((stage.count("available").await? == 6).then_some(()))).await?;
    assert_eq!(stage.superuser.query_one(untouched, &[]).await?.get::<_, i64>(0), 6);

    ensure!(!pauses::resume(&mut stage.client, &Part::Delivery(None), by(&ada, "x")).await?, "that was not paused");
    ensure!(pauses::resume(&mut stage.client, &email, by(&ada, "it is back")).await?);
    for address in ["during0", "during4", "last"] {
        mailbox.wait_for(&format!("{address}@example.org"), 1).await?;
    }
    heeded(&first, &[]).await?;

    let actions: Vec<_> = stage.trail().await?.into_iter().map(|line| (line.1, line.2)).collect();
    let filter = r#"{"kind": "email", "part": "delivery"}"#.to_owned();
    assert_eq!(actions, [("pause".to_owned(), filter.clone()), ("resume".to_owned(), filter)]);
    for relay in [first, second] {
        ensure!(relay.process.terminate().await?.success(), "it stops in order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_dispatch_leaves_the_outbox_alone_and_goes_on_where_it_was() -> Result<()> {
    let mut stage = Stage::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let databases = stage.databases.clone();
    let ada = stage.ada.clone();
    ensure!(pauses::pause(&mut stage.client, &Part::Dispatch, by(&ada, "a look at the handlers")).await?);
    let keys = verification_keys();
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await?;
    heeded(&relay, &["dispatch"]).await?;
    until("the lanes", async || {
        let told = http::get(&format!("{}/readyz", relay.url)).await?;
        Ok((told.json()?["parts"]["dispatch 0"] == "ok").then_some(()))
    })
    .await?;
    for number in 0..10 {
        register(&databases, &format!("ada{number}@example.org")).await?;
    }
    let moved = "SELECT count(*) FROM aftercommit.lane_cursors WHERE version > 0";
    assert_eq!(stage.superuser.query_one(moved, &[]).await?.get::<_, i64>(0), 0);
    assert_eq!(stage.count("available").await? + stage.count("succeeded").await?, 0);
    ensure!(pauses::resume(&mut stage.client, &Part::Dispatch, by(&ada, "done")).await?);
    for number in 0..10 {
        mailbox.wait_for(&format!("ada{number}@example.org"), 1).await?;
    }
    Ok(())
}
