//! The commands on top: what they print, what they refuse, and how they end.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::databases::{Databases, Role};
use tests::leash::Signal;
use tests::process::{Finished, Launch};
use tests::services::run_relay;
use tests::wait::until;

use crate::support::Stage;

async fn json(databases: &Databases, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let finished = run_relay(databases, &[arguments, &["--json"]].concat()).await?;
    Ok((finished.code(), serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))?))
}

/// One line on standard error that holds the words, and the exit code.
fn refused(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.code(), Some(code), "{finished:?}");
    assert!(finished.stderr.contains(words) && finished.stdout.is_empty(), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_and_shown() -> Result<()> {
    let stage = Stage::new().await?;
    let dead = stage.jobs("email", "dead", 3).await?;
    stage.jobs("webhook", "running", 2).await?;
    let sql = "INSERT INTO aftercommit.job_attempts (job_id, claim, attempt, started_at, duration, outcome, phase, code, error)
               VALUES ($1, 1, 1, now(), 0.25, 'dead', 'rcpt', 550, 'no such user')";
    stage.superuser.execute(sql, &[&dead[0]]).await?;

    let (code, listed) = json(&stage.databases, &["jobs", "list", "--state", "dead", "--limit", "2"]).await?;
    assert_eq!((code, listed["jobs"].as_array().map(Vec::len)), (Some(0), Some(2)), "{listed}");
    let next = listed["next"].as_str().context("next")?;
    let (_, rest) = json(&stage.databases, &["jobs", "list", "--state", "dead", "--after", next]).await?;
    assert_eq!((rest["jobs"].as_array().map(Vec::len), &rest["next"]), (Some(1), &Value::Null), "{rest}");
    assert_eq!(rest["jobs"][0]["job_id"], dead[0].to_string());

    let text = run_relay(&stage.databases, &["jobs", "list", "--kind", "webhook"]).await?.success()?.stdout;
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("running") && !text.contains('\x1b'), "{text}");
    let id = dead[0].to_string();
    let text = run_relay(&stage.databases, &["jobs", "show", &id]).await?.success()?.stdout;
    assert!(text.contains("no such user") && text.contains("550") && !text.contains("template"), "{text}");
    let (_, shown) = json(&stage.databases, &["jobs", "show", &id, "--args"]).await?;
    assert_eq!((&shown["attempts"][0]["code"], &shown["args"]["template"]), (&550.into(), &"verify_email".into()));
    let gone = uuid::Uuid::now_v7().to_string();
    refused(&run_relay(&stage.databases, &["jobs", "show", &gone]).await?, 1, "there is no job");
    let none = run_relay(&stage.databases, &["jobs", "list", "--handler", "send_welcome"]).await?.success()?;
    assert!(none.stderr.contains("the handlers are send_verification_email"), "{none:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_unless_it_was_chosen_and_meant() -> Result<()> {
    let stage = Stage::new().await?;
    let running = stage.jobs("email", "running", 1).await?[0].to_string();
    stage.jobs("email", "dead", 3).await?;
    let databases = &stage.databases;
    refused(&run_relay(databases, &["jobs", "retry"]).await?, 2, "Give ids, a filter, or --all");
    refused(&run_relay(databases, &["jobs", "retry", "--all", "--kind", "email"]).await?, 2, "Give one of the two");
    refused(&run_relay(databases, &["jobs", "retry", "--state", "dead"]).await?, 2, "give --yes");
    refused(&run_relay(databases, &["jobs", "list", "--state", "ded"]).await?, 2, "'dead'");
    refused(&run_relay(databases, &["jobs", "retry", "x", "--from", "soon"]).await?, 2, "is no UUID");
    refused(&run_relay(databases, &["jobs", "cancel", &running, "--yes"]).await?, 3, "a process has it in hand");
    let dry = run_relay(databases, &["jobs", "retry", "--all", "--dry-run"]).await?.success()?;
    assert_eq!(dry.stdout, "3 jobs would be retried\n");
    assert_eq!(stage.count("dead").await?, 3);
    assert!(stage.trail().await?.is_empty());

    let (code, answer) = json(databases, &["jobs", "retry", "--all", "--yes", "--reason", "mended"]).await?;
    assert_eq!((code, &answer["changed"], &answer["left_alone"]["running"]["number"]), (Some(0), &3.into(), &1.into()));
    let (code, answer) = json(databases, &["jobs", "cancel", "--state", "available", "--yes"]).await?;
    assert_eq!((code, &answer["changed"]), (Some(0), &3.into()), "{answer}");
    let (_, audit) = json(databases, &["audit"]).await?;
    let actions: Vec<_> = audit["actions"].as_array().context("actions")?.iter().map(|a| &a["action"]).collect();
    assert_eq!(actions, ["cancel jobs", "retry jobs"], "newest first");
    assert_eq!(audit["actions"][1]["reason"], "mended");
    let who = audit["actions"][1]["operator"].as_str().unwrap_or_default();
    assert!(who.contains(" on ") && audit["actions"][1]["via"] == "cli", "{audit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_change_says_how_many_were_done() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = stage.jobs("email", "dead", 2_000).await?;
    // The change has to wait for whoever holds a row of its second batch.
    let mut other = stage.databases.jobs.connect(Role::Superuser).await?;
    let other = other.transaction().await?;
    other.execute("SELECT FROM aftercommit.jobs WHERE job_id = $1 FOR UPDATE", &[&ids[700]]).await?;
    let jobs = stage.databases.jobs.url(Role::Jobs);
    let launch = Launch::built("relay").await?.environment([("JOBS_DATABASE_URL", &*jobs)]);
    let retry = launch.arguments(["jobs", "retry", "--state", "dead", "--yes"]).start()?;
    until("the change to wait", async || {
        retry.fail_if_ended()?;
        let sql = "SELECT FROM pg_locks WHERE NOT granted AND pid IN
                   (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        Ok((!stage.superuser.query(sql, &[]).await?.is_empty()).then_some(()))
    })
    .await?;
    retry.signal(Signal::INT)?;
    retry.line_with("stopping").await?;
    other.rollback().await?;
    assert_eq!(retry.wait(tests::wait::SOON).await?.code(), Some(1));
    retry.line_with("interrupted after 1000 jobs were retried").await?;
    assert_eq!(stage.count("available").await?, 1_000);
    let trail = stage.trail().await?;
    assert_eq!((trail[0].3, trail[0].5), (1_000, false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_are_told_and_lifted() -> Result<()> {
    let stage = Stage::new().await?;
    let databases = &stage.databases;
    let paused = run_relay(databases, &["jobs", "pause", "--kind", "email", "--reason", "a test"]).await?.success()?;
    assert_eq!(paused.stdout, "delivery of email is paused\n");
    let again = run_relay(databases, &["jobs", "pause", "--kind", "email"]).await?.success()?;
    assert!(again.stdout.starts_with("delivery of email was paused already\n"), "{again:?}");
    let (_, now) = json(databases, &["jobs", "pause", "--dispatch"]).await?;
    assert_eq!((&now["changed"], now["paused"].as_array().map(Vec::len)), (&1.into(), Some(2)), "{now}");
    assert_eq!(now["paused"][1]["reason"], "a test");
    let status = run_relay(databases, &["status"]).await?.success()?.stdout;
    assert!(status.contains("dispatch is paused by") && status.contains(": a test\n"), "{status}");
    let resumed = run_relay(databases, &["jobs", "resume"]).await?.success()?;
    assert!(resumed.stdout.starts_with("delivery was not paused\nstill: dispatch is paused by"), "{resumed:?}");
    refused(
        &run_relay(databases, &["jobs", "pause", "--dispatch", "--kind", "email"]).await?,
        2,
        "cannot be used with",
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_listed_given_up_and_tried_again() -> Result<()> {
    let stage = Stage::new().await?;
    let databases = &stage.databases;
    // An event that the real handler can take, and one that it can't, both on record as failed.
    let writer = databases.app.connect(Role::Owner).await?;
    let sql = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
               VALUES (gen_random_uuid(), 'user', $1, 'user.registered', $2::json) RETURNING event_id";
    let good = serde_json::json!({"user_id": uuid::Uuid::now_v7(), "email": "a@b.org", "display_name": "A"});
    for (aggregate, payload) in [("1", good), ("2", serde_json::json!({"no": "user"}))] {
        let event: uuid::Uuid = writer.query_one(sql, &[&aggregate, &payload]).await?.get(0);
        let failure = "INSERT INTO aftercommit.dispatch_failures
                       (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
                       VALUES ($1, 'send_verification_email', 0, 'user', $2, 'user.registered', 'broken then')";
        stage.superuser.execute(failure, &[&event, &aggregate]).await?;
    }
    let (_, replayed) = json(databases, &["replay", "--aggregate", "user/9"]).await?;
    let trail = stage.trail().await?;
    assert_eq!((replayed["stored"].as_i64(), trail[0].1.as_str(), trail[0].5), (Some(0), "replay", true), "{trail:?}");
    let (_, listed) = json(databases, &["failures", "list", "--limit", "1"]).await?;
    let next = listed["next"].as_str().context("next")?;
    assert!(next.ends_with("/send_verification_email"), "{listed}");
    let (_, rest) = json(databases, &["failures", "list", "--after", next]).await?;
    assert_eq!(rest["failures"].as_array().map(Vec::len), Some(1));
    refused(&run_relay(databases, &["failures", "retry"]).await?, 2, "Give a filter, or --all");
    let (code, tally) = json(databases, &["failures", "retry", "--all"]).await?;
    assert_eq!((code, &tally["stored"]), (Some(1), &1.into()), "one failed again: {tally}");
    let text = run_relay(databases, &["failures", "list"]).await?.success()?.stdout;
    assert!(text.contains("user/2") && !text.contains("user/1"), "{text}");
    refused(&run_relay(databases, &["failures", "dismiss", "--aggregate", "user/2"]).await?, 2, "give --yes");
    let done = run_relay(databases, &["failures", "dismiss", "--aggregate", "user/2", "--yes"]).await?.success()?;
    assert_eq!(done.stdout, "1 failed dispatches given up\n");
    let none = run_relay(databases, &["failures", "list"]).await?.success()?;
    assert!(none.stdout.is_empty() && none.stderr.contains("no failed dispatch matches"), "{none:?}");
    Ok(())
}
