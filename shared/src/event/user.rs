//! The events of the `user` aggregate.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Event;

macro_rules! user_event {
    ($(#[$doc:meta])* $name:ident, $type:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            /// The user.
            pub user_id: Uuid,
            /// The address as the person wrote it.
            pub email: String,
            /// What to call the person.
            pub display_name: String,
        }

        impl Event for $name {
            const AGGREGATE_TYPE: &'static str = "user";
            const TYPE: &'static str = $type;
            const VERSION: i32 = 1;
        }
    };
}

user_event!(
    /// Somebody opened an account; the address is not yet verified.
    UserRegistered,
    "user.registered"
);
user_event!(
    /// The address was proven to belong to the user.
    UserEmailVerified,
    "user.email_verified"
);
user_event!(
    /// The verification email was asked for again.
    UserVerificationRequested,
    "user.verification_requested"
);
user_event!(
    /// Somebody registered an address that has an account, and was not told so: the owner is to be.
    UserRegistrationRepeated,
    "user.registration_repeated"
);
