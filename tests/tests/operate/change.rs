//! Jobs by hand: found by filter, retried, cancelled, and refused while they run.

use anyhow::{Context as _, Result};
use relay::jobs::JobState;
use relay::operate::change::{Change, change};
use relay::operate::{JobFilter, Slice, audit, job, jobs};
use serde_json::json;
use shared::shutdown::CancellationToken;
use tests::databases::Role;
use uuid::Uuid;

use crate::support::{Stage, by};

const STATES: [&str; 7] = ["available", "running", "retrying", "succeeded", "dead", "cancelled", "expired"];

fn of_states(states: &[JobState]) -> JobFilter {
    JobFilter { states: Some(states.to_vec()), ..JobFilter::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_every_filter_and_page_by_page() -> Result<()> {
    let stage = Stage::new().await?;
    for state in STATES {
        stage.jobs("email", state, 6).await?;
    }
    let webhooks = stage.jobs("webhook", "dead", 4).await?;
    let count = async |filter: JobFilter| -> Result<u64> {
        let listed = jobs::list(&stage.client, &filter, Slice::first(1_000)).await?;
        let counted = jobs::count(&stage.client, &filter).await?;
        assert_eq!(listed.len() as u64, counted.total().number, "{filter:?}");
        Ok(counted.total().number)
    };
    assert_eq!(count(JobFilter::default()).await?, 46);
    assert_eq!(count(of_states(&[JobState::Dead])).await?, 10);
    assert_eq!(count(of_states(&[JobState::Dead, JobState::Running])).await?, 16);
    let names = |name: &str| Some(vec![name.to_owned()]);
    assert_eq!(count(JobFilter { kinds: names("webhook"), ..of_states(&[JobState::Dead]) }).await?, 4);
    assert_eq!(count(JobFilter { handlers: names("send_welcome_email"), ..JobFilter::default() }).await?, 46);
    assert_eq!(count(JobFilter { handlers: names("nobody"), ..JobFilter::default() }).await?, 0);
    assert_eq!(count(JobFilter { args: Some(json!({"template": "welcome"})), ..JobFilter::default() }).await?, 23);
    assert_eq!(count(JobFilter { error: Some("MAILBOX 3".to_owned()), ..JobFilter::default() }).await?, 3);
    assert_eq!(count(JobFilter::of_jobs(webhooks.iter().copied().take(2))).await?, 2);
    let now = time::OffsetDateTime::now_utc();
    let hour = time::Duration::hours(1);
    assert_eq!(count(JobFilter { from: Some(now - hour), ..JobFilter::default() }).await?, 46);
    assert_eq!(count(JobFilter { to: Some(now - hour), ..JobFilter::default() }).await?, 0);

    // As dispatch makes ids: an event's jobs are a range of the key.
    let event = Uuid::now_v7();
    let id = relay::jobs::id::job_id(event, "send_welcome_email", "email", 0);
    let sql = "UPDATE aftercommit.jobs SET job_id = $1, event_id = $2 WHERE job_id = $3";
    stage.superuser.execute(sql, &[&id, &event, &webhooks[0]]).await?;
    assert_eq!(count(JobFilter::of_event(event)).await?, 1);

    let mut seen: Vec<Uuid> = Vec::new();
    let mut slice = Slice::first(7);
    loop {
        let page = jobs::list(&stage.client, &JobFilter::default(), slice).await?;
        seen.extend(page.iter().map(|job| job.job_id));
        let Some(last) = page.last().filter(|_| page.len() == 7) else { break };
        slice.after = Some(last.job_id);
    }
    assert_eq!(seen.len(), 46);
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, none twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gives_all_attempts_anew_and_touches_only_what_it_may() -> Result<()> {
    let mut stage = Stage::new().await?;
    for state in STATES {
        stage.jobs("email", state, 3).await?;
    }
    let ghost = stage.jobs("ghost", "cancelled", 1).await?[0];
    let sql = "UPDATE aftercommit.jobs SET last_error = $1 WHERE job_id = $2";
    stage.superuser.execute(sql, &[&relay::jobs::store::GHOST, &ghost]).await?;
    let late = "UPDATE aftercommit.jobs SET run_at = now() + interval '1 hour' WHERE state = 'retrying'";
    stage.superuser.batch_execute(late).await?;

    let (ada, stop) = (stage.ada.clone(), CancellationToken::new());
    let all = JobFilter::default();
    let changed = change(&mut stage.client, Change::Retry, &all, by(&ada, "fixed"), &stop, |_| {}).await?;
    assert_eq!((changed.jobs, changed.interrupted), (12, false), "retrying, dead, cancelled, expired");
    for (state, count) in [("available", 12), ("running", 3), ("retrying", 3), ("succeeded", 3), ("cancelled", 1)] {
        assert_eq!(stage.count(state).await?, count, "{state}");
    }
    let fresh = "SELECT count(*) FROM aftercommit.jobs
                  WHERE state = 'available' AND attempt = 0 AND crash_count = 0 AND retry_interval IS NULL
                    AND finished_at IS NULL AND expires_at IS NULL AND run_at <= now()";
    assert_eq!(stage.superuser.query_one(fresh, &[]).await?.get::<_, i64>(0), 12);
    let forward = "SELECT count(*) FROM aftercommit.jobs
                    WHERE state = 'retrying' AND attempt = 2 AND retry_interval = 45 AND run_at <= now()";
    assert_eq!(stage.superuser.query_one(forward, &[]).await?.get::<_, i64>(0), 3, "brought forward, nothing else");
    let trail = stage.trail().await?;
    let line = ("ada".to_owned(), "retry jobs".to_owned(), "{}".to_owned(), 12, Some("fixed".to_owned()), true);
    assert_eq!(trail, [line]);

    let listed = audit::list(&stage.client, Slice::first(10)).await?;
    assert_eq!((listed.len(), listed[0].affected, listed[0].via.as_str()), (1, 12, "dashboard"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_off_says_by_whom_and_a_running_job_is_left_alone() -> Result<()> {
    let mut stage = Stage::new().await?;
    for state in STATES {
        stage.jobs("email", state, 2).await?;
    }
    let (ada, stop) = (stage.ada.clone(), CancellationToken::new());
    let reason = "asked for by bob@example.org";
    let all = JobFilter::default();
    let changed = change(&mut stage.client, Change::Cancel, &all, by(&ada, reason), &stop, |_| {}).await?;
    assert_eq!(changed.jobs, 6, "available, retrying, dead");
    assert_eq!((stage.count("running").await?, stage.count("succeeded").await?), (2, 2));
    let running = of_states(&[JobState::Running]);
    let cancelled = JobFilter { error: Some("by ada".to_owned()), ..of_states(&[JobState::Cancelled]) };
    assert_eq!(jobs::count(&stage.client, &cancelled).await?.total().number, 6);
    let row = &jobs::list(&stage.client, &cancelled, Slice::first(1)).await?[0];
    let detail = job::show(&stage.client, row.job_id).await?.context("a job")?;
    let error = detail.row.last_error.unwrap_or_default();
    assert_eq!(error, "cancelled by ada: asked for by …@…", "no address");
    // By its id too.
    let one = jobs::list(&stage.client, &running, Slice::first(1)).await?[0].job_id;
    let filter = JobFilter::of_jobs([one]);
    let changed = change(&mut stage.client, Change::Cancel, &filter, by(&ada, "now"), &stop, |_| {}).await?;
    assert_eq!(changed.jobs, 0);
    assert!(Change::Cancel.refusal(JobState::Running).is_some());
    assert_eq!(stage.trail().await?.len(), 1, "what changed nothing leaves no line");
    assert_eq!(job::show(&stage.client, Uuid::now_v7()).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_change_stops_between_two_batches_and_the_trail_knows_how_far_it_came() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.jobs("email", "dead", 1_700).await?;
    let (ada, stop) = (stage.ada.clone(), CancellationToken::new());
    let dead = of_states(&[JobState::Dead]);
    let (mut told, token) = (Vec::new(), stop.clone());
    let progress = |jobs| {
        told.push(jobs);
        if jobs >= 1_000 {
            token.cancel();
        }
    };
    let changed = change(&mut stage.client, Change::Retry, &dead, by(&ada, "x"), &stop, progress).await?;
    assert_eq!((changed.jobs, changed.interrupted), (1_000, true));
    assert_eq!(told, [500, 1_000]);
    assert_eq!((stage.count("available").await?, stage.count("dead").await?), (1_000, 700));
    let line = &stage.trail().await?[0];
    assert_eq!((line.3, line.5), (1_000, false), "as many as were changed, and not ended");

    let go = CancellationToken::new();
    let changed = change(&mut stage.client, Change::Retry, &dead, by(&ada, "x"), &go, |_| {}).await?;
    assert_eq!(changed.jobs, 700);
    assert!(stage.trail().await?[1].5);
    Ok(())
}

/// A job that a relay claims while the change waits for its row is left to that relay.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_claimed_meanwhile_is_left_alone() -> Result<()> {
    let mut stage = Stage::new().await?;
    let id = stage.jobs("email", "available", 1).await?[0];
    let mut relay = stage.databases.jobs.connect(Role::Jobs).await?;
    let claim = relay.transaction().await?;
    claim
        .execute(
            "UPDATE aftercommit.jobs SET state = 'running', claim = claim + 1, attempt = 1, claimed_by = gen_random_uuid()
              WHERE job_id = $1",
            &[&id],
        )
        .await?;
    let (ada, stop) = (stage.ada.clone(), CancellationToken::new());
    let filter = JobFilter::of_jobs([id]);
    let cancelling = change(&mut stage.client, Change::Cancel, &filter, by(&ada, "x"), &stop, |_| {});
    let waiting = tests::wait::until("the change to wait", async || {
        let sql = "SELECT FROM pg_locks WHERE NOT granted AND pid IN
                   (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        Ok((!stage.superuser.query(sql, &[]).await?.is_empty()).then_some(()))
    });
    let claimed = async {
        waiting.await?;
        Ok::<_, anyhow::Error>(claim.commit().await?)
    };
    let (changed, claimed) = tokio::join!(cancelling, claimed);
    claimed?;
    assert_eq!(changed?.jobs, 0);
    assert_eq!(stage.count("running").await?, 1);
    Ok(())
}

/// The trail is append-only for the relay's role, but for an action's count and end.
#[tokio::test(flavor = "multi_thread")]
async fn the_trail_cannot_be_rewritten() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.jobs("email", "dead", 1).await?;
    let (ada, stop) = (stage.ada.clone(), CancellationToken::new());
    let all = JobFilter::default();
    change(&mut stage.client, Change::Cancel, &all, by(&ada, "x"), &stop, |_| {}).await?;
    for statement in [
        "DELETE FROM aftercommit.operator_actions",
        "UPDATE aftercommit.operator_actions SET operator = 'bob'",
        "TRUNCATE aftercommit.operator_actions",
        "UPDATE aftercommit.pauses SET paused_by = 'bob'",
    ] {
        let error = stage.client.batch_execute(statement).await.err().context(statement)?;
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{statement}");
    }
    Ok(())
}
