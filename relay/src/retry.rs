//! When to try again: the one place that knows the `backoff` crate.
//!
//! The policy and its state live in the job's row, so a retry schedule survives any process. The crate's own clock and
//! total time are not used: attempts and deadlines come from columns. The same crate paces reconnects.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// How a job is tried again: exponential growth of the interval, capped, with jitter. Intervals are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries in all, the first one included; at least 1.
    pub max_attempts: i16,
    /// The interval after the first failure.
    pub initial: f64,
    /// What each further failure multiplies the interval by; at least 1.
    pub multiplier: f64,
    /// The interval's cap, before jitter.
    pub max_interval: f64,
    /// 0 to 1: a delay is drawn evenly from `interval * (1 - jitter)` to `interval * (1 + jitter)`.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Whether it is one, as the table of jobs asks for: each number within the bounds that its field names.
    pub fn is_sound(&self) -> bool {
        self.max_attempts >= 1
            && self.initial > 0.0
            && self.multiplier >= 1.0
            && self.max_interval >= self.initial
            && (0.0..=1.0).contains(&self.jitter)
            && [self.initial, self.multiplier, self.max_interval].iter().all(|number| number.is_finite())
    }
}

impl Default for RetryPolicy {
    /// Five tries, about 5, 15, 45 and 135 seconds apart.
    fn default() -> Self {
        Self { max_attempts: 5, initial: 5.0, multiplier: 3.0, max_interval: 900.0, jitter: 0.25 }
    }
}

/// The next delay, and the interval to store for the failure after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextTry {
    /// How long to wait.
    pub delay: Duration,
    /// The policy's new state, in seconds: what the row keeps as `retry_interval`.
    pub interval: f64,
}

/// Takes the policy one step on. `interval` is the state kept in the row: none before the first failure.
pub fn next_try(policy: &RetryPolicy, interval: Option<f64>) -> NextTry {
    let mut backoff = ExponentialBackoff {
        initial_interval: seconds(policy.initial),
        current_interval: seconds(interval.unwrap_or(policy.initial).min(policy.max_interval)),
        multiplier: policy.multiplier,
        max_interval: seconds(policy.max_interval),
        randomization_factor: policy.jitter,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let delay = backoff.next_backoff().unwrap_or_else(|| seconds(policy.max_interval));
    NextTry { delay, interval: backoff.current_interval.as_secs_f64() }
}

/// The pace of reconnecting to something that is away: from 50 ms to 5 s, for ever.
pub fn reconnect() -> Reconnect {
    Reconnect(
        ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(50))
            .with_multiplier(2.0)
            .with_max_interval(Duration::from_secs(5))
            .with_max_elapsed_time(None)
            .build(),
    )
}

/// See [`reconnect`].
#[derive(Debug)]
pub struct Reconnect(ExponentialBackoff);

impl Reconnect {
    /// The next delay; longer each time until [`Reconnect::reset`].
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// A policy that came from a row may hold anything that its CHECKs allow, and a `Duration` panics on what is not finite.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each delay stays within the jitter around its interval, and intervals grow to the cap and no further.
        #[test]
        fn delays_stay_within_the_policy(
            initial in 0.01..100.0f64, multiplier in 1.0..10.0f64, factor in 1.0..100.0f64, jitter in 0.0..1.0f64,
        ) {
            let policy = RetryPolicy { max_attempts: 5, initial, multiplier, max_interval: initial * factor, jitter };
            let mut state = None;
            for _ in 0..8 {
                let interval = state.unwrap_or(initial);
                let step = next_try(&policy, state);
                let delay = step.delay.as_secs_f64();
                prop_assert!(delay >= interval * (1.0 - jitter) - 1e-6 && delay <= interval * (1.0 + jitter) + 1e-6);
                let expected = (interval * multiplier).min(policy.max_interval);
                prop_assert!((step.interval - expected).abs() < 1e-6, "{} {expected}", step.interval);
                state = Some(step.interval);
            }
        }
    }

    #[test]
    fn absurd_policies_do_not_panic() {
        let policy = RetryPolicy {
            max_attempts: 1,
            initial: f64::MAX,
            multiplier: f64::MAX,
            max_interval: f64::MAX,
            jitter: 1.0,
        };
        next_try(&policy, Some(f64::INFINITY));
    }
}
