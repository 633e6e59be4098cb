//! The table of users.

use std::time::Duration;

use serde_json::Value;
use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::limits::{self, Subject};
use super::outbox::{EVENT_EXISTS, Stored, with_event};
use super::statements::{APPEND, INSERT_USER, INSERT_USER_IF_PERMITTED, UPDATE_VERIFIED};
use crate::domain::user::User;

macro_rules! select_user {
    ($rest:literal) => {
        concat!(
            "SELECT user_id, email, email_key, display_name, email_verified_at IS NOT NULL AS verified, created_at
               FROM aftercommit.users ",
            $rest
        )
    };
}

/// Purpose: a user to look at.
const READ: &str = select_user!("WHERE user_id = $1");

/// Purpose: a user to change; nobody else changes it until the transaction ends.
const LOCK: &str = select_user!("WHERE user_id = $1 FOR NO KEY UPDATE");

/// Purpose: the user of an address, to change.
const LOCK_BY_ADDRESS: &str = select_user!("WHERE email_key = $1 FOR NO KEY UPDATE");

/// What became of a new user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The account is open, and its event is stored.
    Stored,
    /// Its address has an account.
    Known,
    /// No permit was left, for so long.
    Refused(Duration),
}

/// Stores a new user with its event, if a permit can be taken where one is needed: one statement, which is a transaction of
/// its own and over when this returns. Harmless to do again: when the answer was lost, it then says what was done.
pub async fn add(
    connection: &mut PgConnection,
    user: &User,
    metadata: &Value,
    permit: Option<&Subject>,
) -> Result<Added, sqlx::Error> {
    let event = user.recorded().first().expect("opening an account is recorded");
    let statement = if permit.is_some() { INSERT_USER_IF_PERMITTED } else { INSERT_USER };
    let query = with_event(statement, event, metadata)
        .bind(user.user_id())
        .bind(user.email().as_str())
        .bind(user.email().key())
        .bind(user.display_name().as_str());
    let query = match permit {
        Some(subject) => subject.bind(query),
        None => query,
    };
    // All rows, however few: the transaction is committed after the last.
    let rows = query.fetch_all(&mut *connection).await?;
    let (permitted, stored) = match (rows.first(), permit) {
        (Some(row), Some(_)) => (row.try_get(0)?, row.try_get(1)?),
        (row, _) => (true, row.is_some()),
    };
    if stored || sqlx::query_scalar(EVENT_EXISTS).bind(event.event_id).fetch_one(&mut *connection).await? {
        return Ok(Added::Stored);
    }
    match permit {
        Some(subject) if !permitted => Ok(Added::Refused(limits::wait(connection, subject).await?)),
        _ => Ok(Added::Known),
    }
}

/// Stores a changed user with its events; `None` when nothing happened. Its row must have been locked in this transaction.
pub async fn update(
    connection: &mut PgConnection,
    user: &User,
    metadata: &Value,
) -> Result<Option<Stored>, sqlx::Error> {
    let Some((first, others)) = user.recorded().split_first() else { return Ok(None) };
    let statement = if user.is_newly_verified() { UPDATE_VERIFIED } else { APPEND };
    let stored = with_event(statement, first, metadata).bind(user.user_id()).fetch_one(&mut *connection).await?;
    for event in others {
        with_event(APPEND, event, metadata).bind(user.user_id()).execute(&mut *connection).await?;
    }
    Ok(Some(Stored { transaction_id: stored.try_get(0)?, event_id: first.event_id }))
}

/// Loads and locks a user.
pub async fn lock(connection: &mut PgConnection, user_id: Uuid) -> Result<Option<User>, sqlx::Error> {
    sqlx::query(LOCK).bind(user_id).fetch_optional(connection).await?.map(restored).transpose()
}

/// Loads and locks the user of an address.
pub async fn lock_by_address(connection: &mut PgConnection, email: &EmailAddress) -> Result<Option<User>, sqlx::Error> {
    sqlx::query(LOCK_BY_ADDRESS).bind(email.key()).fetch_optional(connection).await?.map(restored).transpose()
}

/// Loads a user to look at, with the time at which the account was opened.
pub async fn read(connection: &mut PgConnection, user_id: Uuid) -> Result<Option<(User, OffsetDateTime)>, sqlx::Error> {
    match sqlx::query(READ).bind(user_id).fetch_optional(connection).await? {
        None => Ok(None),
        Some(row) => {
            let created_at = row.try_get("created_at")?;
            Ok(Some((restored(row)?, created_at)))
        }
    }
}

fn restored(row: sqlx::postgres::PgRow) -> Result<User, sqlx::Error> {
    let email = EmailAddress::restore(row.try_get("email")?, row.try_get("email_key")?);
    let display_name = DisplayName::restore(row.try_get("display_name")?);
    Ok(User::restore(row.try_get("user_id")?, email, display_name, row.try_get("verified")?))
}
