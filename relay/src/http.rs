//! The relay over HTTP: health and metrics.

pub mod health;
pub mod scrape;

use std::sync::Arc;

use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Route, Server, get};
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Every route of the relay.
fn routes(state: Health) -> impl poem::Endpoint {
    Route::new()
        .at("/livez", get(health::livez))
        .at("/readyz", get(health::readyz))
        .at("/metrics", get(scrape::metrics))
        .data(Arc::new(state))
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
