//! The relay as a service: paused, waiting for a schema, or told wrong settings.

use anyhow::{Result, ensure};
use tests::databases::{DatabaseServer, Databases, Role};
use tests::dispatcher::write_event;
use tests::http;
use tests::mailbox::Mailbox;
use tests::process::Launch;
use tests::services::{Service, start_relay, verification_keys};
use tests::wait::until;

const USER: &str = "0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11";

async fn relay(databases: &Databases, mailbox: &Mailbox, settings: &[(&str, &str)]) -> Result<Service> {
    start_relay(databases, &verification_keys(), "http://127.0.0.1:8080", &mailbox.url(), settings).await
}

/// A registration, written as any other service would: by plain SQL.
async fn register(databases: &Databases) -> Result<()> {
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES (gen_random_uuid(), 'user', $1::text, 'user.registered',
                     jsonb_build_object('user_id', $1::text, 'email', 'ada@example.org', 'display_name', 'Ada'))",
            &[&USER],
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_paused_relay_leaves_the_outbox_alone() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    register(&databases).await?;
    let paused = relay(&databases, &mailbox, &[("JOB_QUEUE_ENABLED", "false")]).await?.ready().await?;
    let told = http::get(&format!("{}/readyz", paused.url)).await?;
    ensure!(told.body.contains("paused"), "{}", told.body);
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('aftercommit_relay', 'aftercommit_jobs') AND datname = ANY ($1)";
    let names = vec![databases.app.name().to_owned(), databases.jobs.name().to_owned()];
    let count: i64 = jobs.query_one(sessions, &[&names]).await?.get(0);
    assert_eq!(count, 0, "it is not even connected");
    ensure!(paused.process.terminate().await?.success(), "a paused relay stops in order");

    let _relay = relay(&databases, &mailbox, &[]).await?.ready().await?;
    mailbox.wait_for("ada@example.org", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_relay_waits_for_its_schema_and_says_which_command_makes_it() -> Result<()> {
    let server = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let databases = Databases::on(&server).await?;
    let control = server.cluster().connect("postgres").await?;
    control.batch_execute("CREATE DATABASE bare OWNER aftercommit_owner").await?;
    control.batch_execute("GRANT CONNECT ON DATABASE bare TO aftercommit_jobs").await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    register(&databases).await?;
    let bare = server.url("bare", Role::Jobs);
    let relay = relay(&databases, &mailbox, &[("JOBS_DATABASE_URL", &bare)]).await?;
    until("the reason", async || {
        let told = http::get(&format!("{}/readyz", relay.url)).await?;
        Ok((told.status == 503 && told.body.contains("relay migrate")).then_some(()))
    })
    .await?;
    let owner = server.url("bare", Role::Owner);
    Launch::built("relay")
        .await?
        .arguments(["migrate"])
        .environment([("JOBS_DATABASE_URL", &*owner)])
        .run()
        .await?
        .success()?;
    let relay = relay.ready().await?;
    mailbox.wait_for("ada@example.org", 1).await?;
    ensure!(relay.process.terminate().await?.success(), "it stops in order");
    Ok(())
}

#[tokio::test]
async fn events_of_types_that_nobody_handles_are_passed_by() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let writer = databases.app.connect(Role::Owner).await?;
    write_event(&writer, "a", 1).await?;
    register(&databases).await?;
    let _relay = relay(&databases, &mailbox, &[]).await?.ready().await?;
    mailbox.wait_for("ada@example.org", 1).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let failures: i64 = jobs.query_one("SELECT count(*) FROM aftercommit.dispatch_failures", &[]).await?.get(0);
    assert_eq!(failures, 0);
    Ok(())
}

#[tokio::test]
async fn wrong_settings_are_told_all_at_once() -> Result<()> {
    let wrong = [
        ("DATABASE_URL", "http://me:canary@localhost/app"),
        ("JOBS_DATABASE_URL", ""),
        ("SMTP_URL", "smtp://me:canary@mail.example.com?tls=none"),
        ("MAIL_FROM", "nobody"),
        ("PUBLIC_URL", "ftp://example.com"),
        ("VERIFICATION_KEYS", "k:Y2FuYXJ5"),
        ("JOB_QUEUE_ENABLED", "perhaps"),
        ("DISPATCH_WORKERS", "0"),
        ("DELIVERY_LEASE", "0s"),
    ];
    let finished = Launch::built("relay").await?.environment(wrong).run().await?;
    assert_eq!(finished.code(), Some(2), "{}", finished.stderr);
    for (name, _) in wrong {
        assert!(finished.stderr.contains(name), "{name}: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("canary"), "{}", finished.stderr);
    Ok(())
}
