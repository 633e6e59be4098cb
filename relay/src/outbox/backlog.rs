//! How much waits in each lane, for people: counted up to a bound, with the oldest of it.
//!
//! The same window arithmetic as dispatch's, from the index alone. What has been handed over of an open window is told
//! by its position only, and no more rows are gone through than are counted at most, however large the window: while one
//! is open, transactions and positions that do not run alike make the count a little too small.

use time::OffsetDateTime;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::types::Moment;
use super::window::Snapshot;
use super::{Error, PATIENCE, Reading};
use crate::postgres::within;

/// What counting stops at, per lane.
pub const BOUND: i64 = 10_000;

/// How far a lane's cursor has come.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// The lane.
    pub lane: i16,
    /// Its cursor's snapshot.
    pub seen: &'a Snapshot,
    /// The upper snapshot of the open window, and the last event handed over of it by position and id.
    pub window: Option<(&'a Snapshot, (i64, Uuid))>,
}

/// What waits in a lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    /// The lane.
    pub lane: i16,
    /// Events that wait, counted to just above [`BOUND`].
    pub waiting: i64,
    /// The oldest of them: its id, and the seconds since it happened.
    pub oldest: Option<(Uuid, f64)>,
}

/// Rows of a lane's window, $5 of them in the given order. The bound is on what is gone through, not on what is found: most
/// of a large window may have been handed over.
macro_rules! part {
    ($transactions:literal, $order:literal) => {
        concat!(
            "
             FROM (SELECT row.transaction_id, row.position,
                          lanes.next IS NOT NULL
                          AND pg_visible_in_snapshot(row.transaction_id, lanes.next)
                          AND row.position <= lanes.after_position AS handed_over
                     FROM aftercommit.outbox AS row
                    WHERE aftercommit.lane(row.aggregate_id) = lanes.lane
                      AND ",
            $transactions,
            "
                      AND pg_visible_in_snapshot(row.transaction_id, now.next)",
            $order,
            "
                    LIMIT $5) AS part
            WHERE NOT part.handed_over"
        )
    };
}

macro_rules! begun_since {
    ($order:literal) => {
        part!(
            "row.transaction_id >= pg_snapshot_xmax(lanes.seen)
                      AND row.transaction_id <  pg_snapshot_xmax(now.next)",
            $order
        )
    };
}

macro_rules! ended_since {
    ($order:literal) => {
        part!("row.transaction_id = ANY (ARRAY(SELECT pg_snapshot_xip(lanes.seen)))", $order)
    };
}

/// `backlog`: per lane how many events wait, from the newest down, and the oldest of them; deep in a large window the last
/// one handed over stands for it.
pub const BACKLOG: &str = concat!(
    "
    WITH now AS MATERIALIZED (
        SELECT pg_current_snapshot() AS next
    )
    SELECT lanes.lane,
           begun.waiting + ended.waiting,
           oldest.event_id,
           oldest.occurred_at,
           clock_timestamp()
      FROM now
     CROSS JOIN unnest($1::smallint[], $2::pg_snapshot[], $3::pg_snapshot[], $4::bigint[], $6::uuid[])
                    AS lanes (lane, seen, next, after_position, after_id)
     CROSS JOIN LATERAL (
           SELECT count(*) AS waiting",
    begun_since!(
        "
                    ORDER BY row.transaction_id DESC, row.position DESC"
    ),
    ") AS begun
     CROSS JOIN LATERAL (
           SELECT count(*) AS waiting",
    ended_since!(""),
    ") AS ended
      LEFT JOIN LATERAL (
           SELECT row.event_id, row.occurred_at, false AS handed_over
             FROM ((SELECT transaction_id, position",
    begun_since!(
        "
                    ORDER BY row.transaction_id, row.position"
    ),
    "
                     ORDER BY transaction_id, position
                     LIMIT 1)
                    UNION ALL
                   (SELECT transaction_id, position",
    ended_since!(
        "
                    ORDER BY row.transaction_id, row.position"
    ),
    "
                     ORDER BY transaction_id, position
                     LIMIT 1)) AS first
             JOIN aftercommit.outbox AS row
               ON aftercommit.lane(row.aggregate_id) = lanes.lane
              AND row.transaction_id = first.transaction_id
              AND row.position       = first.position
            UNION ALL
           SELECT row.event_id, row.occurred_at, true
             FROM aftercommit.outbox AS row
            WHERE row.event_id = lanes.after_id
            ORDER BY handed_over, occurred_at
            LIMIT 1) AS oldest
             ON begun.waiting + ended.waiting > 0
     ORDER BY lanes.lane"
);

impl Reading<'_> {
    /// What waits in some lanes.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn backlog(&self, lanes: &[Progress<'_>]) -> Result<Vec<Backlog>, Error> {
        let numbers: Vec<i16> = lanes.iter().map(|lane| lane.lane).collect();
        let seen: Vec<&Snapshot> = lanes.iter().map(|lane| lane.seen).collect();
        let next: Vec<Option<&Snapshot>> = lanes.iter().map(|lane| lane.window.map(|window| window.0)).collect();
        let after: Vec<Option<i64>> = lanes.iter().map(|lane| lane.window.map(|window| window.1.0)).collect();
        let after_ids: Vec<Option<Uuid>> = lanes.iter().map(|lane| lane.window.map(|window| window.1.1)).collect();
        let rows = within(
            PATIENCE,
            self.source.query(
                BACKLOG,
                &[
                    (&numbers, Type::INT2_ARRAY),
                    (&seen, Type::PG_SNAPSHOT_ARRAY),
                    (&next, Type::PG_SNAPSHOT_ARRAY),
                    (&after, Type::INT8_ARRAY),
                    (&(BOUND + 1), Type::INT8),
                    (&after_ids, Type::UUID_ARRAY),
                ],
            ),
        )
        .await?;
        let backlog = |row: &tokio_postgres::Row| {
            let event_id: Option<Uuid> = row.try_get(2)?;
            let occurred_at: Option<Moment> = row.try_get(3)?;
            let now: OffsetDateTime = row.try_get(4)?;
            let age = occurred_at.map(|Moment(occurred_at)| (now - occurred_at).as_seconds_f64());
            Ok::<_, tokio_postgres::Error>(Backlog {
                lane: row.try_get(0)?,
                waiting: row.try_get(1)?,
                oldest: event_id.zip(age),
            })
        };
        Ok(rows.iter().map(backlog).collect::<Result<_, _>>()?)
    }
}
