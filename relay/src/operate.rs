//! Operating: the one place where people change things.
//!
//! The command line and the dashboard both come here to list, retry and cancel jobs, to look into failed dispatches and
//! to pause and resume. Only legal transitions are made (`jobs::transition` is the table), and every change leaves a row
//! in `operator_actions`, written in the transaction of the change. Bulk changes go batch by batch: stopped half-way,
//! what was done stays, and the row says how much that was.
//!
//! Nothing here asks a person or prints, and a job in a process's hands is never touched: its claim would be lost, and
//! with it the knowledge of what was sent.

pub mod who;
pub mod audit;
pub mod filter;
pub mod jobs;
pub mod job;
pub mod change;
pub mod failures;
pub mod pauses;
pub mod suppressions;
pub mod watch;
mod json;

use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};

pub use filter::{FailureFilter, JobFilter, Slice};
pub use who::{By, Operator};

/// Parameters with their types, for statements that are planned for their values.
type Parameters<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

/// A time that PostgreSQL gave as seconds since 1970; none when it is infinite or beyond what a calendar holds. Rows are
/// written by hand too.
fn moment(epoch: Option<f64>) -> Option<OffsetDateTime> {
    // Microseconds are what PostgreSQL keeps; the bound is far below what the integer holds.
    let micros = epoch.filter(|seconds| seconds.abs() < 1e12)? * 1e6;
    OffsetDateTime::from_unix_timestamp_nanos(micros.round() as i128 * 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_calendar_holds_are_none() {
        assert_eq!(
            moment(Some(1_700_000_000.25)).map(|t| (t.unix_timestamp(), t.millisecond())),
            Some((1_700_000_000, 250))
        );
        for epoch in [None, Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(f64::NAN), Some(9.2e18), Some(9.2e11)] {
            assert_eq!(moment(epoch), None, "{epoch:?}");
        }
    }
}
