//! Whether the process lives, and whether it can serve.

use poem::http::StatusCode;
use poem::web::{Data, Json};
use poem::{IntoResponse, Response, handler};
use serde_json::json;
use tokio::sync::watch;

use crate::readiness::Unready;

/// `GET /livez`
#[handler]
pub fn livez() -> &'static str {
    "ok"
}

/// `GET /readyz`, with the reason when not.
#[handler]
pub fn readyz(state: Data<&watch::Receiver<Unready>>) -> Response {
    match state.borrow().as_ref() {
        None => Json(json!({ "status": "ready" })).into_response(),
        Some(reason) => Json(json!({ "status": "not ready", "reason": reason }))
            .with_status(StatusCode::SERVICE_UNAVAILABLE)
            .into_response(),
    }
}
