//! The low-water mark: where claims of one kind go on in the ready index.
//!
//! Claimed rows leave dead entries at the front of the index, and while somebody holds an old snapshot these can't be
//! removed: a claim that starts at the front walks over all of them. So a claim goes on from where the last one ended.
//! What becomes ready behind the mark (a job whose transaction took long to commit, one handed back, one rescued) is
//! found by a sweep from the front. Sweeps cost what they cost, so they are spaced by it: one in twenty parts of the
//! time at most, and every few seconds at least. Where nothing is in the way, that makes nearly every claim a sweep.
//!
//! Pure but for the instants passed in.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::pg_time::PgTime;

/// The longest time between two sweeps while there is work.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(5);

/// A sweep that took one part is followed by this many parts without one.
const SWEEP_SHARE: u32 = 20;

/// A place in the ready index.
pub type Mark = (PgTime, Uuid);

/// The front of the ready index.
pub const FRONT: Mark = (PgTime::MINUS_INFINITY, Uuid::nil());

/// See the module.
#[derive(Debug)]
pub struct LowWater {
    mark: Mark,
    next_sweep: Option<Instant>,
}

impl Default for LowWater {
    fn default() -> Self {
        Self { mark: FRONT, next_sweep: None }
    }
}

impl LowWater {
    /// Where a claim at this time starts.
    pub fn start(&self, now: Instant) -> Mark {
        if self.until_sweep(now).is_zero() { FRONT } else { self.mark }
    }

    /// How long until a claim is a sweep.
    pub fn until_sweep(&self, now: Instant) -> Duration {
        self.next_sweep.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// A claim that began at `start` ended; `last` is the furthest row that it took, `more` whether it took all it
    /// asked for. Returns whether everything ready was seen.
    pub fn claimed(&mut self, start: Mark, last: Option<Mark>, more: bool, began: Instant, ended: Instant) -> bool {
        let swept = start == FRONT;
        if swept {
            let pause = (ended.saturating_duration_since(began) * SWEEP_SHARE).min(SWEEP_AT_LEAST);
            self.next_sweep = Some(ended + pause);
        }
        match last {
            // A sweep that found a full batch goes on from where it ended, below the old mark or not.
            Some(last) if more => self.mark = last,
            Some(last) => self.mark = self.mark.max(last),
            None => {}
        }
        swept && !more
    }

    /// Rows may have become ready anywhere: the next claim is a sweep.
    pub fn lower(&mut self) {
        self.next_sweep = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Claims the first `limit` rows behind `start`, as the statement does.
    fn claim(ready: &mut BTreeSet<u8>, times: &[Mark], start: Mark, limit: usize) -> Vec<u8> {
        let taken: Vec<u8> = ready.iter().copied().filter(|row| times[*row as usize] > start).take(limit).collect();
        ready.retain(|row| !taken.contains(row));
        taken
    }

    fn times() -> Vec<Mark> {
        use tokio_postgres::types::{FromSql, Type};
        (0..=255u128)
            .map(|n| {
                let raw = i64::try_from(n).unwrap().to_be_bytes();
                (PgTime::from_sql(&Type::TIMESTAMPTZ, &raw).unwrap(), Uuid::from_u128(n))
            })
            .collect()
    }

    proptest! {
        /// Whatever appears behind the mark, and whenever, nothing stays unclaimed once sweeps had their time.
        #[test]
        fn nothing_is_passed_over(steps in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..5), 0..500u64), 1..50)) {
            let times = times();
            let (mut water, mut ready, mut now) = (LowWater::default(), BTreeSet::new(), Instant::now());
            let mut run = |rows: &[u8], pause: u64, ready: &mut BTreeSet<u8>| {
                ready.extend(rows);
                now += Duration::from_millis(pause);
                let start = water.start(now);
                let taken = claim(ready, &times, start, 2);
                let ended = now + Duration::from_millis(3);
                let last = taken.last().map(|row| times[*row as usize]);
                let all_seen = water.claimed(start, last, taken.len() == 2, now, ended);
                now = ended;
                (all_seen, water.until_sweep(now))
            };
            for (rows, pause) in &steps {
                let (all_seen, _) = run(rows, *pause, &mut ready);
                prop_assert!(!all_seen || ready.is_empty(), "said that all was seen, left {ready:?}");
            }
            for _ in 0..ready.len() + 1 {
                let (all_seen, wait) = run(&[], SWEEP_AT_LEAST.as_millis() as u64, &mut ready);
                prop_assert!(wait <= SWEEP_AT_LEAST);
                if all_seen { break; }
            }
            prop_assert!(ready.is_empty(), "left {ready:?}");
        }
    }

    #[test]
    fn costly_sweeps_are_rare_and_cheap_ones_are_not() {
        let now = Instant::now();
        for (cost, pause) in [(1, 20), (100, 2_000), (10_000, 5_000)] {
            let mut water = LowWater::default();
            let ended = now + Duration::from_millis(cost);
            water.claimed(FRONT, None, false, now, ended);
            assert_eq!(water.until_sweep(ended), Duration::from_millis(pause));
        }
    }
}
