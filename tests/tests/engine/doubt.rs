//! Kinds that would rather hold a job than do it twice.

use std::sync::atomic::Ordering;

use anyhow::Result;
use tests::wait::until;

use crate::support::Stage;

#[tokio::test]
async fn a_marked_job_whose_relay_is_killed_is_held_and_an_unmarked_one_is_done_again() -> Result<()> {
    let stage = Stage::set().await?;
    let (marked, unmarked) = (stage.job("mark begin hang").await?, stage.job("begin hang").await?);
    let killed = stage.relay()?;
    until("the mark, and both tries", async || {
        let marked = stage.look(marked).await?;
        Ok((marked.in_doubt && stage.count("jobs WHERE state = 'running'").await? == 2).then_some(()))
    })
    .await?;
    killed.kill().await;
    stage.client.execute("UPDATE aftercommit.jobs SET args = '\"\"'", &[]).await?;

    let _second = stage.relay()?;
    let held = stage.wait_for(marked, "dead").await?;
    assert_eq!((held.in_doubt, held.attempt, held.crash_count), (true, 1, 1), "{held:?}");
    assert!(held.last_error.unwrap_or_default().contains("it may have been done"));
    assert_eq!(stage.attempts(marked).await?[0].1, "crashed");
    let done = stage.wait_for(unmarked, "succeeded").await?;
    assert_eq!((done.in_doubt, done.attempt, done.crash_count), (false, 1, 1));

    // A person decides; the next claim begins without a doubt.
    stage
        .client
        .execute(
            "UPDATE aftercommit.jobs SET state = 'available', attempt = 0, finished_at = NULL WHERE job_id = $1",
            &[&marked],
        )
        .await?;
    assert!(!stage.wait_for(marked, "succeeded").await?.in_doubt);
    Ok(())
}

#[tokio::test]
async fn a_marked_try_is_held_only_when_nobody_knows_how_it_ended() -> Result<()> {
    let stage = Stage::set().await?;
    let lost = stage.job("mark begin lose").await?;
    let panicked = stage.job("mark begin panic").await?;
    let answered = stage.job("mark begin refuse").await?;
    let not_begun = stage.job("mark panic").await?;
    let unmarked = stage.job("begin lose").await?;
    let done = stage.job("mark begin").await?;
    let relay = stage.relay()?;
    for (job, attempts, in_doubt) in
        [(lost, 1, true), (panicked, 1, true), (answered, 1, false), (not_begun, 5, false), (unmarked, 5, true)]
    {
        let row = stage.wait_for(job, "dead").await?;
        assert_eq!((row.attempt, row.in_doubt), (attempts, in_doubt), "{row:?}");
        assert_eq!(stage.attempts(job).await?.len(), usize::try_from(attempts)?);
    }
    assert_eq!(stage.attempts(lost).await?[0].1, "in_doubt");
    assert!(!stage.wait_for(done, "succeeded").await?.in_doubt);
    relay.stop().await
}

#[tokio::test]
async fn a_mark_is_fenced_on_the_claim() -> Result<()> {
    let stage = Stage::set().await?;
    let job = stage.job("wait mark begin").await?;
    let relay = stage.relay()?;
    stage.wait_for(job, "running").await?;
    // The same process, the same job, and another claim.
    stage.client.execute("UPDATE aftercommit.jobs SET claim = claim + 1 WHERE job_id = $1", &[&job]).await?;
    stage.kind.gate.add_permits(2);
    stage.wait_for(job, "succeeded").await?;
    assert_eq!(stage.kind.begun.load(Ordering::SeqCst), 1, "the first try got no mark, and went no further");
    assert_eq!(stage.count("jobs WHERE claim = 3").await?, 1);
    relay.stop().await
}
