//! `api serve`: the parts that run beside each other, and their end.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use poem::Server;
use poem::listener::{Acceptor, Listener, TcpAcceptor, TcpListener};
use shared::shutdown;
use shared::telemetry::complain;
use shared::trace::export;

use crate::config::Serve;
use crate::database::{ALIVE, Database, answer};
use crate::http::capped::Capped;
use crate::http::{App, routes};
use crate::metrics;
use crate::readiness;
use crate::store::limits;
use crate::wake::Wake;

/// How often counters that mean nothing any more are removed.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(60);

/// Serves until a signal asks to stop.
pub async fn serve(config: Serve) -> ExitCode {
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("api: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Serve) -> anyhow::Result<()> {
    let stop = shutdown::on_signals()?;
    let (listen, idle, grace) = (config.listen, config.read_timeout, config.shutdown_grace);
    let acceptor = bind("API_LISTEN", listen).await?;
    let scraped = match config.metrics_listen {
        Some(listen) => Some(bind("API_METRICS_LISTEN", listen).await?),
        None => None,
    };
    metrics::install()?;
    let traces = export::start("api", env!("CARGO_PKG_VERSION"), config.traces.as_ref())?;
    let address = acceptor.local_addr().first().map(ToString::to_string).unwrap_or_default();

    let database = Database::new(&config.database_url, config.database_connections, config.acquire_timeout);
    let wake = Wake::default();
    let (announced, state) = readiness::unknown();
    let url = config.database_url.clone();
    let beside = [
        tokio::spawn(readiness::watch(url.clone(), announced, stop.clone())),
        tokio::spawn(wake.clone().run(url, stop.clone())),
        tokio::spawn(sweep(database.clone(), stop.clone())),
    ];
    let scraped = scraped.map(|acceptor| tokio::spawn(metrics::serve(acceptor, database.clone(), stop.clone())));
    let acceptor = Capped::new(acceptor, config.max_connections);
    let app = Arc::new(App { config, database, wake });
    tracing::info!(address, public_url = app.config.public_url.origin(), "listening");
    Server::new_with_acceptor(acceptor)
        .name("api")
        .idle_timeout(idle)
        .run_with_graceful_shutdown(routes(app, state), stop.cancelled_owned(), Some(grace))
        .await?;
    for part in beside {
        part.await?;
    }
    let scraped = match scraped {
        Some(scraped) => scraped.await?,
        None => Ok(()),
    };
    traces.stop().await;
    scraped
}

async fn bind(setting: &str, listen: SocketAddr) -> anyhow::Result<TcpAcceptor> {
    TcpListener::bind(listen).into_acceptor().await.map_err(|error| {
        anyhow::anyhow!(
            "{setting}: can't listen on {listen}: {error} (is the port in use?). Give another address or port"
        )
    })
}

/// Removes counters whose time is over, and connections that nobody needs, now and then. What is missed is removed the next
/// time.
async fn sweep(database: Database, stop: shutdown::CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = stop.cancelled() => return,
        }
        database.close_idle();
        let swept = async {
            let mut connection = database.connection(ALIVE).await?;
            let removed = answer("sweep counters", limits::sweep(&mut connection)).await?;
            connection.give_back();
            Ok::<_, crate::database::DatabaseError>(removed)
        };
        if let Err(error) = swept.await {
            tracing::debug!(%error, "counters were not swept");
        }
    }
}
