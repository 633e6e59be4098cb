//! Ghosts: jobs of events that were dispatched and are gone, because the history that they were part of is.
//!
//! Whether an event is gone is asked of the application database, a page at a time and each page under a look of its own,
//! so that nothing is held open there however many there are. Only some jobs are suspect. Those that are not finished
//! all are, as their events are never pruned. Of the finished ones, those made since the checkpoints that hold, or the hour
//! before: a witness stands for ids, and a commit may have been lost that had a lower one. Without a checkpoint, those of
//! events newer than the newest that is left and was dispatched: what is older may be gone because its time was up.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::TryStreamExt;
use time::{Duration, OffsetDateTime};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::rebase::Error;
use crate::jobs::id::job_id_range;
use crate::jobs::store::GHOST;
use crate::outbox::{self, Server};
use crate::postgres::within;

/// The bound on waiting for the next suspects.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// How long before a checkpoint a lost commit may have been dispatched.
const MARGIN: Duration = Duration::hours(1);
/// How much older than its dispatch an event may be for its finished jobs to be counted: the walk begins so early.
const LAG: Duration = Duration::days(1);
/// Events asked for at a time.
const PAGE: usize = 5_000;
/// Pages in which to look for an event that was dispatched.
const PAGES: usize = 20;

/// Jobs of events that are gone.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// The events.
    pub events: BTreeSet<Uuid>,
    /// Jobs that nobody had begun, and nobody will.
    pub cancelled: u64,
    /// Jobs that are done or under way.
    pub delivered: u64,
}

/// `unfinished`: the events of jobs that are not finished, each arm by the index that holds no others.
const UNFINISHED: &str = "
    SELECT event_id FROM jobs WHERE state IN ('available', 'retrying') AND crash_count < 2
     UNION ALL
    SELECT event_id FROM jobs WHERE state IN ('available', 'retrying') AND crash_count >= 2
     UNION ALL
    SELECT event_id FROM jobs WHERE state = 'running'";

/// `finished_since`: the events of finished jobs from an id on, made since a time or of an event newer than it.
const FINISHED_SINCE: &str = "
    SELECT event_id
      FROM jobs
     WHERE job_id >= $1
       AND state NOT IN ('available', 'retrying', 'running')
       AND (created_at >= $2 OR occurred_at > $3)
     ORDER BY job_id";

/// `dispatched`: which of some events have a job.
const DISPATCHED: &str = "
    SELECT event_id
      FROM unnest($1::uuid[], $2::uuid[]) AS range (low, high)
      JOIN jobs ON job_id BETWEEN low AND high
     WHERE event_id = ANY ($3)";

/// Finds the events that jobs were made of and that are not in the outbox any more. `since` is the oldest checkpoint
/// gone back to. None when another server answers by now: then everything is to be looked at anew.
///
/// # Errors
/// As [`Error`].
pub async fn lost_events(
    application: &Client,
    jobs: &Client,
    server: Server,
    since: Option<OffsetDateTime>,
) -> Result<Option<BTreeSet<Uuid>>, Error> {
    let mut lost = BTreeSet::new();
    let since = since.map(|taken_at| taken_at - MARGIN);
    let newer_than = match since {
        Some(_) => None,
        None => match newest_dispatched(application, jobs).await? {
            Newest::Empty => return Ok(Some(lost)),
            Newest::NoneDispatched => None,
            Newest::At(time) => Some(time),
        },
    };
    if !sift(application, jobs, server, UNFINISHED, &[], &mut lost).await? {
        return Ok(None);
    }
    if let Some(from) = since.or(newer_than) {
        let from = first_id(from - LAG);
        if !sift(application, jobs, server, FINISHED_SINCE, &[&from, &since, &newer_than], &mut lost).await? {
            return Ok(None);
        }
    }
    Ok(Some(lost))
}

enum Newest {
    /// An empty outbox is more likely a wrong address than a history: nothing is called off.
    Empty,
    NoneDispatched,
    At(OffsetDateTime),
}

/// When the newest event happened that is in the outbox and has a job.
async fn newest_dispatched(application: &Client, jobs: &Client) -> Result<Newest, Error> {
    let mut before = None;
    for _ in 0..PAGES {
        let (reading, _) = outbox::look(application, &[]).await?;
        let page = reading.newest(before, PAGE).await?;
        reading.end().await?;
        let Some((last, _)) = page.last() else {
            return Ok(if before.is_none() { Newest::Empty } else { Newest::NoneDispatched });
        };
        before = Some(*last);
        let events: Vec<Uuid> = page.iter().map(|(event_id, _)| *event_id).collect();
        let (low, high): (Vec<Uuid>, Vec<Uuid>) = events.iter().map(|event_id| job_id_range(*event_id)).unzip();
        let rows = within(PATIENCE, jobs.query(DISPATCHED, &[&low, &high, &events])).await?;
        let dispatched: BTreeSet<Uuid> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(crate::postgres::Error::from)?;
        if let Some(time) = page.iter().filter(|(id, _)| dispatched.contains(id)).map(|(_, time)| *time).max() {
            return Ok(Newest::At(time));
        }
    }
    Ok(Newest::NoneDispatched)
}

/// Goes through the events that a statement names and keeps those that are gone. False when another server answers.
async fn sift(
    application: &Client,
    jobs: &Client,
    server: Server,
    statement: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    lost: &mut BTreeSet<Uuid>,
) -> Result<bool, Error> {
    let statement = within(PATIENCE, jobs.prepare(statement)).await?;
    let mut suspects = pin!(within(PATIENCE, jobs.query_raw(&statement, parameters.iter().copied())).await?);
    loop {
        let mut page = BTreeSet::new();
        while page.len() < PAGE {
            let Some(row) = within(PATIENCE, suspects.try_next()).await? else { break };
            page.insert(row.try_get(0).map_err(crate::postgres::Error::from)?);
        }
        let events: Vec<Uuid> = page.into_iter().collect();
        let (reading, look) = outbox::look(application, &[]).await?;
        if look.server != server {
            return Ok(false);
        }
        lost.extend(reading.absent(&events).await?);
        reading.end().await?;
        if events.len() < PAGE {
            return Ok(true);
        }
    }
}

/// The lowest id of a job whose event is as old as this.
fn first_id(time: OffsetDateTime) -> Uuid {
    let milliseconds = u128::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Uuid::from_u128(milliseconds << 80)
}

/// `cancel_ghosts`: calls off the jobs of lost events that nobody has begun, and counts those that were begun.
const CANCEL_GHOSTS: &str = "
    WITH ghost AS MATERIALIZED (
        SELECT jobs.job_id, jobs.state
          FROM unnest($1::uuid[], $2::uuid[]) AS range (low, high)
          JOIN jobs ON job_id BETWEEN low AND high
         WHERE event_id = ANY ($3)
    ), cancelled AS (
        UPDATE jobs
           SET state       = 'cancelled',
               finished_at = now(),
               last_error  = $4
         WHERE job_id IN (SELECT job_id FROM ghost)
           AND state IN ('available', 'retrying')
        RETURNING job_id
    )
    SELECT (SELECT count(*) FROM cancelled),
           (SELECT count(DISTINCT job_id) FROM ghost WHERE state IN ('running', 'succeeded'))";

impl Ghosts {
    /// Calls off the jobs of lost events, in the transaction that puts the cursors right.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn call_off(
        transaction: &Transaction<'_>,
        events: BTreeSet<Uuid>,
    ) -> Result<Self, tokio_postgres::Error> {
        let mut ghosts = Self { events, ..Self::default() };
        let events: Vec<Uuid> = ghosts.events.iter().copied().collect();
        for page in events.chunks(PAGE) {
            // Events of one millisecond share their range.
            let ranges: BTreeSet<(Uuid, Uuid)> = page.iter().map(|event_id| job_id_range(*event_id)).collect();
            let (low, high): (Vec<Uuid>, Vec<Uuid>) = ranges.into_iter().unzip();
            let row = transaction.query_one(CANCEL_GHOSTS, &[&low, &high, &page, &GHOST]).await?;
            ghosts.cancelled += row.try_get::<_, i64>(0)?.unsigned_abs();
            ghosts.delivered += row.try_get::<_, i64>(1)?.unsigned_abs();
        }
        Ok(ghosts)
    }
}
