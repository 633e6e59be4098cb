//! Registering: a new account with its event, or the news that the address has one.

use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use uuid::Uuid;

use super::{CommandError, Permit, take};
use crate::config::{Limits, RegistrationReply};
use crate::domain::user::User;
use crate::unit_of_work::{Context, UnitOfWork};

/// What became of a registration.
#[derive(Debug)]
pub enum Registered {
    /// The account is open.
    New(User),
    /// The address has an account.
    Known,
}

/// Registers. Under [`RegistrationReply::Neutral`] the owner of a known address is told by email, as often as for
/// repeated verification emails and no oftener.
///
/// # Errors
/// When asked too often from one network, or the database is away.
pub async fn register_user(
    context: &Context,
    limits: &Limits,
    reply: RegistrationReply,
    network: &str,
    email: EmailAddress,
    display_name: DisplayName,
) -> Result<Registered, CommandError> {
    let per_network = [(format!("registration network {network}"), limits.registration_per_network)];
    let connection = match take(context, &per_network).await? {
        Permit::Given(connection) => connection,
        Permit::Refused(wait) => return Err(CommandError::TooOften(wait)),
    };
    let user = User::register(Uuid::now_v7(), email, display_name);
    let mut work = UnitOfWork::begin_on(context, connection).await?;
    if work.add(&user).await? {
        work.commit().await?;
        return Ok(Registered::New(user));
    }
    // Nothing was stored: this ends the transaction.
    work.commit().await?;
    if reply == RegistrationReply::Neutral {
        tell_owner(context, limits, user.email()).await?;
    }
    Ok(Registered::Known)
}

async fn tell_owner(context: &Context, limits: &Limits, email: &EmailAddress) -> Result<(), CommandError> {
    let per_address = [(format!("resend address {}", email.key()), limits.resend_per_address)];
    let Permit::Given(connection) = take(context, &per_address).await? else { return Ok(()) };
    let mut work = UnitOfWork::begin_on(context, connection).await?;
    if let Some(mut owner) = work.user_of(email).await? {
        owner.repeat_registration();
        work.save(&owner).await?;
    }
    Ok(work.commit().await?)
}
