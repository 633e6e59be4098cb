//! How often something may be asked for: counters in the database, shared by all `api` processes.
//!
//! Each subject (an address, a network) has one row: the time at which its whole allowance is there again. What is
//! taken moves that time on; past `now + per` nothing is given. So an allowance comes back bit by bit, no window's
//! edge lets twice as much through, and a row past its time can be deleted.

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgConnection;

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

/// Somebody or something that is limited.
pub struct Subject {
    /// What is counted and for whom; its hash is stored.
    pub name: String,
    /// How often.
    pub limit: Limit,
}

/// Purpose: takes one permit of each subject ($1, costing $2 seconds of an allowance of $3 seconds), and answers how
/// many seconds to wait: null when all could be taken. Rows are locked in one order, so that no two deadlock.
/// What was taken before another subject refused stays taken: asking too much is not free.
/// A crash may forget it, so its commit waits for no disk.
const TAKE: &str = "
WITH asked AS (
    SELECT sha256(convert_to(name, 'UTF8')) AS subject,
           make_interval(secs => cost)      AS cost,
           make_interval(secs => allowance) AS allowance
      FROM unnest($1::text[], $2::float8[], $3::float8[]) AS u (name, cost, allowance)
     WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL
), taken AS (
    INSERT INTO aftercommit.request_limits AS r (subject, full_at)
    SELECT subject, now() + cost
      FROM asked
     ORDER BY subject
    ON CONFLICT (subject) DO UPDATE
       SET full_at = greatest(r.full_at, now()) + (SELECT cost FROM asked WHERE asked.subject = r.subject)
     WHERE greatest(r.full_at, now()) + (SELECT cost FROM asked WHERE asked.subject = r.subject)
        <= now() + (SELECT allowance FROM asked WHERE asked.subject = r.subject)
    RETURNING subject
)
SELECT max(greatest(extract(epoch FROM greatest(r.full_at, now()) + cost - allowance - now()), 1))::float8
  FROM asked
  LEFT JOIN aftercommit.request_limits AS r USING (subject)
 WHERE subject NOT IN (SELECT subject FROM taken)";

/// Purpose: removes rows that mean nothing any more, a few at a time.
const SWEEP: &str = "
DELETE FROM aftercommit.request_limits
 WHERE ctid = ANY (ARRAY(SELECT ctid
                           FROM aftercommit.request_limits
                          WHERE full_at < now()
                          LIMIT 1000
                            FOR UPDATE SKIP LOCKED))";

/// Takes one permit of each subject. `Some` is how long to wait when one of them has none left.
pub async fn take(connection: &mut PgConnection, subjects: &[Subject]) -> Result<Option<Duration>, sqlx::Error> {
    if subjects.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let allowances: Vec<f64> = subjects.iter().map(|subject| subject.limit.per.as_secs_f64()).collect();
    let costs: Vec<f64> =
        subjects.iter().map(|subject| subject.limit.per.as_secs_f64() / f64::from(subject.limit.count)).collect();
    let wait: Option<f64> =
        sqlx::query_scalar(TAKE).bind(names).bind(costs).bind(allowances).fetch_one(connection).await?;
    Ok(wait.map(Duration::from_secs_f64))
}

/// Removes some rows that mean nothing any more, and says how many.
pub async fn sweep(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(SWEEP).execute(connection).await?.rows_affected())
}

impl FromStr for Limit {
    type Err = ();

    /// Reads `count/time`, such as `100/1h`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (count, per) = text.split_once('/').ok_or(())?;
        let count = count.trim().parse().map_err(|_| ())?;
        let per = shared::settings::parse_duration(per.trim()).ok_or(())?;
        if count == 0 || per.is_zero() { Err(()) } else { Ok(Self { count, per }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_count_and_time() {
        assert_eq!("5/1h".parse(), Ok(Limit { count: 5, per: Duration::from_secs(3600) }));
        for text in ["", "5", "0/1h", "5/0s", "-1/1h", "5/h", "5/1h/1h", "many/1h"] {
            assert_eq!(text.parse::<Limit>(), Err(()), "{text}");
        }
    }
}
