//! Where a replay's events come from: pages of the outbox, events named one by one, or the open dispatch failures.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Error, Events, Plan};
use crate::databases::PATIENCE;
use crate::outbox::page::{Limit, Walk};
use crate::outbox::{self, Look, OutboxRow, Reading};
use crate::postgres::within;

/// Events, or failures, taken at a time when they are named.
const CHUNK: usize = 1_000;
/// How soon to look again for a commit that is on its way to disk.
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// `open_failures`: the next of the failures that nobody has resolved, in the order of the primary key, which a further
/// failure of the same does not change.
const OPEN_FAILURES: &str = "
    SELECT event_id, handler
      FROM dispatch_failures
     WHERE resolved_at IS NULL
       AND ($1::uuid   IS NULL OR (event_id, handler) > ($1, $2))
       AND ($3::uuid[] IS NULL OR event_id = ANY ($3))
       AND ($4::text[] IS NULL OR handler  = ANY ($4))
     ORDER BY event_id, handler
     LIMIT $5";

/// Which handlers are wanted for which event.
pub type Pairs = HashMap<Uuid, BTreeSet<String>>;

/// Some events to run handlers on.
#[derive(Debug, Default)]
pub struct Work {
    /// The events.
    pub rows: Vec<OutboxRow>,
    /// The handlers for each of them; none means all.
    pub pairs: Option<Pairs>,
    /// Events that were named and are not in the outbox.
    pub missing: Vec<Uuid>,
}

/// What is left to read.
#[derive(Debug)]
pub struct Source {
    rest: Rest,
    limit: Limit,
    /// Commits that were waited for until they were on disk.
    flushed: HashSet<Uuid>,
}

#[derive(Debug)]
enum Rest {
    Walk(Option<Walk>),
    Named(VecDeque<Uuid>),
    Failures { after: Option<(Uuid, String)>, more: bool, chunk: VecDeque<Uuid>, pairs: Pairs },
}

impl Source {
    /// From the beginning.
    pub fn new(plan: &Plan) -> Self {
        let rest = match &plan.events {
            Events::All if plan.filter.aggregate.is_some() => Rest::Walk(Some(Walk::Lane(None))),
            Events::All => Rest::Walk(Some(Walk::All(None))),
            Events::Named(events) => Rest::Named(events.iter().copied().collect()),
            Events::Failed(_) => {
                Rest::Failures { after: None, more: true, chunk: VecDeque::new(), pairs: Pairs::new() }
            }
        };
        Self { rest, limit: Limit::MOST, flushed: HashSet::new() }
    }

    /// From the events behind an id on, in the order of ids.
    pub fn behind(plan: &Plan, event_id: Uuid) -> Self {
        match Self::new(plan) {
            Self { rest: Rest::Walk(Some(Walk::All(None))), limit, flushed } if !event_id.is_nil() => {
                Self { rest: Rest::Walk(Some(Walk::All(Some(event_id)))), limit, flushed }
            }
            source => source,
        }
    }

    /// The next events; none at the end.
    ///
    /// # Errors
    /// When a database is away, or its state refuses the work.
    pub async fn next(&mut self, application: &Client, jobs: &Client, plan: &Plan) -> Result<Option<Work>, Error> {
        if let Rest::Failures { after, more: more @ true, chunk, pairs } = &mut self.rest
            && chunk.is_empty()
        {
            (*chunk, *pairs) = open_failures(jobs, plan, after).await?;
            *more = !chunk.is_empty();
        }
        match &self.rest {
            Rest::Walk(None) => return Ok(None),
            Rest::Named(ids) | Rest::Failures { chunk: ids, .. } if ids.is_empty() => return Ok(None),
            _ => {}
        }
        loop {
            let (read, look) = self.read(application, plan).await?;
            if plan.dry_run || !self.unflushed(&read.work.rows) {
                return Ok(Some(self.take(read)));
            }
            flushed(application, look).await?;
        }
    }

    /// Reads in one transaction, which says first whether this server may be read from.
    async fn read(&self, application: &Client, plan: &Plan) -> Result<(Read, Look), outbox::Error> {
        let (reading, look) = outbox::look(application, &[]).await?;
        let mut limit = self.limit;
        let (work, rest) = match &self.rest {
            Rest::Walk(Some(walk)) => {
                let page = reading.page(&plan.filter, walk, &mut limit).await?;
                (Work { rows: page.rows, ..Work::default() }, ReadRest::Walk(page.next))
            }
            Rest::Walk(None) => (Work::default(), ReadRest::Walk(None)),
            Rest::Named(ids) => named(&reading, plan, ids, &mut limit).await?,
            Rest::Failures { chunk, pairs, .. } => {
                let (work, rest) = named(&reading, plan, chunk, &mut limit).await?;
                (Work { pairs: Some(pairs.clone()), ..work }, rest)
            }
        };
        reading.end().await?;
        Ok((Read { work, rest, limit }, look))
    }

    /// Whether there are commits among the rows that may not be on disk yet, and have not been waited for.
    fn unflushed(&mut self, rows: &[OutboxRow]) -> bool {
        let before = self.flushed.len();
        self.flushed.extend(rows.iter().filter(|row| !row.durable_at_commit).map(|row| row.envelope.event_id));
        self.flushed.len() > before
    }

    fn take(&mut self, read: Read) -> Work {
        self.limit = read.limit;
        self.flushed.clear();
        match (&mut self.rest, read.rest) {
            (Rest::Named(ids) | Rest::Failures { chunk: ids, .. }, ReadRest::Ids(taken)) => drop(ids.drain(..taken)),
            (rest, ReadRest::Walk(next)) => *rest = Rest::Walk(next),
            (_, ReadRest::Ids(_)) => {}
        }
        read.work
    }
}

/// What one transaction read, and what is left after it.
struct Read {
    work: Work,
    rest: ReadRest,
    limit: Limit,
}

enum ReadRest {
    Walk(Option<Walk>),
    /// So many of the ids are done with.
    Ids(usize),
}

/// Reads the first of some ids, which are ascending.
async fn named(
    reading: &Reading<'_>,
    plan: &Plan,
    ids: &VecDeque<Uuid>,
    limit: &mut Limit,
) -> Result<(Work, ReadRest), outbox::Error> {
    let mut ids: Vec<Uuid> = ids.iter().take(CHUNK).copied().collect();
    let (rows, whole) = reading.by_id(&plan.filter, &ids, limit).await?;
    if let Some(last) = rows.last().filter(|_| !whole) {
        ids.retain(|id| *id <= last.envelope.event_id);
    }
    let present: HashSet<Uuid> = reading.present_ids(&ids).await?.into_iter().collect();
    let missing = ids.iter().filter(|id| !present.contains(id)).copied().collect();
    Ok((Work { rows, pairs: None, missing }, ReadRest::Ids(ids.len())))
}

/// Waits until what was visible in a look is on disk, or must be by PostgreSQL's own bound: an asynchronous commit is
/// visible before, and after a crash it never was. What it wrote is then to be read again.
async fn flushed(client: &Client, look: Look) -> Result<(), outbox::Error> {
    let until = Instant::now() + look.flush_bound;
    let mut reached = look.flush_lsn;
    while reached < look.insert_lsn && Instant::now() < until {
        tokio::time::sleep(FLUSH_POLL).await;
        reached = outbox::glance(client, &[]).await?.flush_lsn;
    }
    Ok(())
}

async fn open_failures(
    jobs: &Client,
    plan: &Plan,
    after: &mut Option<(Uuid, String)>,
) -> Result<(VecDeque<Uuid>, Pairs), Error> {
    let events: Option<Vec<Uuid>> = match &plan.events {
        Events::Failed(only) => only.as_ref().map(|only| only.iter().copied().collect()),
        _ => None,
    };
    let handlers: Option<Vec<&str>> = plan.handlers.as_ref().map(|wanted| wanted.iter().map(String::as_str).collect());
    let (event_id, handler) = (after.as_ref().map(|after| after.0), after.as_ref().map(|after| after.1.as_str()));
    let rows = within(
        PATIENCE,
        jobs.query_typed(
            OPEN_FAILURES,
            &[
                (&event_id, Type::UUID),
                (&handler, Type::TEXT),
                (&events, Type::UUID_ARRAY),
                (&handlers, Type::TEXT_ARRAY),
                (&(CHUNK as i64), Type::INT8),
            ],
        ),
    )
    .await?;
    let mut pairs = Pairs::new();
    for row in &rows {
        let pair: (Uuid, String) = (column(row, 0)?, column(row, 1)?);
        pairs.entry(pair.0).or_default().insert(pair.1.clone());
        *after = Some(pair);
    }
    let mut ids: Vec<Uuid> = pairs.keys().copied().collect();
    ids.sort_unstable();
    Ok((ids.into(), pairs))
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    index: usize,
) -> Result<T, crate::postgres::Error> {
    Ok(row.try_get(index)?)
}
