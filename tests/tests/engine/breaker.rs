//! The breaker: who opens and who closes it.

use std::sync::atomic::Ordering;

use anyhow::Result;
use tests::wait::until;

use crate::support::Stage;

#[tokio::test]
async fn a_job_that_never_reached_the_service_does_not_close_the_breaker() -> Result<()> {
    let stage = Stage::set().await?;
    stage.kind.away.store(true, Ordering::SeqCst);
    let waiting = stage.job("need").await?;
    let relay = stage.relay()?;
    let paused = || relay.health.report().parts.get("delivery of planted").is_some_and(Option::is_some);
    until("the pause", async || Ok(paused().then_some(()))).await?;

    // What is broken in itself is tried as a probe, and says nothing of the service.
    let broken = stage.row("planted", "unread", "run_at = '-infinity', max_attempts = 1").await?;
    stage.wait_for(broken, "dead").await?;
    assert!(paused(), "the service is still away");
    // Running for a moment whenever it is the probe.
    let row = stage.wait_for(waiting, "available").await?;
    assert_eq!(row.attempt, 0, "an absent service costs no try");

    stage.kind.away.store(false, Ordering::SeqCst);
    stage.wait_for(waiting, "succeeded").await?;
    until("the end of the pause", async || Ok((!paused()).then_some(()))).await?;
    relay.stop().await
}
