//! Events as people look at them: listed, shown with what became of them, followed live.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use relay::events::tail::Tail;
use relay::handlers::register_all;
use serde_json::Value;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, url, write_event};
use tests::leash::Signal;
use tests::process::Launch;
use tests::services::run_relay;
use uuid::Uuid;

use crate::support::Stage;

async fn json(databases: &Databases, arguments: &[&str]) -> Result<Value> {
    let finished = run_relay(databases, &[arguments, &["--json"]].concat()).await?.success()?;
    Ok(serde_json::from_str(&finished.stdout)?)
}

/// A registration that the real handlers take.
async fn register(databases: &Databases) -> Result<Uuid> {
    let writer = databases.app.connect(Role::Owner).await?;
    let event = Uuid::now_v7();
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES ($1, 'user', '42', 'user.registered',
                     jsonb_build_object('user_id', gen_random_uuid(), 'email', 'ada@example.org', 'display_name', 'Ada'))",
            &[&event],
        )
        .await?;
    writer.batch_execute("NOTIFY aftercommit_outbox").await?;
    Ok(event)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_page_by_page_and_shown_with_their_jobs() -> Result<()> {
    let stage = Stage::new().await?;
    let writer = stage.databases.app.connect(Role::Owner).await?;
    let mut written = Vec::new();
    for number in 0..7 {
        written.push(write_event(&writer, "a", number).await?.to_string());
    }
    let event = register(&stage.databases).await?.to_string();
    let first = json(&stage.databases, &["events", "list", "--limit", "5"]).await?;
    let next = first["next"].as_str().context("next")?;
    let rest = json(&stage.databases, &["events", "list", "--after", next]).await?;
    let ids: Vec<&str> = [&first, &rest]
        .into_iter()
        .flat_map(|page| page["events"].as_array().into_iter().flatten())
        .filter_map(|row| row["event_id"].as_str())
        .collect();
    written.push(event.clone());
    written.reverse();
    assert_eq!(ids, written, "newest first, each once");
    for (filter, count) in [
        (&["--aggregate", "user/42"][..], 1),
        (&["--type", "counter.counted"], 7),
        (&["--event-id", &written[3]], 1),
        (&["--to", "1h"], 0),
        (&["--from", "1h"], 8),
    ] {
        let found = json(&stage.databases, &[&["events", "list"], filter].concat()).await?;
        assert_eq!(found["events"].as_array().map(Vec::len), Some(count), "{filter:?}");
    }

    let before = json(&stage.databases, &["events", "show", &event]).await?;
    assert_eq!((&before["dispatched"], &before["jobs"]), (&false.into(), &Value::Array(vec![])));
    Dispatcher::new(&stage.databases, register_all()?).await?.drain().await?;
    let after = json(&stage.databases, &["events", "show", &event]).await?;
    assert_eq!((&after["dispatched"], &after["jobs"][0]["state"]), (&true.into(), &"available".into()), "{after}");
    assert!(!after.to_string().contains("ada@example.org"), "addresses are shown when asked for");
    let text = run_relay(&stage.databases, &["events", "show", &event, "--payload"]).await?.success()?.stdout;
    assert!(text.contains("send_verification_email") && text.contains("ada@example.org"), "{text}");
    let gone = run_relay(&stage.databases, &["events", "show", &Uuid::now_v7().to_string()]).await?;
    assert!(gone.code() == Some(1) && gone.stderr.contains("nothing is known"), "{gone:?}");
    Ok(())
}

/// Transactions that overlap in every way: each event is shown once it is visible, once, and none is skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_skips_nothing_however_transactions_overlap() -> Result<()> {
    let databases = Databases::new().await?;
    let application = relay::postgres::application(&url(&databases.app.url(Role::Relay))?, "test").await?;
    let writer = databases.app.connect(Role::Owner).await?;
    write_event(&writer, "old", 0).await?;
    let mut tail = Tail::from_now(&application).await?;
    let mut open = Vec::new();
    let (mut written, mut seen): (BTreeSet<Uuid>, Vec<Uuid>) = (BTreeSet::new(), Vec::new());
    for number in 0..40_usize {
        let session = databases.app.connect(Role::Owner).await?;
        session.batch_execute("BEGIN").await?;
        written.insert(write_event(&session, &format!("a{}", number % 7), number as i64).await?);
        open.push(session);
        // The one begun in the middle ends first, so that lower positions and ids come later.
        if number % 3 == 2 {
            let session = open.swap_remove(open.len() / 2);
            session.batch_execute("COMMIT").await?;
        }
        if number % 2 == 0 {
            seen.extend(tail.news(&application).await?.rows.iter().map(|row| row.envelope.event_id));
        }
    }
    for session in open {
        session.batch_execute("COMMIT").await?;
    }
    seen.extend(tail.news(&application).await?.rows.iter().map(|row| row.envelope.event_id));
    assert_eq!(seen.len(), 40, "none twice");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), written, "none skipped, nothing from before");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_is_followed_live_with_what_becomes_of_each_event() -> Result<()> {
    let stage = Stage::new().await?;
    let (app, jobs) = (stage.databases.app.url(Role::Relay), stage.databases.jobs.url(Role::Jobs));
    let launch = Launch::built("relay").await?.environment([("DATABASE_URL", &*app), ("JOBS_DATABASE_URL", &*jobs)]);
    let tail = launch.clone().arguments(["events", "tail", "--json", "-n", "2"]).start()?;
    tail.line_with("following").await?;
    let event = register(&stage.databases).await?;
    let unhandled = write_event(&stage.databases.app.connect(Role::Owner).await?, "a", 1).await?;
    tail.line_with(&format!(
        "{{\"event\":{{\"aggregate_id\":\"42\",\"aggregate_type\":\"user\",\"event_id\":\"{event}\""
    ))
    .await?;
    Dispatcher::new(&stage.databases, register_all()?).await?.drain().await?;
    tail.line_with(&format!("{{\"unhandled\":\"{unhandled}\"}}")).await?;
    tail.line_with("\"state\":\"available\"").await?;
    let done = "UPDATE aftercommit.jobs SET state = 'succeeded', attempt = 1, finished_at = now()";
    stage.superuser.batch_execute(done).await?;
    tail.line_with("\"state\":\"succeeded\"").await?;
    ensure!(tail.wait(tests::wait::SOON).await?.success(), "{}", tail.output());
    ensure!(!tail.output().contains("ada@example.org"), "{}", tail.output());

    let tail = launch.arguments(["events", "tail", "--events-only", "--aggregate", "user/42"]).start()?;
    tail.line_with("following").await?;
    write_event(&stage.databases.app.connect(Role::Owner).await?, "b", 2).await?;
    let event = register(&stage.databases).await?;
    tail.line_with(&event.to_string()).await?;
    tail.signal(Signal::INT)?;
    ensure!(tail.wait(tests::wait::SOON).await?.success(), "an interrupt is its usual end");
    ensure!(!tail.output().contains("counter.counted"), "{}", tail.output());
    Ok(())
}
