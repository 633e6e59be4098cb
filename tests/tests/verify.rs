//! `relay verify`: sound when nothing is lost, exact when something is, in both directions.

use std::collections::BTreeSet;

use anyhow::Result;
use relay::outbox::page::Filter;
use relay::verify::{self, Findings};
use shared::shutdown::CancellationToken;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, counting, url, write_event};
use tests::services::run_relay;

async fn findings(databases: &Databases) -> Result<Findings> {
    let (application, jobs) = (url(&databases.app.url(Role::Relay))?, url(&databases.jobs.url(Role::Jobs))?);
    let never = CancellationToken::new();
    Ok(verify::run(&application, &jobs, "test", &counting(), Filter::default(), &never, |_| {}).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_lost_jobs_are_named_and_no_others() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    for number in 0..40 {
        write_event(&writer, &format!("a{}", number % 9), number).await?;
    }
    dispatcher.drain().await?;
    write_event(&writer, "a1", 100).await?;
    let before = findings(&databases).await?;
    assert!(before.is_sound(), "{}", before.to_text());
    assert_eq!((before.events, before.waiting), (40, 1), "what dispatch has not come to is not lost");

    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let deleted = jobs
        .query("DELETE FROM aftercommit.jobs WHERE (args ->> 'number')::int IN (3, 17, 39) RETURNING job_id", &[])
        .await?;
    let deleted: BTreeSet<uuid::Uuid> = deleted.iter().map(|row| row.get(0)).collect();
    let after = findings(&databases).await?;
    let named: BTreeSet<uuid::Uuid> = after.missing.iter().map(|missing| missing.job_id).collect();
    assert_eq!(named, deleted);
    assert_eq!(after.missing_count, 3);
    assert!(!after.is_sound());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_an_event_that_is_gone_are_found() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Superuser).await?;
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    let gone = write_event(&writer, "a", 1).await?;
    write_event(&writer, "a", 2).await?;
    dispatcher.drain().await?;
    writer.execute("DELETE FROM aftercommit.outbox WHERE event_id = $1", &[&gone]).await?;
    let findings = findings(&databases).await?;
    assert_eq!(findings.phantoms, BTreeSet::from([gone]));
    assert!(!findings.is_sound());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells() -> Result<()> {
    let databases = Databases::new().await?;
    let sound = run_relay(&databases, &["verify"]).await?;
    assert_eq!(sound.code(), Some(0));
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    jobs.batch_execute(
        "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at,
                                       max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
         VALUES (gen_random_uuid(), gen_random_uuid(), 'h', 'n', 'k', '{}', now(), 5, 1, 2, 10, 0.5)",
    )
    .await?;
    let unsound = run_relay(&databases, &["verify", "--since", "1h", "--json"]).await?;
    assert_eq!(unsound.code(), Some(1));
    let wrong = run_relay(&databases, &["verify", "--since", "yesterday"]).await?;
    assert_eq!(wrong.code(), Some(2));
    Ok(())
}
