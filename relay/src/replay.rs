//! Replay: handlers run again on chosen rows of the outbox.
//!
//! It is dispatch without cursors: the same reading of committed rows, the same handlers, the same ids, the same
//! statement that stores. So by default it changes nothing but what is missing, which makes it the repair after any
//! loss in the jobs database; events that dispatch has yet to reach may be replayed too, for dispatch then finds their
//! jobs stored. `again` asks for a new generation: new ids, and so emails that are really sent anew.
//!
//! Both databases are read in short transactions and written in short ones, page by page; stopped half-way, what was
//! stored stays. Nothing here moves a cursor, and nothing here asks a person.

pub mod source;
pub mod store;
pub mod tally;
pub mod at_start;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared::database_url::DatabaseUrl;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::dispatch::read::Failure;
use crate::handlers::Registry;
use crate::jobs::store::NewJob;
use crate::outbox::OutboxRow;
use crate::outbox::page::Filter;
use crate::{databases, outbox, postgres};
use source::{Source, Work};
use store::{Batch, Generations, Statements};
use tally::Tally;

/// What to replay, and how.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Where events are taken from.
    pub events: Events,
    /// Which of them are wanted.
    pub filter: Filter,
    /// The handlers to run; all when none.
    pub handlers: Option<BTreeSet<String>>,
    /// Whether to make a new generation of jobs.
    pub again: bool,
    /// Whether to store nothing and only compare.
    pub dry_run: bool,
}

/// Where events are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// The outbox.
    #[default]
    All,
    /// These.
    Named(BTreeSet<Uuid>),
    /// The open dispatch failures, each with the handler that failed; of these events, or of all when none.
    Failed(Option<BTreeSet<Uuid>>),
}

impl Plan {
    /// For the audit trail.
    pub fn to_json(&self) -> Value {
        let written = |time: Option<OffsetDateTime>| time.and_then(|time| time.format(&Rfc3339).ok());
        let (event_ids, failed) = match &self.events {
            Events::All => (None, false),
            Events::Named(ids) => (Some(ids), false),
            Events::Failed(ids) => (ids.as_ref(), true),
        };
        let Filter { aggregate, types, from, to } = &self.filter;
        json!({
            "event_ids": event_ids, "failed": failed, "aggregate": aggregate, "types": types, "from": written(*from),
            "to": written(*to), "handlers": self.handlers, "again": self.again,
        })
    }

    fn takes_handler(&self, handler: &str) -> bool {
        self.handlers.as_ref().is_none_or(|wanted| wanted.contains(handler))
    }
}

/// Why a replay could not be begun, or not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A database is of no use.
    #[error(transparent)]
    Database(#[from] databases::Error),
    /// Others store the same jobs at the same time, again and again.
    #[error("jobs database: other relays keep storing the same jobs; run it again")]
    Contended,
}

impl From<outbox::Error> for Error {
    fn from(error: outbox::Error) -> Self {
        databases::Error::from(error).into()
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        databases::Error::from(error).into()
    }
}

impl Error {
    /// Whether the state of a database refuses the work, rather than something having failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_refusal())
    }
}

/// The two connections that a replay works on.
pub struct Session {
    application: Client,
    jobs: Client,
    statements: Statements,
}

impl Session {
    /// Connects to both databases.
    ///
    /// # Errors
    /// When one is away, or its state refuses the work.
    pub async fn open(application: &DatabaseUrl, jobs: &DatabaseUrl, name: &str) -> Result<Self, Error> {
        let jobs = databases::jobs(jobs, name).await?;
        Self::with_jobs(application, jobs, name).await
    }

    /// The connection to the jobs database.
    pub fn jobs(&self) -> &Client {
        &self.jobs
    }

    async fn with_jobs(application: &DatabaseUrl, jobs: Client, name: &str) -> Result<Self, Error> {
        let statements = Statements::prepare(&jobs).await?;
        let application = databases::application(application, name).await?;
        Ok(Self { application, jobs, statements })
    }
}

/// Replays. The tally says at any time what was done, also when it ends with an error or is told to stop; `progress`
/// is called now and then.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn run(
    session: &mut Session,
    registry: &Registry,
    plan: &Plan,
    tally: &mut Tally,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Tally),
) -> Result<(), Error> {
    let mut source = Source::new(plan);
    while !stop.is_cancelled() {
        let Some(work) = source.next(&session.application, &session.jobs, plan).await? else { return Ok(()) };
        page(session, registry, plan, &work, tally, stop).await?;
        progress(tally);
    }
    tally.interrupted = true;
    Ok(())
}

async fn page(
    session: &mut Session,
    registry: &Registry,
    plan: &Plan,
    work: &Work,
    tally: &mut Tally,
    stop: &CancellationToken,
) -> Result<(), Error> {
    work.missing.iter().for_each(|event_id| tally.missing(*event_id));
    let generations = if plan.again { Generations::load(&session.jobs, &work.rows).await? } else { Generations::FIRST };
    let mut batch = Batch::default();
    for row in &work.rows {
        if stop.is_cancelled() {
            break;
        }
        handle(registry, plan, work, row, &generations, &mut batch, tally);
        if batch.is_full() {
            flush(session, plan, &mut batch, tally).await?;
        }
    }
    flush(session, plan, &mut batch, tally).await
}

/// Runs the wanted handlers on one event.
fn handle(
    registry: &Registry,
    plan: &Plan,
    work: &Work,
    row: &OutboxRow,
    generations: &Generations,
    batch: &mut Batch,
    tally: &mut Tally,
) {
    let envelope = &row.envelope;
    let pairs = work.pairs.as_ref().map(|pairs| pairs.get(&envelope.event_id));
    let wanted = |handler: &str| {
        plan.takes_handler(handler) && pairs.is_none_or(|of| of.is_some_and(|handlers| handlers.contains(handler)))
    };
    let mut ran = BTreeSet::new();
    for handled in registry.publish_to(envelope, wanted) {
        ran.insert(handled.handler);
        match handled.outcome {
            Ok(jobs) => {
                let generation = generations.next(envelope.event_id, handled.handler);
                let jobs = jobs.into_iter().map(|job| NewJob::new(envelope, handled.handler, generation, job));
                batch.done(envelope.event_id, handled.handler, jobs);
            }
            Err(error) => batch.failed(Failure::new(envelope, handled.handler, &error)),
        }
    }
    if let Some(Some(handlers)) = pairs {
        let gone = handlers.iter().filter(|handler| plan.takes_handler(handler) && !ran.contains(handler.as_str()));
        gone.for_each(|handler| tally.unhandled(handler));
    }
    batch.events += 1;
    batch.passed_by += u64::from(ran.is_empty());
}

async fn flush(session: &mut Session, plan: &Plan, batch: &mut Batch, tally: &mut Tally) -> Result<(), Error> {
    let batch = std::mem::take(batch);
    if batch.events == 0 {
        return Ok(());
    }
    let stored = match plan.dry_run {
        true => store::compare(&session.jobs, &batch).await?,
        false => store::store(&mut session.jobs, &session.statements, &batch).await?,
    };
    tally.add(batch, &stored);
    Ok(())
}
