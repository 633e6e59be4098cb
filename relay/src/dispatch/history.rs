//! Whether the application database is still the history that a cursor points into. Pure.
//!
//! A cursor lives in another database than the rows it points at, so it can outlive them: a failover that lost the last
//! commits, a restore, a dump loaded into a new cluster. Transaction ids, positions, even timelines are then given out
//! again. What can't be given out again is an event id, so each cursor keeps a witness: a row that must still be there.

use crate::outbox::window::Snapshot;
use crate::outbox::{Answer, Identity};

use super::cursor::Cursor;
use super::misled::Misled;

/// What a cursor is worth against the database that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The cursor stands, and its open window too.
    Same,
    /// The cursor stands; the upper end of its open window was in a history that is gone.
    WindowGone,
    /// The cursor stands, on a new timeline: commits that no witness stands for may have been lost with the old one.
    Promoted,
    /// The server is on a lower timeline than one that was already followed: an old primary that still answers.
    Behind(Misled),
    /// The rows that the cursor points at are gone.
    Moved(Move),
}

/// How a history was seen to have moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Move {
    /// Another cluster: its data came by a dump or by logical replication.
    #[error("the database is another cluster (system identifier {found}, not {known})")]
    System {
        /// The cluster followed so far.
        known: i64,
        /// The cluster that answered.
        found: i64,
    },
    /// Transactions that were seen have not begun.
    #[error("the database has not yet given out transaction ids that were already read")]
    Rewound,
    /// The row that vouches for the cursor is not there.
    #[error("the last event that was read is no longer in the outbox")]
    WitnessGone,
}

/// Judges a cursor by what a look found in its lane.
pub fn judge(cursor: &Cursor, identity: Identity, next: &Snapshot, answer: &Answer) -> Verdict {
    let Some(known) = cursor.identity else { return Verdict::Same };
    if known.system_identifier != identity.system_identifier {
        return Verdict::Moved(Move::System { known: known.system_identifier, found: identity.system_identifier });
    }
    if identity.timeline < known.timeline {
        return Verdict::Behind(Misled { known: known.timeline, found: identity.timeline });
    }
    if cursor.witness.is_some() {
        if next.xmax() < cursor.seen.xmax() {
            return Verdict::Moved(Move::Rewound);
        }
        if !answer.witness_holds {
            return Verdict::Moved(Move::WitnessGone);
        }
    }
    if cursor.window.is_some() && !answer.next_witness_holds {
        return Verdict::WindowGone;
    }
    if identity.timeline > known.timeline { Verdict::Promoted } else { Verdict::Same }
}
