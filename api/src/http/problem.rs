//! Errors as RFC 9457 problem documents. None holds SQL, what PostgreSQL said, or what the client sent.

use std::time::Duration;

use poem::error::{MethodNotAllowedError, NotFoundError};
use poem::http::{StatusCode, header};
use poem::{IntoResponse, PathPattern, Response};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object};

use crate::commands::CommandError;
use crate::database::DatabaseError;
use crate::unit_of_work::WorkError;

/// The media type of problem documents.
const CONTENT_TYPE: &str = "application/problem+json";
/// How soon to come again while the database is away, in seconds.
const RETRY_AFTER: u64 = 2;

/// What went wrong, as RFC 9457 has it.
#[derive(Debug, Clone, Object)]
pub struct Problem {
    /// Names the kind of problem, durably: `urn:aftercommit:problem:…`
    #[oai(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This case in words, and what to do.
    pub detail: String,
    /// Every fault of the input, by field.
    #[oai(skip_serializing_if_is_none)]
    pub errors: Option<Vec<FieldFault>>,
}

/// A fault of one field.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
pub struct FieldFault {
    /// The field.
    pub field: String,
    /// What it must be, or why it is not accepted.
    pub detail: String,
}

impl Problem {
    /// A problem of a kind that needs no fields.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:aftercommit:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: None,
        }
    }
}

/// Every way in which an operation is refused.
#[derive(Debug, Clone, ApiResponse)]
pub enum Refusal {
    /// The body is no JSON.
    #[oai(status = 400, content_type = "application/problem+json")]
    BadRequest(Json<Problem>),
    /// There is no such thing.
    #[oai(status = 404, content_type = "application/problem+json")]
    NotFound(Json<Problem>),
    /// The body did not come in time.
    #[oai(status = 408, content_type = "application/problem+json")]
    Slow(Json<Problem>),
    /// The address has an account.
    #[oai(status = 409, content_type = "application/problem+json")]
    Conflict(Json<Problem>),
    /// The body is larger than 64 KiB.
    #[oai(status = 413, content_type = "application/problem+json")]
    TooLarge(Json<Problem>),
    /// The body is not declared as JSON.
    #[oai(status = 415, content_type = "application/problem+json")]
    MediaType(Json<Problem>),
    /// The input has faults, all of which are named.
    #[oai(status = 422, content_type = "application/problem+json")]
    Invalid(Json<Problem>),
    /// Asked too often.
    #[oai(status = 429, content_type = "application/problem+json")]
    TooOften(Json<Problem>, #[oai(header = "Retry-After")] u64),
    /// A fault of this program; logged.
    #[oai(status = 500, content_type = "application/problem+json")]
    Fault(Json<Problem>),
    /// The database is away, or the outcome is not known.
    #[oai(status = 503, content_type = "application/problem+json")]
    Unavailable(Json<Problem>, #[oai(header = "Retry-After")] u64),
}

impl Refusal {
    /// There is no such thing.
    pub fn not_found(what: &str) -> Self {
        let detail = format!("There is no {what} at this address.");
        Self::NotFound(Json(Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)))
    }

    /// The address has an account.
    pub fn known_address() -> Self {
        let problem = Problem::new(
            StatusCode::CONFLICT,
            "known-address",
            "Known address",
            "An account with this address exists.",
        );
        Self::Conflict(Json(problem))
    }

    /// The input has these faults.
    pub fn invalid(errors: Vec<FieldFault>) -> Self {
        let fields: Vec<_> = errors.iter().map(|fault| format!("{} {}", fault.field, fault.detail)).collect();
        let detail = format!("{}.", fields.join("; "));
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", "Invalid input", detail);
        Self::Invalid(Json(Problem { errors: Some(errors), ..problem }))
    }

    fn too_often(wait: Duration) -> Self {
        let detail = "Too many requests from this network. Wait as long as Retry-After says.";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-often", "Too often", detail);
        Self::TooOften(Json(problem), wait.as_secs().max(1))
    }

    fn unavailable() -> Self {
        let detail = "The database is not available. Nothing was done; try again as Retry-After says.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail);
        Self::Unavailable(Json(problem), RETRY_AFTER)
    }

    fn unknown() -> Self {
        let detail = "The connection to the database was lost while the change was being stored, and its outcome is \
                      not known yet. Look before you try again.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", "Outcome unknown", detail);
        Self::Unavailable(Json(problem), RETRY_AFTER)
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::TooOften(wait) => Self::too_often(wait),
            CommandError::Work(WorkError::Unknown) => Self::unknown(),
            CommandError::Work(WorkError::NotDone(
                DatabaseError::Unavailable(reason) | DatabaseError::Lost(reason),
            )) => {
                tracing::warn!(reason, "a request was refused: the database is not available");
                Self::unavailable()
            }
            CommandError::Work(WorkError::NotDone(error @ DatabaseError::Broken { .. })) => {
                tracing::error!(%error, "a request failed");
                let detail = "This is a fault of the service, and was logged.";
                let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", "Fault", detail);
                Self::Fault(Json(problem))
            }
        }
    }
}

/// The last resort: whatever error came out of routing and extraction, as a problem document.
pub async fn from_error(error: poem::Error) -> Response {
    let route = error.data::<PathPattern>().cloned();
    let mut response = problem_of(error);
    if let Some(route) = route {
        response.set_data(route);
    }
    response
}

fn problem_of(error: poem::Error) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    if error.is::<NotFoundError>() {
        return Refusal::not_found("resource").into_response();
    }
    let status = error.status();
    let problem = if error.is::<MethodNotAllowedError>() {
        Problem::new(status, "method-not-allowed", "Method not allowed", "This resource does not know the method.")
    } else {
        let title = status.canonical_reason().unwrap_or("Error");
        let detail = match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body must be declared as application/json.",
            StatusCode::BAD_REQUEST => "A parameter of the request cannot be read.",
            StatusCode::FORBIDDEN => "The request comes from another site.",
            _ => "The request was not carried out.",
        };
        let kind = title.to_ascii_lowercase().replace(' ', "-");
        Problem::new(status, &kind, title, detail)
    };
    let mut response = Json(problem).into_response();
    response.set_status(status);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}
