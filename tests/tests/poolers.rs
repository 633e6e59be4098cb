//! A transaction pooler before either database: before the application database everything works, before the jobs
//! database the relay refuses to, and says why.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use relay::dispatch;
use relay::outbox::Session;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::dispatcher::{context, counting, dispatched, url};
use tests::http;
use tests::mailbox::Mailbox;
use tests::pooler::Pooler;
use tests::services::{run_relay, start_relay, verification_keys};
use tests::wait::until;
use tokio_util::sync::CancellationToken;

/// Leaves settings behind on the pooled connections, as careless clients do, until it is dropped.
fn spoil(databases: &Databases) -> tokio::task::JoinHandle<()> {
    let app = databases.app.clone();
    tokio::spawn(async move {
        while let Ok(client) = app.connect(Role::Relay).await {
            let spoilt = "SET enable_indexscan = off; SET enable_seqscan = on; SET search_path = pg_temp;
                          SET default_transaction_isolation = 'read committed'; SET statement_timeout = '1h'";
            if client.batch_execute(spoilt).await.is_err() {
                return;
            }
        }
    })
}

/// Five thousand events in a few lanes, so in sliced windows, over two connections that change hands at each transaction.
#[tokio::test(flavor = "multi_thread")]
async fn dispatch_works_through_a_transaction_pooler_before_the_application_database() -> Result<()> {
    let server = DatabaseServer::shared().await?;
    let databases = Databases::on(&server).await?;
    let Some(pooler) = Pooler::before(&server, "dispatch through a pooler", &[]).await? else { return Ok(()) };
    let pooled = Databases { app: databases.app.through(pooler.port()), ..databases.clone() };
    let careless = spoil(&pooled);
    let writer = databases.app.connect(Role::Owner).await?;
    let write = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
         SELECT gen_random_uuid(), 'counter', (n % 4)::text, 'counter.counted', jsonb_build_object('number', n)
           FROM generate_series($1::bigint, $2::bigint) AS n";
    writer.execute(write, &[&1_i64, &4_000_i64]).await?;

    let context = Arc::new(context(&pooled, counting())?);
    let stop = CancellationToken::new();
    let listener = relay::wake::listen_to_outbox(
        context.application.clone(),
        "deaf".to_owned(),
        context.outbox_bell.clone(),
        stop.clone(),
    );
    let worker = {
        let (context, stop) = (context.clone(), stop.clone());
        tokio::spawn(async move { dispatch::run(&context, 0, &stop).await })
    };
    let listener = tokio::spawn(listener);
    until("the backlog", async || Ok((dispatched(&databases).await?.len() == 4_000).then_some(()))).await?;
    // LISTEN is answered with OK there and hears nothing: the poll finds these.
    writer.execute(write, &[&4_001_i64, &5_000_i64]).await?;
    until("the rest", async || Ok((dispatched(&databases).await?.len() >= 5_000).then_some(()))).await?;
    stop.cancel();
    worker.await?;
    listener.await?;
    careless.abort();

    let mut last = BTreeMap::new();
    for number in dispatched(&databases).await? {
        ensure!(last.insert(number % 4, number).is_none_or(|before| before < number), "{number} out of order or twice");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_works_through_a_transaction_pooler_before_the_application_database() -> Result<()> {
    let server = DatabaseServer::shared().await?;
    let databases = Databases::on(&server).await?;
    let Some(pooler) = Pooler::before(&server, "the service through a pooler", &[]).await? else { return Ok(()) };
    let pooled = Databases { app: databases.app.through(pooler.port()), ..databases.clone() };
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    let relay = start_relay(&pooled, &keys, "http://127.0.0.1:8080", &mailbox.url(), &[]).await?.ready().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES (gen_random_uuid(), 'user', '0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11', 'user.registered',
                     '{\"user_id\": \"0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11\", \"email\": \"ada@example.org\", \"display_name\": \"Ada\"}')",
        )
        .await?;
    mailbox.wait_for("ada@example.org", 1).await?;
    for command in [&["verify", "--since", "1h"][..], &["replay", "--from", "1h", "--dry-run"], &["status"]] {
        run_relay(&pooled, command).await?.success()?;
    }
    ensure!(relay.process.terminate().await?.success(), "it stops in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_kept_where_no_pooler_stands_in_between() -> Result<()> {
    let server = DatabaseServer::shared().await?;
    let databases = Databases::on(&server).await?;
    let connect = async |databases: &Databases| {
        anyhow::Ok(Session::connect(&url(&databases.app.url(Role::Relay))?, "kept or not").await?)
    };
    let own = connect(&databases).await?;
    ensure!(own.is_own(), "a session of its own");
    let prepared: i64 = own.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await?.get(0);
    ensure!(prepared > 5, "{prepared} statements are prepared");
    for settings in [&[][..], &[("ignore_startup_parameters", "options")]] {
        let Some(pooler) = Pooler::before(&server, "plans behind a pooler", settings).await? else { return Ok(()) };
        let pooled = Databases { app: databases.app.through(pooler.port()), ..databases.clone() };
        ensure!(!connect(&pooled).await?.is_own(), "through a pooler that has {settings:?}");
    }
    Ok(())
}

/// It turns the session's settings away, or ignores them, and that is how it is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_before_the_jobs_database_is_refused() -> Result<()> {
    let server = DatabaseServer::shared().await?;
    let databases = Databases::on(&server).await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    for settings in [&[][..], &[("ignore_startup_parameters", "options")]] {
        let pooler = Pooler::before(&server, "a pooler before the jobs database", settings).await?;
        let Some(pooler) = pooler else { return Ok(()) };
        let pooled = Databases { jobs: databases.jobs.through(pooler.port()), ..databases.clone() };
        let relay = start_relay(&pooled, &verification_keys(), "http://127.0.0.1:8080", &mailbox.url(), &[]).await?;
        until("the reason", async || {
            let told = http::get(&format!("{}/readyz", relay.url)).await?;
            let told = told.status == 503 && told.body.contains("JOBS_DATABASE_URL leads to a transaction pooler");
            Ok(told.then_some(()))
        })
        .await?;
        let told = relay.process.output();
        let lines = told.lines().filter(|line| line.contains("transaction pooler")).count();
        ensure!((1..=3).contains(&lines), "{lines} lines:\n{told}");
        ensure!(relay.process.ended()?.is_none(), "it waits");
        let refused = run_relay(&pooled, &["status"]).await?;
        ensure!(refused.code() == Some(3), "{refused:?}");
        ensure!(refused.stderr.contains("transaction pooler"), "{}", refused.stderr);
        ensure!(relay.process.terminate().await?.success(), "it stops in order");
    }
    Ok(())
}
