//! What `api` counts and measures: every metric in one table, and where it is scraped.
//!
//! Routes are labels by their template, never by the path that was asked for; methods that are not routed are `other`.
//! `/metrics` has an address of its own: the one that people reach must not tell how much they are.

use std::time::Duration;

use poem::listener::Acceptor;
use poem::middleware::AddData;
use poem::web::Data;
use poem::{EndpointExt, IntoResponse, PathPattern, Response, Route, Server, get, handler};
use shared::event::Event;
use shared::event::user::{UserEmailVerified, UserRegistered, UserRegistrationRepeated, UserVerificationRequested};
use shared::metrics::{Metric, OTHER, SECONDS};
use shared::shutdown::CancellationToken;

use crate::database::Database;

const IDLE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(2);
const UPKEEP: Duration = Duration::from_secs(5);

const BUILD: Metric = Metric::gauge("aftercommit_api_build_info", "Always 1; the label is the version.");
const REQUESTS: Metric = Metric::histogram(
    "aftercommit_http_request_duration_seconds",
    SECONDS,
    "Requests by method, route template (`unmatched` for none) and class of status, with their duration in seconds.",
);
const EVENTS: Metric =
    Metric::counter("aftercommit_outbox_events_total", "Events that were committed with their change, by type.");
const WORK: Metric = Metric::counter(
    "aftercommit_units_of_work_total",
    "Ended units of work by outcome: committed, unchanged, failed, unknown (a COMMIT whose fate could not be seen).",
);
const COMMIT: Metric = Metric::histogram(
    "aftercommit_commit_duration_seconds",
    SECONDS,
    "Time from COMMIT, or from a statement that is a transaction of its own, to its answer, in seconds.",
);
const CONNECTIONS: Metric =
    Metric::gauge("aftercommit_database_connections", "Connections to the application database by state: busy, idle.");
const CONNECTIONS_LIMIT: Metric =
    Metric::gauge("aftercommit_database_connections_limit", "The most connections that the pool may hold.");
const ACQUIRE: Metric = Metric::histogram(
    "aftercommit_database_acquire_duration_seconds",
    SECONDS,
    "Time that a request waited for a connection, in seconds.",
);

/// Every metric of `api`.
pub const TABLE: &[Metric] = &[BUILD, REQUESTS, EVENTS, WORK, COMMIT, CONNECTIONS, CONNECTIONS_LIMIT, ACQUIRE];

/// Starts recording, and shows every counter at zero, so that the first increase is seen as one.
///
/// # Errors
/// As [`shared::metrics::install`].
pub fn install() -> anyhow::Result<()> {
    shared::metrics::install(TABLE)?;
    BUILD.set(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for outcome in [Worked::Committed, Worked::Unchanged, Worked::Failed, Worked::Unknown] {
        WORK.add(&[("outcome", outcome.as_str())], 0);
    }
    let types = [
        UserRegistered::TYPE,
        UserVerificationRequested::TYPE,
        UserEmailVerified::TYPE,
        UserRegistrationRepeated::TYPE,
    ];
    types.iter().for_each(|event_type| EVENTS.add(&[("event_type", event_type)], 0));
    Ok(())
}

/// A request was answered.
pub fn answered(method: &poem::http::Method, response: &Response, took: Duration) {
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => OTHER,
    };
    let class = match response.status().as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    REQUESTS.observe(&[("method", method), ("route", &route(response)), ("status", class)], took.as_secs_f64());
}

/// The template of the route that a response comes from.
pub fn route(response: &Response) -> String {
    // A nested router that finds nothing calls it an empty pattern; path parameters come by number.
    let pattern = response.data::<PathPattern>().map(|pattern| &*pattern.0).filter(|pattern| !pattern.is_empty());
    pattern.map_or_else(|| "unmatched".to_owned(), |pattern| pattern.replace(":param0", ":id"))
}

/// How a unit of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// Its change and its events are stored.
    Committed,
    /// There was nothing to store.
    Unchanged,
    /// It was not done.
    Failed,
    /// Nobody knows yet.
    Unknown,
}

impl Worked {
    /// As the label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// A unit of work ended; when it was committed, with these events.
pub fn worked(outcome: Worked, events: &[&'static str]) {
    WORK.add(&[("outcome", outcome.as_str())], 1);
    if outcome == Worked::Committed {
        events.iter().for_each(|event_type| EVENTS.add(&[("event_type", event_type)], 1));
    }
}

/// A COMMIT, or a statement that commits, was answered after this time.
pub fn committed(took: Duration) {
    COMMIT.observe(&[], took.as_secs_f64());
}

/// A request got a connection, or not, after this time.
pub fn acquired(took: Duration) {
    ACQUIRE.observe(&[], took.as_secs_f64());
}

/// Serves `/metrics` until told to stop.
///
/// # Errors
/// When the server fails.
pub async fn serve(
    acceptor: impl Acceptor + 'static,
    database: Database,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let route = Route::new().at("/metrics", get(scrape)).with(AddData::new(database));
    let serving = Server::new_with_acceptor(acceptor).name("metrics").idle_timeout(IDLE).run_with_graceful_shutdown(
        route,
        stop.clone().cancelled_owned(),
        Some(GRACE),
    );
    // Buffers of histograms grow while nobody scrapes.
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            shared::metrics::upkeep();
        }
    };
    tokio::select! {
        ended = serving => Ok(ended?),
        () = upkeep => Ok(()),
    }
}

#[handler]
fn scrape(database: Data<&Database>) -> Response {
    let pool = database.connections();
    CONNECTIONS.set(&[("state", "busy")], f64::from(pool.busy));
    CONNECTIONS.set(&[("state", "idle")], f64::from(pool.idle));
    CONNECTIONS_LIMIT.set(&[], f64::from(pool.limit));
    shared::metrics::render().with_content_type(shared::metrics::CONTENT_TYPE).into_response()
}
