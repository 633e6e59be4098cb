//! The hand-over: jobs, failures and cursors in one transaction of the jobs database.
//!
//! This is what makes it exactly-once without two-phase commit: the cursor is in the database that the jobs go to.
//!
//! A few jobs and the cursors that they follow from are one statement, which is a transaction of its own and costs one round
//! trip. Many jobs are [copied](copy), which is the fastest and takes each of them for new. One that is there already (its
//! event was replayed, or is read a second time after a move of history) fails the transaction as a whole; the same batch
//! is then stored by an INSERT that leaves alone what is there.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement, Transaction};

use super::checkpoint;
use super::cursor;
use super::read::{Batch, Failure};
use crate::jobs::copy;
use crate::jobs::store::{self, insert_jobs};
use crate::postgres::{self, SESSION_LEASE, column, within};

/// `insert_failures`: keeps what a handler could not take; a further failure of the same counts up.
pub const INSERT_FAILURES: &str = "
    INSERT INTO dispatch_failures AS failure
           (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
    SELECT *
      FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[])
        ON CONFLICT (event_id, handler) DO UPDATE
           SET attempts       = failure.attempts + 1,
               error          = excluded.error,
               last_failed_at = now(),
               resolved_at    = NULL";

/// `hand_over`: moves cursors and stores jobs, all or nothing: nothing where one of the cursors has been moved by another.
/// The parameters are those of [`cursor::ADVANCE`], then those of [`store::INSERT`].
pub fn hand_over() -> String {
    let advance = cursor::ADVANCE;
    let insert = numbered_after(
        cursor::PARAMETERS,
        insert_jobs!(
            "
     WHERE EXISTS (SELECT FROM advanced)"
        ),
    );
    format!(
        "
    WITH held AS MATERIALIZED (
        SELECT cursor.lane
          FROM lane_cursors AS cursor
          JOIN unnest($1::smallint[], $2::bigint[]) AS moved (lane, version)
            ON cursor.lane    = moved.lane
           AND cursor.version = moved.version
         ORDER BY cursor.lane
           FOR UPDATE OF cursor
    ), advanced AS (
        {advance}
       AND (SELECT count(*) FROM held) = cardinality($1)
        RETURNING cursor.lane
    ), stored AS (
        {insert}
        RETURNING job_id
    )
    SELECT (SELECT count(*) FROM advanced), (SELECT count(*) FROM stored)"
    )
}

/// A statement whose parameters come after so many others.
fn numbered_after(others: usize, sql: &str) -> String {
    let mut parts = sql.split('$');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |sql, part| {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = part.split_at(digits);
        let number = number.parse().map_or_else(|_| number.to_owned(), |number: usize| (number + others).to_string());
        sql + "$" + &number + rest
    })
}

/// Why a batch was not stored. Nothing of it was, unless the connection broke or no answer came: then the cursors tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another worker has moved a lane since it was read: it owns the lane now.
    #[error("a lane was moved by another relay; nothing was stored, and the lanes are given up")]
    Fenced,
    /// The database is away, or refused a statement.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
}

/// The statements of a hand-over, prepared on one connection.
#[derive(Debug)]
pub struct Statements {
    hand_over: Statement,
    advance: Statement,
    keep: Statement,
    copy_jobs: Statement,
    insert_jobs: Statement,
    insert_failures: Statement,
    /// The least number of jobs that are copied: [`COPY_FROM`], but for tests.
    pub copy_from: usize,
}

impl Statements {
    /// Prepares them.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        // A plan for each execution looks cheaper for small batches, and costs more than the execution.
        client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
        let hand_over = hand_over();
        let (hand_over, advance, keep, copy_jobs, insert_jobs, insert_failures) = tokio::try_join!(
            client.prepare(&hand_over),
            client.prepare(cursor::ADVANCE),
            client.prepare(checkpoint::KEEP),
            client.prepare(copy::COPY),
            client.prepare(store::INSERT),
            client.prepare(INSERT_FAILURES),
        )?;
        Ok(Self { hand_over, advance, keep, copy_jobs, insert_jobs, insert_failures, copy_from: COPY_FROM })
    }
}

/// Fewer jobs are inserted: a COPY waits once more for the server, which only pays when it saves work there.
pub const COPY_FROM: usize = 100;

/// How jobs are put into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// All of them are new.
    Copy,
    /// Some may be there.
    Insert,
}

/// What became of a try to store a batch.
enum Tried {
    Stored(u64),
    Fenced,
    /// A job that was taken for new is there; nothing was stored.
    NotNew,
}

/// Stores a batch. Returns how many jobs were new. `flushing` is called when nothing but the disk is left to wait for: it is
/// then that other work costs nothing.
///
/// # Errors
/// [`Error::Fenced`], or whatever PostgreSQL says.
pub async fn commit(
    client: &mut Client,
    statements: &Statements,
    batch: &Batch,
    flushing: impl Fn(),
) -> Result<u64, Error> {
    let few = batch.jobs.len() < statements.copy_from;
    // Longer than this and the session, with the lanes, is gone anyway.
    let tried = within(SESSION_LEASE, async {
        if few && batch.failures.is_empty() && batch.checkpoints.is_empty() {
            flushing();
            return at_once(client, statements, batch).await;
        }
        let by = if few || batch.again { By::Insert } else { By::Copy };
        match store(client, statements, batch, by, &flushing).await? {
            Tried::NotNew => store(client, statements, batch, By::Insert, &flushing).await,
            tried => Ok(tried),
        }
    });
    match tried.await? {
        Tried::Stored(jobs) => Ok(jobs),
        Tried::Fenced | Tried::NotNew => Err(Error::Fenced),
    }
}

/// By [`hand_over`].
async fn at_once(client: &Client, statements: &Statements, batch: &Batch) -> Result<Tried, tokio_postgres::Error> {
    let columns = cursor::columns(&batch.cursors).into_iter().chain(store::columns(&batch.jobs));
    let columns: Vec<_> = columns.collect();
    let parameters: Vec<_> = columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
    let row = client.query_one(&statements.hand_over, &parameters).await?;
    let (advanced, stored): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(if advanced as usize == batch.cursors.len() { Tried::Stored(stored as u64) } else { Tried::Fenced })
}

async fn store(
    client: &mut Client,
    statements: &Statements,
    batch: &Batch,
    by: By,
    flushing: impl Fn(),
) -> Result<Tried, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let jobs = async {
        match by {
            By::Copy => copy::copy(&transaction, &statements.copy_jobs, &batch.jobs).await,
            By::Insert => store::insert(&transaction, &statements.insert_jobs, &batch.jobs).await,
        }
    };
    // Sent together: the fence costs no round trip of its own.
    let (moved, stored, set_aside, kept) = tokio::join!(
        cursor::advance(&transaction, &statements.advance, &batch.cursors),
        jobs,
        insert_failures(&transaction, &statements.insert_failures, &batch.failures),
        checkpoint::keep(&transaction, &statements.keep, &batch.checkpoints),
    );
    // The fence speaks first: what another relay stored since is there already, and is its own.
    if moved? != batch.cursors.len() as u64 {
        transaction.rollback().await?;
        return Ok(Tried::Fenced);
    }
    let stored = match stored {
        Err(error) if by == By::Copy && error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            transaction.rollback().await?;
            return Ok(Tried::NotNew);
        }
        stored => stored?,
    };
    set_aside?;
    kept?;
    flushing();
    transaction.commit().await?;
    Ok(Tried::Stored(stored))
}

/// Stores failures in the caller's transaction; no event may be there twice for one handler.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn insert_failures(
    transaction: &Transaction<'_>,
    statement: &Statement,
    failures: &[Failure],
) -> Result<(), tokio_postgres::Error> {
    if failures.is_empty() {
        return Ok(());
    }
    let columns = [
        column(failures, |f| f.event.event_id),
        column(failures, |f| f.handler),
        column(failures, |f| f.event.lane),
        column(failures, |f| f.event.aggregate_type.as_str()),
        column(failures, |f| f.event.aggregate_id.as_str()),
        column(failures, |f| f.event.event_type.as_str()),
        column(failures, |f| f.error.as_str()),
    ];
    transaction.execute_raw(statement, columns).await.map(drop)
}
