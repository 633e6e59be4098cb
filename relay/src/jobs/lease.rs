//! A process's lease on its claims, and a job's share of it.
//!
//! A process counts its lease from *before* the statement that bumped its counter was sent; a rescuer counts a whole
//! lease from *after* it saw that counter (`rescue`). So the lease is over here before anybody takes the claims,
//! whatever the clocks say. It is read from a clock that goes on while the machine sleeps.
//!
//! Nothing here does I/O: renewing is a statement (`process`), and so are claims.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::claim::ClaimedJob;
use super::doubt::Counter;

/// The part of the lease that its holder does not use: what is on its way when the lease ends has that long to arrive.
const UNUSED_PART: u32 = 8;

/// Time since the machine started, its sleep included. Not comparable between machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boot(u64);

impl Boot {
    /// Now.
    #[cfg(target_os = "linux")]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// Now. Elsewhere than on Linux, by the monotonic clock.
    #[cfg(not(target_os = "linux"))]
    pub fn now() -> Self {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        Self(u64::try_from(START.get_or_init(std::time::Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX - 1) + 1)
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time since `earlier`; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The lease of one process identity on everything that it has claimed.
#[derive(Debug)]
pub struct ProcessLease {
    length: Duration,
    /// In the time of [`Boot`]; zero before the first claim.
    until: AtomicU64,
    revoked: AtomicBool,
}

impl ProcessLease {
    /// A lease that is not held yet.
    pub fn new(length: Duration) -> Arc<Self> {
        Arc::new(Self { length, until: AtomicU64::new(0), revoked: AtomicBool::new(false) })
    }

    /// How long it is from each renewal on.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The counter was bumped by a statement that was sent at this time.
    pub fn extend(&self, sent: Boot) {
        let until = sent.plus(self.length - self.length / UNUSED_PART);
        self.until.fetch_max(until.0, Ordering::AcqRel);
    }

    /// The claims are gone, or are about to be given back: nothing may begin under this lease any more.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// Whether the claims are certainly still this process's.
    pub fn is_held(&self) -> bool {
        self.is_held_at(Boot::now())
    }

    fn is_held_at(&self, now: Boot) -> bool {
        !self.revoked.load(Ordering::Acquire) && now.0 < self.until.load(Ordering::Acquire)
    }
}

/// The lease has ended, or may have: somebody else may be doing this job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease on the job ended before it could be done")]
pub struct LeaseLost;

/// One job's share of its process's lease, and the notes that its point of no return was passed.
#[derive(Clone, Debug)]
pub struct Lease {
    process: Arc<ProcessLease>,
    noted: Arc<Noted>,
    row: Option<(Counter, (Uuid, i64, Uuid))>,
}

#[derive(Debug, Default)]
struct Noted {
    begun: AtomicBool,
    in_row: AtomicBool,
}

impl Lease {
    /// A share without a row, for tests of kinds: marks are granted and written nowhere.
    pub fn new(process: Arc<ProcessLease>) -> Self {
        Self { process, noted: Arc::default(), row: None }
    }

    /// A share for one claim.
    pub fn of(job: &ClaimedJob, process: Arc<ProcessLease>, counter: Counter) -> Self {
        let row = Some((counter, (job.job_id, job.claim, job.claimed_by)));
        Self { process, noted: Arc::default(), row }
    }

    /// Whether the job is still this process's to do. Ask before each step that costs something.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<(), LeaseLost> {
        if self.process.is_held() { Ok(()) } else { Err(LeaseLost) }
    }

    /// The same question right before the point of no return, and a note that it was passed: from here on, an
    /// interrupted try is in doubt.
    ///
    /// # Errors
    /// When the job is not this process's any more. Then nothing may be done.
    pub fn begin(&self) -> Result<(), LeaseLost> {
        // Noted first: were the try cut off in between, doubt is the safe thing to record.
        self.noted.begun.store(true, Ordering::Release);
        self.check().inspect_err(|LeaseLost| self.noted.begun.store(false, Ordering::Release))
    }

    /// For kinds that would rather hold a job than do it twice: returns once the job's row says, on disk, that from here
    /// on it may have been done. From then on whatever interrupts the try (a kill, a panic, an answer that never comes)
    /// makes the job dead and `in_doubt`, for a person to decide; an answer that came counts as ever. It costs a round trip
    /// and a commit, shared by all tries that ask at the same time.
    ///
    /// It does not replace [`Lease::begin`], which is still to be asked last:
    ///
    /// ```ignore
    /// lease.doubt_from_here().await?;   // before DATA, when the mail's policy is to hold
    /// // … DATA, 354, body …
    /// lease.begin()?;
    /// // … final dot …
    /// ```
    ///
    /// # Errors
    /// When the job is not this process's any more. Then nothing may be done.
    pub async fn doubt_from_here(&self) -> Result<(), LeaseLost> {
        if let Some((counter, claim)) = &self.row {
            self.check()?;
            counter.mark(*claim).await?;
        }
        self.noted.in_row.store(true, Ordering::Release);
        self.check()
    }

    /// Whether the row was marked: an interrupted try is held.
    pub fn is_marked(&self) -> bool {
        self.noted.in_row.load(Ordering::Acquire)
    }

    /// Whether the point of no return was passed.
    pub fn has_begun(&self) -> bool {
        self.noted.begun.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_counts_from_before_the_statement_was_sent_and_stops_early() {
        let lease = ProcessLease::new(Duration::from_secs(8));
        let sent = Boot(1_000_000_000_000);
        assert!(!lease.is_held_at(sent), "before the first claim");
        lease.extend(sent);
        assert!(lease.is_held_at(sent.plus(Duration::from_millis(6_999))));
        assert!(!lease.is_held_at(sent.plus(Duration::from_secs(7))));
        lease.extend(Boot(sent.0 - 5));
        assert!(lease.is_held_at(sent.plus(Duration::from_millis(6_999))), "an older statement shortens nothing");
        lease.revoke();
        lease.extend(sent);
        assert!(!lease.is_held_at(sent), "revoked is for good");
    }

    #[test]
    fn nothing_begins_without_the_lease() {
        let process = ProcessLease::new(Duration::from_secs(60));
        let lease = Lease::new(process.clone());
        assert_eq!(lease.begin(), Err(LeaseLost));
        assert!(!lease.has_begun());
        process.extend(Boot::now());
        assert_eq!(lease.begin(), Ok(()));
        assert!(lease.has_begun() && !Lease::new(process).has_begun());
    }

    #[tokio::test]
    async fn boot_time_passes() {
        let earlier = Boot::now();
        assert!(earlier.0 > 0);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(Boot::now().since(earlier) >= Duration::from_millis(2));
    }
}
