//! How often something may be asked for: counters in the database, shared by all `api` processes.
//!
//! Each subject (an address, a network) has one row: the time at which its whole allowance is there again. What is
//! taken moves that time on; past `now + per` nothing is given. So an allowance comes back bit by bit, no window's
//! edge lets twice as much through, and a row past its time can be deleted.

use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row};

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

/// Purpose: takes one permit of a subject ($1), which costs $2 seconds of an allowance of $3 seconds. No row comes back when
/// none is left. A crash may forget it, so its commit waits for no disk.
const TAKE: &str = "
INSERT INTO aftercommit.request_limits AS r (subject, full_at)
SELECT $1, now() + make_interval(secs => $2)
 WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL
ON CONFLICT (subject) DO UPDATE
   SET full_at = greatest(r.full_at, now()) + make_interval(secs => $2)
 WHERE greatest(r.full_at, now()) + make_interval(secs => $2) <= now() + make_interval(secs => $3)
RETURNING true";

/// Purpose: how many seconds to wait until a permit of a subject can be taken; at least one.
const WAIT: &str = "
SELECT greatest(max(extract(epoch FROM full_at - now()))::float8 + $2 - $3, 1)
  FROM aftercommit.request_limits
 WHERE subject = $1";

/// Purpose: removes rows that mean nothing any more, a few at a time.
const SWEEP: &str = "
DELETE FROM aftercommit.request_limits
 WHERE ctid = ANY (ARRAY(SELECT ctid
                           FROM aftercommit.request_limits
                          WHERE full_at < now()
                          LIMIT 1000
                            FOR UPDATE SKIP LOCKED))";

/// Takes one permit of each subject, one after the other. `Some` is how long to wait when one of them has none left; what
/// was taken before that stays taken: asking too much is not free.
pub async fn take(connection: &mut PgConnection, subjects: &[Subject]) -> Result<Option<Duration>, sqlx::Error> {
    for Subject { name, limit } in subjects {
        let subject = Sha256::digest(name);
        let allowance = limit.per.as_secs_f64();
        let cost = allowance / f64::from(limit.count);
        let about = |statement| sqlx::query(statement).bind(subject.as_slice()).bind(cost).bind(allowance);
        if about(TAKE).fetch_optional(&mut *connection).await?.is_none() {
            let wait: f64 = about(WAIT).fetch_one(&mut *connection).await?.try_get(0)?;
            return Ok(Some(Duration::from_secs_f64(wait)));
        }
    }
    Ok(None)
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
