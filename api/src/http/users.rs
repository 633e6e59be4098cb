//! Accounts as JSON: register, read, ask for the verification email again.

use std::sync::Arc;

use poem::Request;
use poem::http::header;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use shared::display_name::DisplayName;
use shared::email_address::EmailAddress;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use uuid::Uuid;

use super::App;
use super::body::Document;
use super::client;
use super::problem::Refusal;
use crate::commands::read_user::read_user;
use crate::commands::register_user::{Registered, register_user};
use crate::commands::request_verification::request_verification;
use crate::config::RegistrationReply;
use crate::domain::user::User as Account;

/// Who registers.
#[derive(Object)]
#[allow(dead_code, reason = "the shape is for the OpenAPI document; fields are read one by one")]
pub struct Registration {
    /// One email address.
    #[oai(validator(max_length = 254))]
    email: String,
    /// What to call the person, of at most 64 characters.
    #[oai(validator(max_length = 64))]
    display_name: String,
}

/// Whose verification email is to be sent again.
#[derive(Object)]
#[allow(dead_code, reason = "as above")]
pub struct VerificationRequest {
    /// The address that was registered.
    #[oai(validator(max_length = 254))]
    email: String,
}

/// An account.
#[derive(Debug, Object)]
pub struct User {
    /// Its identifier.
    pub user_id: Uuid,
    /// What to call the person.
    pub display_name: String,
    /// Whether the address is verified.
    pub email_verified: bool,
    /// The address, for callers with the service's bearer token.
    #[oai(skip_serializing_if_is_none)]
    pub email: Option<String>,
    /// When the account was opened.
    #[oai(skip_serializing_if_is_none)]
    pub created_at: Option<OffsetDateTime>,
}

/// The request was taken.
#[derive(Debug, Object)]
pub struct Accepted {
    /// What happens next.
    pub message: String,
}

/// What a registration is answered.
#[derive(ApiResponse)]
pub enum RegistrationAnswer {
    /// The account is open; the verification email is on its way.
    #[oai(status = 201)]
    Created(Json<User>, #[oai(header = "Location")] String),
    /// The same for new and known addresses, where the service is set up so.
    #[oai(status = 202)]
    Accepted(Json<Accepted>),
}

/// What asking for the verification email again is answered: always this.
#[derive(ApiResponse)]
pub enum RequestAnswer {
    /// If there is an account with this address that is not verified, an email is on its way.
    #[oai(status = 202)]
    Accepted(Json<Accepted>),
}

/// The operations.
pub struct Users(pub Arc<App>);

#[OpenApi(prefix_path = "/v1")]
impl Users {
    /// Register
    ///
    /// Opens an account and sends a verification email to its address.
    #[oai(path = "/users", method = "post", operation_id = "register")]
    async fn register(&self, request: &Request, body: Document<Registration>) -> Result<RegistrationAnswer, Refusal> {
        let mut body = body;
        let email = body.text("email", EmailAddress::parse);
        let display_name = body.text("display_name", DisplayName::parse);
        body.finish()?;
        let (Some(email), Some(display_name)) = (email, display_name) else { return Err(Refusal::invalid(Vec::new())) };
        let app = &self.0;
        let network = client::network(request, &app.config.trusted_proxies);
        let (limits, reply) = (&app.config.limits, app.config.registration_reply);
        let registered = register_user(&app.context(request), limits, reply, &network, email, display_name).await?;
        match (registered, reply) {
            (_, RegistrationReply::Neutral) => {
                Ok(RegistrationAnswer::Accepted(accepted("If the address can be registered, an email is on its way.")))
            }
            (Registered::Known, RegistrationReply::Conflict) => Err(Refusal::known_address()),
            (Registered::New(user), RegistrationReply::Conflict) => {
                let location = format!("/v1/users/{}", user.user_id());
                let shown = app.may_see_addresses(request);
                Ok(RegistrationAnswer::Created(Json(view(&user, None, shown)), location))
            }
        }
    }

    /// Read an account
    #[oai(path = "/users/:user_id", method = "get", operation_id = "read")]
    async fn read(&self, request: &Request, user_id: Path<Uuid>) -> Result<Json<User>, Refusal> {
        match read_user(&self.0.context(request), user_id.0).await? {
            None => Err(Refusal::not_found("user")),
            Some((user, created_at)) => Ok(Json(view(&user, Some(created_at), self.0.may_see_addresses(request)))),
        }
    }

    /// Ask for the verification email again
    ///
    /// The answer is the same whether the address has an account or not.
    #[oai(path = "/verification-requests", method = "post", operation_id = "requestVerification")]
    async fn request(&self, request: &Request, body: Document<VerificationRequest>) -> Result<RequestAnswer, Refusal> {
        let mut body = body;
        let email = body.text("email", EmailAddress::parse);
        body.finish()?;
        let Some(email) = email else { return Err(Refusal::invalid(Vec::new())) };
        let app = &self.0;
        let network = client::network(request, &app.config.trusted_proxies);
        request_verification(&app.context(request), &app.config.limits, &network, &email).await?;
        let message = "If there is an account with this address that is not verified, an email is on its way.";
        Ok(RequestAnswer::Accepted(accepted(message)))
    }
}

fn accepted(message: &str) -> Json<Accepted> {
    Json(Accepted { message: message.to_owned() })
}

fn view(user: &Account, created_at: Option<OffsetDateTime>, with_address: bool) -> User {
    User {
        user_id: user.user_id(),
        display_name: user.display_name().as_str().to_owned(),
        email_verified: user.is_verified(),
        email: with_address.then(|| user.email().as_str().to_owned()),
        created_at,
    }
}

impl App {
    /// Whether the request carries the service's bearer token.
    fn may_see_addresses(&self, request: &Request) -> bool {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        match (&self.config.api_token, given) {
            (Some(token), Some(given)) => bool::from(token.expose().as_bytes().ct_eq(given.as_bytes())),
            _ => false,
        }
    }
}
