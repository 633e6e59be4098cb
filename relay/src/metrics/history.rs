//! The last hour in memory: a point every five seconds, for charts that need no other system.
//!
//! Lag and backlog are the whole system's, as the databases tell them; rates are this relay's own. Nothing is stored: a
//! relay that starts has no past.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::status::count::Count;

/// The time between two points.
pub const STEP: Duration = Duration::from_secs(5);

/// How many points are kept: an hour of them.
pub const POINTS: usize = 720;

/// How things stood at one moment, and how fast they went since the point before.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When.
    pub at: OffsetDateTime,
    /// The age of the oldest committed event that is not dispatched, in seconds; 0 when none waits, none when unknown.
    pub lag_seconds: Option<f64>,
    /// Events that wait for dispatch; none when unknown.
    pub backlog: Option<Count>,
    /// Events that this relay dispatched.
    pub events_per_second: f64,
    /// Jobs that this relay did.
    pub deliveries_per_second: f64,
    /// What failed in this relay: handlers and tries.
    pub failures_per_second: f64,
}

/// See the module. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    points: VecDeque<Point>,
    last: Option<(Instant, Totals)>,
}

impl History {
    /// The points there are, the oldest first.
    pub fn points(&self) -> Vec<Point> {
        self.kept().points.iter().cloned().collect()
    }

    /// The newest point.
    pub fn latest(&self) -> Option<Point> {
        self.kept().points.back().cloned()
    }

    /// Adds a point from what is known now and from this process's totals, which only grow.
    pub fn add(
        &self,
        now: Instant,
        at: OffsetDateTime,
        totals: Totals,
        lag_seconds: Option<f64>,
        backlog: Option<Count>,
    ) {
        let mut kept = self.kept();
        let (before, seconds) = match kept.last.replace((now, totals)) {
            Some((then, before)) => (before, now.saturating_duration_since(then).as_secs_f64()),
            None => (totals, 0.0),
        };
        let rate = |now: u64, before: u64| match seconds {
            // Counts far below what a float holds exactly.
            seconds if seconds > 0.0 => now.saturating_sub(before) as f64 / seconds,
            _ => 0.0,
        };
        let point = Point {
            at,
            lag_seconds,
            backlog,
            events_per_second: rate(totals.events, before.events),
            deliveries_per_second: rate(totals.deliveries, before.deliveries),
            failures_per_second: rate(totals.failures, before.failures),
        };
        if kept.points.len() == POINTS {
            kept.points.pop_front();
        }
        kept.points.push_back(point);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this process has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events dispatched.
    pub events: u64,
    /// Jobs done.
    pub deliveries: u64,
    /// Handlers and tries that failed.
    pub failures: u64,
}

static EVENTS: AtomicU64 = AtomicU64::new(0);
static DELIVERIES: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

impl Totals {
    /// As of now.
    pub fn now() -> Self {
        let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Self { events: of(&EVENTS), deliveries: of(&DELIVERIES), failures: of(&FAILURES) }
    }

    /// Adds to this process's totals.
    pub(super) fn count(more: Self) {
        EVENTS.fetch_add(more.events, Ordering::Relaxed);
        DELIVERIES.fetch_add(more.deliveries, Ordering::Relaxed);
        FAILURES.fetch_add(more.failures, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_points_and_only_an_hour_is_kept() {
        let (history, start) = (History::default(), Instant::now());
        let totals = |n: u64| Totals { events: n * 100, deliveries: n * 10, failures: n };
        for n in 0..POINTS as u64 + 10 {
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(5 * n as i64);
            history.add(start + STEP * n as u32, at, totals(n), Some(n as f64), Some(Count::bounded(3, 10)));
        }
        let points = history.points();
        assert_eq!(points.len(), POINTS);
        assert_eq!(points[0].lag_seconds, Some(10.0), "the oldest went");
        let last = history.latest().expect("a point");
        assert_eq!((last.events_per_second, last.deliveries_per_second, last.failures_per_second), (20.0, 2.0, 0.2));
        assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
    }

    #[test]
    fn the_first_point_has_no_rate() {
        let history = History::default();
        history.add(Instant::now(), OffsetDateTime::UNIX_EPOCH, Totals { events: 5, ..Totals::default() }, None, None);
        assert_eq!(history.latest().map(|point| point.events_per_second), Some(0.0));
    }
}
