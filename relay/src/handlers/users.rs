//! What follows the events of a user: emails.

use std::time::Duration;

use serde::Serialize;
use shared::envelope::Envelope;
use shared::event::user::{UserEmailVerified, UserRegistered, UserVerificationRequested};
use uuid::Uuid;

use super::HandlerError;
use crate::jobs::Job;

/// A verification link that comes after this time has passed is of no use to anyone.
const VERIFICATION_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// A welcome that is a week late is worse than none.
const WELCOME_EXPIRES: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Serialize)]
struct Email<'a> {
    template: &'static str,
    locale: &'static str,
    to: &'a str,
    name: &'a str,
    user_id: Uuid,
}

pub(super) fn send_verification_email(event: &Envelope<UserRegistered>) -> Result<Vec<Job>, HandlerError> {
    let UserRegistered { user_id, email, display_name } = &event.payload;
    let args = Email { template: "verify_email", locale: "en", to: email, name: display_name, user_id: *user_id };
    Ok(vec![Job::new("email", "email", &args)?.expires_after(VERIFICATION_EXPIRES)])
}

pub(super) fn resend_verification_email(event: &Envelope<UserVerificationRequested>) -> Result<Vec<Job>, HandlerError> {
    let UserVerificationRequested { user_id, email, display_name } = &event.payload;
    let args = Email { template: "verify_email", locale: "en", to: email, name: display_name, user_id: *user_id };
    Ok(vec![Job::new("email", "email", &args)?.expires_after(VERIFICATION_EXPIRES)])
}

pub(super) fn send_welcome_email(event: &Envelope<UserEmailVerified>) -> Result<Vec<Job>, HandlerError> {
    let UserEmailVerified { user_id, email, display_name } = &event.payload;
    let args = Email { template: "welcome", locale: "en", to: email, name: display_name, user_id: *user_id };
    Ok(vec![Job::new("email", "email", &args)?.expires_after(WELCOME_EXPIRES)])
}
