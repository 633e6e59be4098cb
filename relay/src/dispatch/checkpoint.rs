//! Earlier states of the cursors, to go back to when the application database's history has moved: one a minute for an
//! hour, one an hour for as long as events are retained.

use time::OffsetDateTime;
use tokio_postgres::{Client, Statement, Transaction};

use super::cursor::Cursor;
use crate::outbox::window::Snapshot;
use crate::outbox::{Identity, Witness};
use crate::postgres::column;

/// A cursor as it once was.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// When it was kept, by the jobs database's clock.
    pub taken_at: OffsetDateTime,
    /// The history that it belongs to.
    pub identity: Identity,
    /// Everything finished in it had been dispatched.
    pub seen: Snapshot,
    /// The row that vouches for it.
    pub witness: Witness,
}

/// `keep`: keeps cursors, and thins out what was kept before.
pub const KEEP: &str = "
    WITH kept AS (
        INSERT INTO lane_checkpoints (lane, system_identifier, timeline, seen,
                                      witness_event_id, witness_transaction_id, witness_position)
        SELECT *
          FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::pg_snapshot[],
                      $5::uuid[], $6::xid8[], $7::bigint[])
            ON CONFLICT DO NOTHING
    )
    DELETE FROM lane_checkpoints AS old
     USING (SELECT lane,
                   taken_at,
                   row_number() OVER (PARTITION BY lane, date_trunc('hour', taken_at) ORDER BY taken_at) AS number
              FROM lane_checkpoints
             WHERE lane = ANY ($1)
               AND taken_at < now() - interval '1 hour') AS numbered
     WHERE old.lane     = numbered.lane
       AND old.taken_at = numbered.taken_at
       AND (numbered.number > 1 OR old.taken_at < now() - interval '31 days')";

/// Keeps cursors, in the transaction that moves them.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn keep(
    transaction: &Transaction<'_>,
    statement: &Statement,
    cursors: &[Cursor],
) -> Result<(), tokio_postgres::Error> {
    let worth: Vec<_> = cursors.iter().filter_map(|c| Some((c, c.identity?, c.witness?))).collect();
    if worth.is_empty() {
        return Ok(());
    }
    let columns = [
        column(&worth, |(c, _, _)| c.lane),
        column(&worth, |(_, i, _)| i.system_identifier),
        column(&worth, |(_, i, _)| i.timeline),
        column(&worth, |(c, _, _)| &c.seen),
        column(&worth, |(_, _, w)| w.event_id),
        column(&worth, |(_, _, w)| w.transaction_id),
        column(&worth, |(_, _, w)| w.position),
    ];
    transaction.execute_raw(statement, columns).await.map(drop)
}

/// `load`: a lane's checkpoints on one cluster, the newest first.
const LOAD: &str = "
    SELECT taken_at, system_identifier, timeline, seen, witness_event_id, witness_transaction_id, witness_position
      FROM lane_checkpoints
     WHERE lane = $1
       AND system_identifier = $2
     ORDER BY taken_at DESC";

/// A lane's checkpoints on one cluster, the newest first.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn load(
    client: &Client,
    lane: i16,
    system_identifier: i64,
) -> Result<Vec<Checkpoint>, tokio_postgres::Error> {
    let rows = client.query(LOAD, &[&lane, &system_identifier]).await?;
    rows.iter()
        .map(|row| {
            Ok(Checkpoint {
                taken_at: row.try_get(0)?,
                identity: Identity { system_identifier: row.try_get(1)?, timeline: row.try_get(2)? },
                seen: row.try_get(3)?,
                witness: Witness {
                    event_id: row.try_get(4)?,
                    transaction_id: row.try_get(5)?,
                    position: row.try_get(6)?,
                },
            })
        })
        .collect()
}

/// `forget`: drops the checkpoints of a history that is gone.
pub const FORGET: &str = "
    DELETE FROM lane_checkpoints
     WHERE lane = $1
       AND ($2::timestamptz IS NULL OR taken_at > $2)";
