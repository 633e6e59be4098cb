//! The outbox's side: whether it is the one that the cursors point into, its rows page by page, and their end.

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::PruneError;
use super::cursors::Cursor;
use super::statements::{COUNT, DELETE, ROWS};

/// Rows looked at, and deleted, at a time.
pub const PAGE: usize = 1_000;

/// Purpose: which server answers, and how far its transactions have come.
const SERVER: &str = "
SELECT pg_is_in_recovery(),
       (SELECT system_identifier FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END";

/// Purpose: whether a witness is there.
const WITNESS: &str = "
SELECT EXISTS (SELECT
                 FROM aftercommit.outbox
                WHERE event_id       = $1
                  AND transaction_id = $2::text::xid8
                  AND position       = $3)";

/// A row's place in its lane's index.
#[derive(Debug, Clone)]
pub struct Place {
    transaction_id: String,
    position: i64,
    event_id: Uuid,
}

/// A row, as far as pruning is concerned.
#[derive(Debug)]
pub struct Candidate {
    /// The event.
    pub event_id: Uuid,
    /// Where it is.
    pub place: Place,
    /// Whether its time is up.
    pub old: bool,
}

impl Place {
    /// Before every row.
    pub const START: Self = Self { transaction_id: String::new(), position: i64::MIN, event_id: Uuid::nil() };

    fn transaction_id(&self) -> &str {
        if self.transaction_id.is_empty() { "0" } else { &self.transaction_id }
    }
}

fn failed(error: sqlx::Error) -> PruneError {
    PruneError::of("application")(error)
}

/// The database's clock.
pub async fn now(app: &mut PgConnection) -> Result<OffsetDateTime, PruneError> {
    sqlx::query_scalar("SELECT now()").fetch_one(app).await.map_err(failed)
}

/// Makes sure that every cursor points into the history that this database holds, as a relay does before it reads.
pub async fn same_history(app: &mut PgConnection, cursors: &[Cursor]) -> Result<(), PruneError> {
    let (standby, system_identifier, timeline): (bool, i64, i32) =
        sqlx::query_as(SERVER).fetch_one(&mut *app).await.map_err(failed)?;
    if standby {
        return Err(PruneError::Standby);
    }
    for Cursor { lane, witness, system_identifier: known, timeline: followed, .. } in cursors {
        let other = |what: &str| Err(PruneError::OtherHistory(format!("lane {lane}: {what}")));
        if *known != system_identifier {
            return other("another cluster");
        }
        if *followed != timeline {
            return other("another timeline");
        }
        let holds: bool = sqlx::query_scalar(WITNESS)
            .bind(witness.0)
            .bind(&witness.1)
            .bind(witness.2)
            .fetch_one(&mut *app)
            .await
            .map_err(failed)?;
        if !holds {
            return other("its last event is not there");
        }
    }
    Ok(())
}

/// How many rows of a lane are old enough and seen.
pub async fn count(app: &mut PgConnection, cursor: &Cursor, before: OffsetDateTime) -> Result<u64, PruneError> {
    let count: i64 = sqlx::query_scalar(COUNT)
        .bind(cursor.lane)
        .bind(&cursor.all_seen_below)
        .bind(before)
        .fetch_one(app)
        .await
        .map_err(failed)?;
    Ok(count.unsigned_abs())
}

/// The next rows of a lane, behind a place.
pub async fn page(
    app: &mut PgConnection,
    cursor: &Cursor,
    after: &Place,
    before: OffsetDateTime,
) -> Result<Vec<Candidate>, PruneError> {
    let rows = sqlx::query(ROWS)
        .bind(cursor.lane)
        .bind(&cursor.all_seen_below)
        .bind(after.transaction_id())
        .bind(after.position)
        .bind(after.event_id)
        .bind(before)
        .bind(PAGE as i64)
        .fetch_all(app)
        .await
        .map_err(failed)?;
    rows.iter().map(candidate).collect::<Result<_, _>>().map_err(failed)
}

fn candidate(row: &sqlx::postgres::PgRow) -> Result<Candidate, sqlx::Error> {
    let event_id = row.try_get(0)?;
    let place = Place { transaction_id: row.try_get(1)?, position: row.try_get(2)?, event_id };
    Ok(Candidate { event_id, place, old: row.try_get(3)? })
}

/// Deletes rows in one transaction, and says how many there were.
pub async fn delete(app: &mut PgConnection, events: &[Uuid]) -> Result<u64, PruneError> {
    if events.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query(DELETE).bind(events).execute(app).await.map_err(failed)?.rows_affected())
}
