//! What is away: the mail server, or the jobs database.

use anyhow::Result;
use tests::databases::{DatabaseServer, Databases};
use tests::http;
use tests::postgres::Stop;
use tests::smtp_sink::{Options, Rule, SmtpSink, Step, python};
use tests::wait::until;

use crate::support::{LEASE, Policy, Stage};

#[tokio::test]
async fn while_the_mail_server_is_away_no_attempt_is_spent() -> Result<()> {
    let Some(mut stage) = Stage::set("while_the_mail_server_is_away_no_attempt_is_spent").await? else { return Ok(()) };
    let port = stage.sink.port();
    let url = stage.sink.url();
    // Gone: connections are refused.
    let other = SmtpSink::start(&python().expect("it was there"), &Options::default()).await?;
    drop(std::mem::replace(&mut stage.sink, other));
    let mut jobs = vec![];
    for number in 0..20 {
        jobs.push(
            stage
                .job_with(&format!("user{number}@example.org"), Policy { max_attempts: 1, ..Policy::default() })
                .await?,
        );
    }
    let relay = stage.relay_to(&url, &[]).await?;
    relay.process.line_with("delivery pauses").await?;
    until("a job that says why it waits", async || {
        Ok(stage.look(jobs[0]).await?.last_error.filter(|error| error.contains("connect")))
    })
    .await?;
    until("the relay to say that it is not ready", async || {
        let ready = http::get(&format!("{}/readyz", relay.url)).await?;
        Ok((ready.status == 503 && ready.body.contains("delivery of email")).then_some(()))
    })
    .await?;
    assert_eq!(stage.count("jobs WHERE attempt > 0 AND state <> 'running'").await?, 0);

    // Back, and at first not willing.
    let python = python().expect("it was there");
    stage.sink = SmtpSink::start(&python, &Options { port: Some(port), ..Options::default() }).await?;
    stage.sink.rule(Rule::at(Step::Connect).times(1).reply("421 4.3.2 starting up")).await?;
    stage.sink.rule(Rule::at(Step::Mail).times(1).reply("421 4.3.2 overloaded")).await?;
    stage.wait_for_all("succeeded").await?;
    assert_eq!(stage.count("job_attempts").await?, 0);
    assert_eq!(stage.count("jobs WHERE attempt = 1").await?, 20);
    assert_eq!(stage.sink.accepted().await?.len(), 20);
    Ok(())
}

#[tokio::test]
async fn one_recipient_that_breaks_every_connection_stops_nobody_else() -> Result<()> {
    let test = "one_recipient_that_breaks_every_connection_stops_nobody_else";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let policy = Policy { max_attempts: 3, initial: 0.05, jitter: 0.0 };
    stage.sink.rule(Rule::at(Step::Rcpt).to("trap@example.org").drop_connection()).await?;
    let trap = stage.job_with("trap@example.org", policy).await?;
    for number in 0..30 {
        stage.job_with(&format!("user{number}@example.org"), policy).await?;
    }
    let relay = stage.relay(&[]).await?;
    assert_eq!(stage.wait_for(trap, "dead").await?.attempt, 3);
    until("everybody else's mail", async || {
        Ok((stage.count("jobs WHERE state = 'succeeded' AND attempt = 1").await? == 30).then_some(()))
    })
    .await?;
    assert!(!relay.process.output().contains("delivery pauses"));
    Ok(())
}

#[tokio::test]
async fn a_jobs_database_that_is_away_at_start_is_waited_for() -> Result<()> {
    let own = DatabaseServer::start(DatabaseServer::for_tests()).await?;
    let databases = Databases::across(&DatabaseServer::shared().await?, &own).await?;
    let test = "a_jobs_database_that_is_away_at_start_is_waited_for";
    let Some(mut stage) = Stage::set_on(test, databases).await? else { return Ok(()) };
    let job = stage.job("ada@example.org").await?;
    own.cluster().stop(Stop::Fast).await?;
    let relay = stage.relay(&[]).await?;
    relay.process.line_with("delivery has no jobs database").await?;
    own.cluster().start_again().await?;
    stage.reconnect().await?;
    stage.wait_for(job, "succeeded").await?;
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_jobs_database_longer_than_the_lease_sends_nothing_twice() -> Result<()> {
    let own = DatabaseServer::start(DatabaseServer::for_tests()).await?;
    let databases = Databases::across(&DatabaseServer::shared().await?, &own).await?;
    let test = "an_outage_of_the_jobs_database_longer_than_the_lease_sends_nothing_twice";
    let Some(mut stage) = Stage::set_on(test, databases).await? else { return Ok(()) };
    // Some sends wait for the answer to their dot, some for their 354, when the database goes.
    stage.sink.rule(Rule::at(Step::Dot).to("dot1@example.org").hold()).await?;
    stage.sink.rule(Rule::at(Step::Dot).to("dot2@example.org").hold()).await?;
    stage.sink.rule(Rule::at(Step::Data).to("data1@example.org").hold()).await?;
    stage.sink.rule(Rule::at(Step::Data).to("data2@example.org").hold()).await?;
    for name in ["dot1", "dot2", "data1", "data2"] {
        stage.job(&format!("{name}@example.org")).await?;
    }
    let relays = (stage.relay(&[]).await?, stage.relay(&[]).await?);
    until("all four to be held", async || {
        let held = stage.sink.events_by_now().await?.iter().filter(|event| event.step == "held").count();
        Ok((held == 4).then_some(()))
    })
    .await?;

    own.cluster().stop(Stop::Immediate).await?;
    stage.sink.forget_rules().await?;
    // One answer comes during the outage, the others after it.
    tokio::time::sleep(LEASE).await;
    stage.sink.release(Step::Dot).await?;
    tokio::time::sleep(LEASE * 2).await;
    stage.sink.release(Step::Data).await?;
    own.cluster().start_again().await?;
    stage.reconnect().await?;

    stage.wait_for_all("succeeded").await?;
    // Whoever had no lease sent no dot; whoever had sent it settled it. Nobody was taken for dead.
    assert_eq!(stage.count("jobs WHERE crash_count > 0").await?, 0);
    assert_eq!(stage.sink.accepted().await?.len(), 4, "{:?}", stage.sink.events_by_now().await?);
    for relay in [&relays.0, &relays.1] {
        relay.process.fail_if_ended()?;
    }
    Ok(())
}
