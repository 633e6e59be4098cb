//! Reading both databases for pages: a few connections each, kept while people look, and bounds on every question.
//!
//! A connection goes back only from a reader that came to its end. One whose reader was dropped half-way, as when a
//! browser goes away, is closed with it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use shared::database_url::DatabaseUrl;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::{databases, postgres};

/// Connections to each database.
const MOST: usize = 4;
/// How long one is kept for the next reader.
const KEPT: Duration = Duration::from_secs(60);
/// The longest that PostgreSQL works on one question.
const STATEMENT_TIMEOUT: &str = "5s";
/// The longest that a page waits for any one answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Both databases.
#[derive(Debug)]
pub struct Store {
    application: Pool,
    jobs: Pool,
}

#[derive(Debug)]
struct Pool {
    url: DatabaseUrl,
    room: Semaphore,
    idle: Mutex<Vec<(Client, Instant)>>,
}

/// A connection, as long as it is needed.
pub struct Borrowed<'a> {
    client: Client,
    pool: &'a Pool,
    _room: SemaphorePermit<'a>,
}

impl Store {
    /// Connects to nothing yet.
    pub fn new(application: DatabaseUrl, jobs: DatabaseUrl) -> Self {
        Self { application: Pool::new(application), jobs: Pool::new(jobs) }
    }

    /// A session on the jobs database.
    ///
    /// # Errors
    /// When it is away, or its schema is another.
    pub async fn jobs(&self) -> Result<Borrowed<'_>, databases::Error> {
        let (room, kept) = self.jobs.take().await?;
        let client = match kept {
            Some(client) => client,
            None => {
                let client = databases::jobs(&self.jobs.url, &name()).await?;
                let set = format!("SET statement_timeout = '{STATEMENT_TIMEOUT}'");
                postgres::within(PATIENCE, client.batch_execute(&set)).await?;
                client
            }
        };
        Ok(Borrowed { client, pool: &self.jobs, _room: room })
    }

    /// A connection to the application database. Nothing may be set on it for longer than a transaction: it may lead
    /// through a pooler.
    ///
    /// # Errors
    /// When it is away.
    pub async fn application(&self) -> Result<Borrowed<'_>, databases::Error> {
        let (room, kept) = self.application.take().await?;
        let client = match kept {
            Some(client) => client,
            None => databases::application(&self.application.url, &name()).await?,
        };
        Ok(Borrowed { client, pool: &self.application, _room: room })
    }

    /// One question to the application database, in a transaction that can't write and can't last.
    ///
    /// # Errors
    /// When it is away, or takes too long.
    pub async fn ask_application(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, databases::Error> {
        let of = |error: postgres::Error| databases::Error::from(crate::outbox::Error::from(error));
        let connection = self.application().await?;
        let begin =
            format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'; SET LOCAL jit = off");
        postgres::within(PATIENCE, connection.client().batch_execute(&begin)).await.map_err(of)?;
        let rows = postgres::within(PATIENCE, connection.client().query_typed(sql, parameters)).await;
        // Ends the transaction also after a statement that was cut off.
        postgres::within(PATIENCE, connection.client().batch_execute("ROLLBACK")).await.map_err(of)?;
        connection.give_back();
        rows.map_err(of)
    }
}

impl Borrowed<'_> {
    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The connection, for transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Leaves it to the next reader.
    pub fn give_back(self) {
        if !self.client.is_closed() {
            self.pool.idle().push((self.client, Instant::now()));
        }
    }
}

impl Pool {
    fn new(url: DatabaseUrl) -> Self {
        Self { url, room: Semaphore::new(MOST), idle: Mutex::default() }
    }

    /// Room for one more, and a connection that was kept, if there is one.
    async fn take(&self) -> Result<(SemaphorePermit<'_>, Option<Client>), databases::Error> {
        let Ok(Ok(room)) = tokio::time::timeout(PATIENCE, self.room.acquire()).await else {
            return Err(postgres::Error::Timeout(PATIENCE).into());
        };
        let mut idle = self.idle();
        idle.retain(|(client, since)| !client.is_closed() && since.elapsed() < KEPT);
        Ok((room, idle.pop().map(|(client, _)| client)))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Client, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What its sessions are called.
fn name() -> String {
    format!("aftercommit dashboard {}", std::process::id())
}
