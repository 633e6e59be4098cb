//! Putting cursors back when the application database's history has moved.
//!
//! A lane goes back to its newest checkpoint whose witness is still there, or, on another cluster or when none is, to
//! nowhere: then every retained event is run through dispatch again. Either way a job that is there already is left alone,
//! so that nothing is done twice. Events that were lost with the old history may have left jobs behind, ghosts: those not
//! yet delivered are called off, the others are counted, and all of it is said loudly.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

use super::checkpoint::{self, Checkpoint};
use super::commit;
use super::cursor::{self, Cursor};
use super::history::{Move, Verdict, judge};
use super::lanes::LANES;
use crate::jobs::store::GHOST;
use crate::metrics::record;
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Look, Question, Reading};
use crate::postgres::{self, within};

/// The bound on one statement that searches the jobs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// How long before a checkpoint a lost commit may have been dispatched.
const MARGIN: time::Duration = time::Duration::hours(1);
/// Events asked for at a time.
const PAGE: usize = 5_000;

/// Why cursors could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The application database.
    #[error(transparent)]
    Outbox(#[from] outbox::Error),
    /// The jobs database, or another relay was faster.
    #[error(transparent)]
    Commit(#[from] commit::Error),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        Self::Commit(error.into())
    }
}

/// A lane that is not as it was.
struct Shaken {
    from: Cursor,
    /// How its history was seen to have moved; none when its cursor stands and only what lies beyond is in question.
    reason: Option<Move>,
    /// Its newest checkpoint that holds.
    checkpoint: Option<Checkpoint>,
}

/// Jobs of events that are gone.
#[derive(Debug, Default)]
struct Ghosts {
    events: BTreeSet<Uuid>,
    cancelled: u64,
    delivered: u64,
}

/// Puts right every lane whose history is gone or in question, whoever holds it: a relay that is at work on one finds
/// its version moved, and loads it anew. Returns whether anything was changed.
///
/// # Errors
/// As [`Error`]; nothing was changed then.
pub async fn rebase(application: &Client, jobs: &mut Client) -> Result<bool, Error> {
    let lanes: Vec<i16> = (0..LANES).collect();
    let cursors = within(PATIENCE, cursor::load(jobs, &lanes)).await?;
    let questions: Vec<_> = cursors
        .iter()
        .map(|cursor| Question {
            lane: cursor.lane,
            seen: &cursor.seen,
            witness: cursor.witness,
            next_witness: cursor.window.as_ref().map(|window| window.witness),
        })
        .collect();
    let (reading, look) = outbox::look(application, &questions).await?;
    let mut shaken = Vec::new();
    for cursor in &cursors {
        let Some(answer) = look.lanes.iter().find(|answer| answer.lane == cursor.lane) else { continue };
        // It is asked anew: the address may lead elsewhere by now.
        let (reason, window) = match judge(cursor, look.server.identity, &look.next, answer) {
            Verdict::Same | Verdict::Behind { .. } => continue,
            Verdict::Moved(reason) => (Some(reason), None),
            Verdict::WindowGone => (None, None),
            Verdict::Promoted => (None, cursor.window.clone()),
        };
        let checkpoint = newest_that_holds(&reading, &look, jobs, cursor.lane).await?;
        shaken.push(Shaken { from: Cursor { window, ..cursor.clone() }, reason, checkpoint });
    }
    if shaken.is_empty() {
        reading.end().await?;
        return Ok(false);
    }
    let lost = lost_events(&reading, jobs, &shaken).await?;
    reading.end().await?;
    put_right(jobs, &look, &shaken, lost).await?;
    Ok(true)
}

async fn newest_that_holds(
    reading: &Reading<'_>,
    look: &Look,
    jobs: &Client,
    lane: i16,
) -> Result<Option<Checkpoint>, Error> {
    let loading = checkpoint::load(jobs, lane, look.server.identity.system_identifier);
    let kept = within(PATIENCE, loading).await?;
    let witnesses: Vec<_> = kept.iter().map(|checkpoint| checkpoint.witness).collect();
    let present = reading.present(&witnesses).await?;
    let holds = |(checkpoint, present): (Checkpoint, bool)| {
        (present && checkpoint.seen.xmax() <= look.next.xmax()).then_some(checkpoint)
    };
    Ok(kept.into_iter().zip(present).find_map(holds))
}

/// `suspects`: the events of jobs stored since a time, or of any job that is not finished, page by page.
const SUSPECTS: &str = "
    SELECT DISTINCT event_id
      FROM jobs
     WHERE event_id > $1
       AND (created_at >= $2 OR state IN ('available', 'retrying', 'running') OR occurred_at > $3)
     ORDER BY event_id
     LIMIT $4";

/// The events that jobs were made of and that are not in the outbox any more.
///
/// Everything dispatched since the checkpoints that hold, and in the hour before, is suspect: a witness stands for ids,
/// and a commit may have been lost that had a lower id. Without a checkpoint, what happened after the newest event that
/// is left: older events may be gone because their time was up. Unfinished jobs always are suspect, as their events are never pruned.
async fn lost_events(reading: &Reading<'_>, jobs: &Client, shaken: &[Shaken]) -> Result<BTreeSet<Uuid>, Error> {
    let newest = reading.newest().await?;
    let held = shaken.iter().filter_map(|lane| lane.checkpoint.as_ref());
    let since = held.map(|checkpoint| checkpoint.taken_at - MARGIN).min();
    let mut lost = BTreeSet::new();
    let Some(newest) = newest else {
        // An empty outbox is more likely a wrong address than a history: nothing is called off.
        return Ok(lost);
    };
    let mut last = Uuid::nil();
    loop {
        let rows = within(PATIENCE, jobs.query(SUSPECTS, &[&last, &since, &newest, &(PAGE as i64)])).await?;
        let page: Vec<Uuid> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(postgres::Error::from)?;
        lost.extend(reading.absent(&page).await?);
        match page.last() {
            Some(event_id) if page.len() == PAGE => last = *event_id,
            _ => return Ok(lost),
        }
    }
}

/// `cancel_ghosts`: calls off the jobs of lost events that nobody has begun, and counts those that were begun.
const CANCEL_GHOSTS: &str = "
    WITH cancelled AS (
        UPDATE jobs
           SET state       = 'cancelled',
               finished_at = now(),
               last_error  = $2
         WHERE event_id = ANY ($1)
           AND state IN ('available', 'retrying')
        RETURNING job_id
    )
    SELECT (SELECT count(*) FROM cancelled),
           (SELECT count(*) FROM jobs WHERE event_id = ANY ($1) AND state IN ('running', 'succeeded'))";

/// `move`: notes that a cursor was put back.
const MOVE: &str = "
    INSERT INTO history_moves (lane, reason, back_to, ghosts_cancelled, ghosts_delivered)
    VALUES ($1, $2, $3, $4, $5)";

async fn put_right(jobs: &mut Client, look: &Look, shaken: &[Shaken], lost: BTreeSet<Uuid>) -> Result<(), Error> {
    let mut ghosts = Ghosts { events: lost, ..Ghosts::default() };
    let moved = within(PATIENCE, async {
        let transaction = jobs.transaction().await?;
        let advance = transaction.prepare(cursor::ADVANCE).await?;
        let now = transaction.query_one("SELECT now()", &[]).await?.try_get(0)?;
        let cursors: Vec<_> = shaken.iter().map(|lane| lane.cursor(look, now)).collect();
        if cursor::advance(&transaction, &advance, &cursors).await? != cursors.len() as u64 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let events: Vec<Uuid> = ghosts.events.iter().copied().collect();
        if !events.is_empty() {
            let row = transaction.query_one(CANCEL_GHOSTS, &[&events, &GHOST]).await?;
            ghosts.cancelled = row.try_get::<_, i64>(0)?.unsigned_abs();
            ghosts.delivered = row.try_get::<_, i64>(1)?.unsigned_abs();
        }
        // Ghosts are counted once, with the first lane that is noted.
        let mut counts = (ghosts.cancelled as i64, ghosts.delivered as i64);
        for (number, lane) in shaken.iter().enumerate() {
            let only_ghosts = number == 0 && counts != (0, 0) && shaken.iter().all(|lane| lane.reason.is_none());
            let reason = match lane.reason {
                Some(reason) => reason.to_string(),
                None if only_ghosts => "commits were lost with an earlier timeline".to_owned(),
                None => continue,
            };
            let back_to = lane.checkpoint.as_ref().map(|checkpoint| checkpoint.taken_at);
            if lane.reason.is_some() {
                transaction.execute(checkpoint::FORGET, &[&lane.from.lane, &back_to]).await?;
            }
            transaction.execute(MOVE, &[&lane.from.lane, &reason, &back_to, &counts.0, &counts.1]).await?;
            counts = (0, 0);
        }
        transaction.commit().await?;
        Ok(true)
    });
    if !moved.await? {
        return Err(commit::Error::Fenced.into());
    }
    tell(shaken, &ghosts);
    Ok(())
}

impl Shaken {
    /// Where the lane goes: on from where it stands, back to its checkpoint, or to nowhere.
    fn cursor(&self, look: &Look, now: OffsetDateTime) -> Cursor {
        let identity = Some(look.server.identity);
        match (&self.reason, &self.checkpoint) {
            (None, _) => Cursor { identity, ..self.from.clone() },
            (Some(_), to) => Cursor {
                identity,
                seen: to.as_ref().map_or(Snapshot::NOTHING, |checkpoint| checkpoint.seen.clone()),
                witness: to.as_ref().map(|checkpoint| checkpoint.witness),
                window: None,
                rebased_at: Some(now),
                ..self.from.clone()
            },
        }
    }
}

fn tell(shaken: &[Shaken], ghosts: &Ghosts) {
    let back: Vec<&Shaken> = shaken.iter().filter(|lane| lane.reason.is_some()).collect();
    let lanes: Vec<i16> = back.iter().map(|lane| lane.from.lane).collect();
    if lanes.is_empty() && ghosts.events.is_empty() {
        tracing::warn!("the application database was promoted; every cursor stands, and nothing dispatched was lost");
        return;
    }
    record::rebased(lanes.len(), ghosts.cancelled, ghosts.delivered);
    let from_everything = back.iter().filter(|lane| lane.checkpoint.is_none()).count();
    let reason = back
        .iter()
        .find_map(|lane| lane.reason)
        .map_or_else(|| "commits were lost with an earlier timeline".to_owned(), |reason| reason.to_string());
    let sample: Vec<_> = ghosts.events.iter().take(20).map(ToString::to_string).collect();
    tracing::error!(
        ?lanes,
        from_everything,
        ghosts = ghosts.events.len(),
        ghost_jobs_cancelled = ghosts.cancelled,
        ghost_jobs_delivered = ghosts.delivered,
        ghost_events = sample.join(","),
        "the application database's history has moved ({reason}): dispatching again what it holds, each job once"
    );
}
