//! How often a token may be guessed: wrong ones are counted per address and in all, and at the limit nobody is let in
//! from there for the rest of the minute, whatever they bring. Pure; instants are passed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Wrong tokens a minute from one address.
pub const PER_ADDRESS: u32 = 10;
/// Wrong tokens a minute from everywhere: many addresses are cheap.
const IN_ALL: u32 = 200;

/// See the module.
#[derive(Debug, Default)]
pub struct Attempts {
    began: Option<Instant>,
    by_address: HashMap<IpAddr, u32>,
    in_all: u32,
}

impl Attempts {
    /// How long nobody is let in from an address; none when they may try.
    pub fn refuses(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let began = self.window(now);
        let wrong = self.by_address.get(&address).copied().unwrap_or_default();
        (wrong >= PER_ADDRESS || self.in_all >= IN_ALL).then(|| (began + WINDOW).saturating_duration_since(now))
    }

    /// A token was wrong.
    pub fn wrong(&mut self, address: IpAddr, now: Instant) {
        self.window(now);
        self.in_all += 1;
        // Never more entries than wrong tokens in all are let through in a window.
        *self.by_address.entry(address).or_default() += 1;
    }

    fn window(&mut self, now: Instant) -> Instant {
        match self.began {
            Some(began) if now.saturating_duration_since(began) < WINDOW => began,
            _ => {
                *self = Self { began: Some(now), ..Self::default() };
                now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn an_address_that_guesses_waits_and_others_do_not() {
        let (now, mut attempts) = (Instant::now(), Attempts::default());
        for _ in 0..PER_ADDRESS {
            assert_eq!(attempts.refuses(address(1), now), None);
            attempts.wrong(address(1), now);
        }
        let later = now + Duration::from_secs(20);
        assert_eq!(attempts.refuses(address(1), later), Some(Duration::from_secs(40)));
        assert_eq!(attempts.refuses(address(2), later), None);
        assert_eq!(attempts.refuses(address(1), now + WINDOW), None);
    }

    #[test]
    fn many_addresses_are_one_guesser() {
        let (now, mut attempts) = (Instant::now(), Attempts::default());
        for n in 0..IN_ALL {
            attempts.wrong(address((n % 250) as u8), now);
        }
        assert!(attempts.refuses(address(251), now).is_some());
    }
}
