//! A lane in a worker's hands: its cursor, running ahead of the row in the database, and what is remembered about the
//! window that is being worked off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;

use super::cursor::Cursor;
use super::history::Move;
use super::misled::Misled;
use crate::outbox::window::Snapshot;
use crate::outbox::{Plan, Question, SLICE_ROWS, Server, Slice};

/// How often a lane's cursor is kept.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// A slice may hold a few rows more than planned, where positions repeat.
pub(super) const READ_LIMIT: usize = SLICE_ROWS + SLICE_ROWS / 8;

/// A lane that this worker holds.
#[derive(Debug)]
pub struct Lane {
    pub(super) cursor: Cursor,
    /// What is left of the open window, in order.
    pub(super) slices: VecDeque<Slice>,
    pub(super) planning: Option<Planning>,
    pub(super) gate: Option<Gate>,
    /// The upper snapshot of which every transaction is known to be on disk.
    pub(super) flushed: Option<Snapshot>,
    pub(super) passed: Option<Passed>,
    pub(super) trouble: Option<Trouble>,
    pub(super) checkpointed: Option<Instant>,
}

/// What has been handed over beyond the evidence that a cursor may keep, known as long as one server runs. Only rows
/// with ids of another history leave such a rest; without this they would be read again and again.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) server: Server,
    pub(super) seen: Snapshot,
}

/// A window whose plan is not yet complete: its upper snapshot is fixed, and is worth something as long as one server runs.
#[derive(Debug)]
pub(super) struct Planning {
    pub(super) server: Server,
    pub(super) next: Snapshot,
    pub(super) plan: Plan,
}

/// A window with a commit that may not yet be on disk. It is put off, with its upper snapshot fixed, and read anew once
/// all of it is durable: after a crash in between, that commit never happened, and its id is another's.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) next: Snapshot,
    pub(super) lsn: PgLsn,
    pub(super) until: Instant,
}

/// Why a lane is not dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The history that the cursor points into is gone: the lane is to be [put back](super::rebase).
    #[error("{0}: it was restored, rebuilt, or failed over with loss")]
    Moved(#[from] Move),
    /// The cursor stands, but what was dispatched beyond its witness may be gone: that is to be [looked for](super::rebase).
    #[error("the server was promoted or put back; looking for what was lost")]
    Shaken,
    /// An old primary answers: the worker gives its lanes up.
    #[error(transparent)]
    Misled(#[from] Misled),
}

impl Lane {
    /// A lane at its cursor.
    pub fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            slices: VecDeque::new(),
            planning: None,
            gate: None,
            flushed: None,
            passed: None,
            trouble: None,
            checkpointed: None,
        }
    }

    /// Whether the history it points into is in question, so that it is to be put right before it goes on.
    pub fn wants_rebase(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Moved(_) | Trouble::Shaken))
    }

    /// Why it is not dispatched, if it is not.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Whether the server that answered is not the one to read from.
    pub fn misled(&self) -> Option<Misled> {
        match self.trouble {
            Some(Trouble::Misled(misled)) => Some(misled),
            _ => None,
        }
    }

    /// Its cursor, as the next commit is to find it.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Everything before it has been handed over.
    pub(super) fn seen(&self) -> &Snapshot {
        self.passed.as_ref().map_or(&self.cursor.seen, |passed| &passed.seen)
    }

    pub(super) fn checkpoint_due(&mut self) -> bool {
        let due = self.checkpointed.is_none_or(|at| at.elapsed() >= CHECKPOINT) && self.cursor.window.is_none();
        if due {
            self.checkpointed = Some(Instant::now());
        }
        due
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question { seen: self.seen(), ..self.cursor.question() }
    }
}
