//! Who dispatches what, and what could not be dispatched.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::count::Count;
use crate::databases::PATIENCE;
use crate::dispatch::lanes::{LANES, LOCK_CLASS};
use crate::postgres::{Error, within};

/// What counting stops at.
const BOUND: i64 = 10_000;

/// `locks`: the sessions that share the lanes (object 0) and hold them (lane + 1).
const LOCKS: &str = "
    SELECT lock.objid::bigint - 1, lock.pid, coalesce(activity.application_name, ''), host(activity.client_addr)
      FROM pg_locks AS lock
      LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
     WHERE lock.locktype = 'advisory'
       AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND lock.classid  = $1::bigint::oid
       AND lock.objsubid = 2
       AND lock.granted";

/// `relays`: the relays with a session here, each with what it calls itself and where it is.
const RELAYS: &str = "
    SELECT application_name, host(client_addr), count(*),
           extract(epoch FROM clock_timestamp() - min(backend_start))::float8
      FROM pg_stat_activity
     WHERE datname = current_database()
       AND application_name LIKE 'aftercommit relay %'
     GROUP BY application_name, client_addr
     ORDER BY min(backend_start)";

/// `processes`: how many processes are on record as delivering.
const PROCESSES: &str = "SELECT count(*) FROM processes";

/// `failures`: the open dispatch failures by handler, counted up to a bound.
const FAILURES: &str = "
    SELECT handler, count(*)
      FROM (SELECT handler
              FROM dispatch_failures
             WHERE resolved_at IS NULL
             LIMIT $1) AS open
     GROUP BY handler
     ORDER BY handler";

/// The session that holds a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What it calls itself.
    pub name: String,
    /// Where it is; none over a unix socket.
    pub address: Option<String>,
    /// Its backend's process id in PostgreSQL.
    pub pid: i32,
}

/// A relay that is connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// What it calls itself.
    pub name: String,
    /// Where it is; none over a unix socket.
    pub address: Option<String>,
    /// How many sessions it has in the jobs database.
    pub sessions: i64,
    /// Seconds since the oldest of them began.
    pub connected_for: f64,
}

/// Open dispatch failures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures {
    /// By handler; when the total is a lower bound, so is each.
    pub by_handler: BTreeMap<String, Count>,
}

impl Failures {
    /// All of them.
    pub fn total(&self) -> Count {
        self.by_handler.values().copied().sum()
    }
}

/// How many sessions share the lanes, and which holds which.
pub(super) async fn locks(client: &Client) -> Result<(u64, BTreeMap<i16, Holder>), Error> {
    let mut members = 0;
    let mut holders = BTreeMap::new();
    for row in within(PATIENCE, client.query(LOCKS, &[&i64::from(LOCK_CLASS)])).await? {
        let object: i64 = row.try_get(0)?;
        match i16::try_from(object) {
            Ok(-1) => members += 1,
            Ok(lane @ 0..LANES) => {
                let holder = Holder { pid: row.try_get(1)?, name: row.try_get(2)?, address: row.try_get(3)? };
                holders.insert(lane, holder);
            }
            _ => {}
        }
    }
    Ok((members, holders))
}

pub(super) async fn relays(client: &Client) -> Result<Vec<Relay>, Error> {
    let rows = within(PATIENCE, client.query(RELAYS, &[])).await?;
    rows.iter()
        .map(|row| {
            Ok(Relay {
                name: row.try_get(0)?,
                address: row.try_get(1)?,
                sessions: row.try_get(2)?,
                connected_for: row.try_get(3)?,
            })
        })
        .collect()
}

pub(super) async fn processes(client: &Client) -> Result<u64, Error> {
    let count: i64 = within(PATIENCE, client.query_one(PROCESSES, &[])).await?.try_get(0)?;
    Ok(count.unsigned_abs())
}

pub(super) async fn failures(client: &Client) -> Result<Failures, Error> {
    let rows = within(PATIENCE, client.query(FAILURES, &[&(BOUND + 1)])).await?;
    let counted: Vec<(String, i64)> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Error>>()?;
    let total: i64 = counted.iter().map(|(_, count)| count).sum();
    let by_handler = counted.into_iter().map(|(handler, count)| (handler, Count::part_of(count, total, BOUND)));
    Ok(Failures { by_handler: by_handler.collect() })
}
