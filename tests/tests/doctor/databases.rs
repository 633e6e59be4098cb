//! Databases that are away, of another shape, careless, or too generous.

use anyhow::Result;
use tests::databases::{DatabaseServer, Databases, Kind, Role};
use tests::postgres::{Stop, free_port};

use crate::support::doctor;

const APP: &str = "application database";
const JOBS: &str = "jobs database";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_is_told_and_the_rest_is_looked_at_all_the_same() -> Result<()> {
    let databases = Databases::new().await?;
    let away = format!("postgres://someone:hunter2@127.0.0.1:{}/nothing", free_port()?);
    let report = doctor(&databases, &[("DATABASE_URL", &away)], &[]).await?;
    assert_eq!(report.code, Some(1));
    report.expect(APP, "connection", "problem", "someone");
    report.expect(JOBS, "schema", "ok", "every migration");
    report.expect("mail", "connection", "problem", "127.0.0.1:9");
    assert!(!report.json.to_string().contains("hunter2"));

    let report = doctor(&databases, &[("JOBS_DATABASE_URL", &away), ("MAIL_FROM", "nobody")], &[]).await?;
    report.expect(JOBS, "connection", "problem", "someone");
    report.expect(APP, "schema", "ok", "the outbox is there");
    report.expect("settings", "setting", "problem", "MAIL_FROM");

    let wrong = [("DATABASE_URL", "http://me:hunter2@localhost/app"), ("JOBS_DATABASE_URL", "")];
    let report = doctor(&databases, &wrong, &[]).await?;
    report.expect("settings", "setting", "problem", "DATABASE_URL");
    report.expect("settings", "setting", "problem", "JOBS_DATABASE_URL");
    assert!(report.of(APP, "connection").is_empty() && !report.json.to_string().contains("hunter2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_lacks_something_names_the_command() -> Result<()> {
    let databases = Databases::new().await?;
    let bare = DatabaseServer::shared().await?.database("bare_for_doctor").await?;
    let (app, jobs) = (bare.url(Role::Relay), bare.url(Role::Jobs));
    let report = doctor(&databases, &[("DATABASE_URL", &app), ("JOBS_DATABASE_URL", &jobs)], &[]).await?;
    report.expect(APP, "schema", "problem", "there is no outbox");
    report.expect(JOBS, "schema", "problem", "relay migrate");

    let owner = databases.app.connect(Role::Superuser).await?;
    owner.batch_execute("DROP INDEX aftercommit.outbox_window").await?;
    owner.batch_execute("ALTER TABLE aftercommit.outbox ENABLE ROW LEVEL SECURITY").await?;
    owner.batch_execute("CREATE PUBLICATION pub FOR TABLE aftercommit.outbox").await?;
    // A subscription to nowhere, with the outbox as its target.
    owner
        .batch_execute(
            "CREATE SUBSCRIPTION doctor CONNECTION 'dbname=nowhere' PUBLICATION pub WITH (connect = false, slot_name = NONE);
             INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)
             SELECT oid, 'aftercommit.outbox'::regclass, 'r' FROM pg_subscription WHERE subname = 'doctor'",
        )
        .await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect(APP, "index", "problem", "no valid index");
    report.expect(APP, "row security", "problem", "row security is on");
    report.expect(APP, "subscription", "problem", "logical replication");
    owner.batch_execute("DROP SUBSCRIPTION doctor").await?;
    owner.batch_execute("ALTER TABLE aftercommit.outbox DROP COLUMN durable_at_commit").await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect(APP, "schema", "problem", "of another version");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_has_what_it_needs_and_no_more() -> Result<()> {
    let databases = Databases::new().await?;
    let (app, jobs) = (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    app.batch_execute("GRANT SELECT, UPDATE ON aftercommit.users TO aftercommit_relay").await?;
    jobs.batch_execute("REVOKE DELETE ON aftercommit.processes FROM aftercommit_jobs").await?;
    jobs.batch_execute("GRANT DELETE ON aftercommit.operator_actions TO aftercommit_jobs").await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect(APP, "rights", "warning", "SELECT, UPDATE on aftercommit.users");
    report.expect(JOBS, "rights", "problem", "lacks DELETE on aftercommit.processes");
    report.expect(JOBS, "rights", "warning", "DELETE on aftercommit.operator_actions");

    let (owner, root) = (databases.jobs.url(Role::Owner), databases.app.url(Role::Superuser));
    let report = doctor(&databases, &[("DATABASE_URL", &root), ("JOBS_DATABASE_URL", &owner)], &[]).await?;
    report.expect(APP, "rights", "warning", "SUPERUSER");
    report.expect(APP, "read_only", "note", "may begin transactions that write");
    report.expect(JOBS, "rights", "warning", "it owns");

    app.batch_execute("REVOKE SELECT ON aftercommit.outbox FROM aftercommit_relay").await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect(APP, "rights", "problem", "may not read the outbox");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_careless_server_is_told() -> Result<()> {
    let careless = DatabaseServer::for_tests()
        .without_fsync()
        .setting("autovacuum", "off")
        .setting("synchronous_commit", "off")
        .setting("max_connections", "20")
        .setting("superuser_reserved_connections", "1");
    let server = DatabaseServer::start(careless).await?;
    let databases = Databases::on(&server).await?;
    let app = databases.app.connect(Role::Superuser).await?;
    app.batch_execute("ALTER ROLE aftercommit_owner SET synchronous_commit = off").await?;
    app.batch_execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'forgotten'").await?;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(databases.jobs.connect(Role::Superuser).await?);
    }
    // A session of the relay's own role is one that it may see.
    let seen = databases.jobs.connect(Role::Jobs).await?;
    seen.batch_execute("SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT 1").await?;
    held.truncate(10);
    let report = doctor(&databases, &[], &["--transaction", "1ms"]).await?;
    for part in [APP, JOBS] {
        for (check, level) in [("fsync", "problem"), ("full_page_writes", "problem"), ("autovacuum", "problem")] {
            report.expect(part, check, level, "is off");
        }
        report.expect(part, "synchronous_commit", "warning", "role aftercommit_owner");
    }
    // What the configuration says is overruled in every session on the jobs database.
    report.expect(APP, "synchronous_commit", "warning", "the configuration");
    report.expect(APP, "prepared", "warning", "forgotten");
    report.expect(JOBS, "transactions", "warning", "aftercommit_jobs");
    for _ in 0..6 {
        held.push(databases.jobs.connect(Role::Superuser).await?);
    }
    let report = doctor(&databases, &[], &["--transaction", "1h"]).await?;
    let crowded = ["connections", "connection", "pooler", "transactions", "server"];
    // Which of the two comes too late is chance: both are on one server.
    let told = |part| crowded.iter().any(|check| report.of(part, check).iter().any(|(level, _)| level != "ok"));
    assert!(told(APP) || told(JOBS), "{:#}", report.json);
    assert!(report.of(APP, "prepared").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_told() -> Result<()> {
    let primary = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let databases = Databases { app: primary.create(Kind::App).await?, jobs: primary.create(Kind::Jobs).await? };
    let cluster = primary.cluster();
    cluster.stop(Stop::Fast).await?;
    let signal = cluster.site().data_dir().join("standby.signal");
    std::fs::write(&signal, "")?;
    cluster.site().account().own(&signal)?;
    cluster.start_again().await?;
    let report = doctor(&databases, &[], &[]).await?;
    for part in [APP, JOBS] {
        report.expect(part, "recovery", "problem", "a standby");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_nobody_prunes_is_told() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             VALUES (gen_random_uuid(), 'x', '1', 'x.y', '{}', now() - interval '90 days')",
        )
        .await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect(APP, "growth", "warning", "the oldest is 90 d");
    let report = doctor(&databases, &[], &["--retention", "100d"]).await?;
    report.expect(APP, "growth", "ok", "the oldest 90 d");
    Ok(())
}
