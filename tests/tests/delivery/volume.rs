//! Volume: more mails than fit in anybody's hands, by two relays at once.

use std::collections::HashMap;

use anyhow::Result;
use tests::fast_sink::FastSink;

use crate::support::Stage;

const MAILS: i64 = 3_000;

#[tokio::test]
async fn two_relays_send_thousands_of_mails_each_once() -> Result<()> {
    let test = "two_relays_send_thousands_of_mails_each_once";
    let directory = tempfile::tempdir()?;
    let kept = directory.path().join("mail");
    let Some(sink) = FastSink::start_or_skip(test, &kept).await? else { return Ok(()) };
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let relays = (stage.relay_to(&sink.url(), &[]).await?, stage.relay_to(&sink.url(), &[]).await?);
    stage
        .client
        .execute(
            r#"INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at,
                   max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
               SELECT id, id, 'handler', 'email', 'email', jsonb_build_object('template', 'welcome', 'name', 'Ada',
                   'to', 'user' || n || '@example.org', 'user_id', id), now(), 5, 1, 2, 60, 0.5
               FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(1, $1::bigint) AS n) AS new"#,
            &[&MAILS],
        )
        .await?;
    stage.client.execute("SELECT pg_notify('aftercommit_jobs', '')", &[]).await?;
    stage.wait_for_all("succeeded").await?;
    assert_eq!(stage.count("jobs WHERE attempt = 1 AND claim = 1").await?, MAILS);
    for relay in [relays.0, relays.1] {
        assert_eq!(relay.process.terminate().await?.code(), Some(0));
    }
    sink.end().await?;

    let text = String::from_utf8_lossy(&std::fs::read(&kept)?).into_owned();
    let mut times = HashMap::<&str, usize>::new();
    for line in text.lines().filter(|line| line.starts_with("Message-ID:")) {
        *times.entry(line).or_default() += 1;
    }
    assert_eq!(times.len(), usize::try_from(MAILS)?, "every job has a Message-ID of its own");
    assert!(times.values().all(|count| *count == 1), "none was sent twice");
    Ok(())
}
