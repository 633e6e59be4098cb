//! A JSON body, read within bounds of size and time, and checked field by field so that all faults are told at once.

use std::marker::PhantomData;
use std::time::Duration;

use poem::error::ReadBodyError;
use poem::http::{StatusCode, header};
use poem::{IntoResponse, Request, RequestBody};
use poem_openapi::payload::{Json, ParsePayload, Payload};
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde_json::{Map, Value};

use super::problem::{FieldFault, Problem, Refusal};

/// The largest body.
pub const BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send a body; put into the request by the routes.
#[derive(Debug, Clone, Copy)]
pub struct BodyTimeout(pub Duration);

/// A JSON object that should have the shape of `T`, not yet checked.
pub struct Document<T> {
    fields: Map<String, Value>,
    faults: Vec<FieldFault>,
    shape: PhantomData<T>,
}

impl<T> Document<T> {
    /// Takes a field that must be text and reads it further.
    pub fn text<V, E: ToString>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<V, E>) -> Option<V> {
        let fault = match self.fields.remove(field) {
            None => "is missing".to_owned(),
            Some(Value::String(text)) if text.contains('\0') => "must not hold the character U+0000".to_owned(),
            Some(Value::String(text)) => match parse(&text) {
                Ok(value) => return Some(value),
                Err(error) => error.to_string(),
            },
            Some(_) => "must be text".to_owned(),
        };
        self.faults.push(FieldFault { field: field.to_owned(), detail: fault });
        None
    }

    /// Every fault, and every field that was not asked for.
    ///
    /// # Errors
    /// When there is any.
    pub fn finish(mut self) -> Result<(), Refusal> {
        let unknown = self.fields.keys().take(20).map(|field| FieldFault {
            field: field.chars().filter(|c| !c.is_control()).take(100).collect(),
            detail: "is not known".to_owned(),
        });
        self.faults.extend(unknown);
        if self.faults.is_empty() { Ok(()) } else { Err(Refusal::invalid(self.faults)) }
    }
}

impl<T: Type> Payload for Document<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        Json::<T>::check_content_type(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Send> ParsePayload for Document<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        read(request, body).await.map_err(|refusal| poem::Error::from_response(refusal.into_response()))
    }
}

async fn read<T>(request: &Request, body: &mut RequestBody) -> Result<Document<T>, Refusal> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > BODY_BYTES as u64) {
        return Err(too_large());
    }
    let encoded = request.headers().get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|encoding| encoding != "identity") {
        let detail = "The body must not be compressed.";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Refusal::MediaType(Json(Problem::new(status, "media-type", "Unsupported media type", detail))));
    }
    let limit = request.data::<BodyTimeout>().map_or(Duration::from_secs(10), |limit| limit.0);
    let bytes = match tokio::time::timeout(limit, async { body.take()?.into_bytes_limit(BODY_BYTES).await }).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ReadBodyError::PayloadTooLarge)) => return Err(too_large()),
        Ok(Err(_)) => return Err(bad_request("The body could not be read.")),
        Err(_) => {
            let problem =
                Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "Too slow", "The body did not come in time.");
            return Err(Refusal::Slow(Json(problem)));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(Document { fields, faults: Vec::new(), shape: PhantomData }),
        Ok(_) => Err(Refusal::invalid(vec![FieldFault {
            field: "(body)".to_owned(),
            detail: "must be an object".to_owned(),
        }])),
        // Half of a surrogate pair is good syntax and no text.
        Err(error) if error.to_string().contains("surrogate") || error.to_string().contains("hex escape") => {
            Err(Refusal::invalid(vec![FieldFault {
                field: "(body)".to_owned(),
                detail: "has text with half of a surrogate pair".to_owned(),
            }]))
        }
        Err(error) => {
            Err(bad_request(&format!("The body is not JSON (line {}, column {}).", error.line(), error.column())))
        }
    }
}

fn bad_request(detail: &str) -> Refusal {
    Refusal::BadRequest(Json(Problem::new(StatusCode::BAD_REQUEST, "bad-request", "Bad request", detail)))
}

fn too_large() -> Refusal {
    let detail = "The body may have 64 KiB at most.";
    Refusal::TooLarge(Json(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)))
}

poem_openapi::impl_apirequest_for_payload!(Document<T>, T: Type + Send);
