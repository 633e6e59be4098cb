//! The first statement of every read transaction: which server this is, what has finished, and per lane what still holds
//! and what is new.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::evidence::Witnesses;
use super::source::Source;
use super::window::Snapshot;
use super::{Error, Identity, PATIENCE, Reading, SLICE_ROWS, Server, Witness};
use crate::postgres::{self, within};

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

impl Question<'_> {
    /// Whether [`LOOK_PLAIN`] answers it.
    fn is_plain(&self) -> bool {
        self.witness.is_some() && self.next_witness.is_none() && self.seen.xip().is_empty()
    }
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
    /// Events between `seen` and now, counted to just above [`SLICE_ROWS`]; 0 while a window is being worked off.
    pub waiting: usize,
    /// Whether there is any row at all; only asked without a witness.
    pub any: bool,
}

/// Where the database stands, and per lane what holds and what is new.
macro_rules! look_statement {
    ($next_witness_holds:literal, $ended_since:literal, $any:literal) => {
        concat!(
            "
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
           EXISTS (SELECT
                     FROM pg_subscription_rel
                    WHERE srrelid = 'aftercommit.outbox'::regclass),
           lanes.lane,
           EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = lanes.witness
                      AND row.transaction_id = lanes.witness_transaction_id
                      AND row.position       = lanes.witness_position),
           ",
            $next_witness_holds,
            ",
           (SELECT count(*)
              FROM (SELECT
                      FROM aftercommit.outbox AS row
                     WHERE aftercommit.lane(row.aggregate_id) = lanes.lane
                       AND row.transaction_id >= pg_snapshot_xmax(lanes.seen)
                       AND row.transaction_id <  pg_snapshot_xmax(now.next)
                       AND pg_visible_in_snapshot(row.transaction_id, now.next)
                     LIMIT $9) AS begun_since)",
            $ended_since,
            ",
           ",
            $any,
            "
      FROM now
     CROSS JOIN server
      LEFT JOIN unnest($1::smallint[], $2::pg_snapshot[],
                       $3::uuid[], $4::xid8[], $5::bigint[],
                       $6::uuid[], $7::xid8[], $8::bigint[])
                    AS lanes (lane, seen,
                              witness, witness_transaction_id, witness_position,
                              next_witness, next_witness_transaction_id, next_witness_position)
             ON true"
        )
    };
}

/// `look`: the identity of the database, the snapshot, the ends of the WAL, whether logical replication fills the outbox,
/// and per lane what holds and what is new.
pub const LOOK: &str = look_statement!(
    "EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = lanes.next_witness
                      AND row.transaction_id = lanes.next_witness_transaction_id
                      AND row.position       = lanes.next_witness_position)",
    "
         + (SELECT count(*)
              FROM (SELECT
                      FROM aftercommit.outbox AS row
                     WHERE aftercommit.lane(row.aggregate_id) = lanes.lane
                       AND row.transaction_id = ANY (ARRAY(SELECT pg_snapshot_xip(lanes.seen)))
                       AND pg_visible_in_snapshot(row.transaction_id, now.next)
                     LIMIT $9) AS ended_since)",
    "EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE aftercommit.lane(row.aggregate_id) = lanes.lane)"
);

/// `look_plain`: the same for lanes that have a witness and no open window, and whose `seen` has nothing in progress, as is
/// usual: the rest goes without saying. Behind a pooler it is planned anew each time, so what is not asked need not be planned.
pub const LOOK_PLAIN: &str = look_statement!("false", "", "true");

/// Begins a read transaction and looks.
///
/// # Errors
/// [`Error::Standby`], [`Error::Subscribed`], and whatever PostgreSQL says; the connection is then to be dropped.
pub async fn look<'a>(source: impl Into<Source<'a>>, questions: &[Question<'_>]) -> Result<(Reading<'a>, Look), Error> {
    let source = source.into();
    // Both are sent at once: one round trip.
    let (begun, look) = within(PATIENCE, async { Ok(tokio::join!(begin(source), ask(source, questions))) }).await?;
    begun?;
    Ok((Reading { source }, look?))
}

/// Looks outside of a transaction: the idle poll, in one light statement. Only good for whether to [`look`]: a standby refuses
/// it, but one that is promoted just then may have answered with the snapshot of a standby.
///
/// # Errors
/// As [`look`].
pub async fn glance<'a>(source: impl Into<Source<'a>>, questions: &[Question<'_>]) -> Result<Look, Error> {
    let source = source.into();
    let glanced = within(PATIENCE, async { Ok(ask(source, questions).await) }).await?;
    glanced.map_err(|error| match &error {
        // The ends of the WAL can't be asked for during recovery.
        Error::Postgres(postgres::Error::Postgres(e))
            if e.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) =>
        {
            Error::Standby
        }
        _ => error,
    })
}

async fn begin(source: Source<'_>) -> Result<(), Error> {
    standby_check(&source.client.simple_query(source.begin()).await?)
}

fn standby_check(answers: &[SimpleQueryMessage]) -> Result<(), Error> {
    let standby = answers.iter().any(|m| matches!(m, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")));
    if standby { Err(Error::Standby) } else { Ok(()) }
}

async fn ask(source: Source<'_>, questions: &[Question<'_>]) -> Result<Look, Error> {
    let lanes: Vec<i16> = questions.iter().map(|q| q.lane).collect();
    // What has come since a window was opened has to wait for its end: it need not be counted again and again.
    let seen: Vec<Option<&Snapshot>> = questions.iter().map(|q| q.next_witness.is_none().then_some(q.seen)).collect();
    let witness = |of: fn(&Question<'_>) -> Option<Witness>| Witnesses::new(questions.iter().map(of));
    let (w, n) = (witness(|q| q.witness), witness(|q| q.next_witness));
    let limit = SLICE_ROWS as i64 + 1;
    let plain = questions.iter().all(Question::is_plain);
    let rows = source
        .query(
            if plain { LOOK_PLAIN } else { LOOK },
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
    if first.try_get(7)? {
        return Err(Error::Subscribed);
    }
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
    let Some(lane) = row.try_get(8)? else { return Ok(None) };
    Ok(Some(Answer {
        lane,
        witness_holds: row.try_get(9)?,
        next_witness_holds: row.try_get(10)?,
        waiting: usize::try_from(row.try_get::<_, i64>(11)?).unwrap_or(usize::MAX),
        any: row.try_get(12)?,
    }))
}
