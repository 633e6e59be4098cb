//! Failed dispatches: events that a handler could not take. Listed, tried again, or given up.
//!
//! Trying again runs the handlers in this process, through the same code as a replay. So it is for a build in which the
//! handler is mended, and every start of a relay does it once by itself.

use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::audit::{self, Action};
use super::filter::matches_failure_filter;
use super::{By, FailureFilter, Slice, moment};
use crate::databases::PATIENCE;
use crate::handlers::Registry;
use crate::postgres::{Error, within};
use crate::replay::tally::Tally;
use crate::replay::{self, Events, Plan, Session};
use crate::status::count::Count;

/// Failures tried again at a time.
const PAGE: i64 = 1_000;
/// What counting stops at.
const BOUND: i64 = 100_000;

/// `failures`: the chosen failures behind one ($10, $11), the newest events' first.
const FAILURES: &str = concat!(
    "
    SELECT event_id, handler, lane, aggregate_type, aggregate_id, event_type, attempts, error,
           extract(epoch FROM first_failed_at)::float8, extract(epoch FROM last_failed_at)::float8,
           extract(epoch FROM resolved_at)::float8
      FROM dispatch_failures
     WHERE ",
    matches_failure_filter!(),
    "
       AND ($10::uuid IS NULL OR (event_id, handler) < ($10, $11))
     ORDER BY event_id DESC, handler DESC
     LIMIT $12"
);

/// `count_failures`: how many are chosen, counted up to a bound.
const COUNT: &str = concat!(
    "
    SELECT count(*)
      FROM (SELECT
              FROM dispatch_failures
             WHERE ",
    matches_failure_filter!(),
    "
             LIMIT $10) AS chosen"
);

/// `dismiss`: closes the chosen failures that are open.
const DISMISS: &str = concat!(
    "
    UPDATE dispatch_failures
       SET resolved_at = now()
     WHERE ",
    matches_failure_filter!(),
    "
       AND resolved_at IS NULL"
);

/// An event that a handler could not take.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureRow {
    /// The event.
    pub event_id: Uuid,
    /// The handler.
    pub handler: String,
    /// The event's lane.
    pub lane: i16,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// The event's type.
    pub event_type: String,
    /// How often it was tried.
    pub attempts: i32,
    /// What went wrong last.
    pub error: String,
    /// When it failed first.
    pub first_failed_at: Option<OffsetDateTime>,
    /// When it failed last.
    pub last_failed_at: Option<OffsetDateTime>,
    /// When it was resolved, or given up.
    pub resolved_at: Option<OffsetDateTime>,
}

/// A page of failures, the newest events' first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    client: &Client,
    filter: &FailureFilter,
    slice: &Slice<(Uuid, String)>,
) -> Result<Vec<FailureRow>, Error> {
    let (event_id, handler) = slice.after.clone().unzip();
    let mut parameters = filter.parameters();
    parameters.extend([(&event_id as _, Type::UUID), (&handler as _, Type::TEXT), (&slice.limit as _, Type::INT8)]);
    let rows = within(PATIENCE, client.query_typed(FAILURES, &parameters)).await?;
    rows.iter()
        .map(|row| {
            Ok(FailureRow {
                event_id: row.try_get(0)?,
                handler: row.try_get(1)?,
                lane: row.try_get(2)?,
                aggregate_type: row.try_get(3)?,
                aggregate_id: row.try_get(4)?,
                event_type: row.try_get(5)?,
                attempts: row.try_get(6)?,
                error: row.try_get(7)?,
                first_failed_at: moment(row.try_get(8)?),
                last_failed_at: moment(row.try_get(9)?),
                resolved_at: moment(row.try_get(10)?),
            })
        })
        .collect()
}

/// How many failures are chosen, up to a bound.
///
/// # Errors
/// When the database does not answer.
pub async fn count(client: &Client, filter: &FailureFilter) -> Result<Count, Error> {
    let mut parameters = filter.parameters();
    let limit = BOUND + 1;
    parameters.push((&limit, Type::INT8));
    let rows = within(PATIENCE, client.query_typed(COUNT, &parameters)).await?;
    Ok(Count::bounded(rows[0].try_get(0)?, BOUND))
}

/// Runs the handlers of the chosen open failures again. The tally says at any time what was done. The line of the audit
/// trail is there before the first handler runs, and counts what was resolved, page by page.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn retry(
    session: &mut Session,
    registry: &Registry,
    filter: &FailureFilter,
    by: By<'_>,
    tally: &mut Tally,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Tally),
) -> Result<(), replay::Error> {
    let filter = FailureFilter { resolved_too: false, ..filter.clone() };
    let action = Action { by, action: "retry failed dispatches", filter: filter.to_json() };
    let mut action_id = None;
    let mut slice = Slice::first(PAGE);
    loop {
        let page = list(session.jobs(), &filter, &slice).await?;
        let last = (page.len() as i64) < PAGE;
        let Some(end) = page.last() else { break };
        slice.after = Some((end.event_id, end.handler.clone()));
        let id = match action_id {
            Some(id) => id,
            None => within(PATIENCE, action.begin(session.jobs(), 0)).await?,
        };
        action_id = Some(id);
        let before = tally.resolved();
        let tried = page_of(session, registry, &page, tally, stop, &mut progress).await;
        let ended = last && tried.is_ok() && !tally.interrupted;
        within(PATIENCE, audit::add(session.jobs(), id, tally.resolved() - before, ended)).await?;
        tried?;
        if last || tally.interrupted {
            break;
        }
    }
    Ok(())
}

/// Each handler with the events that it failed on, and no others.
async fn page_of(
    session: &mut Session,
    registry: &Registry,
    page: &[FailureRow],
    tally: &mut Tally,
    stop: &CancellationToken,
    progress: &mut impl FnMut(&Tally),
) -> Result<(), replay::Error> {
    let handlers: std::collections::BTreeSet<&str> = page.iter().map(|failure| failure.handler.as_str()).collect();
    for handler in handlers {
        let events = page.iter().filter(|failure| failure.handler == handler).map(|failure| failure.event_id).collect();
        let plan = Plan {
            events: Events::Failed(Some(events)),
            handlers: Some([handler.to_owned()].into()),
            ..Plan::default()
        };
        replay::run(session, registry, &plan, tally, stop, &mut *progress).await?;
        if tally.interrupted {
            return Ok(());
        }
    }
    Ok(())
}

/// Gives the chosen open failures up: they are no longer open, and no relay's start tries them. Returns how many.
///
/// # Errors
/// When the database does not answer; then nothing was changed.
pub async fn dismiss(client: &mut Client, filter: &FailureFilter, by: By<'_>) -> Result<u64, Error> {
    let action = Action { by, action: "dismiss failed dispatches", filter: filter.to_json() };
    within(PATIENCE, async {
        let transaction = client.transaction().await?;
        let statement = transaction.execute_typed(DISMISS, &filter.parameters()).await?;
        if statement > 0 {
            action.record(&transaction, statement).await?;
        }
        transaction.commit().await?;
        Ok(statement)
    })
    .await
}
