//! Limits of a kind: how fast its jobs may begin in this process and in all of them together, and how fast and how many
//! at a time for each group of jobs (for mail: the recipient's domain).
//!
//! What is over a limit of the whole kind is not claimed. What is over a limit of its group is known only once it was
//! claimed: it is handed back with its attempt refunded and a time of its own at which the group has room, so that it
//! stands in nobody's way, and is claimed about once more and not again and again. Limits of groups hold for each process
//! by itself. Pure but for the instants passed in; the limit across processes is kept by `jobs::rate`.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// How many in a second.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }

    /// How many may begin at once after a rest: a second's worth, and one at least.
    pub fn burst(self) -> f64 {
        self.per_second().max(1.0)
    }

    fn interval(self) -> Duration {
        self.per / self.count
    }
}

/// What is wrong with a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a rate: a number from 1 on, and /s, /m or /h")]
pub struct NoRate;

impl FromStr for Rate {
    type Err = NoRate;

    /// Reads `50/s`, `600/m` or `10000/h`.
    fn from_str(text: &str) -> Result<Self, NoRate> {
        let (count, unit) = text.trim().split_once('/').ok_or(NoRate)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or(NoRate)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(NoRate),
        };
        Ok(Self { count, per: Duration::from_secs(per) })
    }
}

/// The limits of a kind; what is none is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tries begun by one process.
    pub rate: Option<Rate>,
    /// Tries begun by all processes together.
    pub rate_of_all: Option<Rate>,
    /// Tries begun for one group by one process.
    pub group_rate: Option<Rate>,
    /// Tries under way for one group in one process.
    pub group_concurrency: Option<usize>,
}

/// A bucket that a rate fills.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    rate: Rate,
    level: f64,
    at: Instant,
}

impl Tokens {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: rate.burst(), at: now }
    }

    /// How many tries may begin.
    pub(super) fn available(&mut self, now: Instant) -> usize {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.per_second();
        self.level = (self.level + more).min(self.rate.burst());
        self.at = self.at.max(now);
        self.level as usize
    }

    /// One begins.
    pub(super) fn take(&mut self) {
        self.level = (self.level - 1.0).max(0.0);
    }

    /// How long until a claim is worth its while: until one may begin, or a twentieth of a second's worth.
    pub(super) fn until_worthwhile(&mut self, now: Instant) -> Duration {
        self.available(now);
        let lacking = (self.rate.per_second() / 20.0).max(1.0) - self.level;
        // Negative when there is enough.
        Duration::try_from_secs_f64(lacking / self.rate.per_second()).unwrap_or_default()
    }
}

/// Longer than this, nobody is told to come back later: limits may change meanwhile.
const LATEST: Duration = Duration::from_secs(600);

/// How long a try of a group is taken to last before one has ended.
const USUAL: Duration = Duration::from_millis(200);

/// So many groups are remembered; beyond, those with nothing to remember are forgotten.
const MOST_GROUPS: usize = 10_000;

/// The groups of a kind.
#[derive(Debug)]
pub(super) struct Groups {
    rate: Option<Rate>,
    concurrency: Option<usize>,
    groups: HashMap<String, Group>,
}

#[derive(Debug)]
struct Group {
    in_flight: usize,
    tokens: Option<Tokens>,
    /// The last time that somebody was told to come back at.
    last_slot: Instant,
    /// How long tries last of late.
    lasts: Duration,
}

impl Groups {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { rate: limits.group_rate, concurrency: limits.group_concurrency, groups: HashMap::new() }
    }

    /// Whether anybody need ask for a job's group.
    pub(super) fn are_limited(&self) -> bool {
        self.rate.is_some() || self.concurrency.is_some()
    }

    /// A try of a group is about to begin.
    ///
    /// # Errors
    /// How long to wait first, when the group has no room.
    pub(super) fn begin(&mut self, name: &str, now: Instant) -> Result<(), Duration> {
        if self.groups.len() > MOST_GROUPS {
            self.groups.retain(|_, group| group.in_flight > 0 || group.last_slot > now);
        }
        let (rate, concurrency) = (self.rate, self.concurrency);
        let group = self.groups.entry(name.to_owned()).or_insert_with(|| Group {
            in_flight: 0,
            tokens: rate.map(|rate| Tokens::new(rate, now)),
            last_slot: now,
            lasts: USUAL,
        });
        let may = group.tokens.as_mut().is_none_or(|tokens| tokens.available(now) > 0);
        if may && concurrency.is_none_or(|most| group.in_flight < most) {
            group.in_flight += 1;
            if let Some(tokens) = &mut group.tokens {
                tokens.take();
            }
            return Ok(());
        }
        let by_rate = rate.map_or(Duration::ZERO, Rate::interval);
        let by_number =
            concurrency.map_or(Duration::ZERO, |most| group.lasts / u32::try_from(most.max(1)).unwrap_or(1));
        let slot = group.last_slot.max(now) + by_rate.max(by_number);
        group.last_slot = slot.min(now + LATEST);
        Err(group.last_slot - now)
    }

    /// A try of a group ended.
    pub(super) fn end(&mut self, name: &str, lasted: Duration) {
        if let Some(group) = self.groups.get_mut(name) {
            group.in_flight = group.in_flight.saturating_sub(1);
            group.lasts = (group.lasts * 7 + lasted) / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect(text)
    }

    #[test]
    fn rates_are_read() {
        assert_eq!((rate("50/s").per_second(), rate("600 / m").per_second(), rate("1/h").burst()), (50.0, 10.0, 1.0));
        for text in ["", "5", "0/s", "-1/s", "5/d", "5/s/s", "1.5/s", "99999999999/s"] {
            assert_eq!(Rate::from_str(text), Err(NoRate), "{text}");
        }
    }

    proptest! {
        /// Never more than the rate allows since the beginning and the burst, and no fewer than it would over time.
        #[test]
        fn a_bucket_keeps_its_rate(count in 1..200u32, pauses in proptest::collection::vec(0..200u64, 1..100)) {
            let start = Instant::now();
            let rate = Rate { count, per: Duration::from_secs(1) };
            let (mut tokens, mut now, mut taken) = (Tokens::new(rate, start), start, 0);
            for pause in pauses {
                now += Duration::from_millis(pause);
                while tokens.available(now) > 0 {
                    tokens.take();
                    taken += 1;
                }
                let allowed = (now - start).as_secs_f64() * rate.per_second() + rate.burst();
                prop_assert!(f64::from(taken) <= allowed + 1e-6, "{taken} of {allowed}");
                prop_assert!(tokens.until_worthwhile(now) <= Duration::from_secs(1));
            }
        }

        /// However many come at once, a group never has more under way than it may, and the times that the others are
        /// given are apart as far as the group needs.
        #[test]
        fn a_group_keeps_its_limits(most in 1..5usize, comers in 1..200usize) {
            let limits = Limits { group_concurrency: Some(most), ..Limits::default() };
            let (mut groups, now) = (Groups::new(&limits), Instant::now());
            let told: Vec<_> = (0..comers).map(|_| groups.begin("example.org", now)).collect();
            prop_assert_eq!(told.iter().filter(|told| told.is_ok()).count(), comers.min(most));
            let later: Vec<_> = told.into_iter().filter_map(Result::err).collect();
            let apart = USUAL / u32::try_from(most).unwrap();
            prop_assert!(later.windows(2).all(|pair| pair[1] - pair[0] == apart || pair[1] == LATEST));
            prop_assert!(groups.begin("example.net", now).is_ok(), "others are not in its way");
            groups.end("example.org", Duration::from_secs(1));
            prop_assert!(groups.begin("example.org", now).is_ok());
        }
    }

    #[test]
    fn what_a_group_is_owed_by_its_rate_is_spread_over_time() {
        let limits = Limits { group_rate: Some(rate("10/s")), ..Limits::default() };
        let (mut groups, now) = (Groups::new(&limits), Instant::now());
        let told: Vec<_> = (0..13).map(|_| groups.begin("example.org", now)).collect();
        assert!(told[..10].iter().all(Result::is_ok), "a second's worth");
        assert_eq!(told[10..], [100, 200, 300].map(|ms| Err(Duration::from_millis(ms))));
        assert!(groups.begin("example.org", now + Duration::from_millis(110)).is_ok());
    }
}
