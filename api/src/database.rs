//! The connections to the application database, and what its errors mean to a request.
//!
//! Three meanings only: the database can't be had now (the client may come again), our statement is wrong (a fault of
//! this program), or a write's outcome is unknown, which is the unit of work's to find out. The server's message and
//! DETAIL quote data, so neither is logged or passed on; its error code and the statement's name are.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::time::{Duration, Instant};

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::sqlstate;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Executor, Postgres};

/// How long a single statement may take. Longer than the role's `lock_timeout`, shorter than its
/// `statement_timeout`: so the server's own word, which says more, comes first, and only a dead link runs into this.
const STATEMENT_LIMIT: Duration = Duration::from_secs(7);

/// The pool of connections. Made without connecting, so that `api` starts with its database down.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    acquire_timeout: Duration,
    connections: u32,
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
    /// The database is away, busy, full, or just being replaced.
    #[error("the database is not available ({0})")]
    Unavailable(String),
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
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(acquire_timeout)
            .idle_timeout(Duration::from_secs(600))
            // Each use begins with a statement that tells as much, and that is tried on the next connection.
            .test_before_acquire(false)
            .connect_lazy_with(url.connect_options("aftercommit api"));
        Self { pool, acquire_timeout, connections }
    }

    /// A connection on which `first` has just been executed; see [`Self::ask`].
    pub async fn connection(&self, first: &'static str) -> Result<Connection, DatabaseError> {
        let (connection, _) = self.ask(|connection| Box::pin(connection.execute(first))).await?;
        Ok(connection)
    }

    /// A connection that has just answered `first`, and the answer. After a restart of the server every idle connection
    /// is dead, so as many are tried as there can be, within the time for acquiring one. `first` must be harmless when
    /// its answer is lost.
    pub async fn ask<T>(
        &self,
        first: impl for<'c> Fn(&'c mut PgConnection) -> Answer<'c, T>,
    ) -> Result<(Connection, T), DatabaseError> {
        let began = Instant::now();
        let attempts = async {
            let mut last = None;
            for _ in 0..=self.connections {
                let acquired = self.pool.acquire().await.map_err(|error| classify("connect", error))?;
                let mut connection = Connection(Some(acquired));
                match first(&mut connection).await {
                    Ok(answer) => return Ok((connection, answer)),
                    Err(error) if is_connection_lost(&error) => last = Some(error),
                    Err(error) => return Err(classify("connection", error)),
                }
            }
            Err(classify("connection", last.unwrap_or(sqlx::Error::PoolTimedOut)))
        };
        // A little more than the pool's own limit, whose error says more.
        let limit = self.acquire_timeout + Duration::from_millis(200);
        let acquired = tokio::time::timeout(limit, attempts)
            .await
            .unwrap_or_else(|_| Err(DatabaseError::Unavailable("no connection answered in time".to_owned())));
        crate::metrics::acquired(began.elapsed());
        acquired
    }

    /// What the pool holds at the moment.
    pub fn connections(&self) -> Connections {
        // Few enough for any integer; the two numbers are of two moments.
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        Connections { busy: self.pool.size().saturating_sub(idle), idle, limit: self.connections }
    }
}

/// What a statement will answer.
pub type Answer<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// Purpose: finds out whether a connection is alive, for what is not a transaction.
pub const ALIVE: &str = "";

/// A connection in use. Unless it is given back it is closed: whoever is interrupted in the middle of a statement or
/// a transaction leaves it in a state that the next user must not find.
pub struct Connection(Option<PoolConnection<Postgres>>);

impl Connection {
    /// Returns the connection to the pool. Nothing may be open on it.
    pub fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
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
        Err(_) => Err(DatabaseError::Unavailable(format!("{statement} was not answered in time"))),
    }
}

/// What an error means.
fn classify(statement: &'static str, error: sqlx::Error) -> DatabaseError {
    let Some(code) = sqlstate(&error) else {
        return match error {
            sqlx::Error::PoolTimedOut => DatabaseError::Unavailable("no connection was free in time".to_owned()),
            sqlx::Error::Io(error) => DatabaseError::Unavailable(error.kind().to_string()),
            sqlx::Error::Tls(_) => DatabaseError::Unavailable("TLS failed".to_owned()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
                DatabaseError::Unavailable("the connection failed".to_owned())
            }
            _ => DatabaseError::Broken { statement, code: "none".to_owned() },
        };
    };
    if is_passing(&code) {
        DatabaseError::Unavailable(format!("SQLSTATE {code}"))
    } else {
        DatabaseError::Broken { statement, code }
    }
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

fn is_connection_lost(error: &sqlx::Error) -> bool {
    match sqlstate(error) {
        Some(code) => code.starts_with("57P") || code.starts_with("08") || code == "25P03",
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed),
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
