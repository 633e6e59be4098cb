//! Deleting jobs that nobody needs any more: finished for long enough, and of an event that was pruned.
//!
//! A job's id is what keeps a replay, or a cursor that was put back, from doing its work twice: so it outlives its event.
//! An event counts as pruned when `api prune` has noted that its time was up, and it is not in the outbox. The note alone
//! would be wrong for events that were kept, and absence alone for those that a move of history took away, which may
//! come back.
//!
//! Jobs are walked by primary key, which is by time, from the oldest on, and deleted in small statements with rests in
//! between, so that vacuum keeps up and delivery does not notice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::databases::PATIENCE;
use crate::outbox;
use crate::postgres::within;
use crate::replay::Error;

/// Jobs looked at, and deleted, at a time.
const PAGE: i64 = 1_000;
/// Deleting takes one part of the time, and rests for so many.
const REST: u32 = 4;

/// `candidates`: the next jobs made of events whose time was up, and whether each is finished for long enough.
pub const CANDIDATES: &str = "
    SELECT job_id, event_id,
           state IN ('succeeded', 'dead', 'cancelled', 'expired') AND finished_at < now() - make_interval(secs => $4) AS over
      FROM jobs
     WHERE job_id > $1
       AND job_id < $2
     ORDER BY job_id
     LIMIT $3";

/// `horizon`: the time before which events may be gone because they were pruned, in milliseconds since 1970. Null while
/// nobody prunes.
const HORIZON: &str = "SELECT (extract(epoch FROM max(pruned_before)) * 1000)::bigint FROM retention";

/// `delete_jobs`: deletes jobs with the history of their failed tries.
pub const DELETE_JOBS: &str = "
    WITH gone AS (
        DELETE FROM jobs
         WHERE job_id = ANY ($1)
           AND state IN ('succeeded', 'dead', 'cancelled', 'expired')
           AND occurred_at < (SELECT pruned_before FROM retention)
        RETURNING job_id
    ), tries AS (
        DELETE FROM job_attempts
         USING gone
         WHERE job_attempts.job_id = gone.job_id
    )
    SELECT count(*) FROM gone";

/// `resolved`: the next failures that were resolved long enough ago.
const RESOLVED: &str = "
    SELECT DISTINCT event_id
      FROM dispatch_failures
     WHERE event_id > $1
       AND resolved_at < now() - make_interval(secs => $3)
     ORDER BY event_id
     LIMIT $2";

/// `delete_failures`: deletes resolved failures of events that are gone.
const DELETE_FAILURES: &str = "DELETE FROM dispatch_failures WHERE event_id = ANY ($1) AND resolved_at IS NOT NULL";

/// `delete_checkpoints`: what no retained event can vouch for, but for each lane's newest. (A lane that is dispatched
/// thins out its own; this is for those that are idle.)
const DELETE_CHECKPOINTS: &str = "
    DELETE FROM lane_checkpoints AS old
     WHERE taken_at < now() - interval '31 days'
       AND taken_at < (SELECT max(taken_at) FROM lane_checkpoints AS newer WHERE newer.lane = old.lane)";

/// Deletes what is over. Returns how many jobs that were.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn prune(
    application: &Client,
    jobs: &Client,
    keep: Duration,
    stop: &CancellationToken,
) -> Result<u64, Error> {
    within(PATIENCE, jobs.execute(DELETE_CHECKPOINTS, &[])).await?;
    let horizon: Option<i64> = within(PATIENCE, jobs.query_one(HORIZON, &[])).await?.get(0);
    let Some(horizon) = horizon else { return Ok(0) };
    let deleted = prune_jobs(application, jobs, horizon, keep.as_secs_f64(), stop).await?;
    prune_failures(application, jobs, keep.as_secs_f64(), stop).await?;
    if deleted > 0 {
        tracing::info!(jobs = deleted, "deleted finished jobs of events that were pruned");
    }
    Ok(deleted)
}

async fn prune_jobs(
    application: &Client,
    jobs: &Client,
    horizon: i64,
    keep: f64,
    stop: &CancellationToken,
) -> Result<u64, Error> {
    let (mut after, mut deleted) = (Uuid::nil(), 0);
    // Ids begin with the event's time: nothing behind this one can be of a pruned event whose id is of its time.
    let end = Uuid::from_u64_pair(horizon.max(0).unsigned_abs() << 16, 0);
    while !stop.is_cancelled() {
        let began = Instant::now();
        let rows = within(PATIENCE, jobs.query(CANDIDATES, &[&after, &end, &PAGE, &keep])).await?;
        let over = rows.iter().filter(|row| row.get(2));
        let over: Vec<(Uuid, Uuid)> = over.map(|row| (row.get(0), row.get(1))).collect();
        let absent = absent(application, over.iter().map(|(_, event_id)| *event_id).collect()).await?;
        let free: Vec<Uuid> =
            over.iter().filter(|(_, event_id)| absent.contains(event_id)).map(|(job_id, _)| *job_id).collect();
        if !free.is_empty() {
            let row = within(PATIENCE, jobs.query_one(DELETE_JOBS, &[&free])).await?;
            deleted += row.get::<_, i64>(0).unsigned_abs();
        }
        match rows.last() {
            Some(last) if rows.len() as i64 == PAGE => after = last.get(0),
            _ => break,
        }
        tokio::select! {
            () = tokio::time::sleep(began.elapsed() * REST) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(deleted)
}

async fn prune_failures(application: &Client, jobs: &Client, keep: f64, stop: &CancellationToken) -> Result<(), Error> {
    let mut after = Uuid::nil();
    while !stop.is_cancelled() {
        let rows = within(PATIENCE, jobs.query(RESOLVED, &[&after, &PAGE, &keep])).await?;
        let events: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let gone: Vec<Uuid> = absent(application, events.clone()).await?.into_iter().collect();
        if !gone.is_empty() {
            within(PATIENCE, jobs.execute(DELETE_FAILURES, &[&gone])).await?;
        }
        match events.last() {
            Some(last) if events.len() as i64 == PAGE => after = *last,
            _ => break,
        }
    }
    Ok(())
}

/// Those of some events that are not in the outbox.
async fn absent(application: &Client, events: Vec<Uuid>) -> Result<HashSet<Uuid>, Error> {
    if events.is_empty() {
        return Ok(HashSet::new());
    }
    let (reading, _) = outbox::look(application, &[]).await?;
    let absent = reading.absent(&events).await?;
    reading.end().await?;
    Ok(absent.into_iter().collect())
}
