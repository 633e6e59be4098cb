//! What health promises: readiness names what is in the way, as JSON and as text, and holds no secret; a process that
//! waits for something outside is alive.

use anyhow::{Result, ensure};
use hyper::Method;
use hyper::header::ACCEPT;
use serde_json::Value;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::http;
use tests::mailbox::Mailbox;
use tests::postgres::{Stop, free_port};
use tests::services::{Service, start_api, start_relay, verification_keys};
use tests::wait::until;

async fn text(service: &Service) -> Result<String> {
    let url = format!("{}/readyz", service.url);
    Ok(http::send(Method::GET, &url, &[(ACCEPT, "text/plain")], Default::default()).await?.body)
}

/// Waits until a service is unready over this, and says what it says of it.
async fn unready(service: &Service, about: &str) -> Result<String> {
    until(&format!("{about} to be in the way"), async || {
        service.process.fail_if_ended()?;
        let told = http::get(&format!("{}/readyz", service.url)).await?;
        let json = told.json()?;
        let reasons = json["reasons"].as_array().into_iter().flatten();
        let reason = reasons.filter(|reason| reason["about"] == about).find_map(|reason| reason["reason"].as_str());
        Ok(reason.filter(|_| told.status == 503).map(str::to_owned))
    })
    .await
}

async fn alive(service: &Service) -> Result<()> {
    let told = http::get(&format!("{}/livez", service.url)).await?;
    ensure!(told.status == 200, "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_in_the_way_and_waiting_is_being_alive() -> Result<()> {
    let server = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let databases = Databases::on(&server).await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    let away = format!("postgres://someone:hunter2@127.0.0.1:{}/nothing", free_port()?);
    let bare = server.database("bare").await?;
    let bare_jobs = bare.url(Role::Jobs);
    let relay = async |settings: &[(&str, &str)]| {
        start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), settings).await
    };

    let without_application = relay(&[("DATABASE_URL", &away)]).await?;
    unready(&without_application, "application database").await?;
    let without_jobs = relay(&[("JOBS_DATABASE_URL", &away)]).await?;
    unready(&without_jobs, "jobs database").await?;
    let without_schema = relay(&[("JOBS_DATABASE_URL", &bare_jobs)]).await?;
    let said = unready(&without_schema, "schema").await?;
    ensure!(said.contains("relay migrate"), "{said}");
    for service in [&without_application, &without_jobs, &without_schema] {
        alive(service).await?;
        let text = text(service).await?;
        ensure!(text.starts_with("not ready\n") && !text.contains("hunter2"), "{text}");
    }

    let well = relay(&[]).await?.ready().await?;
    let text_of = text(&well).await?;
    ensure!(text_of.starts_with("ready\n") && text_of.contains("delivery: ok\n"), "{text_of}");
    let json = http::get(&format!("{}/readyz", well.url)).await?.json()?;
    ensure!(json["status"] == "ready" && json["reasons"] == Value::Array(vec![]), "{json}");
    let api = start_api(&databases, &keys, &[]).await?.ready().await?;
    ensure!(text(&api).await? == "ready\n");

    // The same server, as a standby.
    let cluster = server.cluster();
    cluster.stop(Stop::Fast).await?;
    unready(&api, "application database").await?;
    let signal = cluster.site().data_dir().join("standby.signal");
    std::fs::write(&signal, "")?;
    cluster.site().account().own(&signal)?;
    cluster.start_again().await?;
    unready(&well, "standby").await?;
    unready(&api, "standby").await?;
    ensure!(text(&api).await?.starts_with("not ready\nstandby: "), "as text");
    for service in [&well, &api] {
        alive(service).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_named() -> Result<()> {
    let databases = Databases::new().await?;
    let nobody = format!("smtp://127.0.0.1:{}", free_port()?);
    let relay = start_relay(&databases, &verification_keys(), "http://127.0.0.1:8080", &nobody, &[]).await?;
    let relay = relay.ready().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES (gen_random_uuid(), 'user', '1', 'user.registered',
                     jsonb_build_object('user_id', gen_random_uuid(), 'email', 'ada@example.org', 'display_name', 'Ada'));
             NOTIFY aftercommit_outbox",
        )
        .await?;
    let said = unready(&relay, "breaker").await?;
    ensure!(said.contains("connect") && !said.contains("ada@"), "{said}");
    alive(&relay).await
}
