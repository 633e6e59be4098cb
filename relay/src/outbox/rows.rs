//! The rows of windows, in the order of their lanes: whole when they are small, else slice by slice of positions.

use std::pin::pin;

use futures_util::TryStreamExt;
use shared::envelope::Head;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::evidence::Evidence;
use super::plan::Slice;
use super::types::Xid;
use super::window::{Snapshot, TransactionId, inserter, vouched};
use super::{Error, OutboxRow, PATIENCE, Reading, SLICE_BYTES, Witness, outbox_row};
use crate::postgres::within;

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

/// What to read of one lane.
#[derive(Clone, Debug)]
pub struct Stretch<'a> {
    /// The lane and its window.
    pub range: Range<'a>,
    /// The part of the window.
    pub slice: Slice,
    /// Rows at most.
    pub limit: usize,
}

/// What was read of a stretch.
#[derive(Debug, Default)]
pub struct Read {
    /// The rows that belong to the window.
    pub rows: Vec<OutboxRow>,
    /// The one of them that vouches for most.
    pub strongest: Option<Evidence>,
    /// The last row that was looked at, whether it belongs or not; none when there was none, or nothing was taken.
    pub last: Option<(i64, Uuid)>,
    /// Rows that were looked at.
    pub looked_at: usize,
    /// Whether the stretch was read to its end.
    pub whole: bool,
}

/// How stretches are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In order, up to wherever there is room.
    InOrder,
    /// Each whole or not at all, in any order. The server need not sort whole rows, which is an eighth of its work on them.
    Whole,
}

/// The rows of some stretches, in the given order within each.
macro_rules! read {
    ($transactions:literal, $order:literal) => {
        concat!(
            "
    SELECT event_id, position, transaction_id, aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, occurred_at, durable_at_commit, inserter, stretch.number
      FROM unnest($1::smallint[], $2::xid8[], $3::xid8[], $4::pg_snapshot[], $5::pg_snapshot[],
                  $6::bigint[], $7::uuid[], $8::bigint[], $9::bigint[])
           WITH ORDINALITY AS stretch (lane, low, high, next, single, after_position, after_id, upto_position, most, number)
     CROSS JOIN LATERAL (
           SELECT *
             FROM (",
            $transactions,
            ") AS snapshot_window
            WHERE position BETWEEN after_position AND upto_position
              AND (position, event_id) > (after_position, after_id)",
            $order,
            "
            LIMIT most) AS row"
        )
    };
}

/// Those of stretches whose transactions lie in one range of ids each.
macro_rules! read_range {
    ($order:literal) => {
        read!(
            "
           SELECT *, xmin AS inserter
             FROM aftercommit.outbox
            WHERE aftercommit.lane(aggregate_id) = stretch.lane
              AND transaction_id >= low
              AND transaction_id <= high
              AND pg_visible_in_snapshot(transaction_id, next) IS NOT FALSE",
            $order
        )
    };
}

/// `read`: the rows of stretches whose transactions lie in one range of ids each.
pub const READ: &str = read_range!(
    "
            ORDER BY position, event_id"
);

/// `read_whole`: the same, in any order.
pub const READ_WHOLE: &str = read_range!("");

/// `read_single`: the same, with some transactions by their ids.
pub const READ_SINGLE: &str = read!(
    "
           SELECT *, xmin AS inserter
             FROM aftercommit.outbox
            WHERE aftercommit.lane(aggregate_id) = stretch.lane
              AND transaction_id >= low
              AND transaction_id <= high
              AND pg_visible_in_snapshot(transaction_id, next) IS NOT FALSE
            UNION ALL
           SELECT *, xmin AS inserter
             FROM aftercommit.outbox
            WHERE aftercommit.lane(aggregate_id) = stretch.lane
              AND transaction_id = ANY (ARRAY(SELECT pg_snapshot_xip(single)))",
    "
            ORDER BY position, event_id"
);

impl Reading<'_> {
    /// The rows of some stretches, each after its `range.after` and as `way` says, one [`Read`] each; about [`SLICE_BYTES`]
    /// altogether. What had no room is left unread, and by [`Way::Whole`] the rest of its stretch with it. `xmax` is the
    /// first transaction id not given out by now.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn rows(&self, stretches: &[Stretch<'_>], xmax: TransactionId, way: Way) -> Result<Vec<Read>, Error> {
        if stretches.is_empty() {
            return Ok(Vec::new());
        }
        let columns = Columns::new(stretches);
        let ranges = columns.single.iter().all(|single| single.xip().is_empty());
        let (sql, way) = match way {
            Way::Whole if ranges => (READ_WHOLE, Way::Whole),
            _ if ranges => (READ, Way::InOrder),
            _ => (READ_SINGLE, Way::InOrder),
        };
        let read = async {
            let mut stream = pin!(self.source.stream(sql, columns.parameters()).await?);
            let mut reads: Vec<Read> = stretches.iter().map(|_| Read::default()).collect();
            let (mut bytes, mut complete) = (0, reads.len());
            while let Some(row) = stream.try_next().await? {
                let number: i64 = row.try_get(12)?;
                let Some((stretch, read)) =
                    usize::try_from(number - 1).ok().and_then(|n| Some((stretches.get(n)?, reads.get_mut(n)?)))
                else {
                    continue;
                };
                let Xid(xmin) = row.try_get(11)?;
                bytes += read.take(outbox_row(&row, stretch.range.lane)?, inserter(xmin, xmax), &stretch.range);
                if bytes >= SLICE_BYTES {
                    // The stretches come one after the other: this one, and those still to come, have more.
                    complete = usize::try_from(number - 1).unwrap_or(0);
                    break;
                }
            }
            for (read, stretch) in reads.iter_mut().zip(stretches).take(complete) {
                read.whole = read.looked_at < stretch.limit;
            }
            if way == Way::Whole {
                reads.iter_mut().for_each(Read::keep_if_whole);
            }
            Ok(reads)
        };
        Ok(within(PATIENCE, read).await?)
    }
}

impl Read {
    /// Of what came in any order there is no telling what is missing, if it is not whole: none of it is of use.
    fn keep_if_whole(&mut self) {
        if !self.whole {
            *self = Self { looked_at: self.looked_at, ..Self::default() };
        }
    }

    /// Takes the next row; how many bytes it has.
    fn take(&mut self, row: OutboxRow, inserter: TransactionId, range: &Range<'_>) -> usize {
        let Head { event_id, position, metadata, .. } = &*row.envelope.head;
        let bytes = row.envelope.payload.get().len() + metadata.get().len();
        self.looked_at += 1;
        self.last = self.last.max(Some((*position, *event_id)));
        if range.takes(inserter) {
            let witness = Witness { event_id: *event_id, transaction_id: row.transaction_id, position: *position };
            let evidence = Evidence { witness, vouched: vouched(row.transaction_id, inserter) };
            self.strongest = self.strongest.filter(|old| old.vouched >= evidence.vouched).or(Some(evidence));
            self.rows.push(row);
        }
        bytes
    }
}

/// Stretches as columns, for `unnest`.
struct Columns {
    lane: Vec<i16>,
    low: Vec<TransactionId>,
    high: Vec<TransactionId>,
    /// None where its bound, which `high` keeps to, says it all: then the server need not ask it for each row.
    next: Vec<Option<Snapshot>>,
    /// Transactions to be read by their ids, as what is in progress in a snapshot: the one array of ids that an array
    /// can hold several of.
    single: Vec<Snapshot>,
    after_position: Vec<i64>,
    after_id: Vec<Uuid>,
    upto_position: Vec<i64>,
    most: Vec<i64>,
}

impl Columns {
    fn new(stretches: &[Stretch<'_>]) -> Self {
        let (mut low, mut high, mut next, mut single) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Stretch { range, slice, .. } in stretches {
            let (window_low, window_end, upper, ended) = range.bounds();
            let mut singles = ended;
            let first = window_low.max(slice.low);
            let mut last = TransactionId(window_end.0.saturating_sub(1).min(slice.high.0));
            if first == last && upper.finished(first) {
                // One transaction, perhaps a very large one: by its id, the index finds the positions in it.
                singles.push(first);
                last = TransactionId(first.0.saturating_sub(1));
            }
            low.push(first);
            high.push(last);
            next.push(upper.with_gaps());
            single.push(Snapshot::new(Snapshot::END, singles));
        }
        fn column<T>(stretches: &[Stretch<'_>], of: impl FnMut(&Stretch<'_>) -> T) -> Vec<T> {
            stretches.iter().map(of).collect()
        }
        Self {
            lane: column(stretches, |s| s.range.lane),
            low,
            high,
            next,
            single,
            after_position: column(stretches, |s| s.range.after.0),
            after_id: column(stretches, |s| s.range.after.1),
            upto_position: column(stretches, |s| s.slice.upto_position),
            most: column(stretches, |s| s.limit as i64),
        }
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 9] {
        [
            (&self.lane, Type::INT2_ARRAY),
            (&self.low, Type::XID8_ARRAY),
            (&self.high, Type::XID8_ARRAY),
            (&self.next, Type::PG_SNAPSHOT_ARRAY),
            (&self.single, Type::PG_SNAPSHOT_ARRAY),
            (&self.after_position, Type::INT8_ARRAY),
            (&self.after_id, Type::UUID_ARRAY),
            (&self.upto_position, Type::INT8_ARRAY),
            (&self.most, Type::INT8_ARRAY),
        ]
    }
}
