//! The rows of a window, in the order of their lane: whole when it is small, else cut into slices of positions.

use std::pin::pin;

use futures_util::TryStreamExt;
use shared::envelope::Envelope;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::evidence::Evidence;
use super::types::Xid;
use super::window::{Snapshot, TransactionId, inserter, vouched};
use super::{Error, OutboxRow, PATIENCE, Reading, SLICE_BYTES, SLICE_ROWS, Witness, outbox_row};
use crate::postgres::within;

/// Positions to a bucket when a large window is planned. A lane's share of them is a sixteenth on average, all at worst.
const BUCKET_POSITIONS: i64 = 1_000;

/// Before the first row.
pub const START: (i64, Uuid) = (i64::MIN, Uuid::nil());

/// The rows of a window after a given row.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    /// The lane.
    pub lane: i16,
    /// The window's lower snapshot.
    pub seen: &'a Snapshot,
    /// The window's upper snapshot.
    pub next: &'a Snapshot,
    /// Every row, also those with ids of another history, except what was put here or committed after `next`.
    pub everything: bool,
    /// The last row handed over, by position and then id.
    pub after: (i64, Uuid),
    /// The first transaction id not given out by now, for reading `xmin`.
    pub xmax: TransactionId,
}

impl Range<'_> {
    /// The bounds of the window's upper part, its exact upper snapshot, and its lower part.
    pub(crate) fn bounds(&self) -> (TransactionId, TransactionId, Snapshot, Vec<TransactionId>) {
        let upper =
            if self.everything { Snapshot::new(Snapshot::END, self.next.xip().to_vec()) } else { self.next.clone() };
        (self.seen.xmax(), upper.xmax(), upper, self.seen.ended_in(self.next))
    }

    /// Whether a row belongs to it that its transaction id would let in: one that was put here after the window was opened
    /// does not.
    pub(crate) fn takes(&self, inserter: TransactionId) -> bool {
        !self.everything || inserter < self.next.xmax()
    }
}

/// Part of a window: positions up to a bound, with the range of transaction ids that its rows lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The last position of the slice.
    pub upto_position: i64,
    /// The lowest transaction id in it.
    pub low: TransactionId,
    /// The highest transaction id in it.
    pub high: TransactionId,
}

impl Slice {
    /// The whole window.
    pub const ALL: Self = Self { upto_position: i64::MAX, low: TransactionId(0), high: TransactionId(u64::MAX - 1) };
}

/// What was read of a slice.
#[derive(Debug, Default)]
pub struct Read {
    /// The rows that belong to the window, in order.
    pub rows: Vec<OutboxRow>,
    /// The one of them that vouches for most.
    pub strongest: Option<Evidence>,
    /// The last row that was looked at, whether it belongs or not.
    pub last: Option<(i64, Uuid)>,
    /// Whether the slice was read to its end.
    pub whole: bool,
    /// Bytes of payload and metadata in the rows.
    pub bytes: usize,
}

/// The rows of a window: those of transactions that began since the lower snapshot ($2 to $3, finished in $4), and of
/// those that were in progress in it and have ended ($5).
macro_rules! snapshot_window {
    ($columns:literal) => {
        concat!(
            "
           SELECT ",
            $columns,
            "
             FROM aftercommit.outbox
            WHERE lane = $1
              AND transaction_id >= $2
              AND transaction_id <  $3
              AND pg_visible_in_snapshot(transaction_id, $4)
            UNION ALL
           SELECT ",
            $columns,
            "
             FROM aftercommit.outbox
            WHERE lane = $1
              AND transaction_id = ANY ($5)"
        )
    };
}
pub(super) use snapshot_window;

/// `read`: the rows of a slice of a window, in the order of the lane.
pub const READ: &str = concat!(
    "
    SELECT event_id, position, transaction_id, aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, occurred_at, durable_at_commit, inserter
      FROM (",
    snapshot_window!("*, xmin AS inserter"),
    ") AS snapshot_window
     WHERE position BETWEEN $6 AND $8
       AND (position, event_id) > ($6, $7)
     ORDER BY position, event_id
     LIMIT $9"
);

/// `plan`: a large window's rows counted by buckets of positions, from the index alone, without a sort.
pub const PLAN: &str = concat!(
    "
    SELECT bucket, count(*), min(id), max(id)
      FROM (SELECT position / $8 AS bucket, transaction_id::text::bigint AS id
              FROM (",
    snapshot_window!("position, transaction_id"),
    ") AS snapshot_window
             WHERE position >= $6
               AND position <= $7) AS buckets
     GROUP BY bucket"
);

impl Reading<'_> {
    /// The rows of a slice after `range.after`, in order: at most `limit` rows and about [`SLICE_BYTES`].
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn rows(&self, range: &Range<'_>, slice: Slice, limit: usize) -> Result<Read, Error> {
        let (low, high, upper, ended) = range.bounds();
        let (low, high) = (low.max(slice.low), high.min(slice.high.next()));
        let sql_limit = limit as i64;
        let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
            (&range.lane, Type::INT2),
            (&low, Type::XID8),
            (&high, Type::XID8),
            (&upper, Type::PG_SNAPSHOT),
            (&ended, Type::XID8_ARRAY),
            (&range.after.0, Type::INT8),
            (&range.after.1, Type::UUID),
            (&slice.upto_position, Type::INT8),
            (&sql_limit, Type::INT8),
        ];
        let read = async {
            let mut stream = pin!(self.client.query_typed_raw(READ, parameters).await?);
            let mut read = Read::default();
            let mut count = 0;
            while let Some(row) = stream.try_next().await? {
                let Xid(xmin) = row.try_get(11)?;
                let inserter = inserter(xmin, range.xmax);
                let row = outbox_row(&row, range.lane)?;
                let Envelope { event_id, position, .. } = row.envelope;
                count += 1;
                read.bytes += row.envelope.payload.get().len() + row.envelope.metadata.get().len();
                read.last = Some((position, event_id));
                if range.takes(inserter) {
                    let witness = Witness { event_id, transaction_id: row.transaction_id, position };
                    let evidence = Evidence { witness, vouched: vouched(row.transaction_id, inserter) };
                    read.strongest = read.strongest.filter(|old| old.vouched >= evidence.vouched).or(Some(evidence));
                    read.rows.push(row);
                }
                if read.bytes >= SLICE_BYTES {
                    return Ok(read);
                }
            }
            read.whole = count < limit;
            Ok(read)
        };
        Ok(within(PATIENCE, read).await?)
    }

    /// Cuts what is left of a large window into slices of about [`SLICE_ROWS`], in order.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn plan(&self, range: &Range<'_>) -> Result<Vec<Slice>, Error> {
        let (low, high, upper, ended) = range.bounds();
        let rows = within(
            PATIENCE,
            self.client.query_typed(
                PLAN,
                &[
                    (&range.lane, Type::INT2),
                    (&low, Type::XID8),
                    (&high, Type::XID8),
                    (&upper, Type::PG_SNAPSHOT),
                    (&ended, Type::XID8_ARRAY),
                    (&range.after.0, Type::INT8),
                    (&i64::MAX, Type::INT8),
                    (&BUCKET_POSITIONS, Type::INT8),
                ],
            ),
        )
        .await?;
        let bucket = |row: &Row| {
            Ok::<_, tokio_postgres::Error>(Bucket {
                number: row.try_get(0)?,
                rows: row.try_get(1)?,
                low: TransactionId(row.try_get::<_, i64>(2)?.unsigned_abs()),
                high: TransactionId(row.try_get::<_, i64>(3)?.unsigned_abs()),
            })
        };
        Ok(slices(rows.iter().map(bucket).collect::<Result<_, _>>()?))
    }
}

/// Rows of a window counted by position.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: i64,
    rows: i64,
    low: TransactionId,
    high: TransactionId,
}

/// Joins neighbouring buckets while they fit into one slice.
fn slices(mut buckets: Vec<Bucket>) -> Vec<Slice> {
    buckets.sort_unstable_by_key(|bucket| bucket.number);
    let mut slices: Vec<Slice> = Vec::new();
    let mut room = 0;
    for bucket in buckets {
        // Division rounds towards zero, so that the bucket 0 reaches to both sides.
        let first = bucket.number.saturating_mul(BUCKET_POSITIONS);
        let upto_position = if bucket.number < 0 { first } else { first.saturating_add(BUCKET_POSITIONS - 1) };
        match slices.last_mut() {
            Some(slice) if bucket.rows <= room => {
                *slice = Slice { upto_position, low: slice.low.min(bucket.low), high: slice.high.max(bucket.high) };
                room -= bucket.rows;
            }
            _ => {
                slices.push(Slice { upto_position, low: bucket.low, high: bucket.high });
                room = SLICE_ROWS as i64 - bucket.rows;
            }
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_buckets_share_a_slice_while_they_fit() {
        let bucket =
            |number, rows, low, high| Bucket { number, rows, low: TransactionId(low), high: TransactionId(high) };
        let slice =
            |upto_position, low, high| Slice { upto_position, low: TransactionId(low), high: TransactionId(high) };
        assert_eq!(
            slices(vec![
                bucket(3, 600, 30, 39),
                bucket(0, 400, 10, 12),
                bucket(1, 600, 5, 20),
                bucket(-1, 1, 3, 4),
                bucket(9, 5000, 50, 50),
            ]),
            [slice(999, 3, 12), slice(1999, 5, 20), slice(3999, 30, 39), slice(9999, 50, 50)]
        );
    }
}
