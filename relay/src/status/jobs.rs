//! Jobs by kind and state, and what is due.
//!
//! A table of up to [`BOUND`] jobs is counted whole. In a larger one, jobs that wait, run or ended without success are
//! counted from their partial indexes, each up to the bound; jobs that succeeded have no index, and are told by
//! PostgreSQL's own estimate of the table's size.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use super::count::{Count, Worth};
use crate::databases::PATIENCE;
use crate::jobs::JobState;
use crate::postgres::{Error, within};

/// What counting stops at.
pub const BOUND: i64 = 10_000;

/// `newest`: the newest jobs by kind and state, with what is due among them. All there are, when fewer than the limit.
const NEWEST: &str = "
    SELECT kind, state, count(*),
           count(*) FILTER (WHERE due),
           extract(epoch FROM now())::float8 - extract(epoch FROM min(run_at) FILTER (WHERE due))::float8
      FROM (SELECT kind, state, run_at, state IN ('available', 'retrying') AND run_at <= now() AS due
              FROM jobs
             ORDER BY job_id DESC
             LIMIT $1) AS newest
     GROUP BY kind, state";

/// `ready`: what waits of each kind, in the order in which it becomes due. The kinds are found by skipping through the
/// index.
const READY: &str = "
    WITH RECURSIVE kinds AS (
        (SELECT kind
           FROM jobs
          WHERE state IN ('available', 'retrying') AND crash_count < 2
          ORDER BY kind
          LIMIT 1)
         UNION ALL
        SELECT (SELECT kind
                  FROM jobs
                 WHERE state IN ('available', 'retrying') AND crash_count < 2
                   AND kind > kinds.kind
                 ORDER BY kind
                 LIMIT 1)
          FROM kinds
         WHERE kinds.kind IS NOT NULL
    )
    SELECT kinds.kind, ready.state, count(*),
           count(*) FILTER (WHERE run_at <= now()),
           extract(epoch FROM now())::float8
               - extract(epoch FROM min(run_at) FILTER (WHERE run_at <= now()))::float8
      FROM (SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT 100) AS kinds
     CROSS JOIN LATERAL (
           SELECT state, run_at
             FROM jobs
            WHERE kind = kinds.kind
              AND state IN ('available', 'retrying') AND crash_count < 2
            ORDER BY run_at, job_id
            LIMIT $1) AS ready
     GROUP BY kinds.kind, ready.state";

/// `suspects`: what waits to run alone.
const SUSPECTS: &str = "
    SELECT kind, state, count(*),
           count(*) FILTER (WHERE run_at <= now()),
           extract(epoch FROM now())::float8
               - extract(epoch FROM min(run_at) FILTER (WHERE run_at <= now()))::float8
      FROM (SELECT kind, state, run_at
              FROM jobs
             WHERE state IN ('available', 'retrying') AND crash_count >= 2
             LIMIT $1) AS suspects
     GROUP BY kind, state";

/// `running`: what is in a process's hands.
const RUNNING: &str = "
    SELECT kind, 'running', count(*), 0::bigint, NULL::float8
      FROM (SELECT kind
              FROM jobs
             WHERE state = 'running'
             LIMIT $1) AS running
     GROUP BY kind";

/// `unsuccessful`: what ended without success.
const UNSUCCESSFUL: &str = "
    SELECT ended.kind, states.state, count(*), 0::bigint, NULL::float8
      FROM unnest('{dead,cancelled,expired}'::text[]) AS states (state)
     CROSS JOIN LATERAL (
           SELECT kind
             FROM jobs
            WHERE state IN ('dead', 'cancelled', 'expired')
              AND state = states.state
            LIMIT $1) AS ended
     GROUP BY ended.kind, states.state";

/// `table_size`: PostgreSQL's estimate of how many jobs there are; negative when it has none.
const TABLE_SIZE: &str = "SELECT reltuples::float8 FROM pg_class WHERE oid = 'jobs'::regclass";

/// Jobs by kind and state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// By kind, then state.
    pub by_kind: BTreeMap<String, BTreeMap<&'static str, Count>>,
    /// Jobs that succeeded, of all kinds, when they could not be counted by kind.
    pub succeeded_in_all: Option<Count>,
    /// Jobs that could be claimed now, by kind.
    pub due: BTreeMap<String, Due>,
}

/// What could be claimed now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    /// How many jobs.
    pub count: Count,
    /// Seconds since the oldest became due.
    pub oldest: f64,
}

impl Counts {
    /// Jobs of a state, of all kinds.
    pub fn of(&self, state: JobState) -> Count {
        let counted = self.by_kind.values().filter_map(|states| states.get(state.as_str())).copied().sum();
        match self.succeeded_in_all {
            Some(all) if state == JobState::Succeeded => all,
            _ => counted,
        }
    }

    /// What could be claimed now, of all kinds.
    pub fn due(&self) -> Option<Due> {
        let all = self.due.values().copied();
        all.reduce(|a, b| Due { count: a.count + b.count, oldest: a.oldest.max(b.oldest) })
    }

    fn add(&mut self, groups: &[Group], total: i64) {
        for group in groups {
            let count = Count::part_of(group.count, total, BOUND);
            let states = self.by_kind.entry(group.kind.clone()).or_default();
            let so_far = states.entry(group.state).or_insert(Count::ZERO);
            *so_far = *so_far + count;
            if group.due > 0 {
                let due =
                    Due { count: Count::part_of(group.due, total, BOUND), oldest: group.oldest.unwrap_or_default() };
                let so_far = self.due.get(&group.kind).copied();
                let sum = so_far.map_or(due, |a| Due { count: a.count + due.count, oldest: a.oldest.max(due.oldest) });
                self.due.insert(group.kind.clone(), sum);
            }
        }
    }
}

/// Jobs of one kind and state, as one statement counted them.
struct Group {
    kind: String,
    state: &'static str,
    count: i64,
    due: i64,
    oldest: Option<f64>,
}

fn total<'a>(groups: impl IntoIterator<Item = &'a Group>) -> i64 {
    groups.into_iter().map(|group| group.count).sum()
}

pub(super) async fn count(client: &Client) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let newest = groups(client, NEWEST).await?;
    if total(&newest) <= BOUND {
        counts.add(&newest, 0);
        return Ok(counts);
    }
    let ready = groups(client, READY).await?;
    // The bound holds for each kind here, and for each state among those that ended.
    for kind in ready.chunk_by(|a, b| a.kind == b.kind) {
        counts.add(kind, total(kind));
    }
    for sql in [SUSPECTS, RUNNING] {
        let groups = groups(client, sql).await?;
        counts.add(&groups, total(&groups));
    }
    let ended = groups(client, UNSUCCESSFUL).await?;
    for state in ended.chunk_by(|a, b| a.state == b.state) {
        counts.add(state, total(state));
    }
    let size: f64 = within(PATIENCE, client.query_one(TABLE_SIZE, &[])).await?.try_get(0)?;
    let others: Count = counts.by_kind.values().flat_map(BTreeMap::values).copied().sum();
    let seen = newest.iter().filter(|group| group.state == JobState::Succeeded.as_str());
    counts.succeeded_in_all = Some(succeeded(size, others, total(seen)));
    Ok(counts)
}

/// What remains of the table's estimated size once the others are taken off, and no fewer than were seen.
fn succeeded(size: f64, others: Count, seen: i64) -> Count {
    // Never negative, and far below what a float holds exactly.
    let seen = seen.unsigned_abs();
    let estimate = (size.max(0.0) as u64).saturating_sub(others.number);
    let worth = if estimate > seen { Worth::About } else { Worth::AtLeast };
    Count { number: estimate.max(seen), worth }
}

async fn groups(client: &Client, sql: &'static str) -> Result<Vec<Group>, Error> {
    let rows = within(PATIENCE, client.query(sql, &[&(BOUND + 1)])).await?;
    let mut groups = rows.iter().filter_map(|row| group(row).transpose()).collect::<Result<Vec<_>, Error>>()?;
    groups.sort_by(|a, b| (a.state, &a.kind).cmp(&(b.state, &b.kind)));
    if sql == READY {
        groups.sort_by(|a, b| a.kind.cmp(&b.kind));
    }
    Ok(groups)
}

/// None for a state that this build does not know: the CHECK of a newer schema.
fn group(row: &Row) -> Result<Option<Group>, Error> {
    let state: &str = row.try_get(1)?;
    let Some(state) = JobState::ALL.iter().find(|known| known.as_str() == state) else { return Ok(None) };
    Ok(Some(Group {
        kind: row.try_get(0)?,
        state: state.as_str(),
        count: row.try_get(2)?,
        due: row.try_get(3)?,
        oldest: row.try_get(4)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeded_is_the_rest_of_the_table_and_no_fewer_than_were_seen() {
        let others = Count::bounded(1_000, BOUND);
        assert_eq!(succeeded(50_000.0, others, 9_000), Count { number: 49_000, worth: Worth::About });
        assert_eq!(succeeded(-1.0, others, 9_000), Count { number: 9_000, worth: Worth::AtLeast });
        assert_eq!(succeeded(5_000.0, others, 9_000), Count { number: 9_000, worth: Worth::AtLeast });
    }
}
