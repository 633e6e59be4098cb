//! A worker: two connections, the lanes it holds over them, and the loop that moves them on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::migrate::standing::Standing;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::commit::{self, Statements};
use super::lane::Lane;
use super::memory::Memory;
use super::read::{self, Batch, Found, Reader, Turn};
use super::registrations::{self, Registrations};
use super::{Context, Error, cursor, lanes, misled, rebase};
use crate::metrics::record;
use crate::operate::pauses::Pause;
use crate::outbox::{self, Session};
use crate::postgres::{self, within};
use crate::schema;

/// How often a worker asks who shares the lanes, and so how soon the lanes of one that died are taken. It is also what keeps
/// its session alive.
const BALANCE: Duration = Duration::from_millis(2_500);
/// The poll while notifications are heard, and while they are not.
const POLL: Duration = Duration::from_secs(5);
const POLL_DEAF: Duration = Duration::from_secs(1);
/// How soon to look again for a commit that is on its way to disk.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// How many batches are read before the first is on its way to disk.
const READ_AHEAD: usize = 2;
/// The bound on light statements in the jobs database.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

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
    application: Session,
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
        let application = Session::connect(&context.application, &context.name).await.map_err(Error::Application)?;
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

    /// [`Worker::balance`], if it is time for it.
    ///
    /// # Errors
    /// When the jobs database is away.
    pub async fn balance_if_due(&mut self) -> Result<bool, Error> {
        if Instant::now() < self.balance_at { Ok(false) } else { self.balance().await }
    }

    /// The lanes it holds.
    pub fn lanes(&self) -> &BTreeMap<i16, Lane> {
        &self.lanes
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

    /// Reads and commits until nothing is left, the lanes are to be shared anew, or it is time to stop. Reading runs ahead
    /// of the commits: while one batch is on its way to disk, the next waits and the one after it is read.
    ///
    /// # Errors
    /// When either database is away, or another worker has moved a lane: the worker is then of no more use.
    pub async fn drain(&mut self, context: &Context, stop: &CancellationToken) -> Result<Left, Error> {
        // Rings from here on are answered by another look.
        self.ear.mark_unchanged();
        self.found = loop {
            let (batches, mut read) = mpsc::channel(1);
            let (permit, permits) = mpsc::unbounded_channel();
            let permit_read = move || {
                let _ = permit.send(());
            };
            (0..READ_AHEAD).for_each(|_| permit_read());
            let reader = Reader {
                application: &self.application,
                registry: &context.registry,
                registrations: &self.registrations,
            };
            let going_on = || !stop.is_cancelled() && !context.pauses.dispatch();
            let reading =
                read_ahead(reader, &mut self.lanes, &mut self.turn, self.balance_at, going_on, permits, batches);
            let (jobs, statements, memory) = (&mut self.jobs, &self.statements, &self.memory);
            let storing = async move {
                while let Some(batch) = read.recv().await {
                    store(jobs, statements, memory, batch, context, &permit_read).await?;
                }
                // `read` and the permits end here: when a commit has failed, nothing more is read.
                Ok::<_, commit::Error>(())
            };
            let (stored, left) = tokio::join!(storing, reading);
            stored?;
            match left? {
                Some(Left::Nothing) if self.put_back().await? => {}
                Some(Left::Nothing) => {
                    self.poll_at = Instant::now() + self.poll_interval(context);
                    break Left::Nothing;
                }
                left => break left.unwrap_or(Left::Nothing),
            }
        };
        Ok(self.found)
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
    ///
    /// # Errors
    /// When the application database is away.
    pub async fn rest(&mut self, context: &Context, stop: &CancellationToken) -> Result<bool, Error> {
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

/// Reads batch after batch, until nothing is left or the lanes are to be shared anew; `None` when it did not look to the
/// end, because there is no lane, a commit has failed, or `going_on` says no.
async fn read_ahead(
    reader: Reader<'_>,
    lanes: &mut BTreeMap<i16, Lane>,
    turn: &mut Turn,
    balance_at: Instant,
    going_on: impl Fn() -> bool,
    mut permits: mpsc::UnboundedReceiver<()>,
    batches: mpsc::Sender<Batch>,
) -> Result<Option<Left>, outbox::Error> {
    while permits.recv().await.is_some() {
        let batch = loop {
            if lanes.is_empty() || !going_on() {
                return Ok(None);
            }
            if Instant::now() >= balance_at {
                return Ok(Some(Left::More));
            }
            match read::batch(reader, lanes, turn).await? {
                Found::Batch(batch) => break batch,
                Found::Again => {}
                Found::Unflushed => return Ok(Some(Left::Unflushed)),
                Found::Nothing => return Ok(Some(Left::Nothing)),
            }
        };
        if batches.send(batch).await.is_err() {
            break;
        }
    }
    Ok(None)
}

/// Commits a batch and wakes delivery.
async fn store(
    jobs: &mut Client,
    statements: &Statements,
    memory: &Memory,
    mut batch: Batch,
    context: &Context,
    flushing: impl Fn(),
) -> Result<(), commit::Error> {
    let began = Instant::now();
    let stored = commit::commit(jobs, statements, &batch, flushing).await?;
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
