//! What one-shot commands promise: exit codes that tell refusals from failures, one clear line each, quiet when nobody
//! reads, and a word about what was done when they are interrupted.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use relay::jobs::id::job_id;
use serde_json::Value;
use tests::databases::{DatabaseServer, Databases, Kind, Role};
use tests::leash::Signal;
use tests::postgres::{Cluster, Stop, free_port};
use tests::process::{Finished, Launch};
use tests::services::run_relay;
use tests::wait::until;

async fn relay(app: &str, jobs: &str, arguments: &[&str]) -> Result<Finished> {
    let launch = Launch::built("relay").await?.environment([("DATABASE_URL", app), ("JOBS_DATABASE_URL", jobs)]);
    launch.arguments(arguments.iter().copied()).run().await
}

/// One line on standard error that holds the words, and the exit code.
fn refused(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.code(), Some(code), "{finished:?}");
    assert!(finished.stderr.contains(words) && finished.stderr.trim().lines().count() == 1, "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_at_once_and_names_what_is_known() -> Result<()> {
    let databases = Databases::new().await?;
    let unknown = run_relay(&databases, &["replay", "--all", "--handler", "send_welcom"]).await?;
    refused(&unknown, 2, "The handlers are send_verification_email, resend_verification_email, send_welcome_email");
    refused(&run_relay(&databases, &["replay"]).await?, 2, "Give a filter, or --all");
    refused(&run_relay(&databases, &["replay", "--type", "x", "--again"]).await?, 2, "give --yes");
    let several = relay("", "", &["replay", "--event-id", "x", "--from", "soon"]).await?;
    assert_eq!((several.code(), several.stderr.lines().count()), (Some(2), 4), "{several:?}");
    let json = relay("", "", &["replay", "--json", "--event-id", "x"]).await?;
    let answer: Value = serde_json::from_str(&json.stdout)?;
    assert_eq!((json.code(), &answer["exit_code"]), (Some(2), &2.into()));
    let suggestion = run_relay(&databases, &["replya"]).await?;
    assert!(suggestion.code() == Some(2) && suggestion.stderr.contains("'replay'"), "{suggestion:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_fails_and_the_other_half_is_told() -> Result<()> {
    let databases = Databases::new().await?;
    let (app, jobs) = (databases.app.url(Role::Relay), databases.jobs.url(Role::Jobs));
    let away = format!("postgres://someone:hunter2@127.0.0.1:{}/nothing", free_port()?);
    for (app, jobs, missing) in [(&*app, &*away, "jobs"), (&*away, &*jobs, "application")] {
        let replay = relay(app, jobs, &["replay", "--all"]).await?;
        refused(&replay, 1, &format!("{missing} database"));
        let status = relay(app, jobs, &["status"]).await?;
        refused(&status, 1, &format!("{missing} database"));
        assert!(!format!("{replay:?}{status:?}").contains("hunter2"));
        let answer: Value = serde_json::from_str(&relay(app, jobs, &["status", "--json"]).await?.stdout)?;
        assert!(answer[format!("{missing}_database")]["error"].is_string(), "{answer}");
        let there = if missing == "jobs" { "application_database" } else { "jobs_database" };
        assert_eq!(answer[there].get("error"), None, "{answer}");
        assert_eq!((&answer["lag_seconds"], &answer["backlog"]), (&Value::Null, &Value::Null));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_there_refuses() -> Result<()> {
    let databases = Databases::new().await?;
    let server = DatabaseServer::shared().await?;
    let empty = server.database("empty_for_commands").await?;
    let (app, jobs) = (databases.app.url(Role::Relay), databases.jobs.url(Role::Jobs));
    for command in [&["replay", "--all"][..], &["status"]] {
        refused(&relay(&app, &empty.url(Role::Jobs), command).await?, 3, "relay migrate");
        refused(&relay(&empty.url(Role::Relay), &jobs, command).await?, 3, "api migrate");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_refuses() -> Result<()> {
    let primary = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let app = primary.create(Kind::App).await?;
    let jobs = DatabaseServer::shared().await?.create(Kind::Jobs).await?;
    let cluster: &Cluster = primary.cluster();
    cluster.stop(Stop::Fast).await?;
    let signal = cluster.site().data_dir().join("standby.signal");
    std::fs::write(&signal, "")?;
    cluster.site().account().own(&signal)?;
    cluster.start_again().await?;
    for command in [&["replay", "--all"][..], &["status"]] {
        refused(&relay(&app.url(Role::Relay), &jobs.url(Role::Jobs), command).await?, 3, "hot standby");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_fault() -> Result<()> {
    let databases = Databases::new().await?;
    // So that the program is there.
    run_relay(&databases, &["status"]).await?.success()?;
    let program = tests::process::built_programs(true).await?.join("relay");
    for command in [&["status"][..], &["replay", "--all", "--json"]] {
        let mut child = Command::new(&program)
            .args(command)
            .env("DATABASE_URL", databases.app.url(Role::Relay))
            .env("JOBS_DATABASE_URL", databases.jobs.url(Role::Jobs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        drop(child.stdout.take());
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_says_how_much_was_done() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'user', n::text, 'user.registered',
                    jsonb_build_object('user_id', gen_random_uuid(), 'email', 'a@b.org', 'display_name', 'A')
               FROM generate_series(1, 5000) AS n",
        )
        .await?;
    // The replay has to wait for whoever is storing the same job.
    let first = "SELECT event_id FROM aftercommit.outbox ORDER BY event_id LIMIT 1";
    let first = job_id(writer.query_one(first, &[]).await?.get(0), "send_verification_email", "email", 0);
    let mut other = databases.jobs.connect(Role::Superuser).await?;
    let other = other.transaction().await?;
    other
        .execute(
            "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, max_attempts,
                                           retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
             VALUES ($1, $1, 'h', 'n', 'k', '{}', now(), 5, 5, 3, 900, 0)",
            &[&first],
        )
        .await?;

    let (app, jobs) = (databases.app.url(Role::Relay), databases.jobs.url(Role::Jobs));
    let launch = Launch::built("relay").await?.environment([("DATABASE_URL", &*app), ("JOBS_DATABASE_URL", &*jobs)]);
    let replay = launch.arguments(["replay", "--all"]).start()?;
    let watcher = databases.jobs.connect(Role::Superuser).await?;
    until("the replay to wait", async || {
        let waiting = "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                        WHERE NOT granted AND locktype = 'transactionid' AND datname = current_database()";
        replay.fail_if_ended()?;
        Ok(watcher.query_opt(waiting, &[]).await?.map(drop))
    })
    .await?;
    replay.signal(Signal::INT)?;
    replay.line_with("stopping").await?;
    other.rollback().await?;
    let status = replay.wait(tests::wait::SOON).await?;
    assert_eq!(status.code(), Some(1));
    let line = replay.output().lines().find(|line| line.contains("interrupted after")).map(str::to_owned);
    let line = line.with_context(|| replay.output())?;
    let stored: i64 = watcher.query_one("SELECT count(*) FROM aftercommit.jobs", &[]).await?.get(0);
    assert!(stored > 0 && stored < 5000, "{stored}");
    assert!(line.contains(&format!("interrupted after {stored} events, {stored} jobs stored")), "{line}");
    Ok(())
}
