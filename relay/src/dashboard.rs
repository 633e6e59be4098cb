//! The dashboard: what people look at when something is late, and where they put it right.
//!
//! Pages are made on the server and need no script; where there is one, they follow what happens by server-sent events
//! and draw nothing else. Reading goes through bounded questions on connections of its own. Every change goes through
//! `operate` (or `replay`), which writes the audit trail. `guard` stands before everything; [`pages::find`] is the
//! table of pages.

pub mod session;
pub mod attempts;
pub mod guard;
pub mod login;
pub mod view;
pub mod assets;
pub mod store;
pub mod query;
pub mod pages;
pub mod live;
pub mod sample;
pub mod chart;
pub mod overview;
pub mod events;
pub mod event;
pub mod failures;
pub mod jobs;
pub mod job;
pub mod change;
pub mod mail;
pub mod mailbox;
pub mod pause;
pub mod replay;
pub mod audit;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use poem::http::{StatusCode, header};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, Server, get, post};
use shared::database_url::DatabaseUrl;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::handlers::Registry;
use crate::health::Health;
use crate::mail::Email;
use crate::metrics::history::History;
use attempts::Attempts;
use session::{Doorkeeper, Tokens};
use store::Store;
use view::View;

/// Where it is served, and to whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address.
    pub listen: SocketAddr,
    /// What lets people in.
    pub tokens: Tokens,
    /// Names that people reach it by, beside addresses.
    pub hosts: Vec<String>,
}

/// What it shows and works on.
pub struct Context {
    /// Where it is served, and to whom.
    pub settings: Settings,
    /// The application database.
    pub application: DatabaseUrl,
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// The handlers, for replays.
    pub registry: Registry,
    /// The mails, for previews.
    pub email: Arc<Email>,
    /// What this relay says of itself.
    pub health: Health,
    /// The last hour.
    pub history: History,
}

/// Everything that requests share.
pub struct App {
    settings: Settings,
    application: DatabaseUrl,
    jobs: DatabaseUrl,
    registry: Registry,
    email: Arc<Email>,
    health: Health,
    history: History,
    door: Doorkeeper,
    attempts: Mutex<Attempts>,
    view: View,
    store: Store,
    samples: sample::Samples,
    replays: replay::runs::Runs,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl App {
    /// Ready to answer.
    ///
    /// # Errors
    /// When a template is broken.
    pub fn new(context: Context, stop: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let Context { settings, application, jobs, registry, email, health, history } = context;
        Ok(Arc::new(Self {
            door: Doorkeeper::new(settings.tokens.clone()),
            attempts: Mutex::default(),
            view: View::new().map_err(|error| anyhow::anyhow!("the dashboard's templates: {error:#}"))?,
            store: Store::new(application.clone(), jobs.clone()),
            samples: sample::Samples::default(),
            replays: replay::runs::Runs::default(),
            watchers: Arc::new(Semaphore::new(live::MOST)),
            settings,
            application,
            jobs,
            registry,
            email,
            health,
            history,
            stop,
        }))
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until told to stop.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(context: Context, stop: CancellationToken) -> anyhow::Result<()> {
    let listen = context.settings.listen;
    let app = App::new(context, stop.clone())?;
    let taken = |error: std::io::Error| {
        anyhow::anyhow!("DASHBOARD_LISTEN: can't listen on {listen}: {error}. Give another address or port")
    };
    let acceptor = TcpListener::bind(listen).into_acceptor().await.map_err(taken)?;
    let address = acceptor.local_addr().first().map(ToString::to_string).unwrap_or_default();
    tracing::info!(address, asks_for_a_token = app.door.asks_for_a_token(), "the dashboard is served");
    let grace = Some(std::time::Duration::from_secs(2));
    Server::new_with_acceptor(acceptor)
        .name("dashboard")
        .idle_timeout(std::time::Duration::from_secs(75))
        .run_with_graceful_shutdown(routes(app), stop.cancelled_owned(), grace)
        .await?;
    Ok(())
}

/// Every route. What only reads and is a page is in [`pages::find`].
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> {
    let guarded = app.clone();
    Route::new()
        .at("/assets/:name", get(assets::asset))
        .at("/login", get(login::form).post(login::enter))
        .at("/logout", post(login::leave))
        .at("/live", get(live::live))
        .at("/jobs/:id/mail/html", get(mail::html_part))
        .at("/mailbox/:id/html", get(mailbox::html_part))
        .at("/change", get(pages::show).post(change::submit))
        .at("/failures", get(pages::show).post(failures::submit))
        .at("/pause", get(pages::show).post(pause::submit))
        .at("/replay", get(pages::show).post(replay::begin))
        .at("/replay/:id", get(pages::show).post(replay::go_on))
        .at("/", get(pages::show))
        .at("/*rest", get(pages::show))
        .data(app)
        .around(move |next, request| guard(guarded.clone(), next, request))
}

async fn guard(app: Arc<App>, next: Arc<impl Endpoint>, mut request: Request) -> poem::Result<Response> {
    let admitted = guard::admit(&app, &mut request).await;
    let visitor = request.extensions().get::<guard::Visitor>().cloned();
    let mut response = match admitted {
        Ok(()) => next.get_response(request).await,
        Err(refused) => refused,
    };
    guard::dress(&mut response, visitor.as_ref());
    Ok(response)
}

/// Go there, by GET.
fn see_other(path: &str) -> Response {
    Response::builder().status(StatusCode::SEE_OTHER).header(header::LOCATION, path).finish().into_response()
}
