//! Jobs, the newest events' first, by filters in the URL; and the filter that a change is made by.

use minijinja::{Value, context};
use shared::settings::parse_duration;
use time::OffsetDateTime;
use uuid::Uuid;

use super::App;
use super::job::row;
use super::pages::Problem;
use super::query::Query;
use super::view::Page;
use crate::jobs::JobState;
use crate::operate::change::Change;
use crate::operate::jobs;
use crate::operate::{JobFilter, Slice};

/// Rows to a page.
const ROWS: i64 = 50;

/// The fields of a filter.
pub const FIELDS: [&str; 9] = ["id", "state", "kind", "handler", "event", "template", "error", "from", "to"];

/// The page.
///
/// # Errors
/// When the filter makes no sense, or the jobs database is away.
pub async fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    let filter = filter(query)?;
    let after = query.parsed::<Uuid>("after", "UUID").map_err(Problem::Bad)?;
    let connection = app.store.jobs().await?;
    let mut rows = jobs::list(connection.client(), &filter, Slice { after, limit: ROWS + 1 }).await?;
    connection.give_back();
    let more = rows.len() > ROWS as usize;
    rows.truncate(ROWS as usize);
    let next = rows.last().filter(|_| more).map(|last| query.with("after", &last.job_id.to_string()).to_string());
    let states = query.all("state");
    let only_dead = states == ["dead"];
    let chosen: Vec<Value> = JobState::ALL
        .into_iter()
        .map(|state| context! { state => state.as_str(), chosen => states.iter().any(|chosen| chosen == state.as_str()) })
        .collect();
    let filter_query = query.without(&["after"]);
    let changeable = |change: Change| {
        filter.states.as_ref().is_none_or(|states| states.iter().any(|state| change.refusal(*state).is_none()))
    };
    Ok(Page {
        title: if only_dead { "Dead letters" } else { "Jobs" }.to_owned(),
        section: if only_dead { "/jobs?state=dead" } else { "/jobs" },
        template: "jobs.html",
        values: context! {
            jobs => rows.iter().map(row).collect::<Vec<_>>(),
            only_dead,
            states => chosen,
            filtered => !filter.is_everything(),
            next,
            first => filter_query.to_string(),
            is_first => after.is_none(),
            query => super::events::values(query, &FIELDS),
            handlers => app.registry.names().to_vec(),
            retry => changeable(Change::Retry).then(|| filter_query.with("do", "retry").to_string()),
            cancel => changeable(Change::Cancel).then(|| filter_query.with("do", "cancel").to_string()),
        },
    })
}

/// The filter that a query stands for.
///
/// # Errors
/// What is wrong with it.
pub fn filter(query: &Query) -> Result<JobFilter, Problem> {
    let now = OffsetDateTime::now_utc();
    let list = |name: &str| Some(query.all(name)).filter(|values| !values.is_empty());
    let id = |name: &str| query.parsed::<Uuid>(name, "UUID").map(|id| id.map(|id| vec![id])).map_err(Problem::Bad);
    let states = list("state").map(|names| {
        let state =
            |name: &String| JobState::named(name).ok_or_else(|| Problem::Bad(format!("state: there is no {name:?}")));
        names.iter().map(state).collect::<Result<Vec<_>, _>>()
    });
    Ok(JobFilter {
        job_ids: id("id")?,
        states: states.transpose()?,
        kinds: list("kind"),
        handlers: list("handler"),
        event_ids: id("event")?,
        args: query.text("template").map(|template| serde_json::json!({ "template": template })),
        error: query.text("error"),
        from: query.time("from", now).map_err(Problem::Bad)?,
        to: query.time("to", now).map_err(Problem::Bad)?,
    })
}

/// A filter whose times are times: "90m ago" is not to mean another moment once it is confirmed.
pub fn pinned(query: &Query, filter: &JobFilter) -> Query {
    let mut pinned = query.clone();
    for (name, time) in [("from", filter.from), ("to", filter.to)] {
        let is_span = parse_duration(query.get(name)).is_some();
        let written = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
        if let Some(written) = written.filter(|_| is_span) {
            pinned = pinned.with(name, &written);
        }
    }
    pinned
}
