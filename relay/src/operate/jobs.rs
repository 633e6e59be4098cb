//! Jobs as people look at them: listed page by page, and counted before anything is done to them.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::filter::matches_job_filter;
use super::{JobFilter, Slice, moment};
use crate::databases::PATIENCE;
use crate::jobs::JobState;
use crate::postgres::{Error, within};
use crate::status::count::Count;

/// What counting stops at.
pub const BOUND: i64 = 100_000;

macro_rules! job_columns {
    () => {
        "job_id, event_id, handler, name, generation, kind, state, attempt, max_attempts, crash_count,
           extract(epoch FROM run_at)::float8, extract(epoch FROM expires_at)::float8,
           extract(epoch FROM created_at)::float8, extract(epoch FROM finished_at)::float8,
           in_doubt, last_error"
    };
}
pub(super) use job_columns;

/// `jobs`: the chosen jobs behind one ($12), the newest events' first.
const JOBS: &str = concat!(
    "
    SELECT ",
    job_columns!(),
    "
      FROM jobs
     WHERE ",
    matches_job_filter!(),
    "
       AND ($12::uuid IS NULL OR job_id < $12)
     ORDER BY job_id DESC
     LIMIT $13"
);

/// `count_jobs`: the chosen jobs by state, counted up to a bound.
const COUNT: &str = concat!(
    "
    SELECT state, count(*)
      FROM (SELECT state
              FROM jobs
             WHERE ",
    matches_job_filter!(),
    "
             LIMIT $12) AS chosen
     GROUP BY state"
);

/// A job in a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Its id.
    pub job_id: Uuid,
    /// The event that it follows from.
    pub event_id: Uuid,
    /// The handler that asked for it.
    pub handler: String,
    /// Its own name within the handler.
    pub name: String,
    /// Above 0: made by a replay that sends anew.
    pub generation: i32,
    /// What kind of work it is.
    pub kind: String,
    /// Where it stands; none in a state that only a newer build knows.
    pub state: Option<JobState>,
    /// Tries so far, since it was made or retried by hand.
    pub attempt: i16,
    /// Tries in all.
    pub max_attempts: i16,
    /// Processes that died holding it.
    pub crash_count: i16,
    /// When it is due, or was.
    pub run_at: Option<OffsetDateTime>,
    /// When it is too late.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was stored.
    pub created_at: Option<OffsetDateTime>,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
    /// It may have been done, and nobody knows.
    pub in_doubt: bool,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl JobRow {
    /// The state's name.
    pub fn state_name(&self) -> &'static str {
        self.state.map_or("unknown", JobState::as_str)
    }
}

/// A page of jobs, the newest events' first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(client: &Client, filter: &JobFilter, slice: Slice<Uuid>) -> Result<Vec<JobRow>, Error> {
    let of = filter.parameters();
    let mut parameters = of.list();
    parameters.extend([(&slice.after as _, Type::UUID), (&slice.limit as _, Type::INT8)]);
    let rows = within(PATIENCE, client.query_typed(JOBS, &parameters)).await?;
    rows.iter().map(|row| Ok(job_row(row)?)).collect()
}

pub(super) fn job_row(row: &Row) -> Result<JobRow, tokio_postgres::Error> {
    Ok(JobRow {
        job_id: row.try_get(0)?,
        event_id: row.try_get(1)?,
        handler: row.try_get(2)?,
        name: row.try_get(3)?,
        generation: row.try_get(4)?,
        kind: row.try_get(5)?,
        state: JobState::named(row.try_get(6)?),
        attempt: row.try_get(7)?,
        max_attempts: row.try_get(8)?,
        crash_count: row.try_get(9)?,
        run_at: moment(row.try_get(10)?),
        expires_at: moment(row.try_get(11)?),
        created_at: moment(row.try_get(12)?),
        finished_at: moment(row.try_get(13)?),
        in_doubt: row.try_get(14)?,
        last_error: row.try_get(15)?,
    })
}

/// How many jobs there are, by state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateCounts(pub BTreeMap<&'static str, Count>);

impl StateCounts {
    /// In one state.
    pub fn of(&self, state: JobState) -> Count {
        self.0.get(state.as_str()).copied().unwrap_or(Count::ZERO)
    }

    /// In all.
    pub fn total(&self) -> Count {
        self.0.values().copied().sum()
    }
}

/// Counts jobs by state, up to [`BOUND`].
///
/// # Errors
/// When the database does not answer.
pub async fn count(client: &Client, filter: &JobFilter) -> Result<StateCounts, Error> {
    let of = filter.parameters();
    let mut parameters = of.list();
    let limit = BOUND + 1;
    parameters.push((&limit, Type::INT8));
    let rows = within(PATIENCE, client.query_typed(COUNT, &parameters)).await?;
    let counted: Vec<(&str, i64)> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Error>>()?;
    let total = counted.iter().map(|(_, count)| count).sum();
    let known =
        |(state, count): (&str, i64)| Some((JobState::named(state)?.as_str(), Count::part_of(count, total, BOUND)));
    Ok(StateCounts(counted.into_iter().filter_map(known).collect()))
}
