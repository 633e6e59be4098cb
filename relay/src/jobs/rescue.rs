//! Rescue: taking over the claims of a process that died, by watching it rather than by any clock that two machines
//! would have to agree on.
//!
//! A process is taken for dead when its counter stood still for a whole lease (its own or the watcher's, whichever is
//! longer) on the watcher's monotonic clock,
//! while the watcher looked often enough to know that the database was there all the time: an outage that everybody
//! has seen proves nothing about anyone. Taking the claims removes the process's row in the same statement, which is
//! how a process that was only slow learns that it lost them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::session::{Session, in_time};
use super::transition::DEAD_AFTER_CRASHES;
use crate::postgres::Error;

/// Every process with its counter, its lease and whether it holds claims, and every holder that has no row (counter -1).
pub const PROCESSES: &str = "
WITH RECURSIVE holder AS (
    (SELECT claimed_by FROM aftercommit.jobs WHERE state = 'running' ORDER BY claimed_by LIMIT 1)
    UNION ALL
    SELECT (SELECT claimed_by FROM aftercommit.jobs
            WHERE state = 'running' AND claimed_by > holder.claimed_by
            ORDER BY claimed_by LIMIT 1)
    FROM holder WHERE holder.claimed_by IS NOT NULL
)
SELECT process_id, counter, lease,
       EXISTS (SELECT FROM aftercommit.jobs WHERE state = 'running' AND claimed_by = process_id) AS holds
FROM aftercommit.processes
UNION ALL
SELECT claimed_by, -1, 0, true
FROM holder
WHERE claimed_by IS NOT NULL
  AND NOT EXISTS (SELECT FROM aftercommit.processes WHERE process_id = claimed_by)";

macro_rules! free_claims {
    ($if:literal) => {
        concat!(
            "freed AS (
    UPDATE aftercommit.jobs
    SET state       = CASE WHEN in_doubt OR crash_count + 1 >= $3 THEN 'dead'
                           WHEN retry_interval IS NULL THEN 'available'
                           ELSE 'retrying' END,
        finished_at = CASE WHEN in_doubt OR crash_count + 1 >= $3 THEN now() END,
        last_error  = CASE WHEN in_doubt
                           THEN 'the relay that held it went away past the point of no return: it may have been done'
                           ELSE 'the relay that held it went away' END,
        crash_count = crash_count + 1,
        attempt     = CASE WHEN in_doubt THEN attempt ELSE greatest(attempt - 1, 0) END,
        claimed_by  = NULL
    WHERE state = 'running' AND claimed_by = $1 AND ",
            $if,
            "
    RETURNING job_id, claim, attempt, in_doubt, last_error
), told AS (
    SELECT pg_notify('aftercommit_jobs', '') WHERE EXISTS (SELECT FROM freed)
), kept AS (
    INSERT INTO aftercommit.job_attempts (job_id, claim, attempt, started_at, duration, outcome, error)
    SELECT job_id, claim, CASE WHEN in_doubt THEN attempt ELSE attempt + 1 END, now(), 0, 'crashed', last_error
    FROM freed
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM freed, (SELECT count(*) FROM told) AS notified"
        )
    };
}

/// Removes a process whose counter still stands and frees its claims: $1 process, $2 counter, $3 crashes to be dead.
/// The attempt is refunded and the crash counted; a neighbour of the job that kills is not punished. A job that was marked
/// as in doubt may have been done: it is held as dead, with its attempt spent.
pub const RESCUE: &str = concat!(
    "
WITH gone AS (
    DELETE FROM aftercommit.processes WHERE process_id = $1 AND counter = $2 RETURNING process_id
), ",
    free_claims!("EXISTS (SELECT FROM gone)")
);

/// The same for claims of a process that has no row: $1 process, $2 unused (-1), $3 crashes to be dead.
pub const RESCUE_ORPHANS: &str = concat!(
    "
WITH ",
    free_claims!("$2::bigint = -1 AND NOT EXISTS (SELECT FROM aftercommit.processes WHERE process_id = $1)")
);

/// The counter of a holder that has no row.
const NO_ROW: i64 = -1;

/// A process without claims is forgotten after this time, or twenty leases; it is harmless, and only untidy.
const TIDY_AFTER: Duration = Duration::from_secs(3600);

/// A process as seen in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its identity.
    pub process: Uuid,
    /// How far its counter is.
    pub counter: i64,
    /// Its own idea of the lease.
    pub lease: Duration,
    /// Whether it holds claims.
    pub holds: bool,
}

/// Looks at all processes.
///
/// # Errors
/// When the database does not answer.
pub async fn look(session: &Session) -> Result<Vec<Seen>, Error> {
    let rows = in_time(session.client.query(&session.processes, &[])).await?;
    rows.iter()
        .map(|row| {
            let lease = Duration::try_from_secs_f64(row.try_get(2)?).unwrap_or_default();
            Ok(Seen { process: row.try_get(0)?, counter: row.try_get(1)?, lease, holds: row.try_get(3)? })
        })
        .collect()
}

/// Frees the claims of a process, unless its counter moved. Returns how many.
///
/// # Errors
/// When the database does not answer; doing it again is harmless.
pub async fn rescue(session: &Session, dead: &Seen) -> Result<i64, Error> {
    let statement = if dead.counter == NO_ROW { &session.rescue_orphans } else { &session.rescue };
    let crashes = i32::from(DEAD_AFTER_CRASHES);
    let row = in_time(session.client.query_one(statement, &[&dead.process, &dead.counter, &crashes])).await?;
    Ok(row.try_get(0)?)
}

/// What this process has seen of the others. Pure.
#[derive(Debug)]
pub struct Observer {
    lease: Duration,
    last_look: Option<Instant>,
    seen: HashMap<Uuid, (i64, Instant)>,
}

impl Observer {
    /// One that has seen nothing.
    pub fn new(lease: Duration) -> Self {
        Self { lease, last_look: None, seen: HashMap::new() }
    }

    /// How often to look: often enough that a missed look shows.
    pub fn interval(&self) -> Duration {
        self.lease / 4
    }

    /// The database was away: what was seen before proves nothing any more.
    pub fn forget(&mut self) {
        self.last_look = None;
        self.seen.clear();
    }

    /// Takes in a look that was asked for at `sent` and answered at `answered`; returns the processes to rescue.
    pub fn observe(&mut self, sent: Instant, answered: Instant, rows: &[Seen]) -> Vec<Seen> {
        // A pause between two looks, or in one, may be the database's as well as this process's: begin anew.
        let paused = self.last_look.is_none_or(|last| sent.saturating_duration_since(last) > self.lease / 2)
            || answered.saturating_duration_since(sent) > self.lease / 4;
        if paused {
            self.seen.clear();
        }
        self.last_look = Some(answered);
        self.seen.retain(|process, _| rows.iter().any(|row| row.process == *process));

        let tidy_after = TIDY_AFTER.max(self.lease * 20);
        let mut dead = Vec::new();
        for row in rows {
            let (counter, since) = *self.seen.entry(row.process).or_insert((row.counter, answered));
            if counter != row.counter {
                self.seen.insert(row.process, (row.counter, answered));
                continue;
            }
            let patience = if row.holds { self.lease.max(row.lease) } else { tidy_after };
            if sent.saturating_duration_since(since) >= patience {
                dead.push(*row);
            }
        }
        dead
    }
}

#[cfg(test)]
#[path = "rescue_tests.rs"]
mod tests;
