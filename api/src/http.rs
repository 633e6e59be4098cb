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

use poem::http::{Method, header};
use poem::middleware::SetHeader;
use poem::{Endpoint, EndpointExt, Request, Response, Route, get, post};
use poem_openapi::OpenApiService;
use shared::trace::{Span, SpanKind, context};
use tokio::sync::watch;
use tracing::Instrument as _;

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
        let trace = request.data::<Trace>().cloned().unwrap_or_else(|| Trace::of(None, None));
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
                // Not "no-referrer": browsers then send the origin of the page's own form as "null".
                .overriding(header::REFERRER_POLICY, "same-origin"),
        )
        .catch_all_error(problem::from_error)
        .around(logged)
}

/// Gives each request its trace, and logs it: method, route and status, never what was asked for, which may hold a token
/// in its query and anything in its path.
async fn logged<E: Endpoint>(endpoint: Arc<E>, mut request: Request) -> poem::Result<Response>
where
    E::Output: poem::IntoResponse,
{
    use poem::IntoResponse;
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let given = header("traceparent").and_then(|parent| context::parse(parent, header("tracestate")));
    let span = match request.uri().path() {
        // Probes come every few seconds, and nothing follows from them.
        "/livez" | "/readyz" => Span::NONE,
        _ => Span::below(given.as_ref(), request.method().to_string(), SpanKind::Server),
    };
    let trace = Trace::of(given, header("x-request-id")).within(&span);
    let id = trace.correlation_id().to_owned();
    // Of the highest level, so that whatever is logged has them.
    let lines = tracing::error_span!("request", request_id = id, trace_id = %trace.trace_id());
    let (method, began) = (request.method().clone(), Instant::now());
    request.set_data(trace);
    let mut response = span.run(endpoint.get_response(request)).instrument(lines.clone()).await.into_response();
    metrics::answered(&method, &response, began.elapsed());
    describe(&span, &method, &response);
    let (status, took) = (response.status().as_u16(), began.elapsed().as_millis());
    lines.in_scope(|| tracing::debug!(%method, route = metrics::route(&response), status, took_ms = took, "request"));
    if let Ok(value) = id.parse() {
        response.headers_mut().insert("x-request-id", value);
    }
    Ok(response)
}

fn describe(span: &Span, method: &Method, response: &Response) {
    if !span.is_recorded() {
        return;
    }
    let (route, status) = (metrics::route(response), response.status());
    span.rename(format!("{method} {route}"));
    span.set("http.request.method", method.to_string());
    span.set("http.route", route);
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.failed("the service could not answer");
    }
}
