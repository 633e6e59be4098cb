//! How tries end, and what each leaves in the row.

use anyhow::Result;
use tests::smtp_sink::{Rule, Step};

use crate::support::{Policy, Stage};

const TO: &str = "ada@canary.example";

#[tokio::test]
async fn a_failed_try_is_repeated_as_the_policy_says_and_each_error_is_kept() -> Result<()> {
    let test = "a_failed_try_is_repeated_as_the_policy_says_and_each_error_is_kept";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Rcpt).times(1).reply(&format!("451 4.3.0 <{TO}> not now"))).await?;
    stage.sink.rule(Rule::at(Step::Data).times(1).drop_connection()).await?;
    stage.sink.rule(Rule::at(Step::Dot).times(1).reply("452 4.3.1 disk is full")).await?;
    let job = stage.job_with(TO, Policy { initial: 0.5, ..Policy::default() }).await?;
    let relay = stage.relay(&[]).await?;

    let retrying = stage.wait_for(job, "retrying").await?;
    assert_eq!((retrying.claimed, retrying.crash_count), (false, 0));
    assert!(retrying.last_error.is_some() && retrying.retry_interval.is_some(), "{retrying:?}");
    let done = stage.wait_for(job, "succeeded").await?;
    assert_eq!((done.attempt, done.retry_interval), (4, Some(4.0)), "0.5 s, doubled by three failures");

    let attempts = stage.attempts(job).await?;
    let told: Vec<_> = attempts
        .iter()
        .map(|tried| (tried.attempt, tried.outcome.as_str(), tried.phase.as_deref().unwrap_or_default(), tried.code))
        .collect();
    assert_eq!(told, [(1, "retry", "rcpt", Some(451)), (2, "retry", "data", None), (3, "retry", "dot", Some(452))]);
    assert!(attempts[0].error.contains("4.3.0") && attempts[2].error.contains("disk is full"), "{attempts:?}");
    for (pair, pause) in attempts.windows(2).zip([0.5, 1.0]) {
        let waited = pair[1].started_at - pair[0].started_at - pair[0].duration;
        assert!(waited >= pause - 0.05, "waited {waited} s instead of {pause}: {attempts:?}");
    }
    assert_eq!(stage.sink.wait_for_mails(TO, 1).await?.len(), 1);
    // The address is in no log line and no error.
    assert!(attempts.iter().all(|tried| !tried.error.contains("canary")), "{attempts:?}");
    relay.process.terminate().await?;
    assert!(!relay.process.output().contains("canary"));
    Ok(())
}

#[tokio::test]
async fn what_can_never_work_is_dead_at_once() -> Result<()> {
    let Some(stage) = Stage::set("what_can_never_work_is_dead_at_once").await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Rcpt).to(TO).reply("550 5.1.1 no such user")).await?;
    let (refused, fine) = (stage.job(TO).await?, stage.job("bob@example.org").await?);
    let _relay = stage.relay(&[]).await?;
    let dead = stage.wait_for(refused, "dead").await?;
    assert_eq!((dead.attempt, dead.last_error.as_deref()), (1, Some("rcpt: 550 5.1.1 no such user")));
    assert_eq!(stage.attempts(refused).await?[0].outcome, "dead");
    stage.wait_for(fine, "succeeded").await?;
    Ok(())
}

#[tokio::test]
async fn the_last_failed_try_makes_a_job_dead() -> Result<()> {
    let Some(stage) = Stage::set("the_last_failed_try_makes_a_job_dead").await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Rcpt).reply("450 4.2.1 busy")).await?;
    let job = stage.job_with(TO, Policy { max_attempts: 3, initial: 0.05, jitter: 0.5 }).await?;
    let _relay = stage.relay(&[]).await?;
    let dead = stage.wait_for(job, "dead").await?;
    assert_eq!(dead.attempt, 3);
    let outcomes: Vec<_> = stage.attempts(job).await?.into_iter().map(|tried| tried.outcome).collect();
    assert_eq!(outcomes, ["retry", "retry", "dead"]);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_final_dot_leaves_a_doubt_and_sends_the_same_mail_again() -> Result<()> {
    let test = "an_answer_that_is_lost_after_the_final_dot_leaves_a_doubt_and_sends_the_same_mail_again";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Dot).times(1).drop_connection()).await?;
    stage.sink.rule(Rule::at(Step::Body).times(1).drop_connection()).await?;
    let job = stage.job(TO).await?;
    let _relay = stage.relay(&[]).await?;
    stage.wait_for(job, "succeeded").await?;
    let mut told: Vec<_> = stage.attempts(job).await?.into_iter().map(|tried| (tried.outcome, tried.phase)).collect();
    told.sort();
    let row = |outcome: &str, phase: &str| (outcome.to_owned(), Some(phase.to_owned()));
    assert_eq!(told[0], row("in_doubt", "dot"));
    // Small as it is, the whole mail may be on its way before the server hangs up on its first bytes.
    assert!(told[1] == row("retry", "body") || told[1] == row("in_doubt", "dot"), "{told:?}");
    let dots: Vec<_> = stage.sink.events_by_now().await?.into_iter().filter(|event| event.step == "dot").collect();
    assert!(dots.len() >= 2 && dots.iter().all(|dot| dot.sha256 == dots[0].sha256), "the bytes are stable: {dots:?}");
    assert_eq!(
        dots[0].message_id.as_deref().map(|id| id.trim_matches(['<', '>'])),
        Some(&*format!("{job}@aftercommit.example"))
    );
    Ok(())
}

#[tokio::test]
async fn mail_goes_into_a_directory_in_development() -> Result<()> {
    let Some(stage) = Stage::set("mail_goes_into_a_directory_in_development").await? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let mailbox = tests::mailbox::Mailbox::new(directory.path().join("mail"));
    let job = stage.job(TO).await?;
    let _relay = stage.relay_to(&mailbox.url(), &[]).await?;
    stage.wait_for(job, "succeeded").await?;
    let mail = mailbox.wait_for(TO, 1).await?.remove(0);
    assert_eq!(mail.message_id, format!("{job}@aftercommit.example"));
    assert_eq!(mail.header("Auto-Submitted").as_deref(), Some("auto-generated"));
    assert_eq!(mail.date, "2026-05-01T10:00:00Z");
    assert!(mailbox.directory().join(format!("{job}.eml")).exists());
    assert!(mail.text.contains("Hello Ada") && mail.html.contains("Hello Ada"), "{mail:?}");
    Ok(())
}
