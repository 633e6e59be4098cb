//! What people can ask for: one use case a file, each one unit of work. No HTTP here, and no SQL.

pub mod register_user;
pub mod read_user;
pub mod verify_email;
pub mod request_verification;

use std::sync::Arc;
use std::time::Duration;

use crate::database::{Connection, DatabaseError};
use crate::store::limits::{self, Limit, Subject};
use crate::unit_of_work::{Context, WorkError};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The database.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// Asked too often.
    #[error("asked too often")]
    TooOften(Duration),
}

impl From<DatabaseError> for CommandError {
    fn from(error: DatabaseError) -> Self {
        Self::Work(error.into())
    }
}

/// What came of asking for permits.
enum Permit {
    /// What was asked for may go on, on the connection that was asked, if any was.
    Given(Option<Connection>),
    /// One subject has none left.
    Refused,
}

/// Takes one permit of each subject that is limited.
async fn take(context: &Context, wanted: &[(String, Option<Limit>)]) -> Result<Permit, DatabaseError> {
    let limited = wanted.iter().filter_map(|(name, limit)| Some(Subject { name: name.clone(), limit: (*limit)? }));
    let subjects: Arc<[Subject]> = limited.collect();
    if subjects.is_empty() {
        return Ok(Permit::Given(None));
    }
    // A permit whose answer is lost is lost: no harm in asking again.
    let (connection, given) = context
        .database
        .ask(|connection| {
            let subjects = subjects.clone();
            Box::pin(async move { limits::take(connection, &subjects).await })
        })
        .await?;
    if given {
        return Ok(Permit::Given(Some(connection)));
    }
    connection.give_back();
    Ok(Permit::Refused)
}
