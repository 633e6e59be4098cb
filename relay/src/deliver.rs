//! 3. Deliver: claim due jobs, perform them, settle them.
//!
//! The engine knows nothing of what a job does: a [`Kind`] is registered under its name and says how each try ended.
//! Everything that a process must remember is in the job's row, so a relay may die at any point. What it holds while it
//! lives (claims, tries under way, settlements not yet written) survives any outage of the jobs database.
//!
//! Nothing here does the network's work inside a transaction, and nothing is written while there is nothing to do.

mod breaker;
mod pace;
mod told;
mod limits;
mod budget;
mod work;
mod line;
mod alone;
mod engine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::database_url::DatabaseUrl;
use tokio_util::sync::CancellationToken;

pub use crate::jobs::claim::ClaimedJob;
pub use crate::jobs::lease::{Lease, LeaseLost};
pub use crate::jobs::transition::{Failure, Meaning};
pub use limits::{Limits, NoRate, Rate};

use crate::health::{About, Health};
use crate::jobs::session::Session;
use crate::operate::watch::Pauses;
use crate::retry;
use crate::wake::Bell;
use engine::{Engine, Step};

/// A kind of job: how it is done.
#[async_trait::async_trait]
pub trait Kind: Send + Sync + 'static {
    /// What the `kind` column says.
    fn name(&self) -> &'static str;

    /// How many are performed at the same time in one process.
    fn concurrency(&self) -> usize;

    /// The group that a job belongs to, where groups have limits: for mail, the recipient's domain.
    fn group(&self, _job: &ClaimedJob) -> Option<String> {
        None
    }

    /// One try. It asks [`Lease::begin`] right before its point of no return, and does nothing after a no.
    async fn perform(&self, job: &ClaimedJob, lease: &Lease) -> Outcome;
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// This job's failure: it counts as an attempt.
    Failed(Failure),
    /// What the kind needs is away, for every job alike. No attempt is spent; the kind pauses and is tried again.
    Away(String),
    /// This job is not to be done, for this reason: nothing was tried, and nothing is wrong. It ends as cancelled.
    CalledOff(String),
    /// The lease ended first, and nothing was done.
    LeaseLost,
}

impl Outcome {
    /// Whether it shows that what the kind needs is there.
    fn reached_the_service(&self) -> bool {
        match self {
            Self::Succeeded => true,
            Self::Failed(failure) => failure.reached,
            Self::Away(_) | Self::CalledOff(_) | Self::LeaseLost => false,
        }
    }
}

impl From<LeaseLost> for Outcome {
    fn from(LeaseLost: LeaseLost) -> Self {
        Self::LeaseLost
    }
}

/// The kinds that this process knows.
#[derive(Clone, Default)]
pub struct Kinds(Vec<(Arc<dyn Kind>, Limits)>);

/// Two kinds have the same name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("two kinds of jobs are registered as {0:?}; each needs a name of its own")]
pub struct DuplicateKind(&'static str);

impl Kinds {
    /// Registers a kind.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn on(&mut self, kind: Arc<dyn Kind>) -> Result<(), DuplicateKind> {
        self.on_limited(kind, Limits::default())
    }

    /// Registers a kind with limits.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn on_limited(&mut self, kind: Arc<dyn Kind>, limits: Limits) -> Result<(), DuplicateKind> {
        if self.0.iter().any(|(other, _)| other.name() == kind.name()) {
            return Err(DuplicateKind(kind.name()));
        }
        self.0.push((kind, limits));
        Ok(())
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(kind, _)| kind.name()).collect()
    }
}

/// How delivery behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most jobs that are claimed at once.
    pub batch: usize,
    /// How long a silent process keeps its claims.
    pub lease: Duration,
    /// How often to look for due jobs when nobody rang.
    pub poll: Duration,
    /// How long a stopping process lets tries end before it cuts them off.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch: 1_000,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            grace: Duration::from_secs(10),
        }
    }
}

/// What delivery needs.
pub struct Context {
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process is called, in the database's list of processes and sessions.
    pub name: String,
    /// What it can do.
    pub kinds: Kinds,
    /// How it behaves.
    pub settings: Settings,
    /// Rung when there are new jobs. Notifications from other relays ring it too.
    pub bell: Bell,
    /// Where it says how it is.
    pub health: Health,
    /// What is paused by hand.
    pub pauses: Pauses,
}

/// The part of health that is about the jobs database as delivery sees it.
const PART: &str = "delivery";

/// Beyond the grace, the time to write down how the last tries ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Delivers until told to stop; then finishes or hands back what it holds, and returns.
pub async fn run(context: &Context, stop: &CancellationToken) {
    let mut engine = Engine::new(context);
    let mut pace = retry::reconnect();
    let mut log = Seldom::default();
    let give_up = async {
        stop.cancelled().await;
        tokio::time::sleep(context.settings.grace + LAST_WORDS).await;
    };
    let deliver = async {
        loop {
            let bell = context.bell.clone();
            let error = match Session::open(&context.jobs, &context.name, move |_| bell.ring()).await {
                Ok(session) => match serve(&mut engine, &session, context, stop, &mut pace).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            engine.disconnected();
            if stop.is_cancelled() && engine.holds_nothing() {
                return;
            }
            context.health.turned(PART);
            context.health.ill(PART, About::JobsDatabase, format!("jobs database: {error}"));
            if log.may_speak() {
                tracing::warn!(%error, "delivery has no jobs database; trying again");
            }
            // A process that holds claims must be back well before its lease is over.
            let pause = tokio::time::sleep(pace.next_delay().min(context.settings.lease / 8));
            let stopping = stop.is_cancelled();
            tokio::select! {
                () = pause => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    };
    let gave_up = tokio::select! {
        () = deliver => false,
        () = give_up => true,
    };
    context.health.ended(PART);
    if gave_up {
        tracing::warn!("stopped without having settled everything; other relays take over what is left");
    }
}

/// Steps until there is nothing left to do after the stop.
async fn serve(
    engine: &mut Engine<'_>,
    session: &Session,
    context: &Context,
    stop: &CancellationToken,
    pace: &mut retry::Reconnect,
) -> Result<(), crate::postgres::Error> {
    let mut ear = context.bell.ear();
    engine.resume(session).await?;
    loop {
        if stop.is_cancelled() {
            engine.close();
        }
        let step = engine.step(session).await?;
        context.health.turned(PART);
        context.health.well(PART);
        pace.reset();
        match step {
            Step::Worked => {}
            Step::Idle(pause) => tokio::select! {
                _ = ear.changed() => engine.wake(),
                () = engine.try_stirs() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled(), if !engine.is_closing() => {}
            },
            Step::Done => return Ok(()),
        }
    }
}

/// Lets a line through once a second at most.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn may_speak(&mut self) -> bool {
        let now = Instant::now();
        let may = self.0.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if may {
            self.0 = Some(now);
        }
        may
    }
}
