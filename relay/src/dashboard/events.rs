//! Events, the newest first, with what became of each.
//!
//! The outbox has an index by lane and transaction, and none by time or type: a page passes over a bounded number of
//! rows, shows those that were asked for, and says how far it came.

use std::collections::{BTreeMap, HashSet};

use minijinja::{Value, context};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::App;
use super::pages::Problem;
use super::query::Query;
use super::view::Page;
use crate::jobs::JobState;
use crate::jobs::id::job_id_range;
use crate::outbox::window::TransactionId;
use crate::postgres::within;

/// Rows to a page.
const ROWS: i64 = 50;
/// Rows that a page passes over, at most, when it looks for some.
const PASSED: i64 = 5_000;
/// The same within one lane, which is all that one aggregate takes.
const PASSED_IN_LANE: i64 = 50_000;

/// `events`: the chosen events ($4 to $7) among the newest ($8) before a key ($1, $2) in one lane ($3: the aggregate's)
/// or in all, and how far back that was. A row without an event says so when none is among them.
pub const EVENTS: &str = "
    WITH passed AS MATERIALIZED (
        SELECT DISTINCT lanes.lane::smallint AS lane, key.transaction_id, key.position
          FROM generate_series(0, 15) AS lanes (lane)
         CROSS JOIN LATERAL (
               SELECT transaction_id, position
                 FROM aftercommit.outbox
                WHERE aftercommit.lane(aggregate_id) = lanes.lane::smallint
                  AND ($1::xid8 IS NULL OR (transaction_id, position) < ($1, $2))
                ORDER BY transaction_id DESC, position DESC
                LIMIT $8) AS key
         WHERE $3::text IS NULL OR lanes.lane = aftercommit.lane(substr($3, strpos($3, '/') + 1))
         ORDER BY key.transaction_id DESC, key.position DESC
         LIMIT $8
    ), last AS (
        SELECT transaction_id, position, (SELECT count(*) FROM passed) AS passed
          FROM passed
         ORDER BY transaction_id, position
         LIMIT 1
    )
    SELECT last.transaction_id, last.position, last.passed,
           event.transaction_id, event.position, event.event_id, event.aggregate_type, event.aggregate_id,
           event.event_type, event.lane, extract(epoch FROM event.occurred_at)::float8
      FROM last
      LEFT JOIN LATERAL (
           SELECT outbox.*, passed.lane
             FROM passed
             JOIN aftercommit.outbox
               ON aftercommit.lane(aggregate_id) = passed.lane
              AND outbox.transaction_id = passed.transaction_id
              AND outbox.position       = passed.position
            WHERE ($3::text        IS NULL OR aggregate_type || '/' || aggregate_id = $3)
              AND ($4::text        IS NULL OR event_type = $4)
              AND ($5::timestamptz IS NULL OR occurred_at >= $5)
              AND ($6::timestamptz IS NULL OR occurred_at <  $6)
              AND ($7::text        IS NULL OR aggregate_type = $7)
            ORDER BY outbox.transaction_id DESC, outbox.position DESC
            LIMIT $9) AS event ON true";

/// `event_by_id`: the same columns of one event.
const BY_ID: &str = "
    SELECT transaction_id, position, 1::bigint, transaction_id, position, event_id, aggregate_type, aggregate_id,
           event_type, aftercommit.lane(aggregate_id), extract(epoch FROM occurred_at)::float8
      FROM aftercommit.outbox
     WHERE event_id = $1";

/// `fates`: the jobs of some events ($3) by state. An event's jobs lie in one range of the primary key.
const FATES: &str = "
    SELECT event_id, state, count(*)
      FROM unnest($1::uuid[], $2::uuid[]) AS range (low, high)
      JOIN jobs ON job_id BETWEEN low AND high
     WHERE event_id = ANY ($3)
     GROUP BY event_id, state";

/// `open_failures`: of some events.
const OPEN_FAILURES: &str = "
    SELECT event_id, count(*)
      FROM dispatch_failures
     WHERE event_id = ANY ($1)
       AND resolved_at IS NULL
     GROUP BY event_id";

/// What became of an event: jobs by state, and handlers that could not take it.
type Fate = (BTreeMap<&'static str, i64>, i64);

/// The page.
///
/// # Errors
/// When the filter makes no sense, or the application database is away.
pub async fn page(app: &App, query: &Query) -> Result<Page, Problem> {
    let now = OffsetDateTime::now_utc();
    let id = query.parsed::<Uuid>("id", "UUID").map_err(Problem::Bad)?;
    let rows = match id {
        Some(id) => app.store.ask_application(BY_ID, &[(&id, Type::UUID)]).await?,
        None => read(app, query, now).await?,
    };
    let found: Vec<&Row> = rows.iter().filter(|row| !matches!(row.try_get::<_, Option<Uuid>>(5), Ok(None))).collect();
    let shown = &found[..found.len().min(ROWS as usize)];
    let ids: Vec<Uuid> = shown.iter().map(|row| row.try_get(5)).collect::<Result<_, _>>()?;
    let (fates, jobs_away) = match fates(app, &ids).await {
        Ok(fates) => (fates, None),
        Err(error) => (BTreeMap::new(), Some(error.text().to_owned())),
    };
    let events: Vec<Value> = shown.iter().map(|row| event(row, &fates)).collect::<Result<_, _>>()?;
    let filtered = !query.without(&["before", "before_position"]).is_empty();
    Ok(Page {
        title: "Events".to_owned(),
        section: "/events",
        template: "events.html",
        values: context! {
            events,
            jobs_away,
            filtered,
            passed => rows.first().map(|row| row.try_get::<_, i64>(2)).transpose()?.unwrap_or_default(),
            next => next(query, &rows, found.len())?,
            first => query.without(&["before", "before_position"]).to_string(),
            is_first => query.get("before").is_empty(),
            query => values(query, &["id", "aggregate", "type", "from", "to"]),
            types => types(app),
        },
    })
}

/// The values of a form's fields, as the URL has them.
pub fn values(query: &Query, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), query.get(name).to_owned())).collect::<BTreeMap<_, _>>().into()
}

async fn read(app: &App, query: &Query, now: OffsetDateTime) -> Result<Vec<Row>, Problem> {
    let before = query.parsed::<u64>("before", "transaction id").map_err(Problem::Bad)?.map(TransactionId);
    let position = query.parsed::<i64>("before_position", "position").map_err(Problem::Bad)?;
    let aggregate = query.text("aggregate");
    // A type alone narrows nothing down to a lane.
    let (aggregate, aggregate_type) = match aggregate {
        Some(text) if text.contains('/') => (Some(text), None),
        other => (None, other),
    };
    let event_type = query.text("type");
    let from = query.time("from", now).map_err(Problem::Bad)?;
    let to = query.time("to", now).map_err(Problem::Bad)?;
    let narrowed = aggregate_type.is_some() || event_type.is_some() || from.is_some() || to.is_some();
    let passed = match (&aggregate, narrowed) {
        (Some(_), _) => PASSED_IN_LANE,
        (None, true) => PASSED,
        (None, false) => ROWS + 1,
    };
    let rows = ROWS + 1;
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 9] = [
        (&before, Type::XID8),
        (&position, Type::INT8),
        (&aggregate, Type::TEXT),
        (&event_type, Type::TEXT),
        (&from, Type::TIMESTAMPTZ),
        (&to, Type::TIMESTAMPTZ),
        (&aggregate_type, Type::TEXT),
        (&passed, Type::INT8),
        (&rows, Type::INT8),
    ];
    Ok(app.store.ask_application(EVENTS, &parameters).await?)
}

/// Where the next page begins: after the last row shown, or after the last one passed over.
fn next(query: &Query, rows: &[Row], found: usize) -> Result<Option<String>, Problem> {
    if !query.get("id").is_empty() {
        return Ok(None);
    }
    let key = |row: &Row, at: usize| {
        Ok::<_, tokio_postgres::Error>((row.try_get::<_, TransactionId>(at)?, row.try_get::<_, i64>(at + 1)?))
    };
    let (transaction_id, position) = match (found > ROWS as usize, rows.first()) {
        (true, _) => key(&rows[ROWS as usize - 1], 3)?,
        // Everything that there is was passed over, unless the bound was met.
        (false, Some(row)) if bound_met(query, row.try_get(2)?) => key(row, 0)?,
        _ => return Ok(None),
    };
    let next = query.with("before", &transaction_id.0.to_string()).with("before_position", &position.to_string());
    Ok(Some(next.to_string()))
}

fn bound_met(query: &Query, passed: i64) -> bool {
    let in_lane = query.get("aggregate").contains('/');
    passed >= if in_lane { PASSED_IN_LANE } else { PASSED }
}

fn event(row: &Row, fates: &BTreeMap<Uuid, Fate>) -> Result<Value, tokio_postgres::Error> {
    let event_id: Uuid = row.try_get(5)?;
    let (jobs, failures) = fates.get(&event_id).cloned().unwrap_or_default();
    let (aggregate_type, aggregate_id): (&str, &str) = (row.try_get(6)?, row.try_get(7)?);
    Ok(context! {
        event_id => event_id.to_string(),
        aggregate => format!("{aggregate_type}/{aggregate_id}"),
        event_type => row.try_get::<_, &str>(8)?,
        lane => row.try_get::<_, i16>(9)?,
        occurred_at => row.try_get::<_, Option<f64>>(10)?,
        jobs => jobs.into_iter().collect::<Vec<_>>(),
        failures,
    })
}

async fn fates(app: &App, events: &[Uuid]) -> Result<BTreeMap<Uuid, Fate>, Problem> {
    let ranges: HashSet<(Uuid, Uuid)> = events.iter().map(|event| job_id_range(*event)).collect();
    let (low, high): (Vec<Uuid>, Vec<Uuid>) = ranges.into_iter().unzip();
    let connection = app.store.jobs().await?;
    let ask = async {
        let types = [(&low as _, Type::UUID_ARRAY), (&high as _, Type::UUID_ARRAY), (&events as _, Type::UUID_ARRAY)];
        let jobs = connection.client().query_typed(FATES, &types).await?;
        let failures = connection.client().query_typed(OPEN_FAILURES, &[(&events, Type::UUID_ARRAY)]).await?;
        Ok((jobs, failures))
    };
    let (jobs, failures) = within(super::store::PATIENCE, ask).await?;
    connection.give_back();
    let mut fates: BTreeMap<Uuid, Fate> = BTreeMap::new();
    for row in &jobs {
        let state: &str = row.try_get(1)?;
        let state = JobState::ALL.into_iter().map(JobState::as_str).find(|known| *known == state).unwrap_or("unknown");
        fates.entry(row.try_get(0)?).or_default().0.insert(state, row.try_get(2)?);
    }
    for row in &failures {
        fates.entry(row.try_get(0)?).or_default().1 = row.try_get(1)?;
    }
    Ok(fates)
}

/// The types of events that handlers are for, to choose from.
pub fn types(app: &App) -> Vec<&'static str> {
    let types: std::collections::BTreeSet<&'static str> =
        app.registry.table().map(|(event_type, _)| event_type).collect();
    types.into_iter().collect()
}
