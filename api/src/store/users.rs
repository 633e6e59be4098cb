//! The table of users.

use serde_json::Value;
use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::outbox::{Stored, with_event};
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
    store(connection, INSERT_USER, user, metadata, |query| {
        query
            .bind(user.user_id())
            .bind(user.email().as_str())
            .bind(user.email().key())
            .bind(user.display_name().as_str())
    })
    .await
}

/// Stores a changed user with its events. Its row must have been locked in this transaction.
pub async fn update(
    connection: &mut PgConnection,
    user: &User,
    metadata: &Value,
) -> Result<Option<Stored>, sqlx::Error> {
    let statement = if user.is_newly_verified() { UPDATE_VERIFIED } else { APPEND };
    store(connection, statement, user, metadata, |query| query.bind(user.user_id())).await
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Makes a change with its first event, and appends what other events there are. `None` when there was nothing to change,
/// or nothing happened.
async fn store<'q>(
    connection: &mut PgConnection,
    statement: &'static str,
    user: &'q User,
    metadata: &'q Value,
    bind: impl FnOnce(Statement<'q>) -> Statement<'q>,
) -> Result<Option<Stored>, sqlx::Error> {
    let Some((first, others)) = user.recorded().split_first() else { return Ok(None) };
    let changed = bind(with_event(statement, first, metadata)).fetch_optional(&mut *connection).await?;
    let Some(row) = changed else { return Ok(None) };
    for event in others {
        with_event(APPEND, event, metadata).bind(user.user_id()).execute(&mut *connection).await?;
    }
    Ok(Some(Stored { transaction_id: row.try_get(0)?, event_id: first.event_id }))
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
