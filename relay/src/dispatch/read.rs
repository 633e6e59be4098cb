//! From lanes to a batch: what is new is read, the handlers run, and the cursors' next places are computed.
//!
//! Batches are read while those before them wait and are being committed, so a lane here runs ahead of its row in the
//! database: the version it names is the one that the last of those commits will leave. When one fails, the batches
//! after it and everything here are forgotten, and loaded again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::envelope::Envelope;
use shared::redact::{self, ERROR_BYTES};
use time::OffsetDateTime;

use super::choose::{Part, What, choose, verdict};
use super::cursor::Cursor;
use super::history::Verdict;
use super::lane::{Gate, Lane, Passed};
use super::registrations::Registrations;
use super::traced::{self, Traced};
use crate::handlers::Registry;
use crate::jobs::store::NewJob;
use crate::metrics::record::Tally;
use crate::outbox::{self, Look, OutboxRow, Reading, SLICE_ROWS, Session, Way};

/// A batch takes no further lane once it may hold this many events.
const BATCH_EVENTS: usize = 8 * SLICE_ROWS;

/// Handlers run on so many events before others get their turn. A batch takes a thread for milliseconds, and while it does,
/// the runtime may not look at any socket, that of the COPY before it among them.
const EVENTS_AT_A_TIME: usize = 128;

/// What one transaction in the jobs database will store: jobs and failures, and the cursors moved over their events.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with the version that it is fenced on.
    pub cursors: Vec<Cursor>,
    /// Cursors to keep, for the day when history moves.
    pub checkpoints: Vec<Cursor>,
    /// The jobs of all handlers, in the order of the events.
    pub jobs: Vec<NewJob>,
    /// What handlers could not take.
    pub failures: Vec<Failure>,
    /// How many events are in it.
    pub events: usize,
    /// Whether it holds events that may have been dispatched before: jobs of theirs are likely to be there.
    pub again: bool,
    /// The same by type, with the runs of their handlers.
    pub tally: Tally,
    /// The spans of its events.
    pub traced: Traced,
    /// How long it took to read and to handle.
    pub took: Duration,
}

/// An event that a handler could not take.
#[derive(Debug)]
pub struct Failure {
    /// The event, without its payload.
    pub event: OutboxKey,
    /// The handler.
    pub handler: &'static str,
    /// Why; free of values.
    pub error: String,
}

impl Failure {
    /// That a handler could not take an event.
    pub fn new(envelope: &Envelope, handler: &'static str, error: &impl std::fmt::Display) -> Self {
        let error = redact::cut(&error.to_string(), ERROR_BYTES).to_owned();
        Self { event: OutboxKey::of(envelope), handler, error }
    }

    /// Its line in the log.
    pub fn tell(&self) {
        let Self { event, handler, error } = self;
        let OutboxKey { event_id, lane, event_type, trace_id, .. } = event;
        tracing::error!(%event_id, trace_id, lane, event_type, handler, error, "event set aside");
    }
}

/// Which event, for people.
#[derive(Clone, Debug)]
pub struct OutboxKey {
    /// The event.
    pub event_id: uuid::Uuid,
    /// Its lane.
    pub lane: i16,
    /// Its aggregate's type.
    pub aggregate_type: String,
    /// Its aggregate.
    pub aggregate_id: String,
    /// Its type.
    pub event_type: String,
    /// The trace that it belongs to, if it says so.
    pub trace_id: String,
}

impl OutboxKey {
    /// The key of an event.
    pub fn of(envelope: &Envelope) -> Self {
        Self {
            event_id: envelope.event_id,
            lane: envelope.lane,
            aggregate_type: envelope.aggregate_type.clone(),
            aggregate_id: envelope.aggregate_id.clone(),
            event_type: envelope.event_type.clone(),
            trace_id: shared::trace::context::trace_id_of(envelope.metadata.get()),
        }
    }
}

/// What a read found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and a batch is the usual case")]
pub enum Found {
    /// Something to commit.
    Batch(Batch),
    /// Nothing yet, but a large window is being planned, or what there is did not fit as a whole: read again at once.
    Again,
    /// Nothing yet, but a commit is on its way to disk: look again soon.
    Unflushed,
    /// Nothing.
    Nothing,
}

/// Whether anything waits in the lanes, in one light statement.
///
/// # Errors
/// As [`outbox::glance`].
pub async fn anything(application: &Session, lanes: &BTreeMap<i16, Lane>) -> Result<bool, outbox::Error> {
    let questions: Vec<_> = lanes.values().map(Lane::question).collect();
    let look = outbox::glance(application, &questions).await?;
    Ok(look.lanes.iter().any(|answer| {
        lanes.get(&answer.lane).is_some_and(|lane| {
            answer.waiting > 0
                || (answer.any && lane.cursor.is_nowhere())
                || lane.cursor.window.is_some()
                || lane.gate.is_some()
                || verdict(lane, &look, answer) != Verdict::Same
        })
    }))
}

/// What a read needs beside the lanes.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The application database.
    pub application: &'a Session,
    /// What to do with events.
    pub registry: &'a Registry,
    /// Since when each handler is known.
    pub registrations: &'a Registrations,
}

/// Where a worker's next batch begins, and how large it may be.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The lane to begin with, so that each gets its turn under load.
    pub(super) lane: i16,
    /// Rows to ask for: fewer while they are large, so that little is sent in vain.
    pub(super) rows: usize,
    /// Whether to read in order, as far as there is room: something did not fit as a whole.
    in_order: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self { lane: 0, rows: BATCH_EVENTS, in_order: false }
    }
}

/// Reads the next batch.
///
/// # Errors
/// As [`outbox::look()`]; the connection is then to be dropped, and the lanes loaded again.
pub async fn batch(
    reader: Reader<'_>,
    lanes: &mut BTreeMap<i16, Lane>,
    turn: &mut Turn,
) -> Result<Found, outbox::Error> {
    let began = Instant::now();
    let questions: Vec<_> = lanes.values().map(Lane::question).collect();
    let (reading, look) = outbox::look(reader.application, &questions).await?;
    let parts = choose(&reading, &look, lanes, turn).await?;
    let stretches: Vec<_> = parts.iter().filter_map(|part| part.stretch(&look)).collect();
    let fit = stretches.iter().all(|stretch| stretch.slice.rows < stretch.limit);
    let way = if fit && !turn.in_order { Way::Whole } else { Way::InOrder };
    let mut reads = reading.rows(&stretches, look.next.xmax(), way).await?;
    let cut_short = reads.iter().zip(&stretches).any(|(read, of)| !read.whole && read.looked_at < of.limit);
    turn.in_order = way == Way::Whole && reads.iter().any(|read| !read.whole);
    let looked_at: usize = reads.iter().map(|read| read.looked_at).sum();
    turn.rows = if cut_short { looked_at.max(1) } else { (turn.rows * 2).min(BATCH_EVENTS) };

    let mut reads = reads.drain(..);
    let mut batch = Batch::default();
    let mut taken = Vec::new();
    let mut again = parts.iter().any(|part| part.what == What::Planning);
    let mut unflushed = parts.iter().any(|part| part.what == What::Soon);
    for part in &parts {
        let read = match part.what {
            What::Planning | What::Soon => continue,
            What::Nothing => outbox::Read { whole: true, ..outbox::Read::default() },
            What::Slice(..) => reads.next().unwrap_or_default(),
        };
        let Some(lane) = lanes.get_mut(&part.lane) else { continue };
        match take(&reading, &look, part, read, lane).await? {
            Taken::Rows(read) => {
                taken.push((lane.cursor.rebased_at, read.rows));
                batch.cursors.push(lane.cursor.clone());
                if lane.checkpoint_due() {
                    batch.checkpoints.push(lane.cursor.clone());
                }
                lane.cursor.version += 1;
            }
            Taken::Soon => unflushed = true,
            Taken::Unread => again = true,
            Taken::Nothing => {}
        }
    }
    reading.end_soon();
    handle(reader, &taken, &mut batch).await;
    batch.took = began.elapsed();
    Ok(match batch.cursors.is_empty() {
        false => Found::Batch(batch),
        true if again => Found::Again,
        true if unflushed => Found::Unflushed,
        true => Found::Nothing,
    })
}

enum Taken {
    Rows(outbox::Read),
    /// Not now, but it will not take long.
    Soon,
    /// There was no room for it.
    Unread,
    Nothing,
}

/// Takes what was read of a lane and moves its cursor over it, here in memory.
async fn take(
    reading: &Reading<'_>,
    look: &Look,
    part: &Part,
    read: outbox::Read,
    lane: &mut Lane,
) -> Result<Taken, outbox::Error> {
    let next = part.next.clone();
    if lane.flushed.as_ref() != Some(&next) && read.rows.iter().any(|row| !row.durable_at_commit) {
        if look.flush_lsn < look.insert_lsn {
            lane.gate = Some(Gate { next, lsn: look.insert_lsn, until: Instant::now() + look.flush_bound });
            return Ok(Taken::Soon);
        }
        lane.flushed = Some(next.clone());
    }
    if read.last.is_none() && !read.whole {
        return Ok(Taken::Unread);
    }
    let finished = read.whole && lane.slices.len() <= 1;
    let window = match &lane.cursor.window {
        Some(window) => Some(window.clone()),
        None => {
            let evidence = if finished { read.strongest } else { reading.evidence(&part.range(look)).await? };
            evidence.map(|evidence| lane.cursor.open(next, part.everything, evidence, part.after))
        }
    };
    if read.whole {
        lane.slices.pop_front();
    }
    let Some(mut window) = window else { return Ok(Taken::Nothing) };

    window.after = read.last.unwrap_or(window.after);
    let before = lane.cursor.seen.clone();
    let next = window.next.clone();
    lane.cursor = match finished {
        true => lane.cursor.close(window),
        false => Cursor { window: Some(window), ..lane.cursor.clone() },
    };
    lane.cursor.identity = Some(look.server.identity);
    lane.passed = None;
    if finished && lane.cursor.seen == before && look.flush_lsn >= look.insert_lsn {
        lane.passed = Some(Passed { server: look.server, seen: next });
    }
    Ok(Taken::Rows(read))
}

/// Runs the handlers on what was read, in the order of positions over all lanes: jobs come in the order of time then,
/// which is that of the indexes they go to.
async fn handle(reader: Reader<'_>, taken: &[(Option<OffsetDateTime>, Vec<OutboxRow>)], batch: &mut Batch) {
    let rows = taken.iter().flat_map(|(rebased_at, rows)| rows.iter().map(move |row| (*rebased_at, row)));
    // Positions beside the rows, not behind them: sorting would wait for memory at each look.
    let mut rows: Vec<_> = rows.map(|(rebased_at, row)| (row.envelope.position, rebased_at, row)).collect();
    let id = |row: &OutboxRow| row.envelope.event_id;
    rows.sort_by(|(a, _, one), (b, _, other)| a.cmp(b).then_with(|| id(one).cmp(&id(other))));
    batch.events = rows.len();
    batch.jobs.reserve(rows.len());
    for (number, (_, rebased_at, OutboxRow { envelope, .. })) in rows.into_iter().enumerate() {
        if number % EVENTS_AT_A_TIME == EVENTS_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        let past = rebased_at.is_some_and(|at| envelope.occurred_at < at);
        batch.again |= past;
        let event_type = reader.registry.known_type(&envelope.event_type);
        batch.tally.event(event_type);
        let Some(event_type) = event_type else { continue };
        let wanted = |handler: &str| !past || reader.registrations.covers(handler, envelope.occurred_at);
        let recorded = traced::Event::of(envelope);
        for handled in reader.registry.publish_to(envelope, wanted) {
            batch.tally.run(event_type, handled.handler, handled.outcome.is_ok());
            let span = recorded.as_ref().map(|event| batch.traced.run(event, envelope, &handled));
            match handled.outcome {
                Ok(jobs) => batch.jobs.extend(jobs.into_iter().map(|job| {
                    let mut job = NewJob::new(envelope, handled.handler, 0, job);
                    span.iter().for_each(|span| traced::carry(&mut job, span));
                    job
                })),
                Err(error) => batch.failures.push(Failure::new(envelope, handled.handler, &error)),
            }
        }
    }
}
