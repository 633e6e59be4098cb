//! Jobs: work to do outside a transaction, with its retry state in the row.
//!
//! Handlers return [`Job`]s; dispatch stores them under computed ids; deliver performs them. What a job's kind means is
//! known only to the kind's own module.

pub mod id;
pub mod transition;
pub mod doubt;
pub mod lease;
pub mod session;
pub mod process;
mod json;
mod pg_time;
pub mod low_water;
pub mod rate;
pub mod claim;
pub mod settle;
pub mod rescue;
pub mod store;
pub mod copy;

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

pub use crate::retry::RetryPolicy;

/// What a handler asks for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job's own name within its handler: durable, and the only thing that tells two jobs of one handler and event
    /// apart. Not an index: a deploy may reorder.
    pub name: Cow<'static, str>,
    /// Which kind of work it is, such as `email`.
    pub kind: &'static str,
    /// What the kind needs, as JSON.
    pub args: Box<RawValue>,
    /// How often and when it is tried again.
    pub retry: RetryPolicy,
    /// Counted from the event's `occurred_at`: later than that, it is dropped as expired.
    pub expires_after: Option<Duration>,
}

impl Job {
    /// A job with the default retry policy and no expiry.
    ///
    /// # Errors
    /// When the arguments can't be written as JSON.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        kind: &'static str,
        args: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            name: name.into(),
            kind,
            args: serde_json::value::to_raw_value(args)?,
            retry: RetryPolicy::default(),
            expires_after: None,
        })
    }

    /// Whether its row will be taken: what PostgreSQL can keep, and what the table's own checks ask for.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Unfit> {
        let fits = |text: &str, most: usize| (1..=most).contains(&text.len()) && !text.contains('\0');
        if !fits(&self.name, 200) {
            Err(Unfit::Name)
        } else if !fits(self.kind, 100) {
            Err(Unfit::Kind)
        } else if !json::fits_jsonb(self.args.get()) {
            Err(Unfit::Args)
        } else if !self.retry.is_sound() {
            Err(Unfit::Retry)
        } else {
            Ok(())
        }
    }

    /// The same job, dropped as expired when it could not be done within this time of the event.
    #[must_use]
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.expires_after = Some(time);
        self
    }

    /// The same job under another retry policy.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }
}

/// Why a job's row would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The name.
    #[error("its name takes 1 to 200 bytes, and no NUL")]
    Name,
    /// The kind.
    #[error("its kind takes 1 to 100 bytes, and no NUL")]
    Kind,
    /// What text may hold as JSON, and `jsonb` may not.
    #[error(
        "its arguments hold what PostgreSQL's jsonb cannot keep: U+0000, half a surrogate pair, an enormous number, or \
         brackets some hundreds deep"
    )]
    Args,
    /// The retry policy.
    #[error("its retry policy is out of bounds: at least one attempt, intervals above 0 that grow, jitter from 0 to 1")]
    Retry,
}

/// The states of a job, and what leads on from each:
///
/// ```text
/// available ──claim──> running ──> succeeded
///     ^   ^              │ ├─────> dead        (attempts used up, failed for good, or killed too many processes)
///     │   └─hand-back────┤ ├─────> expired
///  retry by hand         │ └─────> cancelled
///                        └─retry─> retrying ──claim──> running
/// ```
///
/// A job that has failed before is handed back to `retrying`. The whole table is [`JobState::leads_to`]. Its page is `LIFECYCLE.md`
/// beside this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waiting for its `run_at`, never failed since it was made or retried by hand.
    Available,
    /// Claimed by a process.
    Running,
    /// Failed, and waiting for its next try.
    Retrying,
    /// Done.
    Succeeded,
    /// Used up its attempts or failed for good; kept, visible, retryable.
    Dead,
    /// Called off.
    Cancelled,
    /// Not done in time.
    Expired,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 7] =
        [Self::Available, Self::Running, Self::Retrying, Self::Succeeded, Self::Dead, Self::Cancelled, Self::Expired];

    /// As the database has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The state that the database has under this name; none when only a newer build knows it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the job is over, short of a person's retry.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled | Self::Expired)
    }
}
