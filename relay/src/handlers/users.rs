//! What follows the events of a user: emails.

use std::time::Duration;

use shared::envelope::Envelope;
use shared::event::user::{UserEmailVerified, UserRegistered, UserRegistrationRepeated, UserVerificationRequested};
use uuid::Uuid;

use super::HandlerError;
use crate::jobs::Job;
use crate::mail::args::EmailArgs;
use crate::mail::template::{ALREADY_REGISTERED, VERIFY_EMAIL, WELCOME};

/// A verification link that comes after this time has passed is of no use to anyone.
const VERIFICATION_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// News of an attempt to register is of no use the day after.
const ALREADY_REGISTERED_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// A welcome that is a week late is worse than none.
const WELCOME_EXPIRES: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn send_verification_email(event: &Envelope<UserRegistered>) -> Result<Vec<Job>, HandlerError> {
    let UserRegistered { user_id, email, display_name } = &event.payload;
    Ok(vec![mail(VERIFY_EMAIL, *user_id, email, display_name)?.expires_after(VERIFICATION_EXPIRES)])
}

pub(super) fn resend_verification_email(event: &Envelope<UserVerificationRequested>) -> Result<Vec<Job>, HandlerError> {
    let UserVerificationRequested { user_id, email, display_name } = &event.payload;
    Ok(vec![mail(VERIFY_EMAIL, *user_id, email, display_name)?.expires_after(VERIFICATION_EXPIRES)])
}

pub(super) fn send_already_registered_email(
    event: &Envelope<UserRegistrationRepeated>,
) -> Result<Vec<Job>, HandlerError> {
    let UserRegistrationRepeated { user_id, email, display_name } = &event.payload;
    Ok(vec![mail(ALREADY_REGISTERED, *user_id, email, display_name)?.expires_after(ALREADY_REGISTERED_EXPIRES)])
}

pub(super) fn send_welcome_email(event: &Envelope<UserEmailVerified>) -> Result<Vec<Job>, HandlerError> {
    let UserEmailVerified { user_id, email, display_name } = &event.payload;
    Ok(vec![mail(WELCOME, *user_id, email, display_name)?.expires_after(WELCOME_EXPIRES)])
}

/// The one mail that each of these handlers asks for.
fn mail(template: &'static str, user_id: Uuid, to: &str, name: &str) -> Result<Job, serde_json::Error> {
    let args = EmailArgs {
        template: template.into(),
        locale: "en".into(),
        to: to.into(),
        name: name.into(),
        user_id,
        data: serde_json::Map::new(),
    };
    Job::new("email", "email", &args)
}
