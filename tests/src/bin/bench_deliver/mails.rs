//! The real thing: the relay's process, mails rendered and sent by SMTP, and a server that takes whatever comes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::fast_sink::FastSink;
use tests::services::{start_relay, verification_keys};
use tests::wait::until;

use crate::jobs::ROWS;

/// What the relay is told: as many connections as mail servers of a certain size like.
const SETTINGS: [(&str, &str); 2] = [("SMTP_CONNECTIONS", "20"), ("LOG_LEVEL", "warn")];

/// How long they take to be delivered, from the commit that stores them; mails a second.
pub async fn deliver(server: &Arc<DatabaseServer>, mails: i64) -> Result<f64> {
    let sink = FastSink::start(None).await?;
    let databases = Databases::on(server).await?;
    let url = format!("{}/?tls=none", sink.url());
    let relay =
        start_relay(&databases, &verification_keys(), "https://accounts.example.net", &url, &SETTINGS).await?.ready();
    let relay = relay.await?;
    let client = databases.jobs.connect(Role::Superuser).await?;
    client.execute(ROWS, &[&mails, &"email"]).await?;
    let began = Instant::now();
    client.batch_execute("NOTIFY aftercommit_jobs").await?;
    until("all mails to be on their way", async || {
        relay.process.fail_if_ended()?;
        let left = "SELECT EXISTS (SELECT FROM aftercommit.jobs
                                   WHERE state IN ('available', 'retrying') AND crash_count < 2)
                        OR EXISTS (SELECT FROM aftercommit.jobs WHERE state = 'running')";
        Ok((!client.query_one(left, &[]).await?.get::<_, bool>(0)).then_some(()))
    })
    .await?;
    let rate = mails as f64 / began.elapsed().as_secs_f64();
    let sent = "SELECT count(*) FROM aftercommit.jobs WHERE state = 'succeeded' AND attempt = 1";
    anyhow::ensure!(client.query_one(sent, &[]).await?.get::<_, i64>(0) == mails, "every mail was sent once");
    eprintln!("smtp {rate:.0}/s with {SETTINGS:?}");
    Ok(rate)
}
