//! Connections that lie idle between mails, the last used on top.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::Quit;

use super::connect::Connection;
use crate::metrics::record;

/// After so many refused mails a connection is closed: servers count refusals per connection, and cut off whoever comes
/// next.
const MOST_REFUSED: u32 = 5;

/// The time for a goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// A task is there that closes what lies idle for long.
    swept: bool,
}

/// See the module.
pub(super) struct Pool {
    idle: Arc<Mutex<Idle>>,
    longest: Duration,
    most_mails: u32,
}

impl Pool {
    /// Keeps connections idle for so long at most, and each for so many mails.
    pub(super) fn new(longest: Duration, most_mails: u32) -> Self {
        Self { idle: Arc::default(), longest, most_mails }
    }

    /// A connection that may still be good.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        let taken = idle.connections.pop();
        record::smtp_idle(idle.connections.len());
        taken.filter(|connection| connection.used.elapsed() < self.longest)
    }

    /// Gives one back.
    pub(super) fn put(&self, mut connection: Connection) {
        if connection.mails >= self.most_mails || connection.refused >= MOST_REFUSED {
            tokio::spawn(goodbye(connection));
            return;
        }
        connection.used = Instant::now();
        let mut idle = lock(&self.idle);
        idle.connections.push(connection);
        record::smtp_idle(idle.connections.len());
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.idle), self.longest));
        }
    }
}

/// Closes what has been idle for long, until nothing is left.
async fn sweep(pool: Weak<Mutex<Idle>>, longest: Duration) {
    loop {
        tokio::time::sleep(longest / 3).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = lock(&pool);
        let young = idle.connections.iter().position(|connection| connection.used.elapsed() < longest);
        let young = young.unwrap_or(idle.connections.len());
        for connection in idle.connections.drain(..young) {
            tokio::spawn(goodbye(connection));
        }
        record::smtp_idle(idle.connections.len());
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    /// What the server hears until the connection ends.
    async fn heard(mut server: DuplexStream) -> String {
        let mut heard = String::new();
        let reading = server.read_to_string(&mut heard);
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("an end").expect("text");
        heard
    }

    fn connection() -> (Connection, DuplexStream) {
        let (client, server) = duplex(1 << 10);
        (Connection::for_tests(client), server)
    }

    #[tokio::test]
    async fn the_last_used_is_taken_first() {
        let pool = Pool::new(Duration::from_secs(15), 100);
        for mails in [1, 2] {
            pool.put(Connection { mails, ..connection().0 });
        }
        let taken = || pool.take().map(|connection| connection.mails);
        assert_eq!((taken(), taken(), taken()), (Some(2), Some(1), None));
    }

    #[tokio::test]
    async fn what_lies_idle_for_long_is_closed_by_itself_and_politely() {
        let pool = Pool::new(Duration::from_millis(50), 100);
        let (idle, server) = connection();
        pool.put(idle);
        assert_eq!(heard(server).await, "QUIT\r\n");
        assert!(pool.take().is_none());
        let (next, server) = connection();
        pool.put(next);
        assert_eq!(heard(server).await, "QUIT\r\n", "and so is the next, by a sweep of its own");
    }

    #[tokio::test]
    async fn what_was_used_enough_is_not_kept() {
        let pool = Pool::new(Duration::from_secs(15), 100);
        for (mails, refused) in [(100, 0), (0, MOST_REFUSED)] {
            let (used, server) = connection();
            pool.put(Connection { mails, refused, ..used });
            assert!(pool.take().is_none());
            assert_eq!(heard(server).await, "QUIT\r\n");
        }
    }
}
