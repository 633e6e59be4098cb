//! What a person may do to jobs: retry, and cancel. Batch by batch, each with its line of the audit trail.
//!
//! A retry gives a job that ended without success all its attempts anew; one that waits for its next try is only brought
//! forward. Its history stays, and so does a time after which it is too late, unless the job expired: whoever retries
//! that one wants it done all the same. A ghost, whose event was lost with a part of history, is not retried.

use serde_json::json;
use shared::redact::redact;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::audit::{self, Action};
use super::filter::{JobParameters, matches_job_filter};
use super::{By, JobFilter};
use crate::databases::PATIENCE;
use crate::jobs::JobState;
use crate::jobs::session::CHANNEL;
use crate::jobs::store::GHOST;
use crate::postgres::{Error, within};

/// Jobs changed in one transaction. Their rows are locked for so long, and claims pass over them.
const BATCH: i64 = 500;

/// What can be done to a job by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Try it again, with all attempts anew.
    Retry,
    /// Call it off.
    Cancel,
}

/// How a change went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Jobs that were changed.
    pub jobs: u64,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
}

impl Change {
    /// What it is called.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }

    /// The states of jobs that it can be done to.
    pub fn takes(self) -> Vec<JobState> {
        JobState::ALL.into_iter().filter(|state| self.refusal(*state).is_none()).collect()
    }

    /// Why it can't be done to a job in this state, if it can't.
    pub fn refusal(self, state: JobState) -> Option<&'static str> {
        match (self, state) {
            (_, JobState::Running) => Some("a process has it in hand; wait until it ends"),
            (Self::Retry, JobState::Available) => Some("it is waiting to be tried already"),
            (Self::Retry, JobState::Succeeded) => Some("it is done; `relay replay --again` sends anew"),
            // Brought forward, which is no transition.
            (Self::Retry, JobState::Retrying) => None,
            (Self::Retry, state) => (!state.may_become(JobState::Available)).then_some("it can't be tried again"),
            (Self::Cancel, state) => (!state.may_become(JobState::Cancelled)).then_some("it is over"),
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::Retry => RETRY,
            Self::Cancel => CANCEL,
        }
    }
}

/// The next batch of chosen jobs, in states that the change takes ($12), behind one ($13). A row that others hold is
/// waited for and looked at anew.
macro_rules! change {
    ($set:literal) => {
        concat!(
            "
    WITH chosen AS MATERIALIZED (
        SELECT job_id
          FROM jobs
         WHERE ",
            matches_job_filter!(),
            "
           AND state = ANY ($12)
           AND NOT (state = 'cancelled' AND coalesce(last_error, '') = $15)
           AND ($13::uuid IS NULL OR job_id > $13)
         ORDER BY job_id
         LIMIT $14
           FOR UPDATE
    )
    UPDATE jobs
       SET ",
            $set,
            "
     WHERE job_id = ANY (ARRAY(SELECT job_id FROM chosen))
    RETURNING job_id"
        )
    };
}

/// `retry`: gives jobs that ended all their attempts anew, and brings forward those that wait for the next one.
const RETRY: &str = change!(
    "state          = CASE state WHEN 'retrying' THEN state ELSE 'available' END,
           attempt        = CASE state WHEN 'retrying' THEN attempt ELSE 0 END,
           crash_count    = CASE state WHEN 'retrying' THEN crash_count ELSE 0 END,
           retry_interval = CASE state WHEN 'retrying' THEN retry_interval END,
           in_doubt       = CASE state WHEN 'retrying' THEN in_doubt ELSE false END,
           expires_at     = CASE state WHEN 'expired' THEN NULL ELSE expires_at END,
           run_at         = now(),
           finished_at    = NULL"
);

/// `cancel`: calls jobs off; $16 says by whom and why.
const CANCEL: &str = change!(
    "state       = 'cancelled',
           finished_at = now(),
           last_error  = $16"
);

/// Does a change to all chosen jobs that it may be done to. `progress` is told how many were changed so far.
///
/// # Errors
/// When the database does not answer; what was changed before stays, and the audit trail says how much that was.
pub async fn change(
    client: &mut Client,
    change: Change,
    filter: &JobFilter,
    by: By<'_>,
    stop: &CancellationToken,
    mut progress: impl FnMut(u64),
) -> Result<Changed, Error> {
    let action = format!("{} jobs", change.verb());
    let action = Action { by, action: &action, filter: filter.to_json() };
    let words = words(by);
    let of = filter.parameters();
    let mut changed = Changed::default();
    let (mut after, mut action_id) = (None, None);
    loop {
        let batch = Batch { change, of: &of, after, words: &words };
        let (jobs, last) = within(PATIENCE, write(client, &batch, &action, &mut action_id)).await?;
        changed.jobs += jobs.len() as u64;
        if !jobs.is_empty() && change == Change::Retry {
            // Outside of the transaction, where it would serialise commits.
            within(PATIENCE, client.batch_execute(&format!("NOTIFY {CHANNEL}"))).await?;
        }
        progress(changed.jobs);
        if last {
            return Ok(changed);
        }
        after = jobs.into_iter().max();
        if stop.is_cancelled() {
            changed.interrupted = true;
            return Ok(changed);
        }
    }
}

/// One transaction of a change.
struct Batch<'a> {
    change: Change,
    of: &'a JobParameters<'a>,
    after: Option<Uuid>,
    words: &'a str,
}

/// Changes one batch, and writes it down. Returns the jobs, and whether these were the last.
async fn write(
    client: &mut Client,
    batch: &Batch<'_>,
    action: &Action<'_>,
    action_id: &mut Option<i64>,
) -> Result<(Vec<Uuid>, bool), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let jobs = batch.execute(&transaction).await?;
    let (count, last) = (jobs.len() as u64, (jobs.len() as i64) < BATCH);
    match (*action_id, last) {
        (None, true) if count == 0 => {}
        (None, true) => drop(action.record(&transaction, count).await?),
        (None, false) => *action_id = Some(action.begin(&transaction, count).await?),
        (Some(id), _) => audit::add(&transaction, id, count, last).await?,
    }
    transaction.commit().await?;
    Ok((jobs, last))
}

impl Batch<'_> {
    async fn execute(&self, transaction: &Transaction<'_>) -> Result<Vec<Uuid>, tokio_postgres::Error> {
        let states: Vec<&str> = self.change.takes().into_iter().map(JobState::as_str).collect();
        let mut parameters = self.of.list();
        parameters.extend([
            (&states as _, Type::TEXT_ARRAY),
            (&self.after as _, Type::UUID),
            (&BATCH as _, Type::INT8),
            (&GHOST as _, Type::TEXT),
        ]);
        if self.change == Change::Cancel {
            parameters.push((&self.words, Type::TEXT));
        }
        let rows = transaction.query_typed(self.change.statement(), &parameters).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

/// What a cancelled job's row says.
fn words(by: By<'_>) -> String {
    let why = by.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    redact(&format!("cancelled by {}{why}", by.operator.name))
}

/// What was done, for programs.
impl Changed {
    /// As JSON.
    pub fn to_json(self) -> serde_json::Value {
        json!({"changed": self.jobs, "interrupted": self.interrupted})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_legal_transitions_are_made() {
        use JobState::{Available, Cancelled, Dead, Expired, Retrying, Running, Succeeded};
        assert_eq!(Change::Retry.takes(), [Retrying, Dead, Cancelled, Expired]);
        assert_eq!(Change::Cancel.takes(), [Available, Retrying, Dead]);
        for state in Change::Retry.takes().into_iter().filter(|state| *state != Retrying) {
            assert!(state.may_become(Available), "{state:?}");
        }
        for state in Change::Cancel.takes() {
            assert!(state.may_become(Cancelled), "{state:?}");
        }
        for change in [Change::Retry, Change::Cancel] {
            assert!(change.refusal(Running).is_some() && change.refusal(Succeeded).is_some());
        }
    }
}
