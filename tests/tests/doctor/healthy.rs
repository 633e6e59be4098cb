//! A set-up as it should be.

use anyhow::Result;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::services::{start_relay, verification_keys};
use tests::smtp_sink::SmtpSink;
use tests::wait::until;

use crate::support::doctor;

/// A relay that runs, on a server that keeps what it was told, with a mail server.
#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_set_up_has_no_problem_and_no_warning() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("a_healthy_set_up_has_no_problem_and_no_warning").await else {
        return Ok(());
    };
    let server = DatabaseServer::start(DatabaseServer::for_tests()).await?;
    let databases = Databases::on(&server).await?;
    let keys = verification_keys();
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &sink.url(), &[]).await?.ready().await?;
    let superuser = databases.jobs.connect(Role::Superuser).await?;
    until("all lanes", async || {
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid > 0 AND granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        Ok((superuser.query_one(held, &[]).await?.get::<_, i64>(0) == 16).then_some(()))
    })
    .await?;
    let url = sink.url();
    let report = doctor(&databases, &[("SMTP_URL", &url)], &["--strict"]).await?;
    println!("{:#}", report.json);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert!(report.json["worst"] == "note" || report.json["worst"] == "ok");
    for part in ["application database", "jobs database"] {
        report.expect(part, "rights", "ok", "may do what it needs, and no more");
        report.expect(part, "version", "ok", "PostgreSQL");
        report.expect(part, "fsync", "ok", "");
    }
    report.expect("flow", "relays", "ok", "1 connected");
    report.expect("flow", "lanes held", "ok", "16 of 16");
    report.expect("mail", "connection", "ok", "127.0.0.1");
    report.expect("mail", "tls", "note", "not encrypted");

    let launch = tests::services::relay(&databases, &keys, "http://127.0.0.1:8080", &url).await?;
    let text = launch.arguments(["doctor"]).run().await?.success()?.stdout;
    println!("{text}");
    assert!(text.ends_with("notes\n") && text.contains("0 problems, 0 warnings"), "{text}");
    assert!(relay.process.terminate().await?.success());
    // No mail was sent, nothing was changed.
    assert!(sink.accepted().await?.is_empty());
    Ok(())
}
