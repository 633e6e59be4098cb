//! Processes that die, are frozen, are told to stop, or have company.

use anyhow::Result;
use tests::databases::Role;
use tests::leash::Signal;
use tests::smtp_sink::{Rule, Step};
use tests::wait::until;

use crate::support::{Policy, Stage};

const TO: &str = "ada@example.org";

#[tokio::test]
async fn a_relay_killed_between_the_servers_answer_and_the_settlement_sends_the_same_mail_again() -> Result<()> {
    let test = "a_relay_killed_between_the_servers_answer_and_the_settlement_sends_the_same_mail_again";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Dot).times(1).hold()).await?;
    let job = stage.job(TO).await?;
    let killed = stage.relay(&[]).await?;
    stage.sink.wait_until_held(Step::Dot).await?;

    // The settlement can't be written while somebody else has the row.
    let mut locker = stage.databases.jobs.connect(Role::Superuser).await?;
    let lock = stage.lock(&mut locker, job).await?;
    stage.sink.release(Step::Dot).await?;
    stage.wait_until_a_relay_waits_for_the_lock().await?;
    killed.process.kill().await?;
    // PostgreSQL would carry out the statement of a client that is gone.
    stage.end_sessions_of_relays().await?;
    lock.rollback().await?;
    assert_eq!(stage.look(job).await?.state, "running");

    let _second = stage.relay(&[]).await?;
    let done = stage.wait_for(job, "succeeded").await?;
    assert_eq!((done.attempt, done.crash_count), (1, 1), "the crash is counted, the attempt is not");
    assert_eq!(stage.attempts(job).await?[0].outcome, "crashed");
    let mails = stage.sink.wait_for_mails(TO, 2).await?;
    assert_eq!(mails.len(), 2);
    assert_eq!((&mails[0].sha256, &mails[0].mail.message_id), (&mails[1].sha256, &mails[1].mail.message_id));
    assert_eq!(stage.count("jobs").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_relay_frozen_while_the_server_holds_back_354_sends_no_final_dot() -> Result<()> {
    let test = "a_relay_frozen_while_the_server_holds_back_354_sends_no_final_dot";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Data).times(1).hold()).await?;
    let job = stage.job(TO).await?;
    let frozen = stage.relay(&[]).await?;
    let held = stage.sink.wait_until_held(Step::Data).await?;
    frozen.process.signal(Signal::STOP)?;

    let second = stage.relay(&[]).await?;
    second.process.line_with("took over the claims").await?;
    stage.wait_for(job, "succeeded").await?;
    stage.sink.release(Step::Data).await?;
    frozen.process.signal(Signal::CONT)?;
    stage
        .sink
        .wait_for("the frozen relay to hang up", |event| event.step == "lost" && event.connection == held.connection)
        .await?;
    let events = stage.sink.events_by_now().await?;
    assert!(!events.iter().any(|event| event.step == "dot" && event.connection == held.connection), "{events:?}");
    assert_eq!(stage.sink.accepted().await?.len(), 1);

    // It goes on under a new identity.
    second.process.terminate().await?;
    let next = stage.job("bob@example.org").await?;
    stage.wait_for(next, "succeeded").await?;
    frozen.process.fail_if_ended()?;
    let done = stage.look(job).await?;
    assert_eq!((done.state.as_str(), done.attempt, done.crash_count), ("succeeded", 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_hands_back_and_spends_no_attempt() -> Result<()> {
    let test = "a_relay_that_is_told_to_stop_hands_back_and_spends_no_attempt";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    // One is past the dot and gets its answer in time; the others are not that far, or have not begun.
    stage.sink.rule(Rule::at(Step::Data).hold().to("slow@example.org")).await?;
    stage.sink.rule(Rule::at(Step::Dot).hold().to("fast@example.org")).await?;
    let slow = stage.job("slow@example.org").await?;
    let fast = stage.job("fast@example.org").await?;
    let relay = stage.relay(&[("SMTP_CONNECTIONS", "2"), ("SHUTDOWN_GRACE", "2s")]).await?;
    stage.sink.wait_until_held(Step::Data).await?;
    stage.sink.wait_until_held(Step::Dot).await?;
    for number in 0..10 {
        stage.job(&format!("user{number}@example.org")).await?;
    }
    until("a job to be claimed that has not begun", async || {
        Ok((stage.count("jobs WHERE state = 'running'").await? > 2).then_some(()))
    })
    .await?;

    relay.process.signal(Signal::TERM)?;
    until("what has not begun to be handed back", async || {
        Ok((stage.count("jobs WHERE state = 'running'").await? == 2).then_some(()))
    })
    .await?;
    stage.sink.release(Step::Dot).await?;
    assert_eq!(relay.process.wait(std::time::Duration::from_secs(10)).await?.code(), Some(0));

    assert_eq!(stage.look(fast).await?.state, "succeeded");
    let handed_back = stage.look(slow).await?;
    assert_eq!((handed_back.state.as_str(), handed_back.attempt, handed_back.claimed), ("available", 0, false));
    assert_eq!(stage.count("jobs WHERE state = 'available' AND attempt = 0").await?, 11);
    assert_eq!(stage.count("job_attempts").await?, 0);
    assert_eq!(stage.count("processes").await?, 0, "it said goodbye");
    Ok(())
}

#[tokio::test]
async fn two_relays_share_the_work_and_do_none_of_it_twice() -> Result<()> {
    let Some(stage) = Stage::set("two_relays_share_the_work_and_do_none_of_it_twice").await? else { return Ok(()) };
    let relays = (stage.relay(&[]).await?, stage.relay(&[]).await?);
    stage
        .client
        .execute(
            r#"INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at,
                   max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
               SELECT id, id, 'handler', 'email', 'email', jsonb_build_object('template', 'welcome', 'name', 'Ada',
                   'to', 'user' || n || '@example.org', 'user_id', id), now(), 5, 1, 2, 60, 0.5
               FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(1, 600) AS n) AS new"#,
            &[],
        )
        .await?;
    stage.client.execute("SELECT pg_notify('aftercommit_jobs', '')", &[]).await?;
    stage.wait_for_all("succeeded").await?;
    let accepted = stage.sink.accepted().await?;
    let distinct: std::collections::HashSet<_> = accepted.iter().map(|mail| mail.recipients.clone()).collect();
    assert_eq!((accepted.len(), distinct.len()), (600, 600));
    assert_eq!(stage.count("jobs WHERE attempt = 1 AND claim = 1").await?, 600);
    for relay in [relays.0, relays.1] {
        assert_eq!(relay.process.terminate().await?.code(), Some(0));
    }
    Ok(())
}

/// What kills its process can't be planted in a real relay; that it was held by two dead processes can.
#[tokio::test]
async fn a_suspect_runs_alone_and_is_dead_after_three_more_crashes() -> Result<()> {
    let test = "a_suspect_runs_alone_and_is_dead_after_three_more_crashes";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let suspect = |crashes| format!("crash_count = {crashes}");
    let args =
        |to: &str| serde_json::json!({ "template": "welcome", "to": to, "user_id": uuid::Uuid::nil() }).to_string();
    stage.sink.rule(Rule::at(Step::Data).to("suspect@example.org").times(1).hold()).await?;
    let alone = stage.row("email", &args("suspect@example.org"), Policy::default(), &suspect(2)).await?;
    let relay = stage.relay(&[]).await?;
    stage.sink.wait_until_held(Step::Data).await?;
    let neighbour = stage.job("bob@example.org").await?;
    // Two looks at the jobs table in the time of several polls: the neighbour is not even claimed.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(stage.look(neighbour).await?.state, "available");
    assert_eq!(stage.count("jobs WHERE state = 'running'").await?, 1);
    stage.sink.release(Step::Data).await?;
    stage.wait_for(alone, "succeeded").await?;
    stage.wait_for(neighbour, "succeeded").await?;

    stage.sink.rule(Rule::at(Step::Data).to("killer@example.org").hold()).await?;
    let killer = stage.row("email", &args("killer@example.org"), Policy::default(), &suspect(4)).await?;
    until("the killer to be tried", async || {
        let held = stage.sink.events_by_now().await?.iter().filter(|event| event.step == "held").count();
        Ok((held == 2).then_some(()))
    })
    .await?;
    relay.process.kill().await?;
    let _next = stage.relay(&[]).await?;
    let dead = stage.wait_for(killer, "dead").await?;
    assert_eq!((dead.crash_count, dead.attempt), (5, 0));
    Ok(())
}
