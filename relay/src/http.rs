//! Health over HTTP: alive, and ready with the reasons when not.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{EndpointExt, IntoResponse, Response, Route, Server, get, handler};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Every route of the relay.
fn routes(health: Health) -> impl poem::Endpoint {
    Route::new().at("/livez", get(livez)).at("/readyz", get(readyz)).data(Arc::new(health))
}

/// Serves until told to stop.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(listen: std::net::SocketAddr, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let taken = |error: std::io::Error| {
        anyhow::anyhow!("RELAY_LISTEN: can't listen on {listen}: {error}. Give another address or port")
    };
    let acceptor = TcpListener::bind(listen).into_acceptor().await.map_err(taken)?;
    let address = acceptor.local_addr().first().map(ToString::to_string).unwrap_or_default();
    tracing::info!(address, "listening");
    let grace = Some(std::time::Duration::from_secs(2));
    Server::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(routes(health), stop.cancelled_owned(), grace)
        .await?;
    Ok(())
}

#[handler]
fn livez() -> &'static str {
    "ok"
}

#[handler]
fn readyz(health: Data<&Arc<Health>>) -> Response {
    let parts = health.parts();
    let ready = !parts.is_empty() && parts.values().all(Option::is_none);
    let parts: serde_json::Map<_, _> =
        parts.into_iter().map(|(part, problem)| (part, problem.unwrap_or_else(|| "ok".to_owned()).into())).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "not ready" };
    Json(json!({ "status": word, "parts": parts })).with_status(status).into_response()
}
