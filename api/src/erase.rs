//! `api erase`: blanks what events, and the jobs made of them, say about one aggregate.
//!
//! The rows stay, and with them ids, order, cursors and counts. A blanked event says so in its metadata, and handlers pass
//! it by from then on: no replay, and no move of history, makes anything of it. An event that still has something to do
//! (not dispatched, an open failure, an unfinished job) refuses the whole: first let it end, or cancel its jobs.
//!
//! What the application keeps of a person in its own tables is its own to erase, before this.

use std::process::ExitCode;

use serde_json::{Value, json};
use shared::envelope::ERASED_AT;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::config;
use crate::prune::cursors::{self, needed};
use crate::prune::{PruneError, answer, connect, outbox};

/// Purpose: the events of an aggregate ($1, `type/id`) that are not blanked yet, and whether each is seen by its lane's
/// cursor ($3, of the lanes in $2).
const EVENTS: &str = "
SELECT event.event_id, coalesce(event.transaction_id < cursor.all_seen_below::xid8, false)
  FROM aftercommit.outbox AS event
  LEFT JOIN unnest($2::smallint[], $3::text[]) AS cursor (lane, all_seen_below)
    ON cursor.lane = aftercommit.lane(event.aggregate_id)
 WHERE aftercommit.lane(event.aggregate_id) = aftercommit.lane(substr($1, strpos($1, '/') + 1))
   AND event.aggregate_type || '/' || event.aggregate_id = $1
   AND NOT starts_with(event.metadata::text, '{\"' || $4 || '\"')
 ORDER BY event.transaction_id, event.position";

/// Purpose: blanks events.
const BLANK_EVENTS: &str = "
UPDATE aftercommit.outbox
   SET payload  = '{}',
       metadata = json_build_object($2::text, now())
 WHERE event_id = ANY ($1)";

/// Purpose: blanks the jobs of events, which are finished. Their errors may quote what a server said of an address.
const BLANK_JOBS: &str = "
UPDATE aftercommit.jobs AS job
   SET args       = '{}',
       metadata   = '{}',
       last_error = CASE WHEN last_error IS NOT NULL THEN 'erased' END
  FROM unnest($1::uuid[]) AS erased (event_id)
 WHERE job.job_id BETWEEN (left(erased.event_id::text, 13) || '-0000-0000-000000000000')::uuid
                      AND (left(erased.event_id::text, 13) || '-ffff-ffff-ffffffffffff')::uuid
   AND job.event_id = erased.event_id
   AND job.state NOT IN ('available', 'retrying', 'running')";

/// Runs the command.
pub async fn command(config: config::Erase) -> ExitCode {
    let erased = run(&config).await.map(|(events, jobs)| {
        let value: Value = json!({ "aggregate": config.aggregate, "events": events, "jobs": jobs });
        (value, format!("{}: {events} events and {jobs} jobs blanked\n", config.aggregate))
    });
    answer("api erase", config.json, erased)
}

async fn run(config: &config::Erase) -> Result<(u64, u64), PruneError> {
    let (mut app, mut jobs) = connect(&config.databases).await?;
    let cursors = cursors::load(&mut jobs).await?;
    outbox::same_history(&mut app, &cursors).await?;
    let events = events(&mut app, &config.aggregate, &cursors).await?;
    let ids: Vec<Uuid> = events.iter().map(|(event_id, _)| *event_id).collect();
    let unseen = events.iter().filter(|(_, seen)| !seen).count();
    let open = needed(&mut jobs, &ids).await?.len();
    if unseen + open > 0 {
        return Err(PruneError::Busy { unseen, open });
    }
    // Jobs first: were this to end in between, running it again finds the events.
    let jobs = sqlx::query(BLANK_JOBS).bind(&ids).execute(&mut jobs).await.map_err(PruneError::of("jobs"))?;
    let blanked = sqlx::query(BLANK_EVENTS).bind(&ids).bind(ERASED_AT).execute(&mut app).await;
    let blanked = blanked.map_err(PruneError::of("application"))?;
    Ok((blanked.rows_affected(), jobs.rows_affected()))
}

async fn events(
    app: &mut PgConnection,
    aggregate: &str,
    cursors: &[cursors::Cursor],
) -> Result<Vec<(Uuid, bool)>, PruneError> {
    let lanes: Vec<i16> = cursors.iter().map(|cursor| cursor.lane).collect();
    let below: Vec<&str> = cursors.iter().map(|cursor| cursor.all_seen_below.as_str()).collect();
    let query = sqlx::query_as(EVENTS).bind(aggregate).bind(lanes).bind(below).bind(ERASED_AT);
    query.fetch_all(app).await.map_err(PruneError::of("application"))
}
