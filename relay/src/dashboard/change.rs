//! Retrying and cancelling: first how many, then the deed, with its line in the audit trail.

use std::sync::Arc;

use minijinja::context;
use poem::web::Data;
use poem::{Response, handler};
use time::OffsetDateTime;

use super::guard::{Fields, Visitor};
use super::jobs::{FIELDS, filter, pinned};
use super::pages::Problem;
use super::query::Query;
use super::view::Page;
use super::{App, see_other};
use crate::operate::change::{self, Change};
use crate::operate::jobs::count;
use crate::operate::{By, Operator};

/// `GET /change?do=retry&…`: how many jobs it would be.
///
/// # Errors
/// When the filter makes no sense, or the jobs database is away.
pub async fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    let change = change_of(query.get("do"))?;
    let filter = filter(query)?;
    let connection = app.store.jobs().await?;
    let counts = count(connection.client(), &filter).await?;
    connection.give_back();
    let taken: Vec<_> = change.takes().into_iter().map(|state| (state.as_str(), counts.of(state))).collect();
    let left: Vec<_> = crate::jobs::JobState::ALL
        .into_iter()
        .filter(|state| counts.of(*state).number > 0)
        .filter_map(|state| Some((state.as_str(), counts.of(state).to_string(), change.refusal(state)?)))
        .collect();
    let total: crate::status::count::Count = taken.iter().map(|(_, count)| *count).sum();
    let mut query = pinned(&query.without(&["do", "after"]), &filter);
    if query.get("to").is_empty() {
        // What comes while somebody thinks about it is not meant.
        let now = OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339);
        query = query.with("to", &now.unwrap_or_default());
    }
    Ok(Page {
        title: if change == Change::Retry { "Retry jobs" } else { "Cancel jobs" }.to_owned(),
        section: "/jobs",
        template: "change.html",
        values: context! {
            verb => change.verb(),
            taken => taken.into_iter().filter(|(_, count)| count.number > 0).map(|(state, count)| (state, count.to_string())).collect::<Vec<_>>(),
            left,
            total => total.to_string(),
            any => total.number > 0,
            everything => filter.is_everything(),
            fields => query.pairs().to_vec(),
            back => format!("/jobs{}", query.without(&["to"])),
        },
    })
}

/// `POST /change`
#[handler]
pub async fn submit(app: Data<&Arc<App>>, visitor: Data<&Visitor>, fields: Data<&Fields>) -> Response {
    let (work, by, form) = (app.clone(), visitor.clone(), fields.clone());
    // It is done to its end, also when the browser goes away meanwhile.
    let made = tokio::spawn(async move { make(&work, &by, &form).await }).await;
    match made.unwrap_or_else(|_| {
        Err(Problem::Refused("It was interrupted; the audit trail says how far it came.".to_owned()))
    }) {
        Ok(there) => see_other(&there),
        Err(problem) => problem.answer(&app, &visitor, "/change"),
    }
}

async fn make(app: &App, visitor: &Visitor, fields: &Fields) -> Result<String, Problem> {
    let change = change_of(fields.get("do"))?;
    let query = Query::of(fields.all().filter(|(name, _)| FIELDS.contains(name)));
    let filter = filter(&query)?;
    let operator = operator(app, visitor);
    let reason = Some(fields.get("reason")).filter(|reason| !reason.is_empty());
    let by = By { operator: &operator, reason };
    let mut connection = app.store.jobs().await?;
    let changed = change::change(connection.client_mut(), change, &filter, by, &app.stop, |_| {}).await?;
    connection.give_back();
    tracing::info!(action = change.verb(), jobs = changed.jobs, "jobs were changed from the dashboard");
    if changed.jobs == 0 {
        return Err(Problem::Refused(format!(
            "Nothing to {}: the jobs are no longer in a state that allows it.",
            change.verb()
        )));
    }
    Ok(match (filter.job_ids.as_deref(), query.pairs().len()) {
        (Some([job_id]), _) => format!("/jobs/{job_id}"),
        _ => "/audit".to_owned(),
    })
}

/// Whose name a line of the audit trail bears.
pub fn operator(app: &App, visitor: &Visitor) -> Operator {
    let session = &visitor.session;
    let name = match (app.door.asks_for_a_token(), session.name.as_str()) {
        (false, _) => "somebody on this machine".to_owned(),
        (true, "") => format!("an {} without a name", session.role.as_str()),
        (true, name) => name.to_owned(),
    };
    Operator::dashboard(&name)
}

fn change_of(verb: &str) -> Result<Change, Problem> {
    let known = [Change::Retry, Change::Cancel].into_iter().find(|change| change.verb() == verb);
    known.ok_or_else(|| Problem::Bad("do: give retry or cancel.".to_owned()))
}
