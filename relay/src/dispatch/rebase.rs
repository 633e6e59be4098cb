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
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Look, Question, Reading};
use crate::postgres::{self, within};

/// The bound on one statement that searches the jobs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
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

/// A lane on its way back.
struct Back {
    from: Cursor,
    reason: Move,
    to: Option<Checkpoint>,
}

/// Jobs of events that are gone.
#[derive(Debug, Default)]
struct Ghosts {
    events: BTreeSet<Uuid>,
    cancelled: u64,
    delivered: u64,
}

/// Puts back those of these lanes whose history is gone. Returns how many were: they are to be loaded again.
///
/// # Errors
/// As [`Error`]; nothing was changed then.
pub async fn rebase(application: &Client, jobs: &mut Client, cursors: &[&Cursor]) -> Result<usize, Error> {
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
    let mut back = Vec::new();
    for cursor in cursors {
        let Some(answer) = look.lanes.iter().find(|answer| answer.lane == cursor.lane) else { continue };
        // It is asked anew: the address may lead elsewhere by now.
        if let Verdict::Moved(reason) = judge(cursor, look.server.identity, &look.next, answer) {
            let to = newest_that_holds(&reading, &look, jobs, cursor.lane).await?;
            back.push(Back { from: (*cursor).clone(), reason, to });
        }
    }
    if back.is_empty() {
        reading.end().await?;
        return Ok(0);
    }
    let ghosts = lost_events(&reading, jobs, &back).await?;
    reading.end().await?;
    put_back(jobs, &look, &back, ghosts).await?;
    Ok(back.len())
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
/// Since the checkpoint gone back to, everything dispatched is suspect. Without one, what happened after the newest event
/// that is left: older events may be gone because their time was up. Unfinished jobs always are, as their events are
/// never pruned.
async fn lost_events(reading: &Reading<'_>, jobs: &Client, back: &[Back]) -> Result<BTreeSet<Uuid>, Error> {
    let newest = reading.newest().await?;
    let since = back.iter().filter_map(|lane| lane.to.as_ref()).map(|checkpoint| checkpoint.taken_at).min();
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

/// `cancel_ghosts`: calls off the jobs of lost events that nobody has begun, and counts the others that were not called
/// off before.
const CANCEL_GHOSTS: &str = "
    WITH cancelled AS (
        UPDATE jobs
           SET state       = 'cancelled',
               finished_at = now(),
               last_error  = 'ghost: its event was lost when the history of the application database moved'
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

async fn put_back(jobs: &mut Client, look: &Look, back: &[Back], lost: BTreeSet<Uuid>) -> Result<(), Error> {
    let mut ghosts = Ghosts { events: lost, ..Ghosts::default() };
    let moved = within(PATIENCE, async {
        let transaction = jobs.transaction().await?;
        let advance = transaction.prepare(cursor::ADVANCE).await?;
        let now = transaction.query_one("SELECT now()", &[]).await?.try_get(0)?;
        let cursors: Vec<_> = back.iter().map(|lane| lane.cursor(look, now)).collect();
        if cursor::advance(&transaction, &advance, &cursors).await? != cursors.len() as u64 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let events: Vec<Uuid> = ghosts.events.iter().copied().collect();
        if !events.is_empty() {
            let row = transaction.query_one(CANCEL_GHOSTS, &[&events]).await?;
            ghosts.cancelled = row.try_get::<_, i64>(0)?.unsigned_abs();
            ghosts.delivered = row.try_get::<_, i64>(1)?.unsigned_abs();
        }
        for (number, lane) in back.iter().enumerate() {
            let taken_at = lane.to.as_ref().map(|checkpoint| checkpoint.taken_at);
            transaction.execute(checkpoint::FORGET, &[&lane.from.lane, &taken_at]).await?;
            // Ghosts are counted once, with the first lane.
            let counts = if number == 0 { (ghosts.cancelled as i64, ghosts.delivered as i64) } else { (0, 0) };
            let reason = lane.reason.to_string();
            transaction.execute(MOVE, &[&lane.from.lane, &reason, &taken_at, &counts.0, &counts.1]).await?;
        }
        transaction.commit().await?;
        Ok(true)
    });
    if !moved.await? {
        return Err(commit::Error::Fenced.into());
    }
    tell(back, &ghosts);
    Ok(())
}

impl Back {
    /// Where the lane goes: to its checkpoint, or to nowhere.
    fn cursor(&self, look: &Look, now: OffsetDateTime) -> Cursor {
        Cursor {
            lane: self.from.lane,
            version: self.from.version,
            identity: Some(look.server.identity),
            seen: self.to.as_ref().map_or(Snapshot::NOTHING, |checkpoint| checkpoint.seen.clone()),
            witness: self.to.as_ref().map(|checkpoint| checkpoint.witness),
            window: None,
            rebased_at: Some(now),
        }
    }
}

fn tell(back: &[Back], ghosts: &Ghosts) {
    let lanes: Vec<i16> = back.iter().map(|lane| lane.from.lane).collect();
    let everything = back.iter().filter(|lane| lane.to.is_none()).count();
    let reason = back.first().map(|lane| lane.reason.to_string()).unwrap_or_default();
    let sample: Vec<_> = ghosts.events.iter().take(20).map(ToString::to_string).collect();
    tracing::error!(
        ?lanes,
        from_everything = everything,
        ghosts = ghosts.events.len(),
        ghost_jobs_cancelled = ghosts.cancelled,
        ghost_jobs_delivered = ghosts.delivered,
        ghost_events = sample.join(","),
        "the application database's history has moved ({reason}): dispatching again what it holds, each job once"
    );
}
