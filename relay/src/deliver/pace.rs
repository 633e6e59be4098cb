//! How many jobs to have in hand: what was done in the last quarter of a second, within bounds.
//!
//! A fast kind gets large claims, which are cheap by the job. A slow one gets few jobs at a time, so that what it can't
//! do yet stays where other relays find it.

use std::time::{Duration, Instant};

/// How far ahead to claim.
const AHEAD: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    least: usize,
    most: usize,
    target: usize,
    done: usize,
    since: Instant,
}

impl Pace {
    pub(super) fn new(least: usize, most: usize, now: Instant) -> Self {
        let least = least.clamp(1, most.max(1));
        Self { least, most: most.max(1), target: least, done: 0, since: now }
    }

    /// A job was done.
    pub(super) fn done(&mut self) {
        self.done += 1;
    }

    /// How many to have in hand, not counting those under way.
    pub(super) fn target(&mut self, now: Instant) -> usize {
        let time = now.saturating_duration_since(self.since);
        // Over a shorter time, the rate is noise.
        if time >= AHEAD / 10 {
            let rate = self.done as f64 / time.as_secs_f64();
            self.target = ((rate * AHEAD.as_secs_f64()) as usize).clamp(self.least, self.most);
            (self.done, self.since) = (0, now);
        }
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_follows_the_rate_within_its_bounds() {
        let start = Instant::now();
        let mut pace = Pace::new(8, 500, start);
        assert_eq!(pace.target(start), 8);
        for (done, expected) in [(0, 8), (100, 25), (1_000_000, 500), (1, 8)] {
            (0..done).for_each(|_| pace.done());
            let later = pace.since + Duration::from_secs(1);
            assert_eq!(pace.target(later), expected);
            assert_eq!(pace.target(later), expected, "asked again at once");
        }
    }
}
