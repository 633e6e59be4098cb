//! 1. Reading the outbox: where it stands, what is new, and the rows, all under one snapshot.
//!
//! Every read happens in a short `REPEATABLE READ READ ONLY` transaction that begins with a [`Look`]: an address can
//! lead to another server from one transaction to the next (a pooler, a virtual IP), so whether this is still the
//! history that the cursors point into is asked each time. Nothing here writes, and nothing here decides.

pub mod types;
pub mod window;
pub mod page;
pub mod backlog;

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use shared::envelope::Envelope;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, PgLsn, ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage};
use uuid::Uuid;

use crate::postgres::{self, within};
use types::Xid;
use window::{Snapshot, TransactionId, inserter, vouched};

/// The bound on any one exchange with the application database, and so on any transaction held open there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows read at a time, and what counting stops at.
pub const SLICE_ROWS: usize = 1_000;

/// Bytes of payload and metadata read at a time; one row may be larger than what is left.
pub const SLICE_BYTES: usize = 8 << 20;

/// Positions to a bucket when a large window is planned. A lane's share of them is a sixteenth on average, all at worst.
const BUCKET_POSITIONS: i64 = SLICE_ROWS as i64;

/// Why the outbox could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away, or refused a statement.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// Reading there would lose events: a standby's snapshots list no running transactions.
    #[error(
        "DATABASE_URL leads to a hot standby, where running transactions are invisible and events would be lost; \
         the relay reads from the primary, and goes on by itself if this server is promoted"
    )]
    Standby,
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Which cluster, and which of its timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made by initdb, kept by physical copies.
    pub system_identifier: i64,
    /// Rises with each promotion.
    pub timeline: i32,
}

/// A row that vouches for a snapshot: as long as it is there, every transaction id below its own had been given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The row's event.
    pub event_id: Uuid,
    /// The transaction that wrote it.
    pub transaction_id: TransactionId,
    /// Its position.
    pub position: i64,
}

/// One run of one server: while it is the same, no transaction that is on disk can be undone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Server {
    /// Which history it continues.
    pub identity: Identity,
    /// When it was started.
    pub started: OffsetDateTime,
}

/// What to look for in one lane.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The lane.
    pub lane: i16,
    /// The snapshot from which to count what is new.
    pub seen: &'a Snapshot,
    /// The row that vouches for `seen`.
    pub witness: Option<Witness>,
    /// The row that vouches for the window being worked off.
    pub next_witness: Option<Witness>,
}

/// Where the database stands, in one statement and so under one snapshot.
#[derive(Clone, Debug)]
pub struct Look {
    /// Which server answered.
    pub server: Server,
    /// What has finished by now.
    pub next: Snapshot,
    /// The end of the WAL, asked after the snapshot was taken: all that is visible in it lies below.
    pub insert_lsn: PgLsn,
    /// How far the WAL is on disk.
    pub flush_lsn: PgLsn,
    /// PostgreSQL's bound on an asynchronous commit's way to disk: three times `wal_writer_delay`.
    pub flush_bound: Duration,
    /// One answer per question, in no particular order.
    pub lanes: Vec<Answer>,
}

/// What was found in one lane.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The lane.
    pub lane: i16,
    /// Whether the row that vouches for `seen` is there.
    pub witness_holds: bool,
    /// Whether the row that vouches for the open window is there.
    pub next_witness_holds: bool,
    /// Events between `seen` and now, counted to just above [`SLICE_ROWS`].
    pub waiting: usize,
    /// Whether there is any row at all.
    pub any: bool,
}

/// An outbox row as read.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// The event.
    pub envelope: Envelope,
    /// The transaction that wrote it.
    pub transaction_id: TransactionId,
    /// Whether its commit was on disk before it was visible.
    pub durable_at_commit: bool,
}

/// A row that can be a witness, and up to which transaction id it vouches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The row.
    pub witness: Witness,
    /// See [`window::vouched`].
    pub vouched: TransactionId,
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
    pub const ALL: Self =
        Self { upto_position: i64::MAX, low: TransactionId(0), high: TransactionId(u64::MAX - 1) };
}

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
    fn bounds(&self) -> (TransactionId, TransactionId, Snapshot, Vec<TransactionId>) {
        let upper =
            if self.everything { Snapshot::new(Snapshot::END, self.next.xip().to_vec()) } else { self.next.clone() };
        (self.seen.xmax(), upper.xmax(), upper, self.seen.ended_in(self.next))
    }

    /// Whether a row belongs to it that its transaction id would let in: one that was put here after the window was opened
    /// does not.
    fn takes(&self, inserter: TransactionId) -> bool {
        !self.everything || inserter < self.next.xmax()
    }
}

/// Before the first row.
pub const START: (i64, Uuid) = (i64::MIN, Uuid::nil());

/// `begin`: the transaction, planned for index reads only, and whether this server is a standby. `SHOW` takes no
/// snapshot, so the answer is older than the snapshot that follows and a promotion in between can't be missed.
const BEGIN: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL max_parallel_workers_per_gather = 0;
    SET LOCAL enable_seqscan = off;
    SET LOCAL row_security = off;
    SHOW in_hot_standby";

/// `look`: the identity of the database, the snapshot, the ends of the WAL, and per lane what holds and what is new.
pub const LOOK: &str = "
    WITH now AS MATERIALIZED (
        SELECT pg_current_snapshot() AS next
    ), server AS MATERIALIZED (
        SELECT system_identifier,
               ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline,
               pg_postmaster_start_time() AS started
          FROM pg_control_system()
    )
    SELECT now.next,
           server.system_identifier,
           server.timeline,
           server.started,
           pg_current_wal_insert_lsn(),
           pg_current_wal_flush_lsn(),
           extract(epoch FROM 3 * current_setting('wal_writer_delay')::interval)::float8,
           lanes.lane,
           EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = lanes.witness
                      AND row.transaction_id = lanes.witness_transaction_id
                      AND row.position       = lanes.witness_position),
           EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = lanes.next_witness
                      AND row.transaction_id = lanes.next_witness_transaction_id
                      AND row.position       = lanes.next_witness_position),
           (SELECT count(*)
              FROM (SELECT
                      FROM aftercommit.outbox AS row
                     WHERE row.lane = lanes.lane
                       AND row.transaction_id >= pg_snapshot_xmax(lanes.seen)
                       AND row.transaction_id <  pg_snapshot_xmax(now.next)
                       AND pg_visible_in_snapshot(row.transaction_id, now.next)
                     LIMIT $9) AS begun_since)
         + (SELECT count(*)
              FROM (SELECT
                      FROM aftercommit.outbox AS row
                     WHERE row.lane = lanes.lane
                       AND row.transaction_id = ANY (ARRAY(SELECT pg_snapshot_xip(lanes.seen)))
                       AND pg_visible_in_snapshot(row.transaction_id, now.next)
                     LIMIT $9) AS ended_since),
           EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.lane = lanes.lane)
      FROM now
     CROSS JOIN server
      LEFT JOIN unnest($1::smallint[], $2::pg_snapshot[],
                       $3::uuid[], $4::xid8[], $5::bigint[],
                       $6::uuid[], $7::xid8[], $8::bigint[])
                    AS lanes (lane, seen,
                              witness, witness_transaction_id, witness_position,
                              next_witness, next_witness_transaction_id, next_witness_position)
             ON true";

/// `read`: the rows of a slice of a window, in the order of the lane.
pub const READ: &str = "
    SELECT event_id, position, transaction_id, aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, occurred_at, durable_at_commit, inserter
      FROM (SELECT *, xmin AS inserter
              FROM aftercommit.outbox
             WHERE lane = $1
               AND transaction_id >= $2
               AND transaction_id <  $3
               AND pg_visible_in_snapshot(transaction_id, $4)
             UNION ALL
            SELECT *, xmin AS inserter
              FROM aftercommit.outbox
             WHERE lane = $1
               AND transaction_id = ANY ($5)) AS snapshot_window
     WHERE position BETWEEN $6 AND $8
       AND (position, event_id) > ($6, $7)
     ORDER BY position, event_id
     LIMIT $9";

/// `witness`: the row of a window with the greatest transaction id.
pub const WITNESS: &str = "
    SELECT event_id, transaction_id, position, inserter
      FROM (SELECT event_id, transaction_id, position, xmin AS inserter
              FROM aftercommit.outbox
             WHERE lane = $1
               AND transaction_id >= $2
               AND transaction_id <  $3
               AND pg_visible_in_snapshot(transaction_id, $4)
             UNION ALL
            SELECT event_id, transaction_id, position, xmin AS inserter
              FROM aftercommit.outbox
             WHERE lane = $1
               AND transaction_id = ANY ($5)) AS snapshot_window
     ORDER BY transaction_id DESC
     LIMIT 1";

/// `plan`: a large window's rows counted by buckets of positions, from the index alone, without a sort.
pub const PLAN: &str = "
    SELECT bucket, count(*), min(id), max(id)
      FROM (SELECT position / $8 AS bucket, transaction_id::text::bigint AS id
              FROM (SELECT position, transaction_id
                      FROM aftercommit.outbox
                     WHERE lane = $1
                       AND transaction_id >= $2
                       AND transaction_id <  $3
                       AND pg_visible_in_snapshot(transaction_id, $4)
                     UNION ALL
                    SELECT position, transaction_id
                      FROM aftercommit.outbox
                     WHERE lane = $1
                       AND transaction_id = ANY ($5)) AS snapshot_window
             WHERE position >= $6
               AND position <= $7) AS buckets
     GROUP BY bucket";

/// `present`: which rows are there, one answer each, in order.
const PRESENT: &str = "
    SELECT EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = witness.event_id
                      AND row.transaction_id = witness.transaction_id
                      AND row.position       = witness.position)
      FROM unnest($1::uuid[], $2::xid8[], $3::bigint[])
           WITH ORDINALITY AS witness (event_id, transaction_id, position, number)
     ORDER BY number";

/// `absent`: which events are not there.
const ABSENT: &str = "
    SELECT event_id
      FROM unnest($1::uuid[]) AS lost (event_id)
     WHERE NOT EXISTS (SELECT FROM aftercommit.outbox AS row WHERE row.event_id = lost.event_id)";

/// `newest`: the time of the newest event by id.
const NEWEST: &str = "SELECT occurred_at FROM aftercommit.outbox ORDER BY event_id DESC LIMIT 1";

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
}

/// A read transaction, begun by a [`Look`]. Dropped without [`Reading::end`], the connection is of no more use.
#[derive(Debug)]
pub struct Reading<'a> {
    client: &'a Client,
}

/// Begins a read transaction and looks.
///
/// # Errors
/// [`Error::Standby`], and whatever PostgreSQL says; the connection is then to be dropped.
pub async fn look<'a>(client: &'a Client, questions: &[Question<'_>]) -> Result<(Reading<'a>, Look), Error> {
    // Both are sent at once: one round trip.
    let (begun, look) = within(PATIENCE, async { Ok(tokio::join!(begin(client), ask(client, questions))) }).await?;
    begun?;
    Ok((Reading { client }, look?))
}

/// Looks outside of a transaction: the idle poll, in two light statements.
///
/// # Errors
/// As [`look`].
pub async fn glance(client: &Client, questions: &[Question<'_>]) -> Result<Look, Error> {
    let standby = async { standby_check(&client.simple_query("SHOW in_hot_standby").await?) };
    let (standby, look) = within(PATIENCE, async { Ok(tokio::join!(standby, ask(client, questions))) }).await?;
    standby?;
    look
}

async fn begin(client: &Client) -> Result<(), Error> {
    standby_check(&client.simple_query(BEGIN).await?)
}

fn standby_check(answers: &[SimpleQueryMessage]) -> Result<(), Error> {
    let standby = answers.iter().any(|m| matches!(m, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")));
    if standby { Err(Error::Standby) } else { Ok(()) }
}

async fn ask(client: &Client, questions: &[Question<'_>]) -> Result<Look, Error> {
    let lanes: Vec<i16> = questions.iter().map(|q| q.lane).collect();
    let seen: Vec<&Snapshot> = questions.iter().map(|q| q.seen).collect();
    let witness = |of: fn(&Question<'_>) -> Option<Witness>| Witnesses::new(questions.iter().map(of));
    let (w, n) = (witness(|q| q.witness), witness(|q| q.next_witness));
    let limit = SLICE_ROWS as i64 + 1;
    let rows = client
        .query_typed(
            LOOK,
            &[
                (&lanes, Type::INT2_ARRAY),
                (&seen, Type::PG_SNAPSHOT_ARRAY),
                (&w.event_ids, Type::UUID_ARRAY),
                (&w.transaction_ids, Type::XID8_ARRAY),
                (&w.positions, Type::INT8_ARRAY),
                (&n.event_ids, Type::UUID_ARRAY),
                (&n.transaction_ids, Type::XID8_ARRAY),
                (&n.positions, Type::INT8_ARRAY),
                (&limit, Type::INT8),
            ],
        )
        .await?;
    // There is always a row: without a lane it holds only where the database stands.
    let first = &rows[0];
    Ok(Look {
        next: first.try_get(0)?,
        server: Server {
            identity: Identity { system_identifier: first.try_get(1)?, timeline: first.try_get(2)? },
            started: first.try_get(3)?,
        },
        insert_lsn: first.try_get(4)?,
        flush_lsn: first.try_get(5)?,
        flush_bound: Duration::try_from_secs_f64(first.try_get(6)?).unwrap_or(Duration::from_secs(30)),
        lanes: rows.iter().filter_map(|row| answer(row).transpose()).collect::<Result<_, tokio_postgres::Error>>()?,
    })
}

fn answer(row: &Row) -> Result<Option<Answer>, tokio_postgres::Error> {
    let Some(lane) = row.try_get(7)? else { return Ok(None) };
    Ok(Some(Answer {
        lane,
        witness_holds: row.try_get(8)?,
        next_witness_holds: row.try_get(9)?,
        waiting: usize::try_from(row.try_get::<_, i64>(10)?).unwrap_or(usize::MAX),
        any: row.try_get(11)?,
    }))
}

/// Witnesses as columns, for `unnest`.
struct Witnesses {
    event_ids: Vec<Option<Uuid>>,
    transaction_ids: Vec<Option<TransactionId>>,
    positions: Vec<Option<i64>>,
}

impl Witnesses {
    fn new(witnesses: impl Iterator<Item = Option<Witness>> + Clone) -> Self {
        Self {
            event_ids: witnesses.clone().map(|w| w.map(|w| w.event_id)).collect(),
            transaction_ids: witnesses.clone().map(|w| w.map(|w| w.transaction_id)).collect(),
            positions: witnesses.map(|w| w.map(|w| w.position)).collect(),
        }
    }
}

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
            let (mut count, mut bytes) = (0, 0);
            while let Some(row) = stream.try_next().await? {
                let Xid(xmin) = row.try_get(11)?;
                let inserter = inserter(xmin, range.xmax);
                let row = outbox_row(&row, range.lane)?;
                let Envelope { event_id, position, .. } = row.envelope;
                count += 1;
                bytes += row.envelope.payload.get().len() + row.envelope.metadata.get().len();
                read.last = Some((position, event_id));
                if range.takes(inserter) {
                    let witness = Witness { event_id, transaction_id: row.transaction_id, position };
                    let evidence = Evidence { witness, vouched: vouched(row.transaction_id, inserter) };
                    read.strongest = read.strongest.filter(|old| old.vouched >= evidence.vouched).or(Some(evidence));
                    read.rows.push(row);
                }
                if bytes >= SLICE_BYTES {
                    return Ok(read);
                }
            }
            read.whole = count < limit;
            Ok(read)
        };
        Ok(within(PATIENCE, read).await?)
    }

    /// The row of a window with the greatest transaction id, as evidence. In a window of everything, rows with ids that
    /// this history has given out go first: they vouch for more.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn evidence(&self, range: &Range<'_>) -> Result<Option<Evidence>, Error> {
        if range.everything {
            let own = Range { everything: false, ..range.clone() };
            if let Some(evidence) = self.greatest(&own).await? {
                return Ok(Some(evidence));
            }
        }
        self.greatest(range).await
    }

    async fn greatest(&self, range: &Range<'_>) -> Result<Option<Evidence>, Error> {
        let (low, high, upper, ended) = range.bounds();
        let rows = within(
            PATIENCE,
            self.client.query_typed(
                WITNESS,
                &[
                    (&range.lane, Type::INT2),
                    (&low, Type::XID8),
                    (&high, Type::XID8),
                    (&upper, Type::PG_SNAPSHOT),
                    (&ended, Type::XID8_ARRAY),
                ],
            ),
        )
        .await?;
        let evidence = |row: &Row| {
            let transaction_id = row.try_get(1)?;
            let Xid(xmin) = row.try_get(3)?;
            Ok::<_, tokio_postgres::Error>(Evidence {
                witness: Witness { event_id: row.try_get(0)?, transaction_id, position: row.try_get(2)? },
                vouched: vouched(transaction_id, inserter(xmin, range.xmax)),
            })
        };
        Ok(rows.first().map(evidence).transpose()?)
    }

    /// Which of these rows are there.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn present(&self, witnesses: &[Witness]) -> Result<Vec<bool>, Error> {
        let columns = Witnesses::new(witnesses.iter().copied().map(Some));
        let rows = within(
            PATIENCE,
            self.client.query_typed(
                PRESENT,
                &[
                    (&columns.event_ids, Type::UUID_ARRAY),
                    (&columns.transaction_ids, Type::XID8_ARRAY),
                    (&columns.positions, Type::INT8_ARRAY),
                ],
            ),
        )
        .await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Those of these events that are not there.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn absent(&self, event_ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let rows = within(PATIENCE, self.client.query_typed(ABSENT, &[(&event_ids, Type::UUID_ARRAY)])).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// When the newest event by id happened.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn newest(&self) -> Result<Option<OffsetDateTime>, Error> {
        let rows = within(PATIENCE, self.client.query_typed(NEWEST, &[])).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
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

    /// Ends the transaction.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn end(self) -> Result<(), Error> {
        Ok(within(PATIENCE, self.client.batch_execute("COMMIT")).await?)
    }
}

fn outbox_row(row: &Row, lane: i16) -> Result<OutboxRow, tokio_postgres::Error> {
    let Json(payload): Json<Box<RawValue>> = row.try_get(7)?;
    let Json(metadata): Json<Box<RawValue>> = row.try_get(8)?;
    Ok(OutboxRow {
        envelope: Envelope {
            event_id: row.try_get(0)?,
            position: row.try_get(1)?,
            lane,
            aggregate_type: row.try_get(3)?,
            aggregate_id: row.try_get(4)?,
            event_type: row.try_get(5)?,
            event_version: row.try_get(6)?,
            payload,
            metadata,
            occurred_at: row.try_get(9)?,
        },
        transaction_id: row.try_get(2)?,
        durable_at_commit: row.try_get(10)?,
    })
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
        let bucket = |number, rows, low, high| Bucket {
            number,
            rows,
            low: TransactionId(low),
            high: TransactionId(high),
        };
        let slice = |upto_position, low, high| Slice {
            upto_position,
            low: TransactionId(low),
            high: TransactionId(high),
        };
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
