//! Suspects run alone: a job that was held by two processes when they died may be what killed them.
//!
//! So nothing else is in this process's hands while one is tried, and if it kills again, nobody else is touched. Pure but
//! for the instants passed in.

use std::time::{Duration, Instant};

/// What this process is about to do with suspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// Ordinary work.
    No {
        /// Suspects have to wait until then: ordinary work gets as much time as they do.
        not_before: Option<Instant>,
    },
    /// Nothing is claimed until everything in hand is done; then a suspect of this line is.
    Clearing {
        /// Whose suspect it will be.
        line: usize,
    },
    /// A suspect is in hand.
    Running {
        /// Whose it is.
        line: usize,
        /// Since when.
        since: Instant,
    },
}

impl Default for Alone {
    fn default() -> Self {
        Self::No { not_before: None }
    }
}

impl Alone {
    /// A suspect of a line is due. Says whether the time has come to make room for it.
    pub(super) fn suspect_is_due(&mut self, line: usize, now: Instant) {
        if let Self::No { not_before } = *self
            && not_before.is_none_or(|time| time <= now)
        {
            *self = Self::Clearing { line };
        }
    }

    /// A suspect was claimed, or there was none after all.
    pub(super) fn claimed(&mut self, line: usize, one: bool, now: Instant) {
        *self = if one { Self::Running { line, since: now } } else { Self::default() };
    }

    /// Nothing is in hand. Returns the line whose suspect ran until now.
    pub(super) fn nothing_in_hand(&mut self, now: Instant) -> Option<usize> {
        let Self::Running { line, since } = *self else { return None };
        let taken = now.saturating_duration_since(since).max(Duration::from_millis(10));
        *self = Self::No { not_before: Some(now + taken) };
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_and_ordinary_work_take_turns() {
        let (start, mut alone) = (Instant::now(), Alone::default());
        let at = |s| start + Duration::from_secs(s);
        alone.suspect_is_due(1, at(0));
        assert_eq!(alone, Alone::Clearing { line: 1 });
        assert_eq!(alone.nothing_in_hand(at(1)), None, "that is what it waited for");
        alone.claimed(1, true, at(1));
        alone.suspect_is_due(0, at(2));
        assert_eq!(alone, Alone::Running { line: 1, since: at(1) });
        assert_eq!(alone.nothing_in_hand(at(4)), Some(1));
        alone.suspect_is_due(1, at(6));
        assert_eq!(alone, Alone::No { not_before: Some(at(7)) }, "three seconds for the others");
        alone.suspect_is_due(1, at(7));
        alone.claimed(1, false, at(7));
        assert_eq!(alone, Alone::default());
    }
}
