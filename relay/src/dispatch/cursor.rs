//! A lane's cursor: how far it has seen, with the evidence, and the window being worked off.

use time::OffsetDateTime;
use tokio_postgres::{Client, Row, Statement, Transaction};
use uuid::Uuid;

use super::lanes::LANES;
use crate::outbox::window::Snapshot;
use crate::outbox::{Evidence, Identity, Question, Witness};
use crate::postgres::{Column, column};

/// A row of `lane_cursors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// 0 to 15.
    pub lane: i16,
    /// What the next change must name: the fence.
    pub version: i64,
    /// The history that the snapshots belong to; none before the first look.
    pub identity: Option<Identity>,
    /// Everything finished in it has been dispatched.
    pub seen: Snapshot,
    /// The row that vouches for `seen`; there unless `seen` is nothing.
    pub witness: Option<Witness>,
    /// The window being worked off, when it takes more than one slice.
    pub window: Option<Window>,
    /// When it was last put back because history had moved.
    pub rebased_at: Option<OffsetDateTime>,
}

/// A window, from the cursor's snapshot to another. It stays the same while it is worked off, whatever commits meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its upper snapshot.
    pub next: Snapshot,
    /// Whether it takes every row, also those with transaction ids of another history.
    pub everything: bool,
    /// The row with the greatest transaction id in it.
    pub witness: Witness,
    /// What the cursor's snapshot becomes when it is done.
    pub seen: Snapshot,
    /// The last row handed over, by position and then event id.
    pub after: (i64, Uuid),
}

impl Cursor {
    /// Whether the lane has never been looked at, or has lost its history: then everything is to be run through.
    pub fn is_nowhere(&self) -> bool {
        self.witness.is_none()
    }

    /// What to ask of the application database for it.
    pub fn question(&self) -> Question<'_> {
        Question {
            lane: self.lane,
            seen: &self.seen,
            witness: self.witness,
            next_witness: self.window.as_ref().map(|window| window.witness),
        }
    }

    /// The window from here up to `next`, whose row with the greatest transaction id is the evidence.
    #[must_use]
    pub fn open(&self, next: Snapshot, everything: bool, evidence: Evidence, after: (i64, Uuid)) -> Window {
        let seen = self.seen.cut(&next, evidence.vouched);
        Window { next, everything, witness: evidence.witness, seen, after }
    }

    /// The cursor once this window has been handed over whole.
    #[must_use]
    pub fn close(&self, window: Window) -> Self {
        // A window of late commits only: the witness of before vouches for more than its own.
        let keep = self.witness.filter(|_| window.seen.xmax() == self.seen.xmax());
        Self { witness: keep.or(Some(window.witness)), seen: window.seen, window: None, ..self.clone() }
    }
}

/// `load`: the cursors of some lanes.
const LOAD: &str = "
    SELECT lane, version, system_identifier, timeline, seen,
           witness_event_id, witness_transaction_id, witness_position,
           next, next_witness_event_id, next_witness_transaction_id, next_witness_position,
           next_seen, after_position, after_event_id, everything, rebased_at
      FROM lane_cursors
     WHERE lane = ANY ($1)
     ORDER BY lane";

/// Reads the cursors of all lanes.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn load_all(client: &Client) -> Result<Vec<Cursor>, tokio_postgres::Error> {
    load(client, &(0..LANES).collect::<Vec<_>>()).await
}

/// Reads the cursors of some lanes.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn load(client: &Client, lanes: &[i16]) -> Result<Vec<Cursor>, tokio_postgres::Error> {
    client.query(LOAD, &[&lanes]).await?.iter().map(cursor).collect()
}

fn cursor(row: &Row) -> Result<Cursor, tokio_postgres::Error> {
    let witness = |first: usize| -> Result<Option<Witness>, tokio_postgres::Error> {
        let event_id: Option<Uuid> = row.try_get(first)?;
        event_id
            .map(|event_id| {
                Ok(Witness { event_id, transaction_id: row.try_get(first + 1)?, position: row.try_get(first + 2)? })
            })
            .transpose()
    };
    let system_identifier: Option<i64> = row.try_get(2)?;
    let identity = system_identifier
        .map(|system_identifier| {
            Ok::<_, tokio_postgres::Error>(Identity { system_identifier, timeline: row.try_get(3)? })
        })
        .transpose()?;
    let window = witness(9)?
        .map(|witness| {
            Ok::<_, tokio_postgres::Error>(Window {
                next: row.try_get(8)?,
                witness,
                seen: row.try_get(12)?,
                after: (row.try_get(13)?, row.try_get(14)?),
                everything: row.try_get(15)?,
            })
        })
        .transpose()?;
    Ok(Cursor {
        lane: row.try_get(0)?,
        version: row.try_get(1)?,
        identity,
        seen: row.try_get(4)?,
        witness: witness(5)?,
        window,
        rebased_at: row.try_get(16)?,
    })
}

/// `advance`: moves cursors on, each fenced on the version that it was read at.
pub const ADVANCE: &str = "
    UPDATE lane_cursors AS cursor
       SET version                     = cursor.version + 1,
           system_identifier           = moved.system_identifier,
           timeline                    = moved.timeline,
           seen                        = moved.seen,
           witness_event_id            = moved.witness_event_id,
           witness_transaction_id      = moved.witness_transaction_id,
           witness_position            = moved.witness_position,
           next                        = moved.next,
           next_witness_event_id       = moved.next_witness_event_id,
           next_witness_transaction_id = moved.next_witness_transaction_id,
           next_witness_position       = moved.next_witness_position,
           next_seen                   = moved.next_seen,
           after_position              = moved.after_position,
           after_event_id              = moved.after_event_id,
           everything                  = moved.everything,
           rebased_at                  = moved.rebased_at,
           moved_at                    = now()
      FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::integer[], $5::pg_snapshot[],
                  $6::uuid[], $7::xid8[], $8::bigint[],
                  $9::pg_snapshot[], $10::uuid[], $11::xid8[], $12::bigint[], $13::pg_snapshot[],
                  $14::bigint[], $15::uuid[], $16::boolean[], $17::timestamptz[])
               AS moved (lane, version, system_identifier, timeline, seen,
                         witness_event_id, witness_transaction_id, witness_position,
                         next, next_witness_event_id, next_witness_transaction_id, next_witness_position,
                         next_seen, after_position, after_event_id, everything, rebased_at)
     WHERE cursor.lane    = moved.lane
       AND cursor.version = moved.version";

/// Moves cursors to where they are given, in the transaction that stores what they move over. Returns how many moved:
/// fewer than given means that another relay has moved one since, and the transaction must be rolled back.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn advance(
    transaction: &Transaction<'_>,
    statement: &Statement,
    cursors: &[Cursor],
) -> Result<u64, tokio_postgres::Error> {
    transaction.execute_raw(statement, columns(cursors)).await
}

/// How many parameters [`ADVANCE`] has.
pub(super) const PARAMETERS: usize = 17;

/// The parameters of [`ADVANCE`].
pub(super) fn columns(cursors: &[Cursor]) -> [Column<'_>; PARAMETERS] {
    fn window(cursor: &Cursor) -> Option<&Window> {
        cursor.window.as_ref()
    }
    [
        column(cursors, |c| c.lane),
        column(cursors, |c| c.version),
        column(cursors, |c| c.identity.map(|i| i.system_identifier)),
        column(cursors, |c| c.identity.map(|i| i.timeline)),
        column(cursors, |c| &c.seen),
        column(cursors, |c| c.witness.map(|w| w.event_id)),
        column(cursors, |c| c.witness.map(|w| w.transaction_id)),
        column(cursors, |c| c.witness.map(|w| w.position)),
        column(cursors, |c| window(c).map(|w| &w.next)),
        column(cursors, |c| window(c).map(|w| w.witness.event_id)),
        column(cursors, |c| window(c).map(|w| w.witness.transaction_id)),
        column(cursors, |c| window(c).map(|w| w.witness.position)),
        column(cursors, |c| window(c).map(|w| &w.seen)),
        column(cursors, |c| window(c).map(|w| w.after.0)),
        column(cursors, |c| window(c).map(|w| w.after.1)),
        column(cursors, |c| window(c).is_some_and(|w| w.everything)),
        column(cursors, |c| c.rebased_at),
    ]
}
