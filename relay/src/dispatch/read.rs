//! From lanes to a batch: what is new is read, the handlers run, and the cursors' next places are computed.
//!
//! A batch is read while the one before it is being committed, so a lane here runs ahead of its row in the database: the
//! version it names is the one that the commit under way will leave. When a commit fails, everything here is forgotten
//! and loaded again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::envelope::Envelope;
use time::OffsetDateTime;
use tokio_postgres::Client;

use super::cursor::Cursor;
use super::history::{Verdict, judge};
use super::lane::{Gate, Lane, Passed, READ_LIMIT, Trouble};
use super::registrations::Registrations;
use super::traced::{self, Traced};
use crate::handlers::Registry;
use crate::jobs::store::NewJob;
use crate::metrics::record::Tally;
use crate::outbox::{self, Answer, Look, OutboxRow, Range, Reading, SLICE_BYTES, SLICE_ROWS, START, Slice};

/// A batch takes no further lane once it holds this many events, or this many bytes of them.
const BATCH_EVENTS: usize = 8 * SLICE_ROWS;
const BATCH_BYTES: usize = SLICE_BYTES;

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
pub enum Found {
    /// Something to commit.
    Batch(Batch),
    /// Nothing yet, but a commit is on its way to disk: look again soon.
    Unflushed,
    /// Nothing.
    Nothing,
}

/// Whether anything waits in the lanes, in two light statements.
///
/// # Errors
/// As [`outbox::glance`].
pub async fn anything(client: &Client, lanes: &BTreeMap<i16, Lane>) -> Result<bool, outbox::Error> {
    let questions: Vec<_> = lanes.values().map(Lane::question).collect();
    let look = outbox::glance(client, &questions).await?;
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
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The application database.
    pub application: &'a Client,
    /// What to do with events.
    pub registry: &'a Registry,
    /// Since when each handler is known.
    pub registrations: &'a Registrations,
}

/// Reads the next batch. `turn` says at which lane to begin, so that each gets its turn under load.
///
/// # Errors
/// As [`outbox::look()`]; the connection is then to be dropped, and the lanes loaded again.
pub async fn batch(
    reader: Reader<'_>,
    lanes: &mut BTreeMap<i16, Lane>,
    turn: &mut i16,
) -> Result<Found, outbox::Error> {
    let began = Instant::now();
    let questions: Vec<_> = lanes.values().map(Lane::question).collect();
    let (reading, look) = outbox::look(reader.application, &questions).await?;
    let mut answers = look.lanes.clone();
    answers.sort_unstable_by_key(|answer| (answer.lane < *turn, answer.lane));

    let mut batch = Batch::default();
    let mut reads = Vec::new();
    let mut unflushed = false;
    let (mut events, mut bytes) = (0, 0);
    for answer in answers {
        if events >= BATCH_EVENTS || bytes >= BATCH_BYTES {
            *turn = answer.lane;
            break;
        }
        let Some(lane) = lanes.get_mut(&answer.lane) else { continue };
        match read_lane(&reading, &look, &answer, lane).await? {
            LaneRead::Rows(read) => {
                events += read.rows.len();
                bytes += read.bytes;
                reads.push((lane.cursor.rebased_at, read.rows));
                batch.cursors.push(lane.cursor.clone());
                if lane.checkpoint_due() {
                    batch.checkpoints.push(lane.cursor.clone());
                }
                lane.cursor.version += 1;
            }
            LaneRead::Soon => unflushed = true,
            LaneRead::Nothing => {}
        }
    }
    // The handlers run while the answer to COMMIT is on its way.
    let handling = async {
        batch.jobs.reserve(events);
        for (rebased_at, rows) in &reads {
            handle(reader, *rebased_at, rows, &mut batch);
        }
    };
    let (ended, ()) = tokio::join!(reading.end(), handling);
    ended?;
    batch.took = began.elapsed();
    Ok(match (batch.cursors.is_empty(), unflushed) {
        (false, _) => Found::Batch(batch),
        (true, true) => Found::Unflushed,
        (true, false) => Found::Nothing,
    })
}

enum LaneRead {
    Rows(outbox::Read),
    /// Not now, but it will not take long.
    Soon,
    Nothing,
}

fn verdict(lane: &Lane, look: &Look, answer: &Answer) -> Verdict {
    judge(&lane.cursor, look.server.identity, &look.next, answer)
}

/// Reads one lane's next rows and moves its cursor over them, here in memory.
async fn read_lane(
    reading: &Reading<'_>,
    look: &Look,
    answer: &Answer,
    lane: &mut Lane,
) -> Result<LaneRead, outbox::Error> {
    lane.trouble = match verdict(lane, look, answer) {
        Verdict::Same => None,
        Verdict::WindowGone | Verdict::Promoted => Some(Trouble::Shaken),
        Verdict::Behind(misled) => Some(Trouble::Misled(misled)),
        Verdict::Moved(how) => Some(Trouble::Moved(how)),
    };
    if lane.trouble.is_some() {
        return Ok(LaneRead::Nothing);
    }
    if lane.passed.as_ref().is_some_and(|passed| passed.server != look.server) {
        // What was counted began at a place that is worth nothing any more.
        lane.passed = None;
        return Ok(LaneRead::Soon);
    }
    let reopened = lane.cursor.seen.reopened_in(&look.next);
    if !reopened.is_empty() {
        lane.cursor.seen = lane.cursor.seen.reopen(reopened);
    }
    let everything = lane.cursor.window.as_ref().map_or(lane.cursor.is_nowhere(), |window| window.everything);
    let next = match (lane.gate.take(), &lane.cursor.window) {
        (Some(gate), _) if look.flush_lsn >= gate.lsn || Instant::now() >= gate.until => {
            lane.flushed = Some(gate.next.clone());
            gate.next
        }
        (Some(gate), _) => {
            lane.gate = Some(gate);
            return Ok(LaneRead::Soon);
        }
        (None, Some(window)) => window.next.clone(),
        (None, None) if answer.waiting == 0 && !(everything && answer.any) => return Ok(LaneRead::Nothing),
        (None, None) => look.next.clone(),
    };

    let after = lane.cursor.window.as_ref().map_or(START, |window| window.after);
    let seen = if lane.cursor.window.is_some() { lane.cursor.seen.clone() } else { lane.seen().clone() };
    let range = Range { lane: answer.lane, seen: &seen, next: &next, everything, after, xmax: look.next.xmax() };
    let sliced = lane.cursor.window.is_some() || everything || answer.waiting > SLICE_ROWS;
    if sliced && lane.slices.is_empty() {
        lane.slices = reading.plan(&range).await?.into();
    }
    let slice = if sliced { lane.slices.front().copied() } else { Some(Slice::ALL) };
    let read = match slice {
        Some(slice) => reading.rows(&range, slice, lane.limit).await?,
        None => outbox::Read { whole: true, ..outbox::Read::default() },
    };

    if lane.flushed.as_ref() != Some(&next) && read.rows.iter().any(|row| !row.durable_at_commit) {
        if look.flush_lsn < look.insert_lsn {
            lane.gate = Some(Gate { next, lsn: look.insert_lsn, until: Instant::now() + look.flush_bound });
            return Ok(LaneRead::Soon);
        }
        lane.flushed = Some(next.clone());
    }
    lane.limit = if read.whole { (lane.limit * 2).min(READ_LIMIT) } else { read.rows.len().max(1) };
    let finished = read.whole && lane.slices.len() <= 1;
    let window = match &lane.cursor.window {
        Some(window) => Some(window.clone()),
        None => {
            let evidence = if finished { read.strongest } else { reading.evidence(&range).await? };
            evidence.map(|evidence| lane.cursor.open(next, everything, evidence, after))
        }
    };
    if read.whole {
        lane.slices.pop_front();
    }
    let Some(mut window) = window else { return Ok(LaneRead::Nothing) };

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
    Ok(LaneRead::Rows(read))
}

fn handle(reader: Reader<'_>, rebased_at: Option<OffsetDateTime>, rows: &[OutboxRow], batch: &mut Batch) {
    batch.events += rows.len();
    for OutboxRow { envelope, .. } in rows {
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
                Err(error) => batch.failures.push(Failure {
                    event: OutboxKey::of(envelope),
                    handler: handled.handler,
                    error: error.to_string(),
                }),
            }
        }
    }
}
