//! Clocks that jump: a relay's, and PostgreSQL's. Leases are counted on clocks that nobody sets, so nothing is sent twice
//! and nobody is taken for dead.

use anyhow::Result;
use tests::clock::Clock;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::smtp_sink::{Rule, Step};
use tests::wait::until;

use crate::support::{LEASE, Stage};

/// Two sends that wait for the answer to their dot and two that wait for their 354, on two relays.
async fn hold_four(stage: &Stage) -> Result<()> {
    for (step, name) in [(Step::Dot, "dot1"), (Step::Dot, "dot2"), (Step::Data, "data1"), (Step::Data, "data2")] {
        let to = format!("{name}@example.org");
        stage.sink.rule(Rule::at(step).to(&to).hold()).await?;
        stage.job(&to).await?;
    }
    until("all four to be held", async || {
        let held = stage.sink.events_by_now().await?.iter().filter(|event| event.step == "held").count();
        Ok((held == 4).then_some(()))
    })
    .await
}

async fn let_go_and_check(stage: &Stage) -> Result<()> {
    stage.sink.forget_rules().await?;
    stage.sink.release(Step::Dot).await?;
    stage.sink.release(Step::Data).await?;
    stage.wait_for_all("succeeded").await?;
    assert_eq!(stage.count("jobs WHERE crash_count > 0 OR claim > 1 OR attempt <> 1").await?, 0);
    assert_eq!(stage.sink.accepted().await?.len(), 4, "{:?}", stage.sink.events_by_now().await?);
    Ok(())
}

#[tokio::test]
async fn a_relay_whose_clock_jumps_keeps_its_lease_and_sends_nothing_twice() -> Result<()> {
    let test = "a_relay_whose_clock_jumps_keeps_its_lease_and_sends_nothing_twice";
    let Some(clock) = Clock::new_or_skip(test)? else { return Ok(()) };
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let environment = clock.environment();
    let under_it: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (jumping, steady) = (stage.relay(&under_it).await?, stage.relay(&[]).await?);
    hold_four(&stage).await?;
    // Years ahead, and back beyond where it was: a lease by this clock would be over, or never end.
    for offset in ["+1000d", "-1000d", "+2h"] {
        clock.set(offset)?;
        tokio::time::sleep(LEASE).await;
    }
    let_go_and_check(&stage).await?;

    // The jump was one: what the relay says from now on is dated by it.
    clock.set("+1000d")?;
    jumping.process.terminate().await?;
    let next = stage.job("next@example.org").await?;
    stage.wait_for(next, "succeeded").await?;
    let jumping = stage.relay(&under_it).await?;
    jumping.process.line_with("event_handlers_registered").await?;
    let in_years = (time::OffsetDateTime::now_utc() + time::Duration::days(1000)).year();
    assert!(jumping.process.output().contains(&format!("{in_years}-")), "{}", jumping.process.output());
    steady.process.fail_if_ended()
}

#[tokio::test]
async fn a_database_whose_clock_jumps_takes_no_lease_away() -> Result<()> {
    let test = "a_database_whose_clock_jumps_takes_no_lease_away";
    let Some(clock) = Clock::new_or_skip(test)? else { return Ok(()) };
    let builder = clock
        .environment()
        .iter()
        .fold(DatabaseServer::for_tests().without_fsync(), |builder, (name, value)| builder.environment(name, value));
    let own = DatabaseServer::start(builder).await?;
    let databases = Databases::across(&DatabaseServer::shared().await?, &own).await?;
    let Some(stage) = Stage::set_on(test, databases).await? else { return Ok(()) };
    let relays = (stage.relay(&[]).await?, stage.relay(&[]).await?);
    hold_four(&stage).await?;
    let year = async || -> Result<f64> {
        let client = stage.databases.jobs.connect(Role::Superuser).await?;
        Ok(client.query_one("SELECT extract(year FROM now())::float8", &[]).await?.get(0))
    };
    let before = year().await?;
    for (offset, years) in [("+1000d", 2.0), ("-1000d", -2.0), ("+2h", 0.0)] {
        clock.set(offset)?;
        until("the jump", async || Ok(((year().await? - before) * years >= years * years).then_some(()))).await?;
        tokio::time::sleep(LEASE).await;
    }
    let_go_and_check(&stage).await?;

    // What is stored after a jump is due by the clock that it was stored by.
    clock.set("-1h")?;
    let next = stage.job("next@example.org").await?;
    stage.wait_for(next, "succeeded").await?;
    assert_eq!(stage.count("processes").await?, 2, "nobody was taken for dead");
    relays.0.process.fail_if_ended()?;
    relays.1.process.fail_if_ended()
}
