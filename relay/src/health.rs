//! What each part of the relay last said of itself: what readiness and liveness are answered from.
//!
//! Ready is a relay in which every part works, or is paused as it was told. Alive is one whose loops turn: whatever is
//! outside (a database that is away, a mail server that refuses) is waited for, and a restart would not help; a loop
//! that stands still although everything in it has a bound is a fault in here, which a restart cures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A loop that has not turned for this long stands still: several times the longest bound on anything that it waits for.
pub const STANDSTILL: Duration = Duration::from_secs(300);

/// What is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The application database is away or refuses.
    ApplicationDatabase,
    /// The jobs database is away or refuses.
    JobsDatabase,
    /// A schema and this build do not fit.
    Schema,
    /// A server that must not be read from: a standby, or the target of a subscription.
    Standby,
    /// The history that a cursor points into.
    History,
    /// What a kind of jobs needs is away, and its breaker is open: the mail server.
    Breaker,
    /// The relay itself: starting, or handing over.
    Relay,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApplicationDatabase => "application database",
            Self::JobsDatabase => "jobs database",
            Self::Schema => "schema",
            Self::Standby => "standby",
            Self::History => "history",
            Self::Breaker => "breaker",
            Self::Relay => "relay",
        })
    }
}

/// Why a part does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is in the way.
    pub about: About,
    /// In words, with what to do; no secrets.
    pub reason: String,
}

/// The parts and what keeps each from working, if anything does.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<String, Option<Trouble>>,
    pauses: BTreeMap<String, String>,
    turned: BTreeMap<String, Instant>,
}

/// How the relay is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every part in alphabetical order, with what is wrong.
    pub parts: BTreeMap<String, Option<Trouble>>,
    /// What is paused, and by whom.
    pub pauses: BTreeMap<String, String>,
}

impl Report {
    /// Whether it does what it is to do.
    pub fn is_ready(&self) -> bool {
        (!self.parts.is_empty() || !self.pauses.is_empty()) && self.parts.values().all(Option::is_none)
    }
}

impl Health {
    /// A part works.
    pub fn well(&self, part: &str) {
        self.set(part, None);
    }

    /// A part does not work: what is in the way, and why. Returns whether that is news.
    pub fn ill(&self, part: &str, about: About, reason: impl Into<String>) -> bool {
        self.set(part, Some(Trouble { about, reason: reason.into() }))
    }

    /// A part does nothing because it was told so.
    pub fn paused(&self, part: &str, why: impl Into<String>) {
        self.state().pauses.insert(part.to_owned(), why.into());
    }

    /// A part goes on.
    pub fn resumed(&self, part: &str) {
        self.state().pauses.remove(part);
    }

    /// A loop has turned. From now on it is expected to turn again.
    pub fn turned(&self, part: &str) {
        self.state().turned.insert(part.to_owned(), Instant::now());
    }

    /// A loop has ended, as it was told.
    pub fn ended(&self, part: &str) {
        self.state().turned.remove(part);
    }

    /// How it is.
    pub fn report(&self) -> Report {
        let state = self.state();
        Report { parts: state.parts.clone(), pauses: state.pauses.clone() }
    }

    /// The loops that stand still, with how long each has.
    pub fn standing(&self, now: Instant) -> BTreeMap<String, Duration> {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        let state = self.state();
        let standing = state.turned.iter().filter(|(_, at)| since(at) > STANDSTILL);
        standing.map(|(part, at)| (part.clone(), since(at))).collect()
    }

    fn set(&self, part: &str, trouble: Option<Trouble>) -> bool {
        let mut state = self.state();
        match state.parts.get_mut(part) {
            Some(known) if *known == trouble => false,
            Some(known) => {
                *known = trouble;
                true
            }
            None => {
                state.parts.insert(part.to_owned(), trouble);
                true
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_relay_is_ready_and_one_in_trouble_is_not() {
        let health = Health::default();
        assert!(!health.report().is_ready(), "nothing has said anything yet");
        health.well("dispatch");
        health.paused("dispatch", "dispatch is paused by ada");
        assert!(health.report().is_ready());
        assert!(health.ill("delivery", About::JobsDatabase, "away") && !health.report().is_ready());
        assert!(!health.ill("delivery", About::JobsDatabase, "away"), "no news");
        health.well("delivery");
        health.resumed("dispatch");
        assert!(health.report().is_ready() && health.report().pauses.is_empty());
    }

    #[test]
    fn only_a_loop_that_stands_still_asks_for_a_restart() {
        let health = Health::default();
        health.turned("dispatch 0");
        health.turned("delivery");
        health.ill("dispatch 0", About::ApplicationDatabase, "away");
        let now = Instant::now();
        assert!(health.standing(now).is_empty(), "what is away is waited for");
        assert_eq!(health.standing(now + STANDSTILL * 2).into_keys().collect::<Vec<_>>(), ["delivery", "dispatch 0"]);
        health.ended("delivery");
        assert_eq!(health.standing(now + STANDSTILL * 2).into_keys().collect::<Vec<_>>(), ["dispatch 0"]);
    }
}
