//! Tries under way.
//!
//! Each is in a task of its own, so that a panic is that job's failure and nobody else's. A task costs more than a try that
//! ends at once, so tries of a kind that is known to be quick are made in place: begun by the engine itself, and given a
//! task only if they come to wait for something. A kind is quick as long as its tries are.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::task::{Id, JoinError, JoinSet};

use super::{ClaimedJob, Failure, Kind, Lease, Outcome, told};

/// A try that takes no longer than this may be made in place.
const QUICK: Duration = Duration::from_micros(20);

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

/// What a try says when it is over, and how long it ran.
type Try = Pin<Box<dyn Future<Output = (Outcome, Duration)> + Send>>;

/// All tries under way, and those that ended and were not looked at yet.
#[derive(Default)]
pub(super) struct Work {
    tasks: JoinSet<(Outcome, Duration)>,
    flights: HashMap<Id, Flight>,
    ended: Vec<Ended>,
    /// By line: whether its last try was quick.
    quick: Vec<bool>,
}

impl Work {
    /// Begins a try. Returns its end, if it ended at once.
    pub(super) fn begin(&mut self, line: usize, kind: &Arc<dyn Kind>, job: ClaimedJob, lease: Lease) -> Option<Ended> {
        let began = Instant::now();
        let job = Arc::new(job);
        let (kind, task_job, task_lease) = (kind.clone(), job.clone(), lease.clone());
        let mut attempt: Try = Box::pin(async move {
            let began = Instant::now();
            let span = told::span(&task_job);
            let outcome = span.run(kind.perform(&task_job, &task_lease)).await;
            told::end(&span, &outcome);
            (outcome, began.elapsed())
        });
        if self.quick.get(line).copied().unwrap_or_default() {
            let polled = in_place(&mut attempt);
            let duration = began.elapsed();
            self.quick[line] = duration <= QUICK && polled.is_ready();
            if let Poll::Ready(result) = polled {
                let (outcome, duration) =
                    result.unwrap_or_else(|panic| (panicked(panic.as_ref(), lease.has_begun()), duration));
                return Some(Ended { line, job, outcome, duration, marked: lease.is_marked() });
            }
        }
        let task = self.tasks.spawn(attempt);
        self.flights.insert(task.id(), Flight { line, job, lease, began });
        None
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

    fn note(&mut self, result: Result<(Id, (Outcome, Duration)), JoinError>) {
        let id = match &result {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        // Every task was entered when it was begun.
        let Some(Flight { line, job, lease, began }) = self.flights.remove(&id) else { return };
        let (outcome, duration) = match result {
            Ok((_, ended)) => ended,
            Err(error) => (interrupted(error, lease.has_begun()), began.elapsed()),
        };
        if self.quick.len() <= line {
            self.quick.resize(line + 1, false);
        }
        self.quick[line] = duration <= QUICK;
        self.ended.push(Ended { line, job, outcome, duration, marked: lease.is_marked() });
    }
}

/// Runs a try as far as it comes without waiting. Nobody is told when it could go on: its task asks at once.
fn in_place(attempt: &mut Try) -> Poll<Result<(Outcome, Duration), Box<dyn Any + Send>>> {
    let mut context = Context::from_waker(Waker::noop());
    AssertUnwindSafe(attempt).catch_unwind().poll_unpin(&mut context)
}

/// What a try came to that panicked or was cut off.
fn interrupted(error: JoinError, begun: bool) -> Outcome {
    match error.try_into_panic() {
        Ok(panic) => panicked(panic.as_ref(), begun),
        Err(_) if !begun => Outcome::LeaseLost,
        Err(_) => Outcome::Failed(Failure::in_doubt("cut off by the end of the process before the answer came")),
    }
}

fn panicked(panic: &(dyn Any + Send), begun: bool) -> Outcome {
    let text = format!("panicked: {}", message(panic));
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
        assert!(
            work.begin(0, &kind, ClaimedJob::for_tests(args), Lease::new(process)).is_none(),
            "not known to be quick"
        );
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

    /// The same of a kind that was quick so far.
    async fn outcome_in_place(args: &str) -> Option<Outcome> {
        let process = ProcessLease::new(Duration::from_secs(60));
        process.extend(Boot::now());
        let kind: Arc<dyn Kind> = Arc::new(Planted);
        let mut work = Work { quick: vec![true], ..Work::default() };
        let ended = work.begin(0, &kind, ClaimedJob::for_tests(args), Lease::new(process));
        assert_eq!(work.len(), usize::from(ended.is_none()), "what waits is under way in a task");
        ended.map(|ended| ended.outcome)
    }

    #[tokio::test]
    async fn quick_tries_end_in_place_and_those_that_wait_get_a_task() {
        assert_eq!(outcome_in_place("").await, Some(Outcome::Succeeded));
        assert_eq!(outcome_in_place("hang").await, None);
        for (args, meaning) in [("panic", Meaning::Transient { after: None }), ("begin panic", Meaning::InDoubt)] {
            let Some(Outcome::Failed(failure)) = outcome_in_place(args).await else { panic!("{args}") };
            assert_eq!(failure.meaning, meaning);
        }
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
