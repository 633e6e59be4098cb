//! Every route of `api` on one screen, and what all of them share.

pub mod client;
pub mod body;
pub mod problem;
pub mod users;
pub mod verification;
pub mod health;
pub mod capped;

use std::sync::Arc;
use std::time::Instant;

use poem::http::header;
use poem::middleware::SetHeader;
use poem::{Endpoint, EndpointExt, Request, Response, Route, get, post};
use poem_openapi::OpenApiService;
use tokio::sync::watch;

use crate::config::Serve;
use crate::database::Database;
use crate::metrics;
use crate::readiness::Unready;
use crate::trace::Trace;
use crate::unit_of_work::Context;
use crate::wake::Wake;
use body::BodyTimeout;
use users::Users;

/// What requests are served with.
pub struct App {
    /// The settings.
    pub config: Serve,
    /// The application database.
    pub database: Database,
    /// Wakes relays.
    pub wake: Wake,
}

impl App {
    /// What a unit of work of this request needs.
    fn context(&self, request: &Request) -> Context {
        let trace = request.data::<Trace>().cloned().unwrap_or_else(|| Trace::of(None, None, None));
        Context { database: self.database.clone(), wake: self.wake.clone(), trace }
    }
}

/// The routes.
pub fn routes(app: Arc<App>, state: watch::Receiver<Unready>) -> impl Endpoint<Output = Response> {
    let service = OpenApiService::new(Users(app.clone()), "aftercommit api", env!("CARGO_PKG_VERSION"))
        .server(app.config.public_url.origin());
    let timeout = BodyTimeout(app.config.read_timeout);
    Route::new()
        .at("/verify-email", get(verification::show).post(verification::consume))
        .at("/verify-email/again", post(verification::again))
        .at("/style.css", get(verification::style))
        .at("/livez", get(health::livez))
        .at("/readyz", get(health::readyz))
        .at("/openapi.json", service.spec_endpoint())
        .nest("/docs", service.swagger_ui())
        .nest("/", service)
        .data(app)
        .data(state)
        .data(timeout)
        .with(
            SetHeader::new()
                .overriding(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
                .overriding(header::REFERRER_POLICY, "no-referrer"),
        )
        .catch_all_error(problem::from_error)
        .around(logged)
}

/// Gives each request its trace, and logs it: method, route and status, never the query, which may hold a token.
async fn logged<E: Endpoint>(endpoint: Arc<E>, mut request: Request) -> poem::Result<Response>
where
    E::Output: poem::IntoResponse,
{
    use poem::IntoResponse;
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let trace = Trace::of(header("traceparent"), header("tracestate"), header("x-request-id"));
    let id = trace.correlation_id().to_owned();
    let (method, path, began) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    request.set_data(trace);
    let mut response = endpoint.get_response(request).await.into_response();
    metrics::answered(&method, &response, began.elapsed());
    let (status, took) = (response.status().as_u16(), began.elapsed().as_millis());
    tracing::debug!(%method, path, status, took_ms = took, request_id = id, "request");
    if let Ok(value) = id.parse() {
        response.headers_mut().insert("x-request-id", value);
    }
    Ok(response)
}
