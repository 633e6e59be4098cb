//! Replay: chosen, tried out, looked at, and only then done.
//!
//! A dry run comes first, always; what it would change is shown, and confirming it does just that. Both run in the
//! background of this process ([`runs`]), and their pages follow them.

pub mod runs;

use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::{Value, context};
use poem::web::{Data, Path};
use poem::{Response, handler};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::guard::{Fields, Visitor};
use super::job::epoch;
use super::pages::{Problem, id_of};
use super::query::Query;
use super::view::Page;
use super::{App, change, see_other};
use crate::outbox::page::Filter;
use crate::replay::tally::Tally;
use crate::replay::{Events, Plan};
use runs::{Run, Stage};

const FIELDS: [&str; 8] = ["id", "aggregate", "type", "from", "to", "handler", "failed", "again"];

/// `GET /replay`: what to choose, and the runs there were.
///
/// # Errors
/// None.
pub fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    Ok(Page {
        title: "Replay".to_owned(),
        section: "/replay",
        template: "replay.html",
        values: context! {
            query => super::events::values(query, &FIELDS),
            types => super::events::types(app),
            handlers => app.registry.names().to_vec(),
            runs => app.replays.all().iter().map(|run| values(run)).collect::<Vec<_>>(),
        },
    })
}

/// `GET /replay/:id`: how far it is, and what it found.
///
/// # Errors
/// When this process knows no such run.
pub fn run_page(app: &App, id: Uuid) -> Result<Page, Problem> {
    let run = app.replays.find(id).ok_or_else(unknown)?;
    Ok(Page {
        title: "Replay".to_owned(),
        section: "/replay",
        template: "replay_run.html",
        values: context! { run => values(&run) },
    })
}

fn unknown() -> Problem {
    Problem::NotFound("This relay knows no such replay. It was begun in another process, or before this one started; what it did is in the audit trail.".to_owned())
}

/// `POST /replay`: begin with the dry run.
#[handler]
pub async fn begin(app: Data<&Arc<App>>, visitor: Data<&Visitor>, fields: Data<&Fields>) -> Response {
    let query = Query::of(fields.all().filter(|(name, _)| FIELDS.contains(name)));
    let begun = plan(&app, &query, OffsetDateTime::now_utc()).and_then(|plan| runs::dry(&app, query, plan));
    match begun {
        Ok(id) => see_other(&format!("/replay/{id}")),
        Err(problem) => problem.answer(&app, &visitor, "/replay"),
    }
}

/// `POST /replay/:id`: confirm what the dry run showed, or stop what runs.
#[handler]
pub async fn go_on(
    app: Data<&Arc<App>>,
    visitor: Data<&Visitor>,
    fields: Data<&Fields>,
    Path(id): Path<String>,
) -> Response {
    let done =
        id_of(&id).and_then(|id| app.replays.find(id).ok_or_else(unknown)).and_then(|run| match fields.get("do") {
            "confirm" => {
                let reason = Some(fields.get("reason").to_owned()).filter(|reason| !reason.is_empty());
                runs::real(&app, &run, change::operator(&app, &visitor), reason)
            }
            "stop" => {
                run.stop();
                Ok(())
            }
            _ => Err(Problem::Bad("do: give confirm or stop.".to_owned())),
        });
    match done {
        Ok(()) => see_other(&format!("/replay/{id}")),
        Err(problem) => problem.answer(&app, &visitor, "/replay"),
    }
}

/// What a form asks for. The end is set to now: what happens later is not what the dry run shows.
fn plan(app: &App, query: &Query, now: OffsetDateTime) -> Result<Plan, Problem> {
    let ids = query.get("id").split([',', ' ', '\n', '\r']).filter(|id| !id.is_empty());
    let ids: BTreeSet<Uuid> = ids
        .map(|id| id.parse().map_err(|_| Problem::Bad(format!("id: {id:?} is no UUID"))))
        .collect::<Result<_, _>>()?;
    let aggregate = query.text("aggregate");
    let whole = |text: &String| text.split_once('/').is_some_and(|(of, id)| !of.is_empty() && !id.is_empty());
    if let Some(text) = aggregate.as_ref().filter(|text| !whole(text)) {
        return Err(Problem::Bad(format!("aggregate: {text:?} is no type and id, such as user/42")));
    }
    let from = query.time("from", now).map_err(Problem::Bad)?;
    let to = query.time("to", now).map_err(Problem::Bad)?;
    let types = query.all("type");
    let failed = !query.get("failed").is_empty();
    let again = !query.get("again").is_empty();
    if ids.is_empty() && aggregate.is_none() && types.is_empty() && from.is_none() && to.is_none() && !failed {
        return Err(Problem::Bad("Choose events: by id, aggregate, type, time, or those that failed.".to_owned()));
    }
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Problem::Bad("to: is not after from".to_owned()));
    }
    let handlers: BTreeSet<String> = query.all("handler").into_iter().collect();
    let events = match (failed, ids.is_empty()) {
        (true, true) => Events::Failed(None),
        (true, false) => Events::Failed(Some(ids)),
        (false, false) => Events::Named(ids),
        (false, true) => Events::All,
    };
    let to = if events == Events::All { to.or(Some(now)) } else { to };
    if let Some(unknown) = handlers.iter().find(|name| !app.registry.names().contains(&name.as_str())) {
        return Err(Problem::Bad(format!("handler: {unknown:?} is not registered")));
    }
    Ok(Plan {
        events,
        filter: Filter { aggregate, types: Some(types).filter(|types| !types.is_empty()), from, to },
        handlers: Some(handlers).filter(|handlers| !handlers.is_empty()),
        again,
        dry_run: true,
    })
}

/// What was chosen, in words.
fn chosen(plan: &Plan) -> Vec<(&'static str, String)> {
    let mut words = Vec::new();
    match &plan.events {
        Events::All => {}
        Events::Named(ids) => words.push(("events", list(ids.iter().map(Uuid::to_string)))),
        Events::Failed(None) => words.push(("events", "those with an open failure".to_owned())),
        Events::Failed(Some(ids)) => words.push(("events with an open failure", list(ids.iter().map(Uuid::to_string)))),
    }
    let written = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    words.extend(plan.filter.aggregate.clone().map(|aggregate| ("aggregate", aggregate)));
    words.extend(plan.filter.types.clone().map(|types| ("types", types.join(", "))));
    words.extend(plan.filter.from.map(|from| ("from", written(from))));
    words.extend(plan.filter.to.map(|to| ("before", written(to))));
    words
        .push(("handlers", plan.handlers.as_ref().map_or("all".to_owned(), |handlers| list(handlers.iter().cloned()))));
    words
}

fn list(values: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let values: Vec<String> = values.collect();
    let more = values.len().saturating_sub(SHOWN);
    let shown = values[..values.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// A run for the templates.
fn values(run: &Run) -> Value {
    let state = run.state();
    context! {
        id => run.id.to_string(),
        began_at => epoch(Some(run.began_at)),
        chosen => chosen(&run.plan),
        again => run.plan.again,
        query => run.query.to_string(),
        stage => state.stage.as_str(),
        runs => state.stage.runs(),
        may_confirm => state.stage == Stage::Tried && !state.dry.interrupted && state.dry.stored() + state.dry.resolved() > 0,
        error => state.error.clone(),
        dry => tally(&state.dry),
        real => tally(&state.real),
        has_real => matches!(state.stage, Stage::Doing | Stage::Done | Stage::Failed) && state.confirmed,
    }
}

fn tally(tally: &Tally) -> Value {
    let handlers: Vec<Value> = tally
        .handlers
        .iter()
        .map(|(name, of)| {
            context! {
                name, events => of.taken + of.failed, stored => of.stored, existing => of.existing_text(),
                failed => of.failed, resolved => of.resolved, unhandled => of.unhandled,
            }
        })
        .collect();
    let jobs = tally.jobs.iter().map(|job| {
        context! {
            job_id => job.job_id.to_string(), event_id => job.event_id.to_string(), handler => job.handler.as_str(),
            name => job.name.as_str(), generation => job.generation,
        }
    });
    let failures = tally.failures.iter().map(|failure| {
        context! { event_id => failure.event_id.to_string(), handler => failure.handler.as_str(), error => failure.error.as_str() }
    });
    context! {
        events => tally.events,
        passed_by => tally.passed_by,
        stored => tally.stored(),
        resolved => tally.resolved(),
        failed => tally.failed(),
        interrupted => tally.interrupted,
        handlers,
        jobs => jobs.collect::<Vec<_>>(),
        failures => failures.collect::<Vec<_>>(),
        missing => tally.missing,
        missing_events => tally.missing_events.iter().map(Uuid::to_string).collect::<Vec<_>>(),
    }
}
