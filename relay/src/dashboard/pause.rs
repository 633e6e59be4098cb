//! Pausing and resuming, for all relays.

use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::{Value, context};
use poem::web::Data;
use poem::{Response, handler};

use super::guard::{Fields, Visitor};
use super::job::epoch;
use super::pages::Problem;
use super::view::Page;
use super::{App, change, see_other};
use crate::mail;
use crate::operate::By;
use crate::operate::pauses::{self, Part, Pause};

/// The page.
///
/// # Errors
/// When the jobs database is away.
pub async fn page(app: &App) -> Result<Page, Problem> {
    let connection = app.store.jobs().await?;
    let paused = pauses::list(connection.client()).await?;
    connection.give_back();
    // The kind that there is, and whatever somebody has paused.
    let kinds = paused.iter().filter_map(|pause| match &pause.part {
        Part::Delivery(kind) => kind.clone(),
        Part::Dispatch => None,
    });
    let kinds: BTreeSet<String> = kinds.chain([mail::KIND.to_owned()]).collect();
    let parts = [Part::Dispatch, Part::Delivery(None)]
        .into_iter()
        .chain(kinds.into_iter().map(|kind| Part::Delivery(Some(kind))));
    Ok(Page {
        title: "Pause and resume".to_owned(),
        section: "/pause",
        template: "pause.html",
        values: context! { parts => parts.map(|part| row(&part, &paused)).collect::<Vec<_>>() },
    })
}

fn row(part: &Part, paused: &[Pause]) -> Value {
    let pause = paused.iter().find(|pause| pause.part == *part);
    let (name, kind, what) = match part {
        Part::Dispatch => {
            ("dispatch", "", "Events wait in the outbox. Nothing is lost, and no handler runs.".to_owned())
        }
        Part::Delivery(None) => {
            ("delivery", "", "Jobs of every kind wait. Events are dispatched, and jobs stored.".to_owned())
        }
        Part::Delivery(Some(kind)) => {
            ("delivery", kind.as_str(), format!("Jobs of kind {kind} wait. Others are delivered."))
        }
    };
    context! {
        title => part.to_string(),
        name,
        kind,
        what,
        paused => pause.is_some(),
        since => pause.and_then(|pause| epoch(pause.paused_at)),
        by => pause.map(|pause| pause.paused_by.clone()),
        reason => pause.and_then(|pause| pause.reason.clone()),
    }
}

/// `POST /pause`
#[handler]
pub async fn submit(app: Data<&Arc<App>>, visitor: Data<&Visitor>, fields: Data<&Fields>) -> Response {
    match make(&app, &visitor, &fields).await {
        Ok(()) => see_other("/pause"),
        Err(problem) => problem.answer(&app, &visitor, "/pause"),
    }
}

async fn make(app: &App, visitor: &Visitor, fields: &Fields) -> Result<(), Problem> {
    let kind = Some(fields.get("kind").to_owned()).filter(|kind| !kind.is_empty());
    let part = match (fields.get("part"), kind) {
        ("dispatch", None) => Part::Dispatch,
        ("delivery", kind) if kind.as_ref().is_none_or(|kind| kind.len() <= 100) => Part::Delivery(kind),
        _ => return Err(Problem::Bad("part: give dispatch or delivery.".to_owned())),
    };
    let operator = change::operator(app, visitor);
    let by = By { operator: &operator, reason: Some(fields.get("reason")).filter(|reason| !reason.is_empty()) };
    let mut connection = app.store.jobs().await?;
    match fields.get("do") {
        "pause" => pauses::pause(connection.client_mut(), &part, by).await?,
        "resume" => pauses::resume(connection.client_mut(), &part, by).await?,
        _ => return Err(Problem::Bad("do: give pause or resume.".to_owned())),
    };
    connection.give_back();
    Ok(())
}
