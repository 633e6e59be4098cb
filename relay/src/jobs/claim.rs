//! Claiming: the only place where a job becomes `running`.
//!
//! A claim takes a batch of one kind's ready jobs and bumps the process's counter in the same statement, so that who
//! watches the counter knows of every claim. A process whose row was removed (it was taken for dead) can't claim.

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::low_water::Mark;
use super::session::{Session, in_time};
use super::settle::Fences;
use crate::postgres::Error;
use crate::retry::RetryPolicy;

/// A job in this process's hands.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// Its id.
    pub job_id: Uuid,
    /// The event that it came from.
    pub event_id: Uuid,
    /// The handler that asked for it.
    pub handler: String,
    /// What to do with it.
    pub kind: String,
    /// What the kind needs: JSON, written by whom it may be.
    pub args: String,
    /// The event's metadata: trace context and the like, usually a JSON object.
    pub metadata: String,
    /// When the event happened, to the second; none when that is no time that mail or a token could carry.
    pub occurred_at: Option<OffsetDateTime>,
    /// The number of this claim: with `claimed_by`, what its settlement is fenced on.
    pub claim: i64,
    /// The process identity that holds it.
    pub claimed_by: Uuid,
    /// Tries, this one included.
    pub attempt: i16,
    /// How it is tried again.
    pub retry: RetryPolicy,
    /// The policy's state.
    pub retry_interval: Option<f64>,
    /// Processes that died holding it.
    pub crash_count: i16,
    /// It is too late for this job.
    pub expired: bool,
    /// Its place in the ready index.
    pub(crate) place: Mark,
}

#[cfg(test)]
impl ClaimedJob {
    /// A first try, for unit tests.
    pub(crate) fn for_tests(args: &str) -> Self {
        Self {
            job_id: Uuid::from_u128(0x0189_0a5d_ac96_8c34_a21f_d62e_29c9_cbc6),
            event_id: Uuid::from_u128(1),
            handler: "handler".to_owned(),
            kind: "email".to_owned(),
            args: args.to_owned(),
            metadata: "{}".to_owned(),
            occurred_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).ok(),
            claim: 1,
            claimed_by: Uuid::from_u128(2),
            attempt: 1,
            retry: RetryPolicy::default(),
            retry_interval: None,
            crash_count: 0,
            expired: false,
            place: super::low_water::FRONT,
        }
    }
}

macro_rules! claim_from {
    ($before:literal, $ready:literal, $after:literal) => {
        concat!(
            "
WITH ",
            $before,
            "picked AS MATERIALIZED (
    SELECT ctid
    FROM aftercommit.jobs
    WHERE kind = $2 AND state IN ('available', 'retrying') AND ",
            $ready,
            "
      AND (run_at, job_id) > ($3::timestamptz, $4::uuid) AND run_at <= now()
    ORDER BY run_at, job_id
    LIMIT $5
    FOR UPDATE SKIP LOCKED
), me AS (
    UPDATE aftercommit.processes SET counter = counter + 1
    WHERE process_id = $1 AND EXISTS (SELECT FROM picked)
    RETURNING process_id
), claimed AS (
    UPDATE aftercommit.jobs
    SET state = 'running', claim = claim + 1, claimed_by = $1, attempt = attempt + 1, in_doubt = false
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM picked)) AND EXISTS (SELECT FROM me)
    RETURNING job_id, run_at, event_id, handler, kind, args::text, metadata::text,
              extract(epoch FROM occurred_at)::float8 AS occurred_at, claim, attempt, max_attempts,
              retry_initial, retry_multiplier, retry_max_interval, retry_jitter, retry_interval, crash_count,
              coalesce(expires_at <= now(), false) AS expired
)
",
            $after
        )
    };
}

/// Settles what was done and claims ready jobs of a kind behind a mark, in one statement, so that a busy process pays one
/// round trip and one commit for a batch: $1 process, $2 kind, $3 and $4 mark, $5 how many; done are $6 jobs, $7 claims,
/// $8 processes, as in [`settle::SUCCEEDED`](super::settle::SUCCEEDED). The first row says how many were settled.
///
/// The rows are updated by place: they were locked by this very statement, so that is where they are, and it saves a
/// lookup in the primary key for each.
pub const CLAIM: &str = claim_from!(
    "settled AS (
    UPDATE aftercommit.jobs AS job
    SET state = 'succeeded', claimed_by = NULL, in_doubt = false, finished_at = now()
    FROM unnest($6::uuid[], $7::bigint[], $8::uuid[]) AS done (job_id, claim, claimed_by)
    WHERE job.job_id = done.job_id AND job.claim = done.claim AND job.claimed_by = done.claimed_by
    RETURNING 1
), ",
    "crash_count < 2",
    "SELECT (SELECT count(*) FROM settled) AS settled, claimed.*
FROM (VALUES (true)) AS always (a_row)
LEFT JOIN claimed ON true"
);

/// Claims suspects: jobs that were held by two processes when they died. The parameters are those of a claim.
pub const CLAIM_SUSPECT: &str =
    claim_from!("", "crash_count >= 2", "SELECT 0::bigint AS settled, claimed.* FROM claimed");

/// When the next job of a kind becomes ready, when the next suspect does, in seconds from now, and whether the
/// process's row is still there: $1 process, $2 kind.
pub const NEXT_DUE: &str = "
SELECT EXISTS (SELECT FROM aftercommit.processes WHERE process_id = $1) AS registered,
       (SELECT extract(epoch FROM run_at)::float8
        FROM aftercommit.jobs
        WHERE kind = $2 AND state IN ('available', 'retrying') AND crash_count < 2 AND run_at > now()
        ORDER BY run_at, job_id LIMIT 1) - extract(epoch FROM clock_timestamp())::float8 AS ready_in,
       (SELECT extract(epoch FROM run_at)::float8
        FROM aftercommit.jobs
        WHERE kind = $2 AND state IN ('available', 'retrying') AND crash_count >= 2
        ORDER BY run_at, job_id LIMIT 1) - extract(epoch FROM clock_timestamp())::float8 AS suspect_in";

/// The kinds among ready jobs that this process does not know, found by skipping through the index: $1 known kinds.
pub const UNKNOWN_KINDS: &str = "
WITH RECURSIVE ready AS (
    (SELECT kind FROM aftercommit.jobs
     WHERE state IN ('available', 'retrying') AND crash_count < 2
     ORDER BY kind LIMIT 1)
    UNION ALL
    SELECT (SELECT kind FROM aftercommit.jobs
            WHERE state IN ('available', 'retrying') AND crash_count < 2 AND kind > ready.kind
            ORDER BY kind LIMIT 1)
    FROM ready WHERE ready.kind IS NOT NULL
)
SELECT kind FROM ready WHERE kind <> ALL ($1::text[]) LIMIT 100";

/// Which jobs a claim is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Ordinary ones.
    Ready,
    /// Suspects.
    Suspects,
}

/// A claim to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of which kind.
    pub kind: &'a str,
    /// Which of its jobs.
    pub pick: Pick,
    /// Where in the ready index.
    pub behind: Mark,
    /// The most of them.
    pub limit: usize,
}

/// Settles what was done, unless the claim is one of suspects, and claims jobs. Returns how many were settled, and the
/// jobs in the order in which they became ready.
///
/// # Errors
/// When the database does not answer; then both may have happened or not: settle again, and `process::held` tells what
/// was claimed.
pub async fn claim(
    session: &Session,
    process: Uuid,
    done: &Fences,
    Wanted { kind, pick, behind, limit }: Wanted<'_>,
) -> Result<(usize, Vec<ClaimedJob>), Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = match pick {
        Pick::Ready => {
            let Fences { jobs, claims, processes } = done;
            let parameters: [&(dyn ToSql + Sync); 8] =
                [&process, &kind, &behind.0, &behind.1, &limit, jobs, claims, processes];
            in_time(session.client.query(&session.claim, &parameters)).await?
        }
        Pick::Suspects => {
            let parameters: [&(dyn ToSql + Sync); 5] = [&process, &kind, &behind.0, &behind.1, &limit];
            in_time(session.client.query(&session.claim_suspect, &parameters)).await?
        }
    };
    let settled: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in &rows {
        // The one row of a claim that found nothing has no job.
        if let Some(job_id) = row.try_get(1)? {
            jobs.push(claimed_job(row, job_id, process)?);
        }
    }
    jobs.sort_unstable_by_key(|job| job.place);
    Ok((usize::try_from(settled).unwrap_or_default(), jobs))
}

/// By number, in the order of the statement: to look each column up by name would cost more than to read it.
fn claimed_job(row: &Row, job_id: Uuid, claimed_by: Uuid) -> Result<ClaimedJob, tokio_postgres::Error> {
    Ok(ClaimedJob {
        job_id,
        place: (row.try_get(2)?, job_id),
        event_id: row.try_get(3)?,
        handler: row.try_get(4)?,
        kind: row.try_get(5)?,
        args: row.try_get(6)?,
        metadata: row.try_get(7)?,
        occurred_at: row.try_get::<_, Option<f64>>(8)?.and_then(whole_second),
        claim: row.try_get(9)?,
        claimed_by,
        attempt: row.try_get(10)?,
        retry: RetryPolicy {
            max_attempts: row.try_get(11)?,
            initial: row.try_get(12)?,
            multiplier: row.try_get(13)?,
            max_interval: row.try_get(14)?,
            jitter: row.try_get(15)?,
        },
        retry_interval: row.try_get(16)?,
        crash_count: row.try_get(17)?,
        expired: row.try_get(18)?,
    })
}

/// From 1970 to 9999: what a Date header can say.
fn whole_second(epoch: f64) -> Option<OffsetDateTime> {
    const YEAR_10000: f64 = 253_402_300_800.0;
    // The cast is exact within these bounds.
    (0.0..YEAR_10000).contains(&epoch).then(|| OffsetDateTime::from_unix_timestamp(epoch as i64).ok()).flatten()
}

/// What is ahead for one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Whether the process's row is still there.
    pub registered: bool,
    /// Seconds until the next job becomes ready.
    pub ready_in: Option<f64>,
    /// Seconds until the next suspect becomes ready; not positive when one is.
    pub suspect_in: Option<f64>,
}

/// Looks ahead, for a process that found nothing to claim.
///
/// # Errors
/// When the database does not answer.
pub async fn look_ahead(session: &Session, process: Uuid, kind: &str) -> Result<Ahead, Error> {
    let row = in_time(session.client.query_one(&session.next_due, &[&process, &kind])).await?;
    Ok(Ahead {
        registered: row.try_get("registered")?,
        ready_in: row.try_get("ready_in")?,
        suspect_in: row.try_get("suspect_in")?,
    })
}

/// Kinds of ready jobs that are none of `known`: a newer relay's, or a mistake.
///
/// # Errors
/// When the database does not answer.
pub async fn unknown_kinds(session: &Session, known: &[&str]) -> Result<Vec<String>, Error> {
    let rows = in_time(session.client.query(&session.unknown_kinds, &[&known])).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_mail_can_carry_are_none() {
        assert_eq!(whole_second(1_700_000_000.75).map(OffsetDateTime::unix_timestamp), Some(1_700_000_000));
        for epoch in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.5, 253_402_300_800.0, 9.2e18] {
            assert_eq!(whole_second(epoch), None, "{epoch}");
        }
    }

    #[test]
    fn the_statements_and_the_constant_agree_on_who_is_a_suspect() {
        let crashes = super::super::transition::SUSPECT_AFTER_CRASHES;
        assert!(CLAIM.contains(&format!("crash_count < {crashes}\n")));
        assert!(CLAIM_SUSPECT.contains(&format!("crash_count >= {crashes}\n")));
    }
}
