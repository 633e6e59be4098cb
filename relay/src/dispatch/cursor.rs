//! A lane's cursor: how far it has seen, with the evidence, and the window being worked off.

use tokio_postgres::{Client, Row, Statement, Transaction};
use uuid::Uuid;

use crate::outbox::window::Snapshot;
use crate::outbox::{Identity, Witness};

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
    /// Rows up to this position may carry transaction ids of another history.
    pub foreign_position: i64,
}

/// A window that is worked off slice by slice. It stays the same while it lasts, whatever commits meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its upper snapshot.
    pub next: Snapshot,
    /// The row with the greatest transaction id in it.
    pub witness: Witness,
    /// The last row handed over, by position and then event id.
    pub after: (i64, Uuid),
}

impl Cursor {
    /// The cursor once its window up to `next` has been handed over whole. `witness` is the row of the window with the
    /// greatest transaction id; without one that may bear witness the cursor stays where it is.
    #[must_use]
    pub fn close(&self, next: &Snapshot, witness: Option<Witness>) -> Self {
        let mut closed = Self { window: None, ..self.clone() };
        if let Some(witness) = witness {
            closed.seen = self.seen.cut(next, witness.transaction_id);
            if self.witness.is_none_or(|old| witness.transaction_id >= old.transaction_id) {
                closed.witness = Some(witness);
            }
        }
        closed
    }
}

/// `load`: the cursors of some lanes.
const LOAD: &str = "
    SELECT lane, version, system_identifier, timeline, seen,
           witness_event_id, witness_transaction_id, witness_position,
           next, next_witness_event_id, next_witness_transaction_id, next_witness_position,
           after_position, after_event_id, foreign_position
      FROM lane_cursors
     WHERE lane = ANY ($1)
     ORDER BY lane";

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
                Ok(Witness {
                    event_id,
                    transaction_id: row.try_get(first + 1)?,
                    position: row.try_get(first + 2)?,
                })
            })
            .transpose()
    };
    let system_identifier: Option<i64> = row.try_get(2)?;
    let identity = system_identifier
        .map(|system_identifier| Ok::<_, tokio_postgres::Error>(Identity { system_identifier, timeline: row.try_get(3)? }))
        .transpose()?;
    let window = witness(9)?
        .map(|witness| {
            Ok::<_, tokio_postgres::Error>(Window {
                next: row.try_get(8)?,
                witness,
                after: (row.try_get(12)?, row.try_get(13)?),
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
        foreign_position: row.try_get(14)?,
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
           after_position              = moved.after_position,
           after_event_id              = moved.after_event_id,
           foreign_position            = moved.foreign_position,
           moved_at                    = now()
      FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::integer[], $5::pg_snapshot[],
                  $6::uuid[], $7::xid8[], $8::bigint[],
                  $9::pg_snapshot[], $10::uuid[], $11::xid8[], $12::bigint[], $13::bigint[], $14::uuid[],
                  $15::bigint[])
               AS moved (lane, version, system_identifier, timeline, seen,
                         witness_event_id, witness_transaction_id, witness_position,
                         next, next_witness_event_id, next_witness_transaction_id, next_witness_position,
                         after_position, after_event_id, foreign_position)
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
    fn column<'a, T>(cursors: &'a [Cursor], of: impl FnMut(&'a Cursor) -> T) -> Vec<T> {
        cursors.iter().map(of).collect()
    }
    let window = |c: &Cursor| c.window.clone();
    transaction
        .execute(
            statement,
            &[
                &column(cursors, |c| c.lane),
                &column(cursors, |c| c.version),
                &column(cursors, |c| c.identity.map(|i| i.system_identifier)),
                &column(cursors, |c| c.identity.map(|i| i.timeline)),
                &column(cursors, |c| &c.seen),
                &column(cursors, |c| c.witness.map(|w| w.event_id)),
                &column(cursors, |c| c.witness.map(|w| w.transaction_id)),
                &column(cursors, |c| c.witness.map(|w| w.position)),
                &column(cursors, |c| window(c).map(|w| w.next)),
                &column(cursors, |c| window(c).map(|w| w.witness.event_id)),
                &column(cursors, |c| window(c).map(|w| w.witness.transaction_id)),
                &column(cursors, |c| window(c).map(|w| w.witness.position)),
                &column(cursors, |c| window(c).map(|w| w.after.0)),
                &column(cursors, |c| window(c).map(|w| w.after.1)),
                &column(cursors, |c| c.foreign_position),
            ],
        )
        .await
}
