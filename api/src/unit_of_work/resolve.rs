//! Finding out what became of a COMMIT that was not answered.
//!
//! The transaction's id tells only whether it is still running; whether it was committed, its event tells: it is in
//! the outbox or not. Asking for the event first could miss a commit that is just happening.

use std::time::{Duration, Instant};

use shared::migrate::standing::sqlstate;

use super::WorkError;
use crate::database::{ALIVE, Connection, Database, DatabaseError, answer};
use crate::store::outbox::{EVENT_EXISTS, Stored, TRANSACTION_STATUS};

/// Long enough for the server to end a transaction whose client is gone, and to come back from a restart.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// `Ok` when the transaction was committed; else `error` if it was certainly not.
pub async fn committed(database: &Database, stored: &Stored, error: DatabaseError) -> Result<(), WorkError> {
    let started = Instant::now();
    tracing::warn!(%error, "a COMMIT was not answered; asking what became of it");
    while started.elapsed() < PATIENCE {
        match ask(database, stored).await {
            Ok(Fate::Running) => {}
            Ok(Fate::Committed) => {
                tracing::info!("the COMMIT that was not answered had been done");
                return Ok(());
            }
            Ok(Fate::NotCommitted) => {
                tracing::info!("the COMMIT that was not answered had not been done");
                return Err(WorkError::NotDone(DatabaseError::Unavailable("the connection was lost".to_owned())));
            }
            Err(error) => tracing::debug!(%error, "can't ask yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::error!("what became of a COMMIT is not known");
    Err(WorkError::Unknown)
}

enum Fate {
    Running,
    Committed,
    NotCommitted,
}

async fn ask(database: &Database, stored: &Stored) -> Result<Fate, DatabaseError> {
    let mut connection = database.connection(ALIVE).await?;
    if is_running(&mut connection, stored).await? {
        connection.give_back();
        return Ok(Fate::Running);
    }
    let exists = sqlx::query_scalar(EVENT_EXISTS).bind(stored.event_id).fetch_one(&mut *connection);
    let fate = if answer("look for event", exists).await? { Fate::Committed } else { Fate::NotCommitted };
    connection.give_back();
    Ok(fate)
}

async fn is_running(connection: &mut Connection, stored: &Stored) -> Result<bool, DatabaseError> {
    let query = sqlx::query_scalar(TRANSACTION_STATUS).bind(&stored.transaction_id).fetch_one(&mut **connection);
    let status: Result<Option<String>, sqlx::Error> = match tokio::time::timeout(PAUSE * 100, query).await {
        Ok(status) => status,
        Err(_) => return Err(DatabaseError::Unavailable("transaction status was not answered in time".to_owned())),
    };
    match status {
        Ok(status) => Ok(status.as_deref() == Some("in progress")),
        // invalid_parameter_value: an id of the future. This server took over without ever having seen it.
        Err(error) if sqlstate(&error).as_deref() == Some("22023") => Ok(false),
        Err(error) => answer("transaction status", async { Err(error) }).await,
    }
}
