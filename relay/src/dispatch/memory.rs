//! What a worker remembers beyond its sessions: how far it has moved each lane. That is how it notices that the jobs
//! database was put back to an earlier state, by a restore or by a failover that lost commits.
//!
//! Cursors and jobs went back together then, so dispatch goes on from there and loses nothing. What was delivered since,
//! by that database's account never was, and goes out again: so much is said, loudly and once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Client;

use super::Error;
use super::cursor::Cursor;
use crate::postgres::within;

/// The version that each lane's cursor was left at, over one process's sessions.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<i16, i64>>>);

/// What `history_moves` says.
const REASON: &str = "the jobs database was put back to an earlier state";

/// `lift`: takes cursors that went back above every version that was ever committed, so that the next to notice does not
/// tell it again, and no fence is met twice; and notes where they went back to.
const LIFT: &str = "
    WITH lifted AS (
        UPDATE lane_cursors AS cursor
           SET version = known.version + 1
          FROM unnest($1::smallint[], $2::bigint[]) AS known (lane, version)
         WHERE cursor.lane    = known.lane
           AND cursor.version < known.version
        RETURNING cursor.lane, cursor.moved_at
    )
    INSERT INTO history_moves (lane, reason, back_to, ghosts_cancelled, ghosts_delivered)
    SELECT lane, $3, moved_at, 0, 0
      FROM lifted
    RETURNING lane, back_to::text";

impl Memory {
    /// These cursors were moved, each from the version that it names.
    pub fn moved<'a>(&self, cursors: impl IntoIterator<Item = &'a Cursor>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(cursors.into_iter().map(|cursor| (cursor.lane, cursor.version + 1)));
    }

    /// Compares what a new session finds with what was committed before.
    ///
    /// # Errors
    /// When the jobs database is away.
    pub async fn compare(&self, jobs: &Client, cursors: &[Cursor]) -> Result<(), Error> {
        let behind: Vec<(i16, i64)> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = cursors.iter().filter_map(|cursor| Some((cursor, *known.get(&cursor.lane)?)));
            known.filter(|(cursor, version)| cursor.version < *version).map(|(c, version)| (c.lane, version)).collect()
        };
        if behind.is_empty() {
            return Ok(());
        }
        let (lanes, versions): (Vec<i16>, Vec<i64>) = behind.into_iter().unzip();
        let lifted = within(super::worker::PATIENCE, jobs.query(LIFT, &[&lanes, &versions, &REASON]))
            .await
            .map_err(Error::Jobs)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let lanes: Vec<i16> = lifted.iter().filter_map(|row| row.try_get(0).ok()).collect();
        let back_to: Option<String> = lifted.iter().filter_map(|row| row.try_get(1).ok()).min();
        if !lanes.is_empty() {
            tracing::error!(
                ?lanes,
                back_to,
                "{REASON}: no event is lost and none is dispatched twice, but what was delivered since is delivered again"
            );
        }
        Ok(())
    }
}
