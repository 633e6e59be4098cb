//! Tries under way: each in a task of its own, so that a panic is that job's failure and nobody else's.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};

use super::{ClaimedJob, Failure, Kind, Lease, Outcome};

/// A try under way.
struct Flight {
    line: usize,
    job: Arc<ClaimedJob>,
    lease: Lease,
    began: Instant,
}

/// A try that ended.
pub(super) struct Ended {
    /// Whose it was.
    pub(super) line: usize,
    /// The job.
    pub(super) job: Arc<ClaimedJob>,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) duration: Duration,
    /// Whether its row was marked as in doubt before.
    pub(super) marked: bool,
}

/// All tries under way, and those that ended and were not looked at yet.
#[derive(Default)]
pub(super) struct Work {
    tasks: JoinSet<Outcome>,
    flights: HashMap<Id, Flight>,
    ended: Vec<Ended>,
}

impl Work {
    /// Begins a try.
    pub(super) fn begin(&mut self, line: usize, kind: &Arc<dyn Kind>, job: ClaimedJob, lease: Lease) {
        let job = Arc::new(job);
        let (kind, task_job, task_lease) = (kind.clone(), job.clone(), lease.clone());
        let task = self.tasks.spawn(async move { kind.perform(&task_job, &task_lease).await });
        self.flights.insert(task.id(), Flight { line, job, lease, began: Instant::now() });
    }

    /// The tries that ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        while let Some(result) = self.tasks.try_join_next_with_id() {
            self.note(result);
        }
        std::mem::take(&mut self.ended)
    }

    /// Waits until one ends; for ever when there is none.
    pub(super) async fn wait(&mut self) {
        if !self.ended.is_empty() {
            return;
        }
        match self.tasks.join_next_with_id().await {
            Some(result) => self.note(result),
            None => std::future::pending().await,
        }
    }

    /// Cuts off whatever is still under way.
    pub(super) fn cut_off(&mut self) {
        self.tasks.abort_all();
    }

    /// How many are under way or not looked at yet.
    pub(super) fn len(&self) -> usize {
        self.flights.len() + self.ended.len()
    }

    /// The claims that tries are under way for.
    pub(super) fn claims(&self) -> impl Iterator<Item = (uuid::Uuid, i64)> {
        let flying = self.flights.values().map(|flight| &flight.job);
        flying.chain(self.ended.iter().map(|ended| &ended.job)).map(|job| (job.job_id, job.claim))
    }

    fn note(&mut self, result: Result<(Id, Outcome), JoinError>) {
        let id = match &result {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        // Every task was entered when it was begun.
        let Some(Flight { line, job, lease, began }) = self.flights.remove(&id) else { return };
        let outcome = match result {
            Ok((_, outcome)) => outcome,
            Err(error) => interrupted(error, lease.has_begun()),
        };
        self.ended.push(Ended { line, job, outcome, duration: began.elapsed(), marked: lease.is_marked() });
    }
}

/// What a try came to that panicked or was cut off.
fn interrupted(error: JoinError, begun: bool) -> Outcome {
    let text = match error.try_into_panic() {
        Ok(panic) => format!("panicked: {}", message(panic.as_ref())),
        Err(_) if !begun => return Outcome::LeaseLost,
        Err(_) => "cut off by the end of the process before the answer came".to_owned(),
    };
    let failure = if begun { Failure::in_doubt(text) } else { Failure::transient(text) };
    Outcome::Failed(Failure { reached: begun, ..failure })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::lease::{Boot, ProcessLease};
    use crate::jobs::transition::Meaning;

    /// Does what its job's `args` say.
    struct Planted;

    #[async_trait::async_trait]
    impl Kind for Planted {
        fn name(&self) -> &'static str {
            "planted"
        }

        fn concurrency(&self) -> usize {
            1
        }

        async fn perform(&self, job: &ClaimedJob, lease: &Lease) -> Outcome {
            if job.args.contains("begin") {
                lease.begin().expect("held");
            }
            assert!(!job.args.contains("panic"), "planted");
            if job.args.contains("hang") {
                std::future::pending::<()>().await;
            }
            Outcome::Succeeded
        }
    }

    async fn outcome_of(args: &str) -> Outcome {
        let process = ProcessLease::new(Duration::from_secs(60));
        process.extend(Boot::now());
        let kind: Arc<dyn Kind> = Arc::new(Planted);
        let mut work = Work::default();
        work.begin(0, &kind, ClaimedJob::for_tests(args), Lease::new(process));
        if args.contains("hang") {
            tokio::task::yield_now().await;
            work.cut_off();
        }
        work.wait().await;
        assert_eq!(work.len(), 1);
        let ended = work.take_ended().remove(0);
        assert_eq!(work.len(), 0);
        ended.outcome
    }

    #[tokio::test]
    async fn every_way_to_end_is_an_outcome() {
        assert_eq!(outcome_of("").await, Outcome::Succeeded);
        let meaning = |outcome: Outcome| match outcome {
            Outcome::Failed(failure) => failure.meaning,
            other => panic!("{other:?}"),
        };
        assert_eq!(meaning(outcome_of("panic").await), Meaning::Transient { after: None });
        assert_eq!(meaning(outcome_of("begin panic").await), Meaning::InDoubt);
        assert_eq!(meaning(outcome_of("begin hang").await), Meaning::InDoubt);
        assert_eq!(outcome_of("hang").await, Outcome::LeaseLost, "nothing was done: handed back");
    }
}
