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
use super::ghosts::{self, Ghosts};
use super::history::{Move, Verdict, judge};
use crate::metrics::record;
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Look, Reading};
use crate::postgres::{self, within};

/// The bound on one statement that searches the jobs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

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

/// Puts right every lane whose history is gone or in question, whoever holds it: a relay that is at work on one finds
/// its version moved, and loads it anew. Returns whether anything was changed.
///
/// # Errors
/// As [`Error`]; nothing was changed then.
pub async fn rebase(application: &Client, jobs: &mut Client) -> Result<bool, Error> {
    let cursors = within(PATIENCE, cursor::load_all(jobs)).await?;
    let questions: Vec<_> = cursors.iter().map(Cursor::question).collect();
    let (reading, look) = outbox::look(application, &questions).await?;
    let mut shaken = Vec::new();
    for cursor in &cursors {
        let Some(answer) = look.lanes.iter().find(|answer| answer.lane == cursor.lane) else { continue };
        // It is asked anew: the address may lead elsewhere by now.
        let (reason, window) = match judge(cursor, look.server.identity, &look.next, answer) {
            Verdict::Same | Verdict::Behind(_) => continue,
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
    // A lane that never held an event learns where history is, too, so that no old primary is followed for it.
    let unused = cursors.iter().filter(|cursor| cursor.identity.is_none());
    shaken.extend(unused.map(|cursor| Shaken { from: cursor.clone(), reason: None, checkpoint: None }));
    reading.end().await?;
    let since = shaken.iter().filter_map(|lane| lane.checkpoint.as_ref()).map(|checkpoint| checkpoint.taken_at).min();
    if let Some(lost) = ghosts::lost_events(application, jobs, look.server, since).await? {
        put_right(jobs, &look, &shaken, lost).await?;
    }
    // Where another server answers by now, the lanes are looked at anew.
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

/// `move`: notes that a cursor was put back.
const MOVE: &str = "
    INSERT INTO history_moves (lane, reason, back_to, ghosts_cancelled, ghosts_delivered)
    VALUES ($1, $2, $3, $4, $5)";

async fn put_right(jobs: &mut Client, look: &Look, shaken: &[Shaken], lost: BTreeSet<Uuid>) -> Result<(), Error> {
    let moved = within(PATIENCE, async {
        let transaction = jobs.transaction().await?;
        let advance = transaction.prepare(cursor::ADVANCE).await?;
        let now = transaction.query_one("SELECT now()", &[]).await?.try_get(0)?;
        let cursors: Vec<_> = shaken.iter().map(|lane| lane.cursor(look, now)).collect();
        if cursor::advance(&transaction, &advance, &cursors).await? != cursors.len() as u64 {
            transaction.rollback().await?;
            return Ok(None);
        }
        let ghosts = Ghosts::call_off(&transaction, lost).await?;
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
        Ok(Some(ghosts))
    });
    let ghosts = moved.await?.ok_or(commit::Error::Fenced)?;
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
