//! The relay's dispatch, one step at a time: a worker without its loop, so that a test decides what happens between two
//! steps, and where it dies.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use relay::dispatch::commit::{self, Statements};
use relay::dispatch::cursor::{self, Cursor};
use relay::dispatch::lane::Lane;
use relay::dispatch::read::{self, Batch, Found, Reader, Turn};
use relay::dispatch::rebase;
use relay::dispatch::registrations::{self, Registrations};
use relay::handlers::Registry;
use relay::jobs::Job;
use relay::outbox::Session;
use shared::database_url::DatabaseUrl;
use shared::envelope::Envelope;
use shared::event::Event;
use shared::settings::{Faults, Secret};
use tokio_postgres::Client;

use crate::databases::{Databases, Role};

/// A test's event: it tells its number.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Counted {
    /// Given by the test.
    pub number: i64,
}

impl Event for Counted {
    const AGGREGATE_TYPE: &'static str = "counter";
    const TYPE: &'static str = "counter.counted";
    const VERSION: i32 = 1;
}

/// A registry with one handler for [`Counted`]: one job an event, of a kind that nobody delivers.
pub fn counting() -> Registry {
    let mut registry = Registry::default();
    registry
        .on("count", |event: &Envelope<Counted>| Ok(vec![Job::new("count", "count", &event.payload)?]))
        .expect("one handler");
    registry
}

/// A worker that holds all lanes, or some.
pub struct Dispatcher {
    application: Session,
    jobs: Client,
    statements: Statements,
    registry: Registry,
    registrations: Registrations,
    lanes: BTreeMap<i16, Lane>,
    turn: Turn,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many events were handed over.
    Dispatched(usize),
    /// A large window is being planned.
    Planning,
    /// A commit is on its way to disk.
    Unflushed,
    /// Nothing was there.
    Idle,
}

impl Dispatcher {
    /// Connects as the relay does, with its roles, and loads every lane.
    pub async fn new(databases: &Databases, registry: Registry) -> Result<Self> {
        let application = Session::connect(&url(&databases.app.url(Role::Relay))?, "test").await?;
        let jobs = relay::postgres::jobs(&url(&databases.jobs.url(Role::Jobs))?, "test").await?;
        let statements = Statements::prepare(&jobs).await?;
        let registrations = registrations::register(&jobs, registry.names()).await?;
        let lanes: Vec<i16> = (0..relay::dispatch::lanes::LANES).collect();
        let lanes = cursor::load(&jobs, &lanes).await?;
        let lanes = lanes.into_iter().map(|cursor| (cursor.lane, Lane::new(cursor))).collect();
        Ok(Self { application, jobs, statements, registry, registrations, lanes, turn: Turn::default() })
    }

    /// The same worker, copying batches of at least so many jobs.
    #[must_use]
    pub fn copy_from(mut self, jobs: usize) -> Self {
        self.statements.copy_from = jobs;
        self
    }

    /// Goes on with the application database elsewhere, as behind a pooler that turns to another server: the relay
    /// notices nothing of it.
    pub async fn turn_to(&mut self, databases: &Databases) -> Result<()> {
        self.application = Session::connect(&url(&databases.app.url(Role::Relay))?, "test").await?;
        Ok(())
    }

    /// Reads a batch and does not commit it.
    pub async fn read(&mut self) -> Result<Found> {
        let reader =
            Reader { application: &self.application, registry: &self.registry, registrations: &self.registrations };
        Ok(read::batch(reader, &mut self.lanes, &mut self.turn).await?)
    }

    /// Commits a batch. Returns how many jobs were new.
    pub async fn commit(&mut self, batch: &Batch) -> Result<u64, commit::Error> {
        commit::commit(&mut self.jobs, &self.statements, batch, || ()).await
    }

    /// Stores a batch, its jobs by COPY, and does not commit: what a worker leaves that dies there.
    pub async fn store_without_commit(&mut self, batch: &Batch) -> Result<()> {
        let transaction = self.jobs.transaction().await?;
        let advance = transaction.prepare(cursor::ADVANCE).await?;
        cursor::advance(&transaction, &advance, &batch.cursors).await?;
        let statement = transaction.prepare(relay::jobs::copy::COPY).await?;
        relay::jobs::copy::copy(&transaction, &statement, &batch.jobs).await?;
        std::mem::forget(transaction);
        Ok(())
    }

    /// Commits what was [stored](Self::store_without_commit).
    pub async fn commit_stored(&mut self) -> Result<()> {
        Ok(self.jobs.batch_execute("COMMIT").await?)
    }

    /// Commits a batch and dies on the way, when its work has gone on for so many steps. None: it was done before.
    pub async fn die_in_commit(&mut self, batch: &Batch, steps: usize) -> Option<Result<u64, commit::Error>> {
        let mut commit = std::pin::pin!(self.commit(batch));
        let mut left = steps;
        std::future::poll_fn(|context| {
            let poll = commit.as_mut().poll(context).map(Some);
            left = left.saturating_sub(1);
            if poll.is_pending() && left == 0 { std::task::Poll::Ready(None) } else { poll }
        })
        .await
    }

    /// Reads a batch and commits it.
    pub async fn step(&mut self) -> Result<Step> {
        Ok(match self.read().await? {
            Found::Batch(batch) => {
                self.commit(&batch).await?;
                Step::Dispatched(batch.events)
            }
            Found::Again => Step::Planning,
            Found::Unflushed => Step::Unflushed,
            Found::Nothing => Step::Idle,
        })
    }

    /// Puts right what a moved history left behind, when a lane asks for it; whether anything was.
    pub async fn rebase(&mut self) -> Result<bool> {
        if !self.lanes.values().any(Lane::wants_rebase) || !rebase::rebase(&self.application, &mut self.jobs).await? {
            return Ok(false);
        }
        let lanes: Vec<i16> = self.lanes.keys().copied().collect();
        let cursors = cursor::load(&self.jobs, &lanes).await?;
        self.lanes.extend(cursors.into_iter().map(|cursor| (cursor.lane, Lane::new(cursor))));
        Ok(true)
    }

    /// Steps until there is nothing left; how many events were handed over. Fails if a lane is in trouble.
    pub async fn drain(&mut self) -> Result<usize> {
        let mut events = 0;
        loop {
            match self.step().await? {
                Step::Dispatched(more) => events += more,
                Step::Planning => {}
                Step::Unflushed => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
                Step::Idle if self.rebase().await? => {}
                Step::Idle => break,
            }
        }
        match self.trouble() {
            Some(trouble) => bail!("a lane is in trouble: {trouble}"),
            None => Ok(events),
        }
    }

    /// Why a lane is not dispatched, for the first that is not.
    pub fn trouble(&self) -> Option<String> {
        self.lanes.values().find_map(Lane::trouble).map(|trouble| trouble.to_string())
    }

    /// The cursors as stored.
    pub async fn cursors(&self) -> Result<Vec<Cursor>> {
        Ok(cursor::load(&self.jobs, &self.lanes.keys().copied().collect::<Vec<_>>()).await?)
    }
}

/// What a dispatching worker of a relay needs, for one that runs in this process.
pub fn context(databases: &Databases, registry: Registry) -> Result<relay::dispatch::Context> {
    Ok(relay::dispatch::Context {
        application: url(&databases.app.url(Role::Relay))?,
        jobs: url(&databases.jobs.url(Role::Jobs))?,
        name: format!("aftercommit relay test {}", uuid::Uuid::new_v4()),
        registry,
        outbox_bell: relay::wake::Bell::default(),
        jobs_bell: relay::wake::Bell::default(),
        health: relay::health::Health::default(),
        pauses: relay::operate::watch::Pauses::default(),
    })
}

/// A database URL as the relay reads it.
pub fn url(text: &str) -> Result<DatabaseUrl> {
    let mut faults = Faults::new();
    let url = DatabaseUrl::parse(&Secret::new(text), "URL", &mut faults);
    faults.finish()?;
    url.context("a URL")
}

/// Writes one event as any writer would.
pub const INSERT_EVENT: &str = "
    INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
    VALUES ($1, 'counter', $2, 'counter.counted', jsonb_build_object('number', $3::bigint))";

/// Writes an event on a session, inside its transaction if there is one. Returns the event's id.
pub async fn write_event(client: &Client, aggregate: &str, number: i64) -> Result<uuid::Uuid> {
    let event_id = uuid::Uuid::now_v7();
    client.execute(INSERT_EVENT, &[&event_id, &aggregate, &number]).await?;
    Ok(event_id)
}

/// The numbers of the events that jobs were made of, in the order of the jobs' storage.
pub async fn dispatched(databases: &Databases) -> Result<Vec<i64>> {
    let client = databases.jobs.connect(Role::Superuser).await?;
    let rows = client.query("SELECT (args ->> 'number')::bigint FROM aftercommit.jobs ORDER BY ctid", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
