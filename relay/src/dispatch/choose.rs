//! What a batch is to hold: which lanes, which window of each, and which slice of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::history::{Verdict, judge};
use super::lane::{Lane, Planning, READ_LIMIT, Trouble};
use super::read::Turn;
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Answer, Look, Plan, Range, Reading, SLICE_ROWS, START, Slice, Stretch};

/// A transaction plans no further piece of a window once it is this old.
const PLANNING: Duration = Duration::from_millis(200);

/// A lane's part of a batch.
pub(super) struct Part {
    pub(super) lane: i16,
    seen: Snapshot,
    pub(super) next: Snapshot,
    pub(super) everything: bool,
    pub(super) after: (i64, Uuid),
    pub(super) what: What,
}

/// What to read of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A slice of its window, and how many rows of it.
    Slice(Slice, usize),
    /// Its window has nothing more.
    Nothing,
    /// Nothing yet: its window is still being planned.
    Planning,
    /// Not now, but it will not take long.
    Soon,
}

impl Part {
    pub(super) fn range(&self, look: &Look) -> Range<'_> {
        let Self { lane, seen, next, everything, after, .. } = self;
        Range { lane: *lane, seen, next, everything: *everything, after: *after, xmax: look.next.xmax() }
    }

    pub(super) fn stretch(&self, look: &Look) -> Option<Stretch<'_>> {
        match self.what {
            What::Slice(slice, limit) => Some(Stretch { range: self.range(look), slice, limit }),
            What::Nothing | What::Planning | What::Soon => None,
        }
    }
}

/// Chooses what to read, lane by lane from the one whose turn it is.
pub(super) async fn choose(
    reading: &Reading<'_>,
    look: &Look,
    lanes: &mut BTreeMap<i16, Lane>,
    turn: &mut Turn,
) -> Result<Vec<Part>, outbox::Error> {
    let began = Instant::now();
    let mut answers = look.lanes.clone();
    answers.sort_unstable_by_key(|answer| (answer.lane < turn.lane, answer.lane));
    let mut parts = Vec::new();
    let mut room = turn.rows;
    'lanes: for answer in answers {
        // A slice is read whole or not at all, but where it alone is too large.
        if !parts.is_empty() && (room < SLICE_ROWS || began.elapsed() >= PLANNING) {
            turn.lane = answer.lane;
            break;
        }
        let Some(lane) = lanes.get_mut(&answer.lane) else { continue };
        let Some(mut part) = open(look, &answer, lane) else { continue };
        if part.what != What::Soon {
            let sliced = lane.cursor.window.is_some() || part.everything || answer.waiting > SLICE_ROWS;
            if sliced && lane.slices.is_empty() {
                let fresh = || Planning { server: look.server, next: part.next.clone(), plan: Plan::default() };
                let mut planning = lane.planning.take().unwrap_or_else(fresh);
                while !reading.plan(&part.range(look), &mut planning.plan).await? {
                    if began.elapsed() >= PLANNING {
                        lane.planning = Some(planning);
                        part.what = What::Planning;
                        parts.push(part);
                        continue 'lanes;
                    }
                }
                lane.slices = planning.plan.slices().into();
            }
            let slice = if sliced { lane.slices.front().copied() } else { Some(Slice::all(answer.waiting)) };
            if let Some(slice) = slice {
                // One row more, to see that there is none.
                part.what = What::Slice(slice, (slice.rows + 1).min(READ_LIMIT).min(room));
                room = room.saturating_sub(slice.rows.min(SLICE_ROWS));
            }
        }
        parts.push(part);
    }
    Ok(parts)
}

pub(super) fn verdict(lane: &Lane, look: &Look, answer: &Answer) -> Verdict {
    judge(&lane.cursor, look.server.identity, &look.next, answer)
}

/// Judges a lane and says which window is to be read of it, if any: the open one, or a new one up to now.
fn open(look: &Look, answer: &Answer, lane: &mut Lane) -> Option<Part> {
    lane.trouble = match verdict(lane, look, answer) {
        Verdict::Same => None,
        Verdict::WindowGone | Verdict::Promoted => Some(Trouble::Shaken),
        Verdict::Behind(misled) => Some(Trouble::Misled(misled)),
        Verdict::Moved(how) => Some(Trouble::Moved(how)),
    };
    if lane.trouble.is_some() {
        return None;
    }
    let part = |lane: &Lane, next: Snapshot, everything: bool, what: What| {
        let window = lane.cursor.window.as_ref();
        let seen = if window.is_some() { &lane.cursor.seen } else { lane.seen() }.clone();
        Some(Part { lane: answer.lane, seen, next, everything, after: window.map_or(START, |w| w.after), what })
    };
    if lane.passed.as_ref().is_some_and(|passed| passed.server != look.server) {
        // What was counted began at a place that is worth nothing any more.
        lane.passed = None;
        return part(lane, look.next.clone(), false, What::Soon);
    }
    let reopened = lane.cursor.seen.reopened_in(&look.next);
    if !reopened.is_empty() {
        lane.cursor.seen = lane.cursor.seen.reopen(reopened);
    }
    lane.planning = lane.planning.take().filter(|planning| planning.server == look.server);
    let everything = lane.cursor.window.as_ref().map_or(lane.cursor.is_nowhere(), |window| window.everything);
    let next = match (lane.gate.take(), &lane.cursor.window) {
        (Some(gate), _) if look.flush_lsn >= gate.lsn || Instant::now() >= gate.until => {
            lane.flushed = Some(gate.next.clone());
            gate.next
        }
        (Some(gate), _) => {
            lane.gate = Some(gate);
            return part(lane, look.next.clone(), everything, What::Soon);
        }
        (None, Some(window)) => window.next.clone(),
        (None, None) if let Some(planning) = &lane.planning => planning.next.clone(),
        (None, None) if answer.waiting == 0 && !(everything && answer.any) => return None,
        (None, None) => look.next.clone(),
    };
    part(lane, next, everything, What::Nothing)
}
