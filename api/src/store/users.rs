//! The table of users.

use serde_json::Value;
use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::outbox::{Stored, with_events};
use super::statements::{APPEND, INSERT_USER, UPDATE_VERIFIED};
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

/// Stores a new user with its events; `None` when its address has an account.
pub async fn insert(
    connection: &mut PgConnection,
    user: &User,
    metadata: &Value,
) -> Result<Option<Stored>, sqlx::Error> {
    let query = with_events(INSERT_USER, user.recorded(), metadata)
        .bind(user.user_id())
        .bind(user.email().as_str())
        .bind(user.email().key())
        .bind(user.display_name().as_str());
    stored(user, query.fetch_all(connection).await?)
}

/// Stores a changed user with its events. Its row must have been locked in this transaction.
pub async fn update(
    connection: &mut PgConnection,
    user: &User,
    metadata: &Value,
) -> Result<Option<Stored>, sqlx::Error> {
    let statement = if user.is_newly_verified() { UPDATE_VERIFIED } else { APPEND };
    let query = with_events(statement, user.recorded(), metadata).bind(user.user_id());
    stored(user, query.fetch_all(connection).await?)
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

fn stored(user: &User, rows: Vec<sqlx::postgres::PgRow>) -> Result<Option<Stored>, sqlx::Error> {
    match (rows.first(), user.recorded().first()) {
        (Some(row), Some(event)) => Ok(Some(Stored { transaction_id: row.try_get(0)?, event_id: event.event_id })),
        _ => Ok(None),
    }
}
