//! What a server's words do to a job: rules of an operator's own, and wishes to be left alone for a while.

use anyhow::Result;
use tests::smtp_sink::{Rule, Step};

use crate::support::Stage;

const TO: &str = "ada@example.org";

#[tokio::test]
async fn an_operators_rule_decides_before_the_usual_ones() -> Result<()> {
    let Some(stage) = Stage::set("an_operators_rule_decides_before_the_usual_ones").await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Rcpt).to(TO).times(1).reply("554 5.7.1 blocked for now")).await?;
    stage.sink.rule(Rule::at(Step::Rcpt).to("bob@example.org").reply("452 4.2.2 full")).await?;
    let (blocked, full) = (stage.job(TO).await?, stage.job("bob@example.org").await?);
    let _relay = stage.relay(&[("SMTP_OUTCOMES", "rcpt 554 5.7.1=retry, rcpt 452 4.2.2=dead")]).await?;
    assert_eq!(stage.wait_for(blocked, "succeeded").await?.attempt, 2);
    let dead = stage.wait_for(full, "dead").await?;
    assert_eq!((dead.attempt, dead.last_error.as_deref()), (1, Some("rcpt: 452 4.2.2 full")));
    Ok(())
}

/// Greylisting: the time that the server asks for is waited for, within an hour.
#[tokio::test]
async fn a_server_that_asks_for_time_is_given_it_within_bounds() -> Result<()> {
    let test = "a_server_that_asks_for_time_is_given_it_within_bounds";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let mut jobs = vec![];
    for (to, reply, seconds) in [
        ("soon@example.org", "450 4.7.1 Greylisted, try again in 300 seconds", 300.0),
        ("later@example.org", "451 4.7.1 come back in 00:20:00", 1200.0),
        ("never@example.org", "450 4.7.1 try again in 5000 hours", 3600.0),
    ] {
        stage.sink.rule(Rule::at(Step::Rcpt).to(to).reply(reply)).await?;
        jobs.push((stage.job(to).await?, seconds));
    }
    let _relay = stage.relay(&[]).await?;
    for (job, wanted) in jobs {
        stage.wait_for(job, "retrying").await?;
        let waits: f64 = stage
            .client
            .query_one(
                "SELECT extract(epoch FROM job.run_at - attempt.started_at)::float8
                 FROM aftercommit.jobs AS job JOIN aftercommit.job_attempts AS attempt USING (job_id)
                 WHERE job_id = $1",
                &[&job],
            )
            .await?
            .get(0);
        // From the end of the try, which took a moment.
        assert!(waits >= wanted && waits < wanted + 60.0, "{waits} s instead of {wanted}");
    }
    Ok(())
}
