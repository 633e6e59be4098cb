//! A rate across all processes, kept in one row for each kind: whoever is about to claim draws what it may begin.
//!
//! A grant is worth something for a second only, so that nobody saves up. Nothing is drawn, and so nothing is written,
//! unless a job is due. The bucket is filled by the database's clock; one that jumps back costs nothing, and one that
//! jumps ahead a second's worth.

use super::session::{Session, in_time};
use crate::deliver::Rate;
use crate::postgres::Error;

/// Draws up to $2 tries of a kind if any job is due: $1 kind, $3 rate a second, $4 the most that the bucket holds. One row,
/// which says whether a job was due and how much was granted.
pub const DRAW: &str = "
WITH due AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM aftercommit.jobs
                   WHERE kind = $1 AND state IN ('available', 'retrying') AND crash_count < 2 AND run_at <= now()) AS is_due
), drawn AS (
    INSERT INTO aftercommit.rate_limits AS bucket (kind, tokens, filled_at, granted)
    SELECT $1, $4 - least($2::float8, floor($4::float8)), clock_timestamp(), least($2::float8, floor($4::float8))
    FROM due WHERE is_due
    ON CONFLICT (kind) DO UPDATE
    SET (tokens, granted, filled_at) = (
        SELECT level - least($2::float8, floor(level)), least($2::float8, floor(level)), clock_timestamp()
        FROM (SELECT least($4::float8, bucket.tokens + $3::float8 * greatest(0, extract(epoch FROM clock_timestamp() - bucket.filled_at)::float8))
                     AS level) AS filled)
    RETURNING granted
)
SELECT is_due, (SELECT granted FROM drawn) FROM due";

/// What drawing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// No job is due.
    NothingDue,
    /// So many tries may begin.
    Granted(usize),
}

/// Draws for a kind.
///
/// # Errors
/// When the database does not answer; then something may have been drawn that nobody uses.
pub async fn draw(session: &Session, kind: &str, wanted: usize, rate: Rate) -> Result<Drawn, Error> {
    let wanted = wanted as f64;
    let row =
        in_time(session.client.query_one(&session.draw, &[&kind, &wanted, &rate.per_second(), &rate.burst()])).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(Drawn::NothingDue);
    }
    // Between nothing and what was wanted.
    Ok(Drawn::Granted(row.try_get::<_, Option<f64>>(1)?.unwrap_or_default() as usize))
}
