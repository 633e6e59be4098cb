//! Mail that is rather held than sent twice: its row says so before the server could have it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tests::smtp_sink::{Rule, Step};
use tests::wait::until;
use uuid::Uuid;

use crate::support::{Policy, Stage};

const TO: &str = "ada@example.org";

/// A directory of templates in which the welcome is held.
fn holding_welcome() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("welcome.json"), r#"{"in_doubt": "hold"}"#)?;
    Ok(directory)
}

fn settings(directory: &Path) -> [(&str, &str); 1] {
    [("MAIL_TEMPLATES", directory.to_str().expect("a path"))]
}

/// How a job stands: state, whether in doubt, attempt.
async fn standing(stage: &Stage, job: Uuid) -> Result<(String, bool, i16)> {
    let sql = "SELECT state, in_doubt, attempt FROM aftercommit.jobs WHERE job_id = $1";
    let row = stage.client.query_one(sql, &[&job]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

#[tokio::test]
async fn a_relay_killed_between_data_and_the_answer_leaves_the_mail_held() -> Result<()> {
    let test = "a_relay_killed_between_data_and_the_answer_leaves_the_mail_held";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let directory = holding_welcome()?;
    // Killed before 354, and after the dot: nobody can tell the two apart afterwards.
    stage.sink.rule(Rule::at(Step::Data).to("data@example.org").times(1).hold()).await?;
    stage.sink.rule(Rule::at(Step::Dot).to("dot@example.org").times(1).hold()).await?;
    let (data, dot) = (stage.job("data@example.org").await?, stage.job("dot@example.org").await?);
    // The usual policy, in the same process at the same time.
    let args = json!({ "template": "already_registered", "to": TO, "name": "Ada", "user_id": Uuid::nil() });
    stage.sink.rule(Rule::at(Step::Dot).to(TO).times(1).hold()).await?;
    let resent = stage.row("email", &args.to_string(), Policy::default(), "").await?;

    let killed = stage.relay(&settings(directory.path())).await?;
    until("all three to be held", async || {
        let held = stage.sink.events_by_now().await?.iter().filter(|event| event.step == "held").count();
        Ok((held == 3).then_some(()))
    })
    .await?;
    assert_eq!(standing(&stage, data).await?, ("running".into(), true, 1), "marked before DATA was answered");
    assert!(!standing(&stage, resent).await?.1);
    killed.process.kill().await?;

    let second = stage.relay(&settings(directory.path())).await?;
    for job in [data, dot] {
        let held = stage.wait_for(job, "dead").await?;
        assert!(held.last_error.is_some_and(|error| error.contains("it may have been done")), "{job}");
        assert_eq!(standing(&stage, job).await?, ("dead".into(), true, 1));
    }
    stage.wait_for(resent, "succeeded").await?;
    assert_eq!(stage.sink.wait_for_mails("dot@example.org", 1).await?.len(), 1, "sent once, unknown to us");
    second.process.terminate().await?;
    let events = stage.sink.events_by_now().await?;
    assert_eq!(
        events.iter().filter(|event| event.step == "rcpt" && event.recipients == ["dot@example.org"]).count(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_lost_holds_and_one_that_came_counts_as_ever() -> Result<()> {
    let test = "an_answer_that_is_lost_holds_and_one_that_came_counts_as_ever";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let directory = holding_welcome()?;
    stage.sink.rule(Rule::at(Step::Dot).to("lost@example.org").times(1).drop_connection()).await?;
    stage.sink.rule(Rule::at(Step::Dot).to("later@example.org").times(1).reply("452 4.3.1 disk is full")).await?;
    stage.sink.rule(Rule::at(Step::Data).to("early@example.org").times(1).drop_connection()).await?;
    let lost = stage.job("lost@example.org").await?;
    let others = [stage.job("later@example.org").await?, stage.job("early@example.org").await?];
    let _relay = stage.relay(&settings(directory.path())).await?;
    stage.wait_for(lost, "dead").await?;
    assert_eq!(standing(&stage, lost).await?, ("dead".into(), true, 1));
    assert_eq!(stage.attempts(lost).await?[0].outcome, "in_doubt");
    for job in others {
        assert_eq!(stage.wait_for(job, "succeeded").await?.attempt, 2, "nothing was in doubt");
        assert_eq!(standing(&stage, job).await?, ("succeeded".into(), false, 2));
    }
    Ok(())
}
