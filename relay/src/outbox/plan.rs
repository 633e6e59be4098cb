//! Cutting a large window into slices of positions, so that it can be read in short transactions.
//!
//! Transactions and positions run roughly, but not exactly, alike: rows are read in the order of positions, and the index
//! has them in the order of transactions. So the window is gone through once, by the index alone and in its order, and
//! its rows are counted by position, each count with the range of transaction ids it came from. This is done piece by
//! piece. As it never changes which rows belong to a window, the pieces need not be of one transaction: none is long,
//! however much waits. Neither a sort nor a hash of more than one piece is asked of the server.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::window::TransactionId;
use super::{Error, PATIENCE, Range, Reading, SLICE_ROWS};
use crate::postgres::within;

/// Positions to a bucket. A lane's share of them is a sixteenth on average, all at worst.
const BUCKET_POSITIONS: i64 = 1_000;

/// Rows to a piece.
const PIECE_ROWS: i64 = 4_096;

/// Part of a window: positions up to a bound, with the range of transaction ids that its rows lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The last position of the slice.
    pub upto_position: i64,
    /// No transaction id in it is lower, but for those that are read by themselves.
    pub low: TransactionId,
    /// No transaction id in it is higher.
    pub high: TransactionId,
    /// How many rows it has, but for those that share transaction and position with another.
    pub rows: usize,
}

impl Slice {
    /// A whole window of so many rows.
    pub fn all(rows: usize) -> Self {
        Self { upto_position: i64::MAX, low: TransactionId(0), high: TransactionId(u64::MAX - 1), rows }
    }
}

/// `plan`: a piece of a window, counted by buckets of positions with the transaction ids in each, and its last row if it is
/// full. Rows up to $6 have been handed over. The index is gone through twice, first for where the piece ends: that is
/// cheaper than keeping the piece. The snapshot ($5) is none where the bound ($4) says it all.
pub const PLAN: &str = "
    WITH last AS MATERIALIZED (
        SELECT transaction_id, position
          FROM aftercommit.outbox
         WHERE aftercommit.lane(aggregate_id) = $1
           AND (transaction_id, position) > ($2, $3)
           AND transaction_id < $4
         ORDER BY transaction_id, position
        OFFSET $8 - 1
         LIMIT 1
    )
    SELECT position / $7 AS bucket, count(*), min(transaction_id), max(transaction_id), NULL::bigint AS last_position
      FROM aftercommit.outbox
     WHERE aftercommit.lane(aggregate_id) = $1
       AND (transaction_id, position) >  ($2, $3)
       AND (transaction_id, position) <= (coalesce((SELECT transaction_id FROM last), $4),
                                          coalesce((SELECT position       FROM last), 0))
       AND transaction_id < $4
       AND position >= $6
       AND pg_visible_in_snapshot(transaction_id, $5) IS NOT FALSE
     GROUP BY bucket
     UNION ALL
    SELECT NULL, NULL, NULL, transaction_id, position
      FROM last";

/// `plan_single`: the rows of some transactions, counted likewise.
pub const PLAN_SINGLE: &str = "
    SELECT position / $4 AS bucket, count(*)
      FROM aftercommit.outbox
     WHERE aftercommit.lane(aggregate_id) = $1
       AND transaction_id = ANY ($2)
       AND position >= $3
     GROUP BY bucket";

/// A plan in the making.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    buckets: BTreeMap<i64, Bucket>,
    /// The last row gone through; none at the beginning.
    upto: Option<(TransactionId, i64)>,
}

/// Rows of a window counted by position.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rows: usize,
    low: TransactionId,
    high: TransactionId,
}

impl Default for Bucket {
    /// No row, and an empty range.
    fn default() -> Self {
        Self { rows: 0, low: TransactionId(u64::MAX), high: TransactionId(0) }
    }
}

impl Reading<'_> {
    /// Goes on with the plan of a window by one piece. Returns whether that was the last.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn plan(&self, range: &Range<'_>, plan: &mut Plan) -> Result<bool, Error> {
        let (low, end, upper, ended) = range.bounds();
        if plan.upto.is_none() && !ended.is_empty() {
            let rows = within(
                PATIENCE,
                self.source.query(
                    PLAN_SINGLE,
                    &[
                        (&range.lane, Type::INT2),
                        (&ended, Type::XID8_ARRAY),
                        (&range.after.0, Type::INT8),
                        (&BUCKET_POSITIONS, Type::INT8),
                    ],
                ),
            )
            .await?;
            for row in rows {
                plan.buckets.entry(row.try_get(0)?).or_default().rows += count(&row, 1)?;
            }
        }
        let (from_id, from_position) = plan.upto.unwrap_or((low, i64::MIN));
        let rows = within(
            PATIENCE,
            self.source.query(
                PLAN,
                &[
                    (&range.lane, Type::INT2),
                    (&from_id, Type::XID8),
                    (&from_position, Type::INT8),
                    (&end, Type::XID8),
                    (&upper.with_gaps(), Type::PG_SNAPSHOT),
                    (&range.after.0, Type::INT8),
                    (&BUCKET_POSITIONS, Type::INT8),
                    (&PIECE_ROWS, Type::INT8),
                ],
            ),
        )
        .await?;
        let mut last = None;
        for row in &rows {
            match row.try_get(0)? {
                Some(bucket) => plan.count(bucket, count(row, 1)?, row.try_get(2)?, row.try_get(3)?),
                None => last = Some((row.try_get(3)?, row.try_get(4)?)),
            }
        }
        plan.upto = last;
        Ok(last.is_none())
    }
}

fn count(row: &Row, column: usize) -> Result<usize, tokio_postgres::Error> {
    Ok(usize::try_from(row.try_get::<_, i64>(column)?).unwrap_or(usize::MAX))
}

impl Plan {
    fn count(&mut self, bucket: i64, rows: usize, low: TransactionId, high: TransactionId) {
        let bucket = self.buckets.entry(bucket).or_default();
        bucket.rows += rows;
        bucket.low = bucket.low.min(low);
        bucket.high = bucket.high.max(high);
    }

    /// The slices, in order: neighbouring buckets are joined while they fit into one.
    pub fn slices(&self) -> Vec<Slice> {
        let mut slices: Vec<Slice> = Vec::new();
        for (number, bucket) in &self.buckets {
            // Division rounds towards zero, so that the bucket 0 reaches to both sides.
            let first = number.saturating_mul(BUCKET_POSITIONS);
            let upto_position = if *number < 0 { first } else { first.saturating_add(BUCKET_POSITIONS - 1) };
            match slices.last_mut() {
                Some(slice) if slice.rows + bucket.rows <= SLICE_ROWS => {
                    let (low, high) = (slice.low.min(bucket.low), slice.high.max(bucket.high));
                    *slice = Slice { upto_position, low, high, rows: slice.rows + bucket.rows };
                }
                _ => slices.push(Slice { upto_position, low: bucket.low, high: bucket.high, rows: bucket.rows }),
            }
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_buckets_share_a_slice_while_they_fit() {
        let mut plan = Plan::default();
        for (bucket, rows, low, high) in
            [(3, 600, 30, 39), (0, 100, 10, 11), (1, 600, 5, 20), (-1, 1, 3, 4), (9, 5000, 50, 50), (0, 300, 11, 12)]
        {
            plan.count(bucket, rows, TransactionId(low), TransactionId(high));
        }
        let slice = |upto_position, low, high, rows| Slice {
            upto_position,
            low: TransactionId(low),
            high: TransactionId(high),
            rows,
        };
        assert_eq!(
            plan.slices(),
            [slice(999, 3, 12, 401), slice(1999, 5, 20, 600), slice(3999, 30, 39, 600), slice(9999, 50, 50, 5000)]
        );
    }
}
