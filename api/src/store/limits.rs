//! How often something may be asked for: counters in the database, shared by all `api` processes.
//!
//! Each subject (an address, a network) has one row: the time at which its whole allowance is there again. What is
//! taken moves that time on; past `now + per` nothing is given. So an allowance comes back bit by bit, no window's
//! edge lets twice as much through, and a row past its time can be deleted.

use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use super::statements::TAKE_PERMIT;

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

impl Subject {
    /// The parameters of a permit: who, what it costs of the allowance, and the allowance, in seconds.
    pub(super) fn bind<'q>(&self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        let allowance = self.limit.per.as_secs_f64();
        let cost = allowance / f64::from(self.limit.count);
        query.bind(Sha256::digest(&self.name).to_vec()).bind(cost).bind(allowance)
    }
}

/// Takes one permit of each subject, one after the other; false when one of them has none left. What was taken before that
/// stays taken: asking too much is not free.
pub async fn take(connection: &mut PgConnection, subjects: &[Subject]) -> Result<bool, sqlx::Error> {
    for subject in subjects {
        if subject.bind(sqlx::query(TAKE_PERMIT)).fetch_optional(&mut *connection).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How long to wait for the next permit of a subject that has none left.
pub async fn wait(connection: &mut PgConnection, subject: &Subject) -> Result<Duration, sqlx::Error> {
    let wait: f64 = subject.bind(sqlx::query(WAIT)).fetch_one(connection).await?.try_get(0)?;
    Ok(Duration::from_secs_f64(wait))
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
