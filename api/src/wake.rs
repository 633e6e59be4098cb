//! Telling relays that there is something new, so that they need not wait for their next poll.
//!
//! Never inside a transaction: a NOTIFY makes commits wait for each other. One connection sends at most one NOTIFY at
//! a time, and commits that happen meanwhile share the next one. It is a courtesy: when it fails, relays find the
//! events by polling, so nothing is retried for long and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use shared::database_url::DatabaseUrl;
use shared::shutdown::CancellationToken;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};
use tokio::sync::Notify;

use crate::store::statements::{NOTIFY, NOTIFY_PAUSE};

const LIMIT: Duration = Duration::from_secs(3);

/// The bell.
#[derive(Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Something was committed.
    pub fn relay(&self) {
        self.0.notify_one();
    }

    /// Sends what was asked for, until shutdown.
    pub async fn run(self, url: DatabaseUrl, shutdown: CancellationToken) {
        let options = url.connect_options("aftercommit api wake");
        let mut connection = None;
        loop {
            tokio::select! {
                () = self.0.notified() => {}
                () = shutdown.cancelled() => return,
            }
            // A connection that has been idle may be dead: then once more on a new one.
            for _ in 0..2 {
                match tokio::time::timeout(LIMIT, send(connection.take(), &options)).await {
                    Ok(Ok(used)) => {
                        connection = Some(used);
                        break;
                    }
                    Ok(Err(error)) => tracing::debug!(error = error.to_string(), "relays were not woken"),
                    Err(_) => tracing::debug!("relays were not woken in time"),
                }
            }
            tokio::time::sleep(NOTIFY_PAUSE).await;
        }
    }
}

async fn send(connection: Option<PgConnection>, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => PgConnection::connect_with(options).await?,
    };
    connection.execute(NOTIFY).await?;
    Ok(connection)
}
