//! The connections to the application database, and what its errors mean to a request.
//!
//! Three meanings only: the database can't be had now (the client may come again), our statement is wrong (a fault of
//! this program), or a write's outcome is unknown, which is the unit of work's to find out. The server's message and
//! DETAIL quote data, so neither is logged or passed on; its error code and the statement's name are.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use shared::database_url::DatabaseUrl;
use shared::migrate::standing::sqlstate;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor};

/// How long a single statement may take. Longer than the role's `lock_timeout`, shorter than its
/// `statement_timeout`: so the server's own word, which says more, comes first, and only a dead link runs into this.
const STATEMENT_LIMIT: Duration = Duration::from_secs(7);

/// A connection that was used this lately is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);
/// How long one that was not may take to answer.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// Connections are closed when they have not been used for this long, and when they are this old.
const IDLE: Duration = Duration::from_secs(600);
const AGE: Duration = Duration::from_secs(1800);
/// Between tries to connect, while the server is starting or going.
const PAUSE: Duration = Duration::from_millis(100);

/// The pool of connections. Made without connecting, so that `api` starts with its database down.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Connector>,
    acquire_timeout: Duration,
}

/// Opens the pool's connections, and looks after them.
///
/// sqlx's own pool asks each connection that it takes back whether it is alive: a round trip after each request.
struct Connector(PgConnectOptions);

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.0).await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > AGE {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() < FRESH {
            return Ok(());
        }
        match tokio::time::timeout(PING_LIMIT, connection.ping()).await {
            Ok(alive) => Ok(alive?),
            Err(_) => Err(RecycleError::message("it does not answer")),
        }
    }
}

/// What the pool holds.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// In use.
    pub busy: u32,
    /// Waiting for a use.
    pub idle: u32,
    /// The most there can be.
    pub limit: u32,
}

/// Why a statement gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database is away, busy, full, or just being replaced. The statement was not carried out.
    #[error("the database is not available ({0})")]
    Unavailable(String),
    /// The connection was lost, or no answer came in time. The statement may have been carried out.
    #[error("the database did not answer ({0})")]
    Lost(String),
    /// The statement can't be right: a fault of this program or of the schema.
    #[error("the statement {statement} failed with SQLSTATE {code}")]
    Broken {
        /// Which statement.
        statement: &'static str,
        /// The server's code, or `none`.
        code: String,
    },
}

impl Database {
    /// Prepares the pool.
    pub fn new(url: &DatabaseUrl, connections: u32, acquire_timeout: Duration) -> Self {
        let pool = Pool::builder(Connector(url.connect_options("aftercommit api")))
            .max_size(connections as usize)
            // What was used last has its plans in the server's caches, and need not be asked whether it is alive.
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("only time limits, of which it has none, need a runtime");
        Self { pool, acquire_timeout }
    }

    /// A connection, within the time for acquiring one.
    pub async fn acquire(&self) -> Result<Connection, DatabaseError> {
        let began = Instant::now();
        let acquired = loop {
            let left = self.acquire_timeout.saturating_sub(began.elapsed());
            match tokio::time::timeout(left, self.pool.get()).await {
                Ok(Ok(connection)) => break Ok(Connection(Some(connection))),
                Ok(Err(PoolError::Backend(error))) => match classify("connect", error) {
                    DatabaseError::Lost(_) if began.elapsed() + PAUSE < self.acquire_timeout => {}
                    DatabaseError::Lost(reason) => break Err(DatabaseError::Unavailable(reason)),
                    error => break Err(error),
                },
                Ok(Err(error)) => break Err(DatabaseError::Unavailable(error.to_string())),
                Err(_) => break Err(DatabaseError::Unavailable("no connection was to be had in time".to_owned())),
            }
            tokio::time::sleep(PAUSE).await;
        };
        crate::metrics::acquired(began.elapsed());
        acquired
    }

    /// How long a connection is waited for.
    pub fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    /// A connection on which `first` has just been executed; see [`Self::ask`].
    pub async fn connection(&self, first: &'static str) -> Result<Connection, DatabaseError> {
        let (connection, _) = self.ask(|connection| Box::pin(connection.execute(first))).await?;
        Ok(connection)
    }

    /// A connection that has just answered `first`, and the answer. After a restart of the server every idle connection
    /// is dead, so as many are tried as there can be. `first` must be harmless when its answer is lost.
    pub async fn ask<T>(
        &self,
        first: impl for<'c> Fn(&'c mut PgConnection) -> Answer<'c, T>,
    ) -> Result<(Connection, T), DatabaseError> {
        let attempts = async {
            let mut tries = 0..self.pool.status().max_size;
            loop {
                let mut connection = self.acquire().await?;
                match answer("connection", first(&mut connection)).await {
                    Ok(answer) => return Ok((connection, answer)),
                    Err(DatabaseError::Lost(_)) if tries.next().is_some() => {}
                    Err(error) => return Err(error),
                }
            }
        };
        // A little more than the limit for acquiring, whose error says more.
        tokio::time::timeout(self.acquire_timeout + 2 * PAUSE, attempts)
            .await
            .unwrap_or_else(|_| Err(DatabaseError::Unavailable("no connection answered in time".to_owned())))
    }

    /// Closes connections that have not been used for long.
    pub fn close_idle(&self) {
        self.pool.retain(|_, metrics| metrics.last_used() < IDLE);
    }

    /// What the pool holds at the moment.
    pub fn connections(&self) -> Connections {
        let status = self.pool.status();
        // Few enough for any integer.
        let [size, idle, limit] =
            [status.size, status.available, status.max_size].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Connections { busy: size.saturating_sub(idle), idle, limit }
    }
}

/// What a statement will answer.
pub type Answer<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// Purpose: finds out whether a connection is alive, for what is not a transaction.
pub const ALIVE: &str = "";

/// A connection in use. Unless it is given back it is closed: whoever is interrupted in the middle of a statement or
/// a transaction leaves it in a state that the next user must not find.
pub struct Connection(Option<Object<Connector>>);

impl Connection {
    /// Returns the connection to the pool. Nothing may be open on it.
    pub fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("it is there until it is given back, which consumes")
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is there until it is given back, which consumes")
    }
}

/// Waits for a statement's answer, but not for ever. When this fails, the connection must not be used again.
pub async fn answer<T>(
    statement: &'static str,
    query: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(STATEMENT_LIMIT, query).await {
        Ok(answer) => answer.map_err(|error| classify(statement, error)),
        Err(_) => Err(DatabaseError::Lost(format!("{statement} was not answered in time"))),
    }
}

/// What an error means.
fn classify(statement: &'static str, error: sqlx::Error) -> DatabaseError {
    let Some(code) = sqlstate(&error) else {
        return match error {
            sqlx::Error::Io(error) => DatabaseError::Lost(error.kind().to_string()),
            sqlx::Error::Tls(_) => DatabaseError::Lost("TLS failed".to_owned()),
            sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
                DatabaseError::Lost("the connection failed".to_owned())
            }
            _ => DatabaseError::Broken { statement, code: "none".to_owned() },
        };
    };
    if ends_session(&code) {
        DatabaseError::Lost(format!("SQLSTATE {code}"))
    } else if is_passing(&code) {
        DatabaseError::Unavailable(format!("SQLSTATE {code}"))
    } else {
        DatabaseError::Broken { statement, code }
    }
}

/// Whether the server, or what stands before it, has ended the session with an error of this code.
fn ends_session(code: &str) -> bool {
    code.starts_with("57P") || code.starts_with("08") || code == "25P03"
}

/// Whether an error of this code can pass without a change of ours.
fn is_passing(code: &str) -> bool {
    match code {
        // Not or not fully migrated, or restored to before a migration: undefined table, column, function, schema.
        "42P01" | "42703" | "42883" | "3F000" => true,
        // A standby, or a primary that became one.
        "25006" => true,
        // Lock timeout, statement timeout, idle session ended.
        "55P03" | "57014" | "57P05" | "25P03" => true,
        // Wrong password, unknown role, unknown database: an operator is at work, or will be.
        _ if code.starts_with("28") || code == "3D000" => true,
        // Connection, resources, operator's intervention, system (disk), serialisation and deadlock.
        _ => ["08", "53", "57P", "58", "40"].iter().any(|class| code.starts_with(class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_our_faults() {
        for code in ["57P01", "57P03", "53300", "53100", "55P03", "57014", "25006", "40P01", "42P01", "28P01", "08006"]
        {
            assert!(is_passing(code), "{code}");
        }
        for code in ["23505", "42501", "42601", "22P02", "23514"] {
            assert!(!is_passing(code), "{code}");
        }
    }
}
