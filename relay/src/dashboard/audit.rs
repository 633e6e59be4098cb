//! The audit trail: who changed what, when and why.

use minijinja::{Value, context};

use super::App;
use super::job::epoch;
use super::pages::Problem;
use super::query::Query;
use super::view::Page;
use crate::operate::Slice;
use crate::operate::audit::{self, ActionRow};

const ROWS: i64 = 50;

/// The page.
///
/// # Errors
/// When the jobs database is away.
pub async fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    let after = query.parsed::<i64>("after", "number of an action").map_err(Problem::Bad)?;
    let connection = app.store.jobs().await?;
    let mut rows = audit::list(connection.client(), Slice { after, limit: ROWS + 1 }).await?;
    connection.give_back();
    let more = rows.len() > ROWS as usize;
    rows.truncate(ROWS as usize);
    let next = rows.last().filter(|_| more).map(|last| query.with("after", &last.action_id.to_string()).to_string());
    Ok(Page {
        title: "Audit trail".to_owned(),
        section: "/audit",
        template: "audit.html",
        values: context! { actions => rows.iter().map(row).collect::<Vec<_>>(), next, is_first => after.is_none() },
    })
}

fn row(row: &ActionRow) -> Value {
    let filter = row.filter.as_object().into_iter().flatten().map(|(name, value)| {
        let value = match value {
            serde_json::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
            value => plain(value),
        };
        (name.clone(), value)
    });
    context! {
        action_id => row.action_id,
        started_at => epoch(row.started_at),
        finished_at => epoch(row.finished_at),
        operator => row.operator.as_str(),
        via => row.via.as_str(),
        action => row.action.as_str(),
        filter => filter.collect::<Vec<_>>(),
        affected => row.affected,
        reason => row.reason.clone(),
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
