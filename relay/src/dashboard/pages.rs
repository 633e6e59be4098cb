//! The table of pages: what is at which path, for reading, and for the live part of it.

use std::sync::Arc;

use minijinja::context;
use poem::http::StatusCode;
use poem::web::Data;
use poem::{IntoResponse, Request, Response, handler};
use uuid::Uuid;

use super::guard::Visitor;
use super::query::Query;
use super::view::{Message, Page};
use super::{App, audit, change, event, events, failures, job, jobs, mail, mailbox, overview, pause, replay};
use crate::{databases, outbox, postgres};

/// Why there is no page.
#[derive(Debug)]
pub enum Problem {
    /// There is nothing at this path, or not what it names.
    NotFound(String),
    /// The filter makes no sense.
    Bad(String),
    /// It can't be done as things stand.
    Refused(String),
    /// It was asked for too much.
    Slow,
    /// A database is away.
    Away(String),
}

/// The page at a path.
///
/// # Errors
/// When there is none, or it can't be made now.
pub async fn find(app: &App, path: &str, query: &Query) -> Result<Page, Problem> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        [""] => overview::page(app).await,
        ["events"] => events::page(app, query).await,
        ["events", id] => event::page(app, id_of(id)?).await,
        ["failures"] => failures::page(app, query).await,
        ["jobs"] => jobs::page(app, query).await,
        ["jobs", id] => job::page(app, id_of(id)?).await,
        ["jobs", id, "mail"] => mail::page(app, id_of(id)?).await,
        ["change"] => change::page(app, query).await,
        ["replay"] => replay::page(app, query),
        ["replay", id] => replay::run_page(app, id_of(id)?),
        ["pause"] => pause::page(app).await,
        ["audit"] => audit::page(app, query).await,
        ["mailbox"] => mailbox::page(app).await,
        ["mailbox", id] => mailbox::mail_page(app, id_of(id)?).await,
        _ => Err(Problem::NotFound("There is no such page.".to_owned())),
    }
}

/// The number in a path.
///
/// # Errors
/// When it is none.
pub fn id_of(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::NotFound(format!("{text:?} is no id; ids are UUIDs.")))
}

/// `GET` of any page.
#[handler]
pub async fn show(app: Data<&Arc<App>>, visitor: Data<&Visitor>, request: &Request) -> Response {
    let path = request.uri().path();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match find(&app, path, &query).await {
        Ok(page) => app.view.page(app.shell(&visitor.session, path), &page).into_response(),
        Err(problem) => problem.answer(&app, &visitor, path),
    }
}

impl Problem {
    /// What is wrong, in a sentence.
    pub fn text(&self) -> &str {
        match self {
            Self::NotFound(text) | Self::Bad(text) | Self::Refused(text) | Self::Away(text) => text,
            Self::Slow => {
                "PostgreSQL was stopped after 5 seconds of it. Choose less: a state, a handler, a shorter time."
            }
        }
    }

    /// The page that says so, in its frame.
    pub fn answer(&self, app: &App, visitor: &Visitor, path: &str) -> Response {
        let (status, title) = match self {
            Self::NotFound(_) => (StatusCode::NOT_FOUND, Message::NO_PAGE.0),
            Self::Bad(_) => (StatusCode::BAD_REQUEST, "This filter makes no sense"),
            Self::Refused(_) => (StatusCode::CONFLICT, "That can't be done now"),
            Self::Slow => (StatusCode::SERVICE_UNAVAILABLE, "That takes too long"),
            Self::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "A database is away"),
        };
        let values = context! { title, text => self.text(), shell => app.shell(&visitor.session, path), section => "", live_only => false };
        app.view.bare("message.html", values).with_status(status).into_response()
    }
}

impl From<databases::Error> for Problem {
    fn from(error: databases::Error) -> Self {
        let text = error.to_string();
        // What PostgreSQL says when it was told to stop.
        if text.contains("(57014)") { Self::Slow } else { Self::Away(text) }
    }
}

impl From<postgres::Error> for Problem {
    fn from(error: postgres::Error) -> Self {
        databases::Error::from(error).into()
    }
}

impl From<outbox::Error> for Problem {
    fn from(error: outbox::Error) -> Self {
        databases::Error::from(error).into()
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        postgres::Error::from(error).into()
    }
}
