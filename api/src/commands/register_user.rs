//! Registering: a new account with its event, or the news that the address has one.

use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use uuid::Uuid;

use super::{CommandError, Permit, take};
use crate::config::{Limits, RegistrationReply};
use crate::domain::user::User;
use crate::store::limits::Subject;
use crate::unit_of_work::{Added, Context, UnitOfWork, add};

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
    let user = User::register(Uuid::now_v7(), email, display_name);
    let per_network =
        limits.registration_per_network.map(|limit| Subject { name: format!("registration network {network}"), limit });
    match add(context, &user, per_network.as_ref()).await? {
        Added::Stored => Ok(Registered::New(user)),
        Added::Refused(wait) => Err(CommandError::TooOften(wait)),
        Added::Known => {
            if reply == RegistrationReply::Neutral {
                tell_owner(context, limits, user.email()).await?;
            }
            Ok(Registered::Known)
        }
    }
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
