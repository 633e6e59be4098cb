//! 2. Dispatch: events → handlers → jobs and cursors, in one transaction.
//!
//! A worker holds a share of the lanes. It reads what is new in them, runs the handlers, and commits the jobs together
//! with the cursors, while it already reads the next batch. Nothing is written while nothing happens.

pub mod commit;
pub mod cursor;
pub mod checkpoint;
pub mod registrations;
pub mod rebase;
pub mod ghosts;
pub mod history;
pub mod misled;
pub mod memory;
pub mod lanes;
pub mod lane;
mod choose;
pub mod read;
pub mod traced;
#[cfg(test)]
mod model;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::Standing;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::handlers::Registry;
use crate::health::{About, Health};
use crate::metrics::record;
use crate::operate::pauses::Pause;
use crate::operate::watch::Pauses;
use crate::postgres::{self, within};
use crate::replay::at_start;
use crate::wake::Bell;
use crate::{outbox, retry, schema};
use commit::Statements;
use lane::Lane;
use memory::Memory;
use misled::Misled;
use read::{Batch, Found, Reader, Turn};
use registrations::Registrations;

/// How often a worker asks who shares the lanes. It is also what keeps its session alive.
const BALANCE: Duration = Duration::from_secs(1);
/// The poll while notifications are heard, and while they are not.
const POLL: Duration = Duration::from_secs(5);
const POLL_DEAF: Duration = Duration::from_secs(1);
/// How soon to look again for a commit that is on its way to disk.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// The bound on light statements in the jobs database.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a dispatching worker needs.
#[derive(Debug)]
pub struct Context {
    /// The application database.
    pub application: DatabaseUrl,
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: String,
    /// What to do with events.
    pub registry: Registry,
    /// Rung when the outbox may hold something new.
    pub outbox_bell: Bell,
    /// To be rung when there are new jobs.
    pub jobs_bell: Bell,
    /// Where the worker says how it is.
    pub health: Health,
    /// What is paused by hand.
    pub pauses: Pauses,
}

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The application database.
    #[error("application database: {0}")]
    Application(outbox::Error),
    /// The jobs database.
    #[error("jobs database: {0}")]
    Jobs(postgres::Error),
    /// The jobs database's schema and this build do not fit.
    #[error("jobs database: {0}")]
    Schema(Standing),
    /// Another server than the one that was followed last.
    #[error("application database: {0}")]
    Misled(Misled),
    /// The hand-over.
    #[error(transparent)]
    Commit(#[from] commit::Error),
}

impl Error {
    /// What is in the way.
    fn about(&self) -> About {
        match self {
            Self::Application(outbox::Error::Standby | outbox::Error::Subscribed) => About::Standby,
            Self::Application(_) => About::ApplicationDatabase,
            Self::Schema(_) => About::Schema,
            Self::Jobs(_) | Self::Commit(commit::Error::Postgres(_)) => About::JobsDatabase,
            Self::Commit(commit::Error::Fenced) => About::Relay,
            Self::Misled(_) => About::History,
        }
    }
}

impl From<rebase::Error> for Error {
    fn from(error: rebase::Error) -> Self {
        match error {
            rebase::Error::Outbox(error) => Self::Application(error),
            rebase::Error::Commit(error) => Self::Commit(error),
        }
    }
}

impl From<outbox::Error> for Error {
    fn from(error: outbox::Error) -> Self {
        Self::Application(error)
    }
}

/// Dispatches until told to stop, over whatever happens to either database. The first worker of a process also tries the
/// open failures once, beside its own work.
pub async fn run(context: &Context, worker: usize, stop: &CancellationToken) {
    if worker > 0 {
        return work(context, worker, stop).await;
    }
    let Context { application, jobs, name, registry, jobs_bell, .. } = context;
    let failures = at_start::Context { application, jobs, name, registry, jobs_bell };
    tokio::join!(work(context, worker, stop), at_start::retry_open_failures(failures, stop));
}

/// What a worker is called where health is told.
fn part(worker: usize) -> String {
    format!("dispatch {worker}")
}

async fn work(context: &Context, worker: usize, stop: &CancellationToken) {
    let part = part(worker);
    context.health.ill(&part, About::Relay, "not connected yet");
    let (mut pace, memory) = (retry::reconnect(), Memory::default());
    while !stop.is_cancelled() {
        context.health.turned(&part);
        let session =
            async { session(Worker::connect(context, &memory).await?, context, worker, &mut pace, stop).await };
        let Err(error) = session.await else { break };
        let message = error.to_string();
        record::interrupted();
        record::lanes(worker, 0);
        if context.health.ill(&part, error.about(), message.as_str()) {
            tracing::warn!(part, error = message, "dispatch is interrupted; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(pace.next_delay()) => {}
            () = stop.cancelled() => {}
        }
    }
    context.health.ended(&part);
}

/// One pair of connections, until one breaks, a fence is met, or it is time to stop.
async fn session(
    mut worker: Worker,
    context: &Context,
    number: usize,
    pace: &mut retry::Reconnect,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let part = &part(number);
    let mut look = true;
    loop {
        context.health.turned(part);
        look |= worker.balance_if_due().await?;
        if look && !context.pauses.dispatch() {
            worker.found = worker.drain(context, stop).await?;
            if let Some(misled) = worker.lanes.values().find_map(Lane::misled) {
                // Its lanes go to relays that reach the right one.
                return Err(Error::Misled(misled));
            }
        }
        report(context, part, &worker.lanes);
        record::lanes(number, worker.lanes());
        pace.reset();
        if stop.is_cancelled() {
            return Ok(());
        }
        look = worker.rest(context, stop).await?;
    }
}

/// What the last look left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing more at that moment.
    Nothing,
    /// Commits that are on their way to disk.
    Unflushed,
    /// The lanes are to be shared anew first.
    More,
}

/// A worker's two connections and what it holds over them.
pub struct Worker {
    application: Client,
    jobs: Client,
    statements: Statements,
    registrations: Registrations,
    lanes: BTreeMap<i16, Lane>,
    memory: Memory,
    turn: Turn,
    ear: watch::Receiver<u64>,
    /// Hears of pauses.
    paused: watch::Receiver<Option<Vec<Pause>>>,
    found: Left,
    balance_at: Instant,
    poll_at: Instant,
    /// Polls in a row that found events which nobody had notified of: writers that don't, or a deaf connection.
    unannounced: u32,
}

impl Worker {
    /// Connects to both databases and joins those who share the lanes.
    ///
    /// # Errors
    /// When either database is away, refuses, or has another schema.
    pub async fn connect(context: &Context, memory: &Memory) -> Result<Self, Error> {
        // The application first: a worker that cannot read holds no lanes.
        let application = postgres::application(&context.application, &context.name).await;
        let application = application.map_err(|error| Error::Application(error.into()))?;
        let jobs = postgres::jobs(&context.jobs, &context.name).await.map_err(Error::Jobs)?;
        match within(PATIENCE, schema::standing(&jobs)).await.map_err(Error::Jobs)? {
            Standing::Fits => {}
            other => return Err(Error::Schema(other)),
        }
        let cursors = within(PATIENCE, cursor::load_all(&jobs)).await.map_err(Error::Jobs)?;
        memory.compare(&jobs, &cursors).await?;
        misled::check(&application, &cursors).await?;
        let statements = within(PATIENCE, Statements::prepare(&jobs)).await.map_err(Error::Jobs)?;
        let registering = registrations::register(&jobs, context.registry.names());
        let registrations = within(PATIENCE, registering).await.map_err(Error::Jobs)?;
        within(PATIENCE, lanes::join(&jobs)).await.map_err(Error::Jobs)?;
        let now = Instant::now();
        Ok(Self {
            application,
            jobs,
            statements,
            registrations,
            lanes: BTreeMap::new(),
            memory: memory.clone(),
            turn: Turn::default(),
            ear: context.outbox_bell.ear(),
            paused: context.pauses.ear(),
            found: Left::Nothing,
            balance_at: now,
            poll_at: now,
            unannounced: 0,
        })
    }

    async fn balance_if_due(&mut self) -> Result<bool, Error> {
        if Instant::now() < self.balance_at { Ok(false) } else { self.balance().await }
    }

    /// How many lanes it holds.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Shares the lanes anew. Returns whether there is a lane that was not held before, or that another relay has moved:
    /// putting cursors right moves every lane, whoever holds it, and a person can.
    ///
    /// # Errors
    /// When the jobs database is away.
    pub async fn balance(&mut self) -> Result<bool, Error> {
        let held = within(PATIENCE, lanes::balance(&self.jobs)).await.map_err(Error::Jobs)?;
        self.balance_at = Instant::now() + BALANCE;
        self.lanes.retain(|lane, state| held.get(lane) == Some(&state.cursor().version));
        let gained: Vec<i16> = held.into_keys().filter(|lane| !self.lanes.contains_key(lane)).collect();
        if gained.is_empty() {
            return Ok(false);
        }
        self.load(&gained).await?;
        tracing::debug!(lanes = ?self.lanes.keys(), "lanes held");
        Ok(true)
    }

    /// Reads and commits until nothing is left, the lanes are to be shared anew, or it is time to stop. While a batch
    /// is being committed the next one is read.
    ///
    /// # Errors
    /// When either database is away, or another worker has moved a lane: the worker is then of no more use.
    pub async fn drain(&mut self, context: &Context, stop: &CancellationToken) -> Result<Left, Error> {
        // Rings from here on are answered by another look.
        self.ear.mark_unchanged();
        let mut pending = None;
        loop {
            let due = Instant::now() >= self.balance_at;
            let reader = Reader {
                application: &self.application,
                registry: &context.registry,
                registrations: &self.registrations,
            };
            let reading = async {
                if due || self.lanes.is_empty() || stop.is_cancelled() || context.pauses.dispatch() {
                    return Ok(None);
                }
                read::batch(reader, &mut self.lanes, &mut self.turn).await.map(Some)
            };
            let storing = store(&mut self.jobs, &self.statements, &self.memory, pending.take(), context);
            let (stored, found) = tokio::join!(storing, reading);
            stored?;
            match found? {
                Some(Found::Batch(batch)) => pending = Some(batch),
                Some(Found::Planning) => {}
                Some(Found::Unflushed) => return Ok(Left::Unflushed),
                Some(Found::Nothing) if self.put_back().await? => {}
                Some(Found::Nothing) => {
                    self.poll_at = Instant::now() + self.poll_interval(context);
                    return Ok(Left::Nothing);
                }
                None if due && !self.lanes.is_empty() => return Ok(Left::More),
                None => return Ok(Left::Nothing),
            }
        }
    }

    /// Puts right what a moved history left behind, when a lane asks for it. Returns whether anything was.
    async fn put_back(&mut self) -> Result<bool, Error> {
        if !self.lanes.values().any(Lane::wants_rebase) || !rebase::rebase(&self.application, &mut self.jobs).await? {
            return Ok(false);
        }
        let lanes: Vec<i16> = self.lanes.keys().copied().collect();
        self.load(&lanes).await?;
        Ok(true)
    }

    /// Reads the cursors of lanes that are held.
    async fn load(&mut self, lanes: &[i16]) -> Result<(), Error> {
        let cursors = within(PATIENCE, cursor::load(&self.jobs, lanes)).await.map_err(Error::Jobs)?;
        self.lanes.extend(cursors.into_iter().map(|cursor| (cursor.lane, Lane::new(cursor))));
        Ok(())
    }

    /// Waits for something to do. Returns whether to look into the outbox.
    async fn rest(&mut self, context: &Context, stop: &CancellationToken) -> Result<bool, Error> {
        if context.pauses.dispatch() {
            // Lanes stay shared meanwhile, so that whoever goes on first goes on with all of them.
            tokio::select! {
                _ = self.paused.changed() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(self.balance_at.into()) => {}
            }
            return Ok(!context.pauses.dispatch());
        }
        let look_at = match self.found {
            Left::More => return Ok(true),
            Left::Unflushed => Instant::now() + FLUSH_POLL,
            Left::Nothing => self.poll_at,
        };
        tokio::select! {
            _ = self.ear.changed() => {
                self.unannounced = 0;
                return Ok(true);
            }
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep_until(look_at.min(self.balance_at).into()) => {}
        }
        if Instant::now() < look_at {
            return Ok(false);
        }
        if self.found == Left::Unflushed {
            return Ok(true);
        }
        let anything = !self.lanes.is_empty() && read::anything(&self.application, &self.lanes).await?;
        self.unannounced = if anything { self.unannounced + 1 } else { self.unannounced };
        self.poll_at = Instant::now() + self.poll_interval(context);
        Ok(anything)
    }

    fn poll_interval(&self, context: &Context) -> Duration {
        let heard = context.outbox_bell.connected() && self.unannounced < 2;
        if heard { POLL } else { POLL_DEAF }
    }
}

/// Commits a batch, if there is one, and wakes delivery.
async fn store(
    jobs: &mut Client,
    statements: &Statements,
    memory: &Memory,
    batch: Option<Batch>,
    context: &Context,
) -> Result<(), commit::Error> {
    let Some(mut batch) = batch else { return Ok(()) };
    let began = Instant::now();
    let stored = commit::commit(jobs, statements, &batch).await?;
    memory.moved(&batch.cursors);
    record::committed(&batch.tally, batch.events, stored, batch.took, began.elapsed());
    batch.traced.committed(batch.events, stored);
    for failure in &batch.failures {
        failure.tell();
    }
    tracing::debug!(events = batch.events, jobs = stored, "dispatched");
    if stored > 0 {
        context.jobs_bell.ring();
        // Other relays; outside of the transaction, where it would serialise commits. A lost one costs them a poll.
        within(PATIENCE, jobs.batch_execute("NOTIFY aftercommit_jobs")).await?;
    }
    Ok(())
}

fn report(context: &Context, part: &str, lanes: &BTreeMap<i16, Lane>) {
    let mut troubles = lanes.iter().filter_map(|(lane, state)| state.trouble().map(|trouble| (lane, trouble)));
    match troubles.next() {
        None => context.health.well(part),
        Some((lane, trouble)) => {
            let message = format!("lane {lane}: {trouble}");
            if context.health.ill(part, About::History, message.as_str()) {
                tracing::error!(part, "{message}");
            }
        }
    }
}
