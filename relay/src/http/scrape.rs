//! What a scraper wants to know.

use poem::{IntoResponse, Response, handler};

/// `GET /metrics`, from memory.
#[handler]
pub fn metrics() -> Response {
    shared::metrics::render().with_content_type(shared::metrics::CONTENT_TYPE).into_response()
}
