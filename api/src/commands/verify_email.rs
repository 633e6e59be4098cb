//! Verifying an address by the token of the link in the email.

use shared::token::{KeyRing, TokenError};
use time::OffsetDateTime;

use super::CommandError;
use crate::domain::user::Verified;
use crate::unit_of_work::{Context, UnitOfWork};

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The address is verified from now on.
    Verified,
    /// It was verified before.
    AlreadyVerified,
    /// The token is genuine, but its time is over.
    Expired,
    /// It is no token of ours, or was made for an address that the account no longer has.
    Invalid,
}

/// Verifies the address that a token was made for. Doing it twice changes nothing and records no second event.
///
/// # Errors
/// When the database is away.
pub async fn verify_email(context: &Context, keys: &KeyRing, token: &str) -> Result<Outcome, CommandError> {
    let (checked, expired) = match keys.check(token, OffsetDateTime::now_utc()) {
        Ok(checked) => (checked, false),
        Err(TokenError::Expired(checked)) => (checked, true),
        Err(TokenError::Invalid) => return Ok(Outcome::Invalid),
    };
    let mut work = UnitOfWork::begin(context).await?;
    let user = work.user(checked.user_id).await?.filter(|user| keys.is_for(&checked, user.email().as_str()));
    let outcome = match user {
        None => Outcome::Invalid,
        Some(user) if expired && !user.is_verified() => Outcome::Expired,
        Some(mut user) => match user.verify_email() {
            Verified::Already => Outcome::AlreadyVerified,
            Verified::Now => {
                work.save(&user).await?;
                Outcome::Verified
            }
        },
    };
    work.commit().await?;
    Ok(outcome)
}
