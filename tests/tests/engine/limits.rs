//! Limits: of a relay, of all relays, of a group.

use std::sync::Arc;

use anyhow::Result;
use relay::deliver::{ClaimedJob, Kind, Kinds, Lease, Limits, Outcome, Settings};
use tests::wait::until;
use tokio::sync::Semaphore;

use crate::support::Stage;

/// Its jobs belong to the group that their arguments name; those of `slow` wait at a gate.
struct Grouped {
    gate: Semaphore,
}

#[async_trait::async_trait]
impl Kind for Grouped {
    fn name(&self) -> &'static str {
        "grouped"
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn group(&self, job: &ClaimedJob) -> Option<String> {
        Some(job.args.clone())
    }

    async fn perform(&self, job: &ClaimedJob, _lease: &Lease) -> Outcome {
        if job.args.contains("slow") {
            self.gate.acquire().await.expect("open").forget();
        }
        Outcome::Succeeded
    }
}

fn limited(limits: Limits) -> Result<(Arc<Grouped>, Kinds)> {
    let kind = Arc::new(Grouped { gate: Semaphore::new(0) });
    let mut kinds = Kinds::default();
    kinds.on_limited(kind.clone(), limits)?;
    Ok((kind, kinds))
}

async fn jobs(stage: &Stage, group: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        stage.row("grouped", group, "run_at = now()").await?;
    }
    Ok(())
}

/// Seconds between the first end and the last.
async fn took(stage: &Stage) -> Result<f64> {
    let sql = "SELECT extract(epoch FROM max(finished_at) - min(finished_at))::float8 FROM aftercommit.jobs";
    Ok(stage.client.query_one(sql, &[]).await?.get(0))
}

async fn all_done(stage: &Stage, count: i64) -> Result<()> {
    until("the end of all jobs", async || {
        Ok((stage.count("jobs WHERE state = 'succeeded' AND attempt = 1").await? == count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_relay_keeps_its_rate() -> Result<()> {
    let stage = Stage::set().await?;
    let (_, kinds) = limited(Limits { rate: "20/s".parse().ok(), ..Limits::default() })?;
    jobs(&stage, "a", 50).await?;
    let relay = stage.relay_of(Settings::default(), kinds)?;
    all_done(&stage, 50).await?;
    let took = took(&stage).await?;
    assert!(took >= 1.2, "20 at once and 30 at 20 a second took {took} s");
    assert_eq!(stage.count("jobs WHERE claim > 1").await?, 0, "what is over the limit is not claimed");
    relay.stop().await
}

#[tokio::test]
async fn relays_share_a_rate_and_write_nothing_for_it_while_nothing_is_due() -> Result<()> {
    let stage = Stage::set().await?;
    let limits = Limits { rate_of_all: "20/s".parse().ok(), ..Limits::default() };
    let mut relays = vec![];
    for _ in 0..2 {
        relays.push(stage.relay_of(Settings::default(), limited(limits)?.1)?);
    }
    until("both to be known", async || Ok((stage.count("processes").await? == 2).then_some(()))).await?;
    assert_eq!(stage.count("rate_limits").await?, 0, "nothing was due so far");
    jobs(&stage, "a", 60).await?;
    all_done(&stage, 60).await?;
    let took = took(&stage).await?;
    assert!(took >= 1.5, "20 at once and 40 at 20 a second took {took} s");
    assert_eq!(stage.count("jobs WHERE claim > 1").await?, 0);

    // A retry that lies ahead is found although nothing may be claimed without a draw, and draws nothing before.
    let row = "SELECT xmin::text FROM aftercommit.rate_limits";
    let before: String = stage.client.query_one(row, &[]).await?.get(0);
    let later = stage.row("grouped", "a", "run_at = now() + interval '1.5 seconds'").await?;
    let ahead = "SELECT r.xmin::text, j.run_at > now() FROM aftercommit.rate_limits AS r, aftercommit.jobs AS j WHERE job_id = $1";
    let mut between = None;
    until("the retry to be due", async || {
        let seen = stage.client.query_one(ahead, &[&later]).await?;
        let waits: bool = seen.get(1);
        if waits {
            between = Some(seen.get::<_, String>(0));
        }
        Ok((!waits).then_some(()))
    })
    .await?;
    assert_eq!(Some(before), between, "several polls went by");
    stage.wait_for(later, "succeeded").await?;
    for relay in relays {
        relay.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_group_at_its_limit_is_put_off_and_stands_in_nobodys_way() -> Result<()> {
    let stage = Stage::set().await?;
    let (kind, kinds) = limited(Limits { group_concurrency: Some(1), ..Limits::default() })?;
    jobs(&stage, "slow", 30).await?;
    jobs(&stage, "quick", 1).await?;
    let relay = stage.relay_of(Settings::default(), kinds)?;
    until("the other group's job", async || {
        Ok((stage.count("jobs WHERE args = '\"quick\"' AND state = 'succeeded'").await? == 1).then_some(()))
    })
    .await?;
    assert_eq!(stage.count("jobs WHERE state = 'succeeded'").await?, 1);
    until("29 to be put off", async || {
        let put_off = "jobs WHERE state = 'available' AND attempt = 0 AND claim > 0 AND last_error IS NULL";
        Ok((stage.count(put_off).await? == 29).then_some(()))
    })
    .await?;
    kind.gate.add_permits(30);
    all_done(&stage, 31).await?;
    assert_eq!(stage.count("job_attempts").await?, 0);
    relay.stop().await
}
