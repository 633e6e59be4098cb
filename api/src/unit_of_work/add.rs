//! A new aggregate with its event: one statement, which is a transaction of its own.
//!
//! A lost answer is no answer: the statement is then run again. Whatever became of the first try, the address is unique,
//! so the second waits for it, and either does what it did not do or finds its event.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::watched::Watched;
use super::{Context, WorkError};
use crate::database::{DatabaseError, answer};
use crate::domain::user::User;
use crate::metrics::{self, Worked};
use crate::store::limits::Subject;
use crate::store::users::{self, Added};

const PAUSE: Duration = Duration::from_millis(50);

/// Adds a new user, if a permit can be taken where one is needed, and wakes the relay.
///
/// # Errors
/// [`WorkError::Unknown`] when an answer was lost, and none could be had within the time for acquiring a connection.
pub async fn add(context: &Context, user: &User, permit: Option<&Subject>) -> Result<Added, WorkError> {
    let mut watched = Watched::begun();
    let metadata = context.trace.within(watched.span()).metadata();
    watched.stored(user.recorded());
    let added = until_answered(context, user, &metadata, permit).await;
    watched.ended(match &added {
        Ok(Added::Stored) => Worked::Committed,
        Ok(Added::Known | Added::Refused(_)) => Worked::Unchanged,
        Err(WorkError::Unknown) => Worked::Unknown,
        Err(WorkError::NotDone(_)) => Worked::Failed,
    });
    if matches!(added, Ok(Added::Stored)) {
        context.wake.relay();
    }
    added
}

async fn until_answered(
    context: &Context,
    user: &User,
    metadata: &Value,
    permit: Option<&Subject>,
) -> Result<Added, WorkError> {
    let once = async || {
        let mut connection = context.database.acquire().await?;
        let began = Instant::now();
        let added = answer("add user", users::add(&mut connection, user, metadata, permit)).await?;
        metrics::committed(began.elapsed());
        connection.give_back();
        Ok(added)
    };
    let mut lost: Option<Instant> = None;
    loop {
        let error = match once().await {
            Ok(added) => return Ok(added),
            Err(error) => error,
        };
        let since = match (lost, &error) {
            (None, DatabaseError::Lost(_)) => {
                tracing::warn!(%error, "a registration was not answered; asking again");
                *lost.insert(Instant::now())
            }
            (None, _) => return Err(error.into()),
            (Some(since), _) => since,
        };
        if since.elapsed() >= context.database.acquire_timeout() {
            tracing::error!(%error, "what became of a registration is not known");
            return Err(WorkError::Unknown);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
