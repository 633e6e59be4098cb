//! Whether the process lives, and whether it can serve: as JSON, or as text for people who ask for `text/plain`.

use poem::http::{StatusCode, header};
use poem::web::{Data, Json};
use poem::{IntoResponse, Request, Response, handler};
use serde_json::json;
use tokio::sync::watch;

use crate::readiness::{Reason, Unready};

/// `GET /livez`: that it answers says it all. What is outside is waited for, and a restart would not help.
#[handler]
pub fn livez() -> &'static str {
    "ok"
}

/// `GET /readyz`, with the reason when not.
#[handler]
pub fn readyz(request: &Request, state: Data<&watch::Receiver<Unready>>) -> Response {
    let unready = state.borrow().clone();
    let status = if unready.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_text(request) {
        let text = match unready {
            None => "ready\n".to_owned(),
            Some(Reason { about, words }) => format!("not ready\n{about}: {words}\n"),
        };
        return text.with_status(status).into_response();
    }
    let body = match unready {
        None => json!({ "status": "ready" }),
        Some(Reason { about, words }) => json!({
            "status": "not ready", "reason": words, "reasons": [{ "about": about, "reason": words }],
        }),
    };
    Json(body).with_status(status).into_response()
}

fn wants_text(request: &Request) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().starts_with("text/plain"))
}
