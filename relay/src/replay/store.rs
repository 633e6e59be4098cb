//! The jobs database's side of a replay: what is there already, and storing what is not.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement, Transaction};
use uuid::Uuid;

use super::Error;
use crate::databases::PATIENCE;
use crate::dispatch::commit::{INSERT_FAILURES, insert_failures};
use crate::dispatch::read::Failure;
use crate::jobs::id::job_id_range;
use crate::jobs::session::CHANNEL;
use crate::jobs::store::{self, NewJob};
use crate::outbox::OutboxRow;
use crate::postgres::{self, within};

/// A transaction takes no further event once it holds this much.
const BATCH_EVENTS: u64 = 1_000;
const BATCH_JOBS: usize = 1_000;
const BATCH_BYTES: usize = 8 << 20;

/// How often a batch is tried anew when another relay stores part of it at the same time.
const TRIES: usize = 20;

/// `existing`: which of some jobs are there, and their states. A ghost ($2) whose event is back counts as missing.
const EXISTING: &str = "
    SELECT job_id, state
      FROM jobs
     WHERE job_id = ANY ($1)
       AND NOT (state = 'cancelled' AND coalesce(last_error, '') = $2)";

/// `generations`: the highest generation of each handler's jobs for some events. An event's jobs lie in one range of the
/// primary key, which it may share with others of the same millisecond.
const GENERATIONS: &str = "
    SELECT event_id, handler, max(generation)
      FROM unnest($1::uuid[], $2::uuid[]) AS range (low, high)
      JOIN jobs ON job_id BETWEEN low AND high
     WHERE event_id = ANY ($3)
     GROUP BY event_id, handler";

/// `resolve`: closes the open failures of handlers that have succeeded.
const RESOLVE: &str = "
    UPDATE dispatch_failures AS failure
       SET resolved_at = now()
      FROM unnest($1::uuid[], $2::text[]) AS done (event_id, handler)
     WHERE failure.event_id = done.event_id
       AND failure.handler  = done.handler
       AND failure.resolved_at IS NULL
    RETURNING failure.handler";

/// `resolvable`: the open failures that [`RESOLVE`] would close.
const RESOLVABLE: &str = "
    SELECT failure.handler
      FROM unnest($1::uuid[], $2::text[]) AS done (event_id, handler)
      JOIN dispatch_failures AS failure
        ON failure.event_id = done.event_id
       AND failure.handler  = done.handler
     WHERE failure.resolved_at IS NULL";

/// The statements of a replay, prepared on one connection.
#[derive(Debug)]
pub struct Statements {
    insert_jobs: Statement,
    insert_failures: Statement,
}

impl Statements {
    /// Prepares them.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn prepare(client: &Client) -> Result<Self, postgres::Error> {
        within(PATIENCE, async {
            Ok(Self {
                insert_jobs: client.prepare(store::INSERT).await?,
                insert_failures: client.prepare(INSERT_FAILURES).await?,
            })
        })
        .await
    }
}

/// What handlers made of some events.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many events.
    pub events: u64,
    /// How many of them no wanted handler is for.
    pub passed_by: u64,
    /// What the handlers asked for.
    pub jobs: Vec<NewJob>,
    /// What they could not take.
    pub failures: Vec<Failure>,
    done: Vec<(Uuid, &'static str)>,
    bytes: usize,
}

impl Batch {
    /// A handler took an event, and asks for jobs.
    pub fn done(&mut self, event_id: Uuid, handler: &'static str, jobs: impl Iterator<Item = NewJob>) {
        self.done.push((event_id, handler));
        let before = self.jobs.len();
        self.jobs.extend(jobs);
        self.bytes +=
            self.jobs[before..].iter().map(|new| new.job.args.get().len() + new.metadata().get().len()).sum::<usize>();
    }

    /// A handler could not take an event.
    pub fn failed(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Whether a transaction should hold no more.
    pub fn is_full(&self) -> bool {
        self.events >= BATCH_EVENTS || self.jobs.len() >= BATCH_JOBS || self.bytes >= BATCH_BYTES
    }

    /// The handlers that took their event.
    pub fn done_handlers(&self) -> impl Iterator<Item = &'static str> {
        self.done.iter().map(|(_, handler)| *handler)
    }

    fn done_columns(&self) -> (Vec<Uuid>, Vec<&'static str>) {
        self.done.iter().copied().unzip()
    }
}

/// What a batch met in the jobs database.
#[derive(Debug, Default)]
pub struct Stored {
    /// The jobs that were there already, with their states.
    pub existing: HashMap<Uuid, String>,
    /// The handlers of the failures that are resolved now, one entry each.
    pub resolved: Vec<String>,
}

/// Compares, and writes nothing.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn compare(client: &Client, batch: &Batch) -> Result<Stored, postgres::Error> {
    let ids: Vec<Uuid> = batch.jobs.iter().map(|new| new.job_id).collect();
    let (events, handlers) = batch.done_columns();
    within(PATIENCE, async {
        let existing = client.query_typed(EXISTING, &[(&ids, Type::UUID_ARRAY), (&store::GHOST, Type::TEXT)]).await?;
        let resolvable =
            client.query_typed(RESOLVABLE, &[(&events, Type::UUID_ARRAY), (&handlers, Type::TEXT_ARRAY)]).await?;
        Ok(Stored {
            existing: existing.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>()?,
            resolved: resolvable.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
        })
    })
    .await
}

/// Stores what is missing, keeps what failed and resolves what did not, in one transaction; then wakes delivery.
///
/// # Errors
/// Whatever PostgreSQL says; then nothing of the batch was stored, unless the connection broke at COMMIT.
pub async fn store(client: &mut Client, statements: &Statements, batch: &Batch) -> Result<Stored, Error> {
    let mut tries = 0..TRIES;
    let stored = loop {
        tries.next().ok_or(Error::Contended)?;
        match within(PATIENCE, try_store(client, statements, batch)).await {
            Ok(Some(stored)) => break stored,
            // What was counted as missing is there now.
            Ok(None) => {}
            Err(postgres::Error::Postgres(error)) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if stored.existing.len() < batch.jobs.len() {
        // Outside of the transaction, where it would serialise commits. A lost one costs the relays a poll.
        within(PATIENCE, client.batch_execute(&format!("NOTIFY {CHANNEL}"))).await?;
    }
    Ok(stored)
}

/// None when a job was stored by somebody else between looking and storing; then nothing was stored.
async fn try_store(
    client: &mut Client,
    statements: &Statements,
    batch: &Batch,
) -> Result<Option<Stored>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let ids: Vec<Uuid> = batch.jobs.iter().map(|new| new.job_id).collect();
    let existing = transaction.query_typed(EXISTING, &[(&ids, Type::UUID_ARRAY), (&store::GHOST, Type::TEXT)]).await?;
    let existing: HashMap<Uuid, String> = existing
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()?;
    let missing: Vec<NewJob> = batch.jobs.iter().filter(|new| !existing.contains_key(&new.job_id)).cloned().collect();
    let stored = store::insert(&transaction, &statements.insert_jobs, &missing).await?;
    if stored != missing.len() as u64 {
        transaction.rollback().await?;
        return Ok(None);
    }
    insert_failures(&transaction, &statements.insert_failures, &batch.failures).await?;
    let resolved = resolve(&transaction, batch).await?;
    transaction.commit().await?;
    Ok(Some(Stored { existing, resolved }))
}

async fn resolve(transaction: &Transaction<'_>, batch: &Batch) -> Result<Vec<String>, tokio_postgres::Error> {
    let (events, handlers) = batch.done_columns();
    let rows = transaction.query_typed(RESOLVE, &[(&events, Type::UUID_ARRAY), (&handlers, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The generation that comes next, by event and handler.
#[derive(Debug)]
pub struct Generations(Option<HashMap<(Uuid, String), i32>>);

impl Generations {
    /// Every job is of the first generation, the one that dispatch makes.
    pub const FIRST: Self = Self(None);

    /// A new generation for each event and handler that has jobs.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn load(client: &Client, rows: &[OutboxRow]) -> Result<Self, postgres::Error> {
        let events: Vec<Uuid> = rows.iter().map(|row| row.envelope.event_id).collect();
        // Each range once: events that were made by hand may all share theirs.
        let ranges: BTreeSet<(Uuid, Uuid)> = events.iter().map(|event_id| job_id_range(*event_id)).collect();
        let (low, high): (Vec<Uuid>, Vec<Uuid>) = ranges.into_iter().unzip();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&low, Type::UUID_ARRAY), (&high, Type::UUID_ARRAY), (&events, Type::UUID_ARRAY)];
        let rows = within(PATIENCE, client.query_typed(GENERATIONS, &parameters)).await?;
        let highest = |row: &tokio_postgres::Row| -> Result<_, tokio_postgres::Error> {
            Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))
        };
        Ok(Self(Some(rows.iter().map(highest).collect::<Result<_, _>>()?)))
    }

    /// One above the highest there is. Where there is none yet it is the first: dispatch, if it has still to come to
    /// the event, then stores nothing more.
    pub fn next(&self, event_id: Uuid, handler: &str) -> i32 {
        let highest = self.0.as_ref().and_then(|highest| highest.get(&(event_id, handler.to_owned())));
        highest.map_or(0, |highest| highest.saturating_add(1))
    }
}
