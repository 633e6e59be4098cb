//! Leases and the rows of processes.

use std::time::Duration;

use anyhow::Result;
use tests::databases::Role;
use tests::smtp_sink::{Rule, Step};
use tests::wait::{until, until_within};

use crate::support::{LEASE, Stage};

#[tokio::test]
async fn an_idle_relay_writes_nothing_and_a_busy_one_renews() -> Result<()> {
    let Some(stage) = Stage::set("an_idle_relay_writes_nothing_and_a_busy_one_renews").await? else { return Ok(()) };
    let _relay = stage.relay(&[]).await?;
    until("the relay to be known", async || Ok((stage.count("processes").await? == 1).then_some(()))).await?;
    let counter = async || -> Result<i64> {
        Ok(stage.client.query_one("SELECT counter FROM aftercommit.processes", &[]).await?.get(0))
    };
    let warm_up = stage.job("ada@example.org").await?;
    stage.wait_for(warm_up, "succeeded").await?;

    // Several polls, looks and thirds of the lease.
    let written = async || -> Result<String> {
        let row = stage
            .client
            .query_one("SELECT md5(string_agg(t.xmin || ' ' || t.ctid, ',')) FROM aftercommit.processes t", &[])
            .await?;
        Ok(row.get(0))
    };
    let before = (counter().await?, written().await?);
    tokio::time::sleep(LEASE).await;
    assert_eq!((counter().await?, written().await?), before);

    stage.sink.rule(Rule::at(Step::Data).times(1).hold()).await?;
    let slow = stage.job("slow@example.org").await?;
    stage.sink.wait_until_held(Step::Data).await?;
    // One by the claim, and one in each third of the lease.
    until_within(LEASE * 3, "three renewals", async || Ok((counter().await? >= before.0 + 4).then_some(()))).await?;
    // Well beyond its lease by now, had it not renewed.
    tokio::time::sleep(LEASE).await;
    stage.sink.release(Step::Data).await?;
    let done = stage.wait_for(slow, "succeeded").await?;
    assert_eq!((done.attempt, done.crash_count), (1, 0));
    assert_eq!(stage.sink.accepted().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_settlement_is_fenced_on_the_very_claim() -> Result<()> {
    let Some(stage) = Stage::set("a_settlement_is_fenced_on_the_very_claim").await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Dot).times(1).hold()).await?;
    let job = stage.job("ada@example.org").await?;
    let relay = stage.relay(&[]).await?;
    stage.sink.wait_until_held(Step::Dot).await?;
    // The same process, the same job, and another claim.
    stage.client.execute("UPDATE aftercommit.jobs SET claim = claim + 1 WHERE job_id = $1", &[&job]).await?;
    stage.sink.release(Step::Dot).await?;
    relay.process.line_with("the claim was taken over").await?;
    // What the database says this process holds, and it does not, is handed back and done.
    let done = stage.wait_for(job, "succeeded").await?;
    assert_eq!(done.attempt, 1);
    assert_eq!(stage.count("jobs WHERE claim = 3").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_settlement_whose_statement_fails_is_kept_until_it_is_written() -> Result<()> {
    let test = "a_settlement_whose_statement_fails_is_kept_until_it_is_written";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.sink.rule(Rule::at(Step::Dot).times(1).hold()).await?;
    let job = stage.job("ada@example.org").await?;
    let relay = stage.relay(&[]).await?;
    stage.sink.wait_until_held(Step::Dot).await?;
    let mut locker = stage.databases.jobs.connect(Role::Superuser).await?;
    let lock = stage.lock(&mut locker, job).await?;
    stage.sink.release(Step::Dot).await?;
    stage.wait_until_a_relay_waits_for_the_lock().await?;
    stage.end_sessions_of_relays().await?;
    lock.rollback().await?;
    relay.process.line_with("delivery has no jobs database").await?;
    let done = stage.wait_for(job, "succeeded").await?;
    assert_eq!((done.attempt, done.crash_count), (1, 0));
    assert_eq!(stage.sink.accepted().await?.len(), 1);
    assert!(!relay.process.output().contains("the claim was taken over"));
    Ok(())
}

#[tokio::test]
async fn a_process_that_holds_nothing_is_never_taken_for_dead() -> Result<()> {
    let Some(stage) = Stage::set("a_process_that_holds_nothing_is_never_taken_for_dead").await? else { return Ok(()) };
    let relays = (stage.relay(&[]).await?, stage.relay(&[]).await?);
    until("both to be known", async || Ok((stage.count("processes").await? == 2).then_some(()))).await?;
    let ids = "SELECT string_agg(process_id::text, ' ' ORDER BY process_id) FROM aftercommit.processes";
    let before: String = stage.client.query_one(ids, &[]).await?.get(0);
    tokio::time::sleep(LEASE * 2 + Duration::from_secs(1)).await;
    let after: String = stage.client.query_one(ids, &[]).await?.get(0);
    assert_eq!(before, after);
    drop(relays);
    Ok(())
}
