//! The process's own row: its identity, its counter, and what it is said to hold.

use uuid::Uuid;

use super::lease::{Boot, ProcessLease};
use super::session::{Session, in_time};
use crate::postgres::Error;
use std::sync::Arc;
use std::time::Duration;

/// Who claims: an id made for this very life of the process. Host names and process numbers come back; ids don't.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What claims carry.
    pub id: Uuid,
    /// The lease on them.
    pub lease: Arc<ProcessLease>,
}

impl Identity {
    /// A new one, unknown to anybody yet.
    pub fn new(lease: Duration) -> Self {
        Self { id: Uuid::new_v4(), lease: ProcessLease::new(lease) }
    }
}

/// Makes the identity known: $1 process, $2 name for people, $3 lease in seconds.
pub const REGISTER: &str = "
INSERT INTO aftercommit.processes (process_id, name, lease) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

/// Bumps the counter, so that nobody takes the process for dead: $1 process.
pub const RENEW: &str = "
UPDATE aftercommit.processes SET counter = counter + 1 WHERE process_id = $1";

/// Removes the identity, unless it still holds something that must be rescued: $1 process.
pub const LEAVE: &str = "
DELETE FROM aftercommit.processes
WHERE process_id = $1
  AND NOT EXISTS (SELECT FROM aftercommit.jobs WHERE state = 'running' AND claimed_by = $1)";

/// What the identity holds as the database has it: $1 process.
pub const HELD: &str = "
SELECT job_id, claim FROM aftercommit.jobs WHERE state = 'running' AND claimed_by = $1";

/// Makes an identity known.
///
/// # Errors
/// When the database does not answer; doing it again is harmless.
pub async fn register(session: &Session, identity: &Identity, name: &str) -> Result<(), Error> {
    let lease = identity.lease.length().as_secs_f64();
    in_time(session.client.execute(&session.register, &[&identity.id, &name, &lease])).await.map(drop)
}

/// Renews the lease. `false`: the row is gone, and with it all claims.
///
/// # Errors
/// When the database does not answer; then the lease is not longer than it was.
pub async fn renew(session: &Session, identity: &Identity) -> Result<bool, Error> {
    let sent = Boot::now();
    let alive = in_time(session.client.execute(&session.renew, &[&identity.id])).await? == 1;
    if alive {
        identity.lease.extend(sent);
    }
    Ok(alive)
}

/// Says goodbye.
///
/// # Errors
/// When the database does not answer; the row is then found and removed by others some day.
pub async fn leave(session: &Session, process: Uuid) -> Result<(), Error> {
    in_time(session.client.execute(&session.leave, &[&process])).await.map(drop)
}

/// The jobs, with claim numbers, that the database says this identity holds. Some may be news to the process: claims
/// whose answer was lost.
///
/// # Errors
/// When the database does not answer.
pub async fn held(session: &Session, process: Uuid) -> Result<Vec<(Uuid, i64)>, Error> {
    let rows = in_time(session.client.query(&session.held, &[&process])).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
