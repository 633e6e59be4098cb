//! Asking for the verification email again. Whoever asks learns nothing: not whether the address has an account, not
//! whether it is verified, not whether it was asked for too often.

use shared::email_address::EmailAddress;
use shared::token::{Checked, KeyRing};

use super::{CommandError, Permit, take};
use crate::config::Limits;
use crate::domain::user::{User, Verified};
use crate::unit_of_work::{Context, UnitOfWork};

/// Sends the verification email again, if there is one to send and the limits allow it.
///
/// # Errors
/// When the database is away.
pub async fn request_verification(
    context: &Context,
    limits: &Limits,
    network: &str,
    email: &EmailAddress,
) -> Result<(), CommandError> {
    let Permit::Given(connection) = permit(context, limits, network, email).await? else { return Ok(()) };
    let mut work = UnitOfWork::begin_on(context, connection).await?;
    if let Some(user) = work.user_of(email).await? {
        ask(&mut work, user).await?;
    }
    Ok(work.commit().await?)
}

/// The same, for whoever holds a genuine token whose time is over.
///
/// # Errors
/// When the database is away.
pub async fn request_verification_by_token(
    context: &Context,
    limits: &Limits,
    network: &str,
    keys: &KeyRing,
    expired: &Checked,
) -> Result<(), CommandError> {
    let mut work = UnitOfWork::begin(context).await?;
    let user = work.user(expired.user_id).await?.filter(|user| keys.is_for(expired, user.email().as_str()));
    let Some(user) = user else { return Ok(work.commit().await?) };
    // On a connection of its own: what is taken stays taken.
    if let Permit::Given(connection) = permit(context, limits, network, user.email()).await? {
        if let Some(connection) = connection {
            connection.give_back();
        }
        ask(&mut work, user).await?;
    }
    Ok(work.commit().await?)
}

async fn ask(work: &mut UnitOfWork<'_>, mut user: User) -> Result<(), CommandError> {
    if user.request_verification() == Verified::Now {
        work.save(&user).await?;
    }
    Ok(())
}

async fn permit(
    context: &Context,
    limits: &Limits,
    network: &str,
    email: &EmailAddress,
) -> Result<Permit, CommandError> {
    let wanted = [
        (format!("resend address {}", email.key()), limits.resend_per_address),
        (format!("resend network {network}"), limits.resend_per_network),
        ("resend total".to_owned(), limits.resend_in_total),
    ];
    Ok(take(context, &wanted).await?)
}
