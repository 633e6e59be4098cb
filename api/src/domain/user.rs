//! The aggregate `User`: an account, its address, and whether the address is verified.
//!
//! Its fields are private, so what it promises holds however it is used: every change records the event that tells of
//! it, and an address is verified once.

use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use shared::event::user::{UserEmailVerified, UserRegistered, UserRegistrationRepeated, UserVerificationRequested};
use uuid::Uuid;

use super::Recorded;

/// An account.
#[derive(Debug)]
pub struct User {
    user_id: Uuid,
    email: EmailAddress,
    display_name: DisplayName,
    verified: bool,
    newly_verified: bool,
    recorded: Vec<Recorded>,
}

/// What asking for a verification came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The address is verified from now on.
    Now,
    /// It was verified before; nothing changed.
    Already,
}

impl User {
    /// Opens an account.
    pub fn register(user_id: Uuid, email: EmailAddress, display_name: DisplayName) -> Self {
        let mut user =
            Self { user_id, email, display_name, verified: false, newly_verified: false, recorded: Vec::new() };
        let (user_id, email, display_name) = user.described();
        user.record(&UserRegistered { user_id, email, display_name });
        user
    }

    /// An account as it was stored.
    pub fn restore(user_id: Uuid, email: EmailAddress, display_name: DisplayName, verified: bool) -> Self {
        Self { user_id, email, display_name, verified, newly_verified: false, recorded: Vec::new() }
    }

    /// The address is proven to be the user's.
    pub fn verify_email(&mut self) -> Verified {
        if self.verified {
            return Verified::Already;
        }
        (self.verified, self.newly_verified) = (true, true);
        let (user_id, email, display_name) = self.described();
        self.record(&UserEmailVerified { user_id, email, display_name });
        Verified::Now
    }

    /// The user did not get the verification email, or lost it. Once verified there is nothing to send.
    pub fn request_verification(&mut self) -> Verified {
        if self.verified {
            return Verified::Already;
        }
        let (user_id, email, display_name) = self.described();
        self.record(&UserVerificationRequested { user_id, email, display_name });
        Verified::Now
    }

    /// Somebody tried to register the address again, and is not told that it has an account: the owner is.
    pub fn repeat_registration(&mut self) {
        let (user_id, email, display_name) = self.described();
        self.record(&UserRegistrationRepeated { user_id, email, display_name });
    }

    pub fn user_id(&self) -> Uuid {
        self.user_id
    }

    pub fn email(&self) -> &EmailAddress {
        &self.email
    }

    pub fn display_name(&self) -> &DisplayName {
        &self.display_name
    }

    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// Whether it was verified since it was restored.
    pub fn is_newly_verified(&self) -> bool {
        self.newly_verified
    }

    /// The events recorded since the user was opened or restored; the unit of work stores them.
    pub fn recorded(&self) -> &[Recorded] {
        &self.recorded
    }

    fn described(&self) -> (Uuid, String, String) {
        (self.user_id, self.email.as_str().to_owned(), self.display_name.as_str().to_owned())
    }

    fn record<E: shared::event::Event>(&mut self, event: &E) {
        self.recorded.push(Recorded::new(self.user_id, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> User {
        let (email, name) = (EmailAddress::parse("Ada@Example.com"), DisplayName::parse("Ada"));
        User::register(Uuid::now_v7(), email.unwrap(), name.unwrap())
    }

    fn types(user: &User) -> Vec<&str> {
        user.recorded().iter().map(|event| event.event_type).collect()
    }

    #[test]
    fn each_change_records_its_event_once() {
        let mut user = ada();
        assert_eq!(types(&user), ["user.registered"]);
        assert_eq!(user.request_verification(), Verified::Now);
        assert_eq!(user.verify_email(), Verified::Now);
        assert_eq!(user.verify_email(), Verified::Already);
        assert_eq!(user.request_verification(), Verified::Already);
        assert_eq!(types(&user), ["user.registered", "user.verification_requested", "user.email_verified"]);
    }

    #[test]
    fn events_name_their_aggregate_and_carry_what_handlers_need() {
        let user = ada();
        let event = &user.recorded()[0];
        assert_eq!((event.aggregate_type, event.event_version), ("user", 1));
        assert_eq!(event.aggregate_id, user.user_id().to_string());
        let expected = serde_json::json!({
            "user_id": user.user_id(), "email": "Ada@example.com", "display_name": "Ada",
        });
        assert_eq!(event.payload, expected);
    }
}
