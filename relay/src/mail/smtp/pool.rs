//! Connections that lie idle between mails, the last used on top.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::Quit;

use super::connect::Connection;

/// After so many mails a connection is closed: servers have caps, and load balancers only act on new connections.
const MOST_MAILS: u32 = 100;

/// After so many refused mails a connection is closed: servers count refusals per connection, and cut off whoever comes
/// next.
const MOST_REFUSED: u32 = 5;

/// Servers close what lies idle for minutes, and count it meanwhile.
const IDLE: Duration = Duration::from_secs(15);

/// The time for a goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// A task is there that closes what lies idle for long.
    swept: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

impl Pool {
    /// A connection that may still be good.
    pub(super) fn take(&self) -> Option<Connection> {
        lock(&self.0).connections.pop().filter(|connection| connection.used.elapsed() < IDLE)
    }

    /// Gives one back.
    pub(super) fn put(&self, mut connection: Connection) {
        if connection.mails >= MOST_MAILS || connection.refused >= MOST_REFUSED {
            tokio::spawn(goodbye(connection));
            return;
        }
        connection.used = Instant::now();
        let mut idle = lock(&self.0);
        idle.connections.push(connection);
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Closes what has been idle for long, until nothing is left.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(IDLE / 3).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = lock(&pool);
        let young = idle.connections.iter().position(|connection| connection.used.elapsed() < IDLE);
        let young = young.unwrap_or(idle.connections.len());
        for connection in idle.connections.drain(..young) {
            tokio::spawn(goodbye(connection));
        }
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

async fn goodbye(mut connection: Connection) {
    let _ = connection.wire.command(&Quit, 221, GOODBYE).await;
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
