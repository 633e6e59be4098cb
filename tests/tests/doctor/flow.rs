//! What flows, or does not.

use anyhow::Result;
use relay::handlers::register_all;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, counting, write_event};

use crate::support::doctor;

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_what_died_and_what_is_paused_is_told() -> Result<()> {
    let databases = Databases::new().await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let writer = databases.app.connect(Role::Owner).await?;
    write_event(&writer, "a", 1).await?;
    jobs.batch_execute(
        "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state, run_at, attempt,
                                       max_attempts, finished_at, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
         SELECT gen_random_uuid(), gen_random_uuid(), 'h', 'n', kind, '{}', now(), state, now() - interval '1 hour', 1,
                5, CASE state WHEN 'dead' THEN now() END, 5, 3, 900, 0.25
           FROM (VALUES ('email', 'dead'), ('fax', 'available')) AS job (kind, state);
         INSERT INTO aftercommit.dispatch_failures (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
         VALUES (gen_random_uuid(), 'h', 0, 't', 'i', 'e', 'x');
         INSERT INTO aftercommit.processes (process_id, name, lease) VALUES (gen_random_uuid(), 'aftercommit relay 1', 30);
         INSERT INTO aftercommit.pauses (part, kind, paused_by, reason) VALUES ('delivery', 'email', 'ada', 'a test');
         INSERT INTO aftercommit.history_moves (lane, reason, ghosts_cancelled, ghosts_delivered)
         VALUES (0, 'a restore', 0, 0)",
    )
    .await?;
    let report = doctor(&databases, &[], &["--lag", "1ms"]).await?;
    report.expect("flow", "relays", "warning", "no relay is connected");
    report.expect("flow", "dead jobs", "warning", "1 jobs are dead");
    report.expect("flow", "failed dispatches", "warning", "1 events were set aside");
    report.expect("flow", "unknown kinds", "warning", "fax");
    report.expect("flow", "due jobs", "warning", "the oldest for 1 h");
    report.expect("flow", "lag", "warning", "has waited for");
    report.expect("jobs database", "dead relays", "warning", "\"aftercommit relay 1\"");
    report.expect("jobs database", "paused", "note", "delivery of email is paused by ada: a test");
    report.expect("jobs database", "history", "note", "a restore");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_in_trouble_and_a_transaction_that_events_wait_for_are_told() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, open) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    open.batch_execute("BEGIN").await?;
    write_event(&open, "a", 1).await?;
    write_event(&writer, "a", 2).await?;
    Dispatcher::new(&databases, counting()).await?.drain().await?;
    let report = doctor(&databases, &[], &["--transaction", "1ms"]).await?;
    report.expect("flow", "awaited transactions", "warning", "has been open for more than");
    report.expect("flow", "lanes", "ok", "every cursor");
    open.batch_execute("COMMIT").await?;
    let report = doctor(&databases, &[], &["--transaction", "1ms"]).await?;
    assert!(report.of("flow", "awaited transactions").is_empty());

    let jobs = databases.jobs.connect(Role::Superuser).await?;
    jobs.batch_execute("UPDATE aftercommit.lane_cursors SET timeline = 99 WHERE timeline IS NOT NULL").await?;
    let report = doctor(&databases, &[], &[]).await?;
    report.expect("flow", "lanes", "problem", "relay accept-history");
    assert_eq!(report.code, Some(1));
    assert!(register_all()?.names().len() > 1);
    Ok(())
}
