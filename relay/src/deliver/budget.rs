//! What a kind may begin by the rates that hold for all its jobs: this process's own, and the one of all processes, of
//! which it draws grants. Pure but for the instants passed in.

use std::time::{Duration, Instant};

use super::limits::{Limits, Rate, Tokens};

/// How long a grant is worth something: nobody saves up.
const WORTH: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    own: Option<Tokens>,
    of_all: Option<Granted>,
}

#[derive(Debug)]
struct Granted {
    rate: Rate,
    left: usize,
    until: Instant,
    next_draw: Instant,
}

impl Granted {
    fn left(&self, now: Instant) -> usize {
        if now < self.until { self.left } else { 0 }
    }
}

impl Budget {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let of_all = limits.rate_of_all.map(|rate| Granted { rate, left: 0, until: now, next_draw: now });
        Self { own: limits.rate.map(|rate| Tokens::new(rate, now)), of_all }
    }

    /// How many tries may begin now.
    pub(super) fn room(&mut self, now: Instant) -> usize {
        let own = self.own.as_mut().map_or(usize::MAX, |tokens| tokens.available(now));
        own.min(self.of_all.as_ref().map_or(usize::MAX, |granted| granted.left(now)))
    }

    /// How many of those wanted to claim, with so many claimed that have not begun.
    pub(super) fn claimable(&mut self, wanted: usize, waiting: usize, now: Instant) -> usize {
        let few = self.own.as_mut().is_some_and(|tokens| !tokens.until_worthwhile(now).is_zero());
        if few { 0 } else { wanted.min(self.room(now).saturating_sub(waiting)) }
    }

    /// One begins.
    pub(super) fn take(&mut self) {
        if let Some(own) = &mut self.own {
            own.take();
        }
        if let Some(granted) = &mut self.of_all {
            granted.left = granted.left.saturating_sub(1);
        }
    }

    /// The rate of all processes, if there is one.
    pub(super) fn rate_of_all(&self) -> Option<Rate> {
        self.of_all.as_ref().map(|granted| granted.rate)
    }

    /// Whether a grant is needed, and it is time to ask.
    pub(super) fn must_draw(&self, now: Instant) -> bool {
        self.of_all.as_ref().is_some_and(|granted| granted.left(now) == 0 && granted.next_draw <= now)
    }

    /// So many were granted.
    pub(super) fn granted(&mut self, count: usize, now: Instant) {
        if let Some(granted) = &mut self.of_all {
            granted.left = count;
            granted.until = now + WORTH;
            // As with claims: a trickle of draws costs as much as full ones.
            let pause = (1.0 / granted.rate.per_second()).clamp(0.05, 1.0);
            granted.next_draw = now + Duration::from_secs_f64(pause);
        }
    }

    /// How long until there is more.
    pub(super) fn until_more(&mut self, now: Instant) -> Duration {
        let own = self.own.as_mut().map_or(Duration::ZERO, |tokens| tokens.until_worthwhile(now));
        let of_all = self.of_all.as_ref().filter(|granted| granted.left(now) == 0);
        own.max(of_all.map_or(Duration::ZERO, |granted| granted.next_draw.saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_asked_for_when_the_last_one_is_used_up_or_stale() {
        let limits = Limits { rate_of_all: "10/s".parse().ok(), ..Limits::default() };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new(&limits, start);
        assert!(budget.must_draw(start) && budget.room(start) == 0);
        budget.granted(2, start);
        assert_eq!(
            (budget.must_draw(at(1)), budget.claimable(500, 0, at(1)), budget.claimable(500, 1, at(1))),
            (false, 2, 1)
        );
        budget.take();
        budget.take();
        assert!(!budget.must_draw(at(99)), "not before there can be more");
        assert_eq!(budget.until_more(at(60)), Duration::from_millis(40));
        assert!(budget.must_draw(at(100)));
        budget.granted(5, at(100));
        assert_eq!((budget.room(at(1_099)), budget.room(at(1_100))), (5, 0), "nobody saves up");
        assert!(budget.must_draw(at(1_100)));
    }

    #[test]
    fn without_limits_everything_may_begin() {
        let now = Instant::now();
        let mut budget = Budget::new(&Limits::default(), now);
        assert_eq!(
            (budget.claimable(500, 0, now), budget.must_draw(now), budget.until_more(now)),
            (500, false, Duration::ZERO)
        );
    }
}
