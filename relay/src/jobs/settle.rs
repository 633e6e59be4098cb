//! Settling: the only place where a process lets go of its claims.
//!
//! Every settlement is fenced on the very claim that ran (id, claim number and process): a process that was taken for
//! dead and comes back settles nothing of what others have claimed since. Settlements are written in batches, a failed
//! try and its line of history in one statement. Writing one twice is harmless: the second time it matches nothing.
//!
//! The fences do not ask for the state: only what is running has a `claimed_by` (a CHECK says so), and were the state
//! there, the index of claimed rows would do for the join, and each settlement would walk over all that is running.

use std::time::Duration;

use shared::redact::{cut, redact};
use uuid::Uuid;

use super::JobState;
use super::claim::ClaimedJob;
use super::session::{Session, in_time};
use super::transition::{Decision, Failure};
use crate::postgres::Error;

/// Marks jobs as done: $1 jobs, $2 claims, $3 processes.
pub const SUCCEEDED: &str = "
UPDATE aftercommit.jobs AS job
SET state = 'succeeded', claimed_by = NULL, in_doubt = false, finished_at = now()
FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS done (job_id, claim, claimed_by)
WHERE job.job_id = done.job_id AND job.claim = done.claim AND job.claimed_by = done.claimed_by";

/// Stores failed tries and what follows from them: $1 jobs, $2 claims, $3 processes, $4 states, $5 delays and
/// $6 retry intervals in seconds (null when dead), $7 outcomes, $8 phases, $9 codes, $10 enhanced codes, $11 replies,
/// $12 errors, $13 durations.
pub const FAILED: &str = "
WITH settled AS (
    UPDATE aftercommit.jobs AS job
    SET state          = failed.state,
        run_at         = CASE failed.state
                             WHEN 'retrying' THEN least(now() + make_interval(secs => failed.delay), job.expires_at)
                             ELSE job.run_at END,
        retry_interval = coalesce(failed.retry_interval, job.retry_interval),
        last_error     = failed.error,
        claimed_by     = NULL,
        in_doubt       = failed.state = 'dead' AND failed.outcome = 'in_doubt',
        finished_at    = CASE failed.state WHEN 'dead' THEN now() END
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::float8[], $6::float8[], $7::text[], $8::text[],
                $9::int[], $10::text[], $11::text[], $12::text[], $13::float8[])
         AS failed (job_id, claim, claimed_by, state, delay, retry_interval, outcome, phase, code, enhanced_code, reply,
                    error, duration)
    WHERE job.job_id = failed.job_id AND job.claim = failed.claim AND job.claimed_by = failed.claimed_by
    RETURNING job.job_id, job.claim, job.attempt, failed.duration, failed.outcome, failed.phase, failed.code,
              failed.enhanced_code, failed.reply, failed.error
), kept AS (
    INSERT INTO aftercommit.job_attempts (job_id, claim, attempt, started_at, duration, outcome, phase, code,
                                          enhanced_code, reply, error)
    SELECT job_id, claim, attempt, clock_timestamp() - make_interval(secs => duration), duration, outcome, phase, code,
           enhanced_code, reply, error
    FROM settled
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM settled";

/// Lets go of jobs that were not tried, refunds the attempt, and tells the other relays: $1 jobs, $2 claims,
/// $3 processes, $4 the final state of those that never will be (or null), $5 reasons to keep (or null),
/// $6 seconds from now before which they are not to be claimed again (or null).
pub const UNTRIED: &str = "
WITH settled AS (
    UPDATE aftercommit.jobs AS job
    SET state       = coalesce(untried.ends_as,
                               CASE WHEN job.retry_interval IS NULL THEN 'available' ELSE 'retrying' END),
        run_at      = CASE WHEN untried.delay IS NULL THEN job.run_at
                           ELSE least(now() + make_interval(secs => untried.delay), job.expires_at) END,
        attempt     = greatest(job.attempt - 1, 0),
        last_error  = coalesce(untried.reason, job.last_error),
        claimed_by  = NULL,
        in_doubt    = false,
        finished_at = CASE WHEN untried.ends_as IS NOT NULL THEN now() END
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::float8[])
         AS untried (job_id, claim, claimed_by, ends_as, reason, delay)
    WHERE job.job_id = untried.job_id AND job.claim = untried.claim AND job.claimed_by = untried.claimed_by
    RETURNING untried.ends_as, untried.delay
), told AS (
    SELECT pg_notify('aftercommit_jobs', '') WHERE EXISTS (SELECT FROM settled WHERE ends_as IS NULL AND delay IS NULL)
)
SELECT count(*) FROM settled, (SELECT count(*) FROM told) AS notified";

/// Of settlements that did not all match their rows, those whose claim was taken away. The others were written before,
/// and only the answer was lost: $1 jobs, $2 claims.
pub const FIND_FENCED: &str = "
SELECT settled.job_id
FROM unnest($1::uuid[], $2::bigint[]) AS settled (job_id, claim)
WHERE NOT EXISTS (SELECT FROM aftercommit.jobs AS job
                  WHERE job.job_id = settled.job_id AND job.claim = settled.claim)
   OR EXISTS     (SELECT FROM aftercommit.job_attempts AS attempt
                  WHERE attempt.job_id = settled.job_id AND attempt.claim = settled.claim AND attempt.outcome = 'crashed')";

/// What `job_attempts.reply` holds at most, in bytes.
const REPLY_BYTES: usize = 1024;

/// The end of one claim, to be written.
#[derive(Clone, Debug)]
pub struct Settlement {
    job_id: Uuid,
    claim: i64,
    claimed_by: Uuid,
    has_failed_before: bool,
    decision: Decision,
    duration: Duration,
}

impl Settlement {
    /// Ends the claim on a job. `duration` is how long the try took.
    pub fn new(job: &ClaimedJob, decision: Decision, duration: Duration) -> Self {
        let ClaimedJob { job_id, claim, claimed_by, .. } = *job;
        Self { job_id, claim, claimed_by, has_failed_before: job.retry_interval.is_some(), decision, duration }
    }

    /// Hands back a claim of which nothing is known but its number.
    pub fn hand_back_unknown(job_id: Uuid, claim: i64, claimed_by: Uuid) -> Self {
        let decision = Decision::HandBack { reason: None };
        Self { job_id, claim, claimed_by, has_failed_before: false, decision, duration: Duration::ZERO }
    }

    /// Which claim it ends.
    pub fn claim(&self) -> (Uuid, i64) {
        (self.job_id, self.claim)
    }

    fn failure(&self) -> Option<&Failure> {
        match &self.decision {
            Decision::Retry { failure, .. } | Decision::Dead(failure) => Some(failure),
            Decision::Succeeded
            | Decision::Expired
            | Decision::CalledOff(_)
            | Decision::HandBack { .. }
            | Decision::Later(_) => None,
        }
    }
}

/// The fences of settlements, as columns.
#[derive(Debug, Default)]
pub struct Fences {
    pub(super) jobs: Vec<Uuid>,
    pub(super) claims: Vec<i64>,
    pub(super) processes: Vec<Uuid>,
}

impl Fences {
    fn of(settlements: &[&Settlement]) -> Self {
        let mut fences = Self::default();
        for settlement in settlements {
            fences.jobs.push(settlement.job_id);
            fences.claims.push(settlement.claim);
            fences.processes.push(settlement.claimed_by);
        }
        fences
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn claims(&self) -> impl Iterator<Item = (Uuid, i64)> {
        self.jobs.iter().copied().zip(self.claims.iter().copied())
    }
}

/// Settlements by the statement that writes them.
pub struct Groups<'a> {
    /// What was done. A claim writes it as well.
    pub done: Fences,
    failed: Vec<&'a Settlement>,
    untried: Vec<&'a Settlement>,
}

impl<'a> Groups<'a> {
    /// Sorts them.
    pub fn of(settlements: &'a [Settlement]) -> Self {
        let (mut done, mut failed, mut untried) = (vec![], vec![], vec![]);
        for settlement in settlements {
            match settlement.decision {
                Decision::Succeeded => done.push(settlement),
                Decision::Retry { .. } | Decision::Dead(_) => failed.push(settlement),
                Decision::Expired | Decision::CalledOff(_) | Decision::HandBack { .. } | Decision::Later(_) => {
                    untried.push(settlement);
                }
            }
        }
        Self { done: Fences::of(&done), failed, untried }
    }
}

/// Settlements that did not match their rows: their claims were taken away, or they had been written before.
#[derive(Debug, Default)]
pub struct Missed(Vec<(Uuid, i64)>);

impl Missed {
    /// So many of a group were written; if not all, any may have missed.
    pub fn unless_all(&mut self, written: usize, group: &Fences) {
        if written != group.len() {
            self.0.extend(group.claims());
        }
    }
}

/// Writes what was done.
///
/// # Errors
/// When the database does not answer; then write it again.
pub async fn settle_done(session: &Session, done: &Fences) -> Result<Missed, Error> {
    let Fences { jobs, claims, processes } = done;
    let written = in_time(session.client.execute(&session.settle_succeeded, &[jobs, claims, processes])).await?;
    let mut missed = Missed::default();
    missed.unless_all(usize::try_from(written).unwrap_or(usize::MAX), done);
    Ok(missed)
}

/// Writes everything else; each of the two groups is a transaction of its own.
///
/// # Errors
/// When the database does not answer; then write all of it again.
pub async fn settle_others(session: &Session, groups: &Groups<'_>) -> Result<Missed, Error> {
    let mut missed = Missed::default();
    if !groups.failed.is_empty() {
        let written = write_failed(session, &groups.failed).await?;
        missed.unless_all(usize::try_from(written).unwrap_or(usize::MAX), &Fences::of(&groups.failed));
    }
    if !groups.untried.is_empty() {
        let written = write_untried(session, &groups.untried).await?;
        missed.unless_all(usize::try_from(written).unwrap_or(usize::MAX), &Fences::of(&groups.untried));
    }
    Ok(missed)
}

/// The jobs among these whose claim had been taken away before: somebody else has them now, or had.
///
/// # Errors
/// When the database does not answer.
pub async fn fenced(session: &Session, missed: &[Missed]) -> Result<Vec<Uuid>, Error> {
    let (jobs, claims): (Vec<_>, Vec<_>) = missed.iter().flat_map(|missed| &missed.0).copied().unzip();
    if jobs.is_empty() {
        return Ok(vec![]);
    }
    let rows = in_time(session.client.query(&session.find_fenced, &[&jobs, &claims])).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn write_failed(session: &Session, settlements: &[&Settlement]) -> Result<i64, Error> {
    let Fences { jobs, claims, processes } = Fences::of(settlements);
    let column = |of: &dyn Fn(&Settlement) -> Option<f64>| settlements.iter().map(|s| of(s)).collect::<Vec<_>>();
    let states: Vec<_> = settlements.iter().map(|s| s.decision.state(s.has_failed_before).as_str()).collect();
    let delays = column(&|s| match &s.decision {
        Decision::Retry { delay, .. } => Some(delay.as_secs_f64()),
        _ => None,
    });
    let intervals = column(&|s| match &s.decision {
        Decision::Retry { interval, .. } => Some(*interval),
        _ => None,
    });
    let outcomes: Vec<_> = settlements.iter().map(|s| s.decision.attempt_outcome()).collect();
    let phases: Vec<_> = settlements.iter().map(|s| s.failure().and_then(|f| f.phase)).collect();
    let codes: Vec<_> = settlements.iter().map(|s| s.failure().and_then(|f| f.code)).collect();
    let enhanced: Vec<_> = settlements.iter().map(|s| s.failure().and_then(|f| f.enhanced_code.as_deref())).collect();
    let reply = |s: &&Settlement| s.failure()?.reply.as_deref().map(|said| cut(&redact(said), REPLY_BYTES).to_owned());
    let replies: Vec<_> = settlements.iter().map(reply).collect();
    let errors: Vec<_> = settlements.iter().map(|s| s.failure().map(|f| redact(&f.error))).collect();
    let durations = column(&|s| Some(s.duration.as_secs_f64()));
    let row = in_time(session.client.query_one(
        &session.settle_failed,
        &[
            &jobs, &claims, &processes, &states, &delays, &intervals, &outcomes, &phases, &codes, &enhanced, &replies,
            &errors, &durations,
        ],
    ))
    .await?;
    Ok(row.try_get(0)?)
}

async fn write_untried(session: &Session, settlements: &[&Settlement]) -> Result<i64, Error> {
    let Fences { jobs, claims, processes } = Fences::of(settlements);
    let ends_as: Vec<_> = settlements
        .iter()
        .map(|s| Some(s.decision.state(s.has_failed_before)).filter(|state| state.is_final()).map(JobState::as_str))
        .collect();
    let reasons: Vec<_> = settlements
        .iter()
        .map(|s| match &s.decision {
            Decision::HandBack { reason } => reason.as_deref().map(redact),
            Decision::CalledOff(reason) => Some(redact(reason)),
            Decision::Expired => Some("expired before it could be done".to_owned()),
            _ => None,
        })
        .collect();
    let delays: Vec<_> = settlements
        .iter()
        .map(|s| match s.decision {
            Decision::Later(delay) => Some(delay.as_secs_f64()),
            _ => None,
        })
        .collect();
    let row = in_time(
        session.client.query_one(&session.settle_untried, &[&jobs, &claims, &processes, &ends_as, &reasons, &delays]),
    )
    .await?;
    Ok(row.try_get(0)?)
}
