//! The breaker: when what a kind needs is away, the kind pauses instead of spending attempts of jobs that could not
//! have succeeded.
//!
//! It opens at the first such answer, for a time that doubles with each probe that finds the service still away; then
//! one job at a time is the probe. Pure but for the instants passed in.

use std::time::{Duration, Instant};

use crate::retry::{RetryPolicy, next_try};

/// The pace of probes: from half a second to half a minute.
const PROBES: RetryPolicy =
    RetryPolicy { max_attempts: i16::MAX, initial: 0.5, multiplier: 2.0, max_interval: 30.0, jitter: 0.2 };

/// How many jobs may be tried now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// As many as there is room for.
    Any,
    /// One, when none is under way: the probe.
    One,
    /// None, for this long.
    None(Duration),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    interval: f64,
}

impl Breaker {
    /// What may be tried at this time.
    pub(super) fn allowance(&self, now: Instant) -> Allowance {
        match &self.open {
            None => Allowance::Any,
            Some(open) if open.until <= now => Allowance::One,
            Some(open) => Allowance::None(open.until - now),
        }
    }

    /// Whether deliveries pause, or probe.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A try found the service away. Returns whether that opened the breaker; it is no news while it is open, as from
    /// tries that had begun before.
    pub(super) fn away(&mut self, now: Instant) -> bool {
        if matches!(self.allowance(now), Allowance::None(_)) {
            return false;
        }
        let step = next_try(&PROBES, self.open.as_ref().map(|open| open.interval));
        let news = self.open.is_none();
        self.open = Some(Open { until: now + step.delay, interval: step.interval });
        news
    }

    /// A try reached the service. Returns whether that closed the breaker.
    pub(super) fn there(&mut self) -> bool {
        self.open.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_at_once_and_probes_ever_more_seldom() {
        let (mut now, mut breaker) = (Instant::now(), Breaker::default());
        assert_eq!(breaker.allowance(now), Allowance::Any);
        let mut longest = Duration::ZERO;
        for round in 0..20 {
            assert_eq!(breaker.away(now), round == 0, "only the first is news");
            let Allowance::None(pause) = breaker.allowance(now) else { panic!("not open") };
            assert!(!breaker.away(now), "a late answer changes nothing");
            assert_eq!(breaker.allowance(now), Allowance::None(pause));
            longest = longest.max(pause);
            now += pause;
            assert_eq!(breaker.allowance(now), Allowance::One);
        }
        assert!((24.0..=36.0).contains(&longest.as_secs_f64()), "{longest:?}");
        assert!(breaker.there() && !breaker.there());
        assert_eq!(breaker.allowance(now), Allowance::Any);
        breaker.away(now);
        let Allowance::None(pause) = breaker.allowance(now) else { panic!("not open") };
        assert!(pause <= Duration::from_millis(600), "it begins anew");
    }
}
