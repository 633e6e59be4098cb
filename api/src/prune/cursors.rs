//! What the jobs database knows of the outbox: how far each lane has seen, its witnesses, and which events are needed.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::PruneError;
use super::statements::NEEDED;

/// A lane's cursor, as far as pruning is concerned.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// The lane.
    pub lane: i16,
    /// Every transaction below has finished, and its events have been dispatched: a transaction id, as text.
    pub all_seen_below: String,
    /// The cluster that it points into.
    pub system_identifier: i64,
    /// That cluster's timeline.
    pub timeline: i32,
    /// The row that vouches for it: event, transaction id as text, position.
    pub witness: (Uuid, String, i64),
    /// Every row that vouches for anything in this lane.
    pub witnesses: HashSet<Uuid>,
}

/// Purpose: the cursors of all lanes that have one. A lane that was put back to the beginning has seen nothing.
const CURSORS: &str = "
SELECT lane, pg_snapshot_xmin(seen)::text, system_identifier, timeline,
       witness_event_id, witness_transaction_id::text, witness_position, next_witness_event_id
  FROM aftercommit.lane_cursors
 WHERE witness_event_id  IS NOT NULL
   AND system_identifier IS NOT NULL
 ORDER BY lane";

/// Purpose: the rows that lanes could go back to when the history of the application database moves.
const CHECKPOINTS: &str = "SELECT lane, witness_event_id FROM aftercommit.lane_checkpoints";

/// Purpose: notes how far events may be gone, before the first of them is. It never moves back.
const NOTE: &str = "
INSERT INTO aftercommit.retention AS retention (pruned_before)
VALUES ($1)
    ON CONFLICT (singleton) DO UPDATE
   SET pruned_before = excluded.pruned_before, noted_at = now()
 WHERE retention.pruned_before < excluded.pruned_before";

/// The cursors of all lanes that have one, each with its witnesses.
pub async fn load(jobs: &mut PgConnection) -> Result<Vec<Cursor>, PruneError> {
    let failed = PruneError::of("jobs");
    let mut cursors = BTreeMap::new();
    for row in sqlx::query(CURSORS).fetch_all(&mut *jobs).await.map_err(&failed)? {
        let cursor = cursor(&row).map_err(&failed)?;
        cursors.insert(cursor.lane, cursor);
    }
    for row in sqlx::query(CHECKPOINTS).fetch_all(&mut *jobs).await.map_err(&failed)? {
        let lane: i16 = row.try_get(0).map_err(&failed)?;
        if let Some(cursor) = cursors.get_mut(&lane) {
            cursor.witnesses.insert(row.try_get(1).map_err(&failed)?);
        }
    }
    Ok(cursors.into_values().collect())
}

fn cursor(row: &sqlx::postgres::PgRow) -> Result<Cursor, sqlx::Error> {
    let witness: (Uuid, String, i64) = (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
    let next: Option<Uuid> = row.try_get(7)?;
    Ok(Cursor {
        lane: row.try_get(0)?,
        all_seen_below: row.try_get(1)?,
        system_identifier: row.try_get(2)?,
        timeline: row.try_get(3)?,
        witnesses: next.into_iter().chain([witness.0]).collect(),
        witness,
    })
}

/// Which of some events must stay: they have an open failure or an unfinished job.
pub async fn needed(jobs: &mut PgConnection, events: &[Uuid]) -> Result<HashSet<Uuid>, PruneError> {
    if events.is_empty() {
        return Ok(HashSet::new());
    }
    let needed: Vec<Uuid> =
        sqlx::query_scalar(NEEDED).bind(events).fetch_all(jobs).await.map_err(PruneError::of("jobs"))?;
    Ok(needed.into_iter().collect())
}

/// Notes how far events may be gone.
pub async fn note(jobs: &mut PgConnection, before: OffsetDateTime) -> Result<(), PruneError> {
    sqlx::query(NOTE).bind(before).execute(jobs).await.map_err(PruneError::of("jobs"))?;
    Ok(())
}
