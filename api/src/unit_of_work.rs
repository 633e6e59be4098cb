//! One change of one aggregate: begin, lock its row, change it, store it with its events, commit, wake the relay. What is
//! new has no row to lock: [`add()`] stores it and commits, all in one statement.
//!
//! This is the only place that begins and ends transactions. A unit of work that is dropped without
//! [`UnitOfWork::commit`] leaves nothing behind: its connection is closed and the server rolls back.
//!
//! A COMMIT whose answer does not come may have happened. Then the truth is looked up on another connection, so that
//! a client is never told that nothing was done when it was, nor the reverse.

mod add;
mod resolve;
mod watched;

use std::time::Instant;

use shared::email_address::EmailAddress;
use sqlx::Executor;
use uuid::Uuid;

use crate::database::{Connection, Database, DatabaseError, answer};
use crate::domain::user::User;
use crate::metrics::{self, Worked};
use crate::store::outbox::Stored;
use crate::store::statements::BEGIN;
use crate::store::users;
use crate::trace::Trace;
use crate::wake::Wake;
use watched::Watched;

pub use crate::store::users::Added;
pub use add::add;

/// What a unit of work needs, and where the change comes from.
#[derive(Clone)]
pub struct Context {
    /// The application database.
    pub database: Database,
    /// Whom to wake after a commit.
    pub wake: Wake,
    /// The origin of the change, for its events.
    pub trace: Trace,
}

/// An open transaction on one aggregate.
pub struct UnitOfWork<'a> {
    context: &'a Context,
    connection: Connection,
    stored: Option<Stored>,
    watched: Watched,
}

/// Why a change was not, or perhaps not, made.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// It was certainly not made.
    #[error(transparent)]
    NotDone(#[from] DatabaseError),
    /// COMMIT was sent, and neither its answer nor its effect could be seen in time.
    #[error("the outcome of a COMMIT is not known")]
    Unknown,
}

impl<'a> UnitOfWork<'a> {
    /// Opens a transaction.
    pub async fn begin(context: &'a Context) -> Result<Self, DatabaseError> {
        Self::begin_on(context, None).await
    }

    /// The same on a connection that has just answered, if there is one.
    pub async fn begin_on(context: &'a Context, connection: Option<Connection>) -> Result<Self, DatabaseError> {
        let watched = Watched::begun();
        let connection = match connection {
            None => context.database.connection(BEGIN).await?,
            Some(mut connection) => {
                answer("BEGIN", connection.execute(BEGIN)).await?;
                connection
            }
        };
        Ok(Self { context, connection, stored: None, watched })
    }

    /// Loads a user and locks its row until the end.
    pub async fn user(&mut self, user_id: Uuid) -> Result<Option<User>, DatabaseError> {
        answer("lock user", users::lock(&mut self.connection, user_id)).await
    }

    /// Loads the user of an address and locks its row until the end.
    pub async fn user_of(&mut self, email: &EmailAddress) -> Result<Option<User>, DatabaseError> {
        answer("lock user by address", users::lock_by_address(&mut self.connection, email)).await
    }

    /// Stores what happened to a user that was loaded here, with its events.
    pub async fn save(&mut self, user: &User) -> Result<(), DatabaseError> {
        let metadata = self.context.trace.within(self.watched.span()).metadata();
        self.stored = answer("update user", users::update(&mut self.connection, user, &metadata)).await?;
        self.watched.stored(user.recorded());
        Ok(())
    }

    /// Ends the transaction: commits what was stored, if anything was, and wakes the relay.
    pub async fn commit(mut self) -> Result<(), WorkError> {
        let Some(stored) = self.stored.take() else {
            answer("ROLLBACK", self.connection.execute("ROLLBACK")).await?;
            self.connection.give_back();
            self.watched.ended(Worked::Unchanged);
            return Ok(());
        };
        let began = Instant::now();
        let answered = answer("COMMIT", self.connection.execute("COMMIT")).await;
        metrics::committed(began.elapsed());
        match answered {
            Ok(_) => self.connection.give_back(),
            Err(error) => {
                // Closing the old connection first spares the server a client that will never speak again.
                drop(self.connection);
                if let Err(error) = resolve::committed(&self.context.database, &stored, error).await {
                    let unknown = matches!(error, WorkError::Unknown);
                    self.watched.ended(if unknown { Worked::Unknown } else { Worked::Failed });
                    return Err(error);
                }
            }
        }
        self.watched.ended(Worked::Committed);
        self.context.wake.relay();
        Ok(())
    }
}
