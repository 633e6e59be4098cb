//! Reading an account.

use time::OffsetDateTime;
use uuid::Uuid;

use super::CommandError;
use crate::database::{ALIVE, answer};
use crate::domain::user::User;
use crate::store::users;
use crate::unit_of_work::Context;

/// The account with the time at which it was opened; none when there is no such.
///
/// # Errors
/// When the database is away.
pub async fn read_user(context: &Context, user_id: Uuid) -> Result<Option<(User, OffsetDateTime)>, CommandError> {
    let mut connection = context.database.connection(ALIVE).await?;
    let user = answer("read user", users::read(&mut connection, user_id)).await?;
    connection.give_back();
    Ok(user)
}
