//! Failed dispatches: events that a handler could not take.

use std::sync::Arc;

use minijinja::{Value, context};
use poem::web::Data;
use poem::{Response, handler};
use time::OffsetDateTime;
use uuid::Uuid;

use super::guard::{Fields, Visitor};
use super::job::epoch;
use super::pages::Problem;
use super::query::Query;
use super::view::Page;
use super::{App, change, see_other};
use crate::operate::failures::{self, FailureRow};
use crate::operate::{By, FailureFilter, Slice};
use crate::replay::tally::Tally;
use crate::replay::{Error, Session};

const ROWS: i64 = 50;
const FIELDS: [&str; 7] = ["event", "handler", "aggregate", "type", "error", "from", "to"];

/// The page.
///
/// # Errors
/// When the filter makes no sense, or the jobs database is away.
pub async fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    let filter = filter(query)?;
    let after = query.parsed::<Uuid>("after", "UUID").map_err(Problem::Bad)?;
    let after = after.map(|event| (event, query.get("after_handler").to_owned()));
    let slice = Slice { after, limit: ROWS + 1 };
    let connection = app.store.jobs().await?;
    let mut rows = failures::list(connection.client(), &filter, &slice).await?;
    connection.give_back();
    let more = rows.len() > ROWS as usize;
    rows.truncate(ROWS as usize);
    let filter_query = query.without(&["after", "after_handler"]);
    let next = rows.last().filter(|_| more).map(|last| {
        filter_query.with("after", &last.event_id.to_string()).with("after_handler", &last.handler).to_string()
    });
    Ok(Page {
        title: "Failed dispatches".to_owned(),
        section: "/failures",
        template: "failures.html",
        values: context! {
            failures => rows.iter().map(|row| failure(app, row)).collect::<Vec<_>>(),
            any_open => rows.iter().any(|row| row.resolved_at.is_none()),
            filtered => !filter_query.is_empty(),
            fields => filter_query.pairs().to_vec(),
            resolved_too => filter.resolved_too,
            query => super::events::values(query, &FIELDS),
            handlers => app.registry.names().to_vec(),
            next,
            first => filter_query.to_string(),
            is_first => slice.after.is_none(),
        },
    })
}

fn failure(app: &App, row: &FailureRow) -> Value {
    context! {
        event_id => row.event_id.to_string(),
        handler => row.handler.as_str(),
        known => app.registry.names().contains(&row.handler.as_str()),
        event_type => row.event_type.as_str(),
        aggregate => format!("{}/{}", row.aggregate_type, row.aggregate_id),
        attempts => row.attempts,
        error => row.error.as_str(),
        last_failed_at => epoch(row.last_failed_at),
        resolved_at => epoch(row.resolved_at),
    }
}

fn filter(query: &Query) -> Result<FailureFilter, Problem> {
    let now = OffsetDateTime::now_utc();
    let aggregate = query.text("aggregate").map(|text| {
        let (of, id) = text.split_once('/').unwrap_or_default();
        if of.is_empty() || id.is_empty() {
            return Err(Problem::Bad(format!("aggregate: {text:?} is no type and id, such as user/42")));
        }
        Ok((of.to_owned(), id.to_owned()))
    });
    let list = |name: &str| Some(query.all(name)).filter(|values| !values.is_empty());
    Ok(FailureFilter {
        event_ids: query.parsed::<Uuid>("event", "UUID").map_err(Problem::Bad)?.map(|id| vec![id]),
        handlers: list("handler"),
        aggregate: aggregate.transpose()?,
        types: list("type"),
        error: query.text("error"),
        from: query.time("from", now).map_err(Problem::Bad)?,
        to: query.time("to", now).map_err(Problem::Bad)?,
        resolved_too: query.get("resolved") == "too",
    })
}

/// `POST /failures`: try the chosen ones again, or give them up.
#[handler]
pub async fn submit(app: Data<&Arc<App>>, visitor: Data<&Visitor>, fields: Data<&Fields>) -> Response {
    match make(&app, &visitor, &fields).await {
        Ok(there) => see_other(&there),
        Err(problem) => problem.answer(&app, &visitor, "/failures"),
    }
}

async fn make(app: &App, visitor: &Visitor, fields: &Fields) -> Result<String, Problem> {
    let query = Query::of(fields.all().filter(|(name, _)| FIELDS.contains(name)));
    let filter = filter(&query)?;
    let operator = change::operator(app, visitor);
    let reason = Some(fields.get("reason")).filter(|reason| !reason.is_empty());
    let by = By { operator: &operator, reason };
    match fields.get("do") {
        "retry" => {
            let mut session = Session::open(&app.application, &app.jobs, "aftercommit dashboard").await?;
            let mut tally = Tally::default();
            failures::retry(&mut session, &app.registry, &filter, by, &mut tally, &app.stop, |_| {}).await?;
            let unhandled: u64 = tally.handlers.values().map(|handler| handler.unhandled).sum();
            match (tally.resolved(), tally.failed(), unhandled) {
                (0, 0, 0) => Err(Problem::Refused("None of these failures is open any more.".to_owned())),
                (0, failed, unhandled) => Err(Problem::Refused(format!(
                    "Nothing was resolved: {failed} failed again, and for {unhandled} this relay has no handler. Only a build with the handler mended helps.",
                ))),
                _ => Ok(back(&query)),
            }
        }
        "dismiss" => {
            let mut connection = app.store.jobs().await?;
            failures::dismiss(connection.client_mut(), &filter, by).await?;
            connection.give_back();
            Ok(back(&query))
        }
        _ => Err(Problem::Bad("do: give retry or dismiss.".to_owned())),
    }
}

/// To the event, if it was one; else to what is left.
fn back(query: &Query) -> String {
    match query.get("event") {
        "" => format!("/failures{query}"),
        event => format!("/events/{event}"),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.is_refusal() { Self::Refused(error.to_string()) } else { Self::Away(error.to_string()) }
    }
}
