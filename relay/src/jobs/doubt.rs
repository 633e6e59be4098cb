//! Doubt, written down before it can arise.
//!
//! A try that was interrupted after its point of no return may have been done or not, and is tried again: a job done
//! twice is better than one never done. A kind that sees it the other way has its row marked first
//! ([`Lease::doubt_from_here`](super::lease::Lease::doubt_from_here)). The mark is on disk before the kind goes on, so it
//! speaks for a process that was killed as well: whoever takes over its claims holds such a job as dead, in doubt, for a
//! person to decide.
//!
//! Tries ask at the desk; the engine, which has the connection, writes all marks asked for in one statement. Writing one
//! twice is harmless.

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::lease::LeaseLost;
use super::session::{Session, in_time};
use crate::postgres::Error;

/// Marks running jobs as in doubt from here, each fenced on its claim: $1 jobs, $2 claims, $3 processes.
pub const MARK: &str = "
UPDATE aftercommit.jobs AS job
SET in_doubt = true
FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS begun (job_id, claim, claimed_by)
WHERE job.job_id = begun.job_id AND job.claim = begun.claim AND job.claimed_by = begun.claimed_by
RETURNING job.job_id, job.claim";

/// A claim to be marked, and who waits for it.
#[derive(Debug)]
struct Request {
    job_id: Uuid,
    claim: i64,
    claimed_by: Uuid,
    answer: oneshot::Sender<Result<(), LeaseLost>>,
}

/// Where marks are asked for and written.
#[derive(Debug)]
pub struct Desk {
    bell: Counter,
    asked: mpsc::UnboundedReceiver<Request>,
    waiting: Vec<Request>,
}

/// The side of the desk on which one asks.
#[derive(Clone, Debug)]
pub struct Counter(mpsc::UnboundedSender<Request>);

impl Default for Desk {
    fn default() -> Self {
        let (bell, asked) = mpsc::unbounded_channel();
        Self { bell: Counter(bell), asked, waiting: Vec::new() }
    }
}

impl Counter {
    /// Returns once the mark is on disk.
    pub(super) async fn mark(&self, (job_id, claim, claimed_by): (Uuid, i64, Uuid)) -> Result<(), LeaseLost> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Request { job_id, claim, claimed_by, answer }).map_err(|_| LeaseLost)?;
        answered.await.unwrap_or(Err(LeaseLost))
    }
}

impl Desk {
    /// For whoever asks.
    pub fn counter(&self) -> Counter {
        self.bell.clone()
    }

    /// Waits until somebody asks.
    pub async fn asked(&mut self) {
        if self.waiting.is_empty()
            && let Some(request) = self.asked.recv().await
        {
            self.waiting.push(request);
        }
    }

    /// Writes what was asked for, and answers. Says whether that was anything.
    ///
    /// # Errors
    /// When the database does not answer: the requests wait for the next time.
    pub async fn serve(&mut self, session: &Session) -> Result<bool, Error> {
        while let Ok(request) = self.asked.try_recv() {
            self.waiting.push(request);
        }
        // Whoever was cut off meanwhile does not need it any more.
        self.waiting.retain(|request| !request.answer.is_closed());
        if self.waiting.is_empty() {
            return Ok(false);
        }
        let column = |of: &dyn Fn(&Request) -> Uuid| self.waiting.iter().map(of).collect::<Vec<_>>();
        let (jobs, processes) = (column(&|r| r.job_id), column(&|r| r.claimed_by));
        let claims: Vec<_> = self.waiting.iter().map(|r| r.claim).collect();
        let rows = in_time(session.client.query(&session.mark_in_doubt, &[&jobs, &claims, &processes])).await?;
        let marked =
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<Vec<_>, Error>>()?;
        for Request { job_id, claim, answer, .. } in self.waiting.drain(..) {
            let _ = answer.send(if marked.contains(&(job_id, claim)) { Ok(()) } else { Err(LeaseLost) });
        }
        Ok(true)
    }
}
