//! The legal transitions of a job, and what the end of a try means for its row. Pure: nothing here reads a clock or a
//! database; the statements in `settle` and `rescue` write what is decided here.

use std::time::Duration;

use super::JobState;
use crate::retry::{RetryPolicy, next_try};

impl JobState {
    /// The states that may follow this one. What a person does by hand (retry, cancel) is included.
    pub const fn leads_to(self) -> &'static [Self] {
        match self {
            // Claimed, or called off.
            Self::Available | Self::Retrying => &[Self::Running, Self::Cancelled],
            // Settled; handed back or rescued (to where it came from); never called off under the process's hands.
            Self::Running => {
                &[Self::Available, Self::Retrying, Self::Succeeded, Self::Dead, Self::Cancelled, Self::Expired]
            }
            // Retried by hand, or given up by hand: a dead job that nobody will retry is to be counted no longer.
            Self::Dead => &[Self::Available, Self::Cancelled],
            // Retried by hand.
            Self::Cancelled | Self::Expired => &[Self::Available],
            // Sending again what was sent is a new generation, with an id of its own.
            Self::Succeeded => &[],
        }
    }

    /// Whether a row in this state may become one in `next`.
    pub fn may_become(self, next: Self) -> bool {
        self.leads_to().contains(&next)
    }
}

/// A job runs alone once it was held by this many processes when they died. The partial indexes say the same number.
pub const SUSPECT_AFTER_CRASHES: i16 = 2;

/// A job is dead once it was held by this many processes when they died: the last three times it ran alone.
pub const DEAD_AFTER_CRASHES: i16 = SUSPECT_AFTER_CRASHES + 3;

/// Why a try failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What happened, for people: no address, no secret. It is cleaned and cut before it is stored.
    pub error: String,
    /// How far the try came, in the kind's own words.
    pub phase: Option<&'static str>,
    /// The other side's reply code, if it replied.
    pub code: Option<i32>,
    /// The same in finer grain, as SMTP's 4.7.1.
    pub enhanced_code: Option<String>,
    /// What it said, without address or secret. It is cleaned and cut before it is stored.
    pub reply: Option<String>,
    /// Whether what the kind needs was reached. A try that failed before (its job could not be read, say) tells nothing
    /// about whether the service is there.
    pub reached: bool,
    /// What it means for the job.
    pub meaning: Meaning,
}

/// What a failed try means for its job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// It may work later; not before `after`, if the other side said so.
    Transient {
        /// The other side's wish.
        after: Option<Duration>,
    },
    /// It will never work.
    Permanent,
    /// It may have worked: the answer was lost after the point of no return. Tried again like a transient failure,
    /// and recorded as what it is; held as dead when the job's row was marked before.
    InDoubt,
}

impl Failure {
    /// A failure that may pass.
    pub fn transient(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            phase: None,
            code: None,
            enhanced_code: None,
            reply: None,
            reached: true,
            meaning: Meaning::Transient { after: None },
        }
    }

    /// A failure for good.
    pub fn permanent(error: impl Into<String>) -> Self {
        Self { meaning: Meaning::Permanent, ..Self::transient(error) }
    }

    /// A try whose result nobody knows.
    pub fn in_doubt(error: impl Into<String>) -> Self {
        Self { meaning: Meaning::InDoubt, ..Self::transient(error) }
    }
}

/// How a claim ends: what is written into the row.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Done.
    Succeeded,
    /// Failed, and tried again.
    Retry {
        /// From now, by the database's clock.
        delay: Duration,
        /// The policy's new state, in seconds.
        interval: f64,
        /// Why.
        failure: Failure,
    },
    /// Failed for good, or for the last time.
    Dead(Failure),
    /// Too late to be tried.
    Expired,
    /// Not to be done, for this reason.
    CalledOff(String),
    /// Over a limit: handed back, to be claimed again after this time.
    Later(Duration),
    /// Not tried: back to where it was, with its attempt refunded.
    HandBack {
        /// Why, if it is worth keeping in the row.
        reason: Option<String>,
    },
}

impl Decision {
    /// The state that the row gets. A job that has failed before goes back to `retrying`.
    pub fn state(&self, has_failed_before: bool) -> JobState {
        match self {
            Self::Succeeded => JobState::Succeeded,
            Self::Retry { .. } => JobState::Retrying,
            Self::Dead(_) => JobState::Dead,
            Self::Expired => JobState::Expired,
            Self::CalledOff(_) => JobState::Cancelled,
            Self::HandBack { .. } | Self::Later(_) if has_failed_before => JobState::Retrying,
            Self::HandBack { .. } | Self::Later(_) => JobState::Available,
        }
    }

    /// How `job_attempts` calls the outcome; none for what is no failed try.
    pub fn attempt_outcome(&self) -> Option<&'static str> {
        match self {
            Self::Retry { failure, .. } | Self::Dead(failure) if failure.meaning == Meaning::InDoubt => {
                Some("in_doubt")
            }
            Self::Retry { .. } => Some("retry"),
            Self::Dead(_) => Some("dead"),
            Self::Succeeded | Self::Expired | Self::CalledOff(_) | Self::HandBack { .. } | Self::Later(_) => None,
        }
    }
}

/// The longest that another side's "try again in …" is honoured.
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// What follows from a failed try. `attempt` counts it already; `interval` is the policy's state in the row; `marked` says
/// that the row was marked as in doubt before the point of no return: its kind would rather hold it than do it twice.
pub fn after_failure(
    attempt: i16,
    policy: &RetryPolicy,
    interval: Option<f64>,
    failure: Failure,
    marked: bool,
) -> Decision {
    let held = marked && failure.meaning == Meaning::InDoubt;
    if held || failure.meaning == Meaning::Permanent || attempt >= policy.max_attempts {
        return Decision::Dead(failure);
    }
    let next = next_try(policy, interval);
    let wish = match failure.meaning {
        Meaning::Transient { after: Some(after) } => after.min(LONGEST_WISH),
        _ => Duration::ZERO,
    };
    Decision::Retry { delay: next.delay.max(wish), interval: next.interval, failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failure() -> impl Strategy<Value = Failure> {
        let meaning = prop_oneof![
            proptest::option::of(0..100_000u64)
                .prop_map(|after| Meaning::Transient { after: after.map(Duration::from_secs) }),
            Just(Meaning::Permanent),
            Just(Meaning::InDoubt),
        ];
        meaning.prop_map(|meaning| Failure { meaning, ..Failure::transient("no") })
    }

    fn decision() -> impl Strategy<Value = Decision> {
        prop_oneof![
            Just(Decision::Succeeded),
            Just(Decision::Expired),
            Just(Decision::CalledOff("nobody wants it".to_owned())),
            Just(Decision::HandBack { reason: None }),
            Just(Decision::Later(Duration::from_secs(1))),
            failure().prop_map(Decision::Dead),
            (failure(), 1..6i16, any::<bool>()).prop_map(|(f, attempt, marked)| after_failure(
                attempt,
                &RetryPolicy::default(),
                None,
                f,
                marked
            )),
        ]
    }

    proptest! {
        /// However a claim ends, the row's next state is one that may follow `running`, and history is kept exactly
        /// for failed tries.
        #[test]
        fn every_decision_is_a_legal_transition(decision in decision(), failed_before: bool) {
            let state = decision.state(failed_before);
            prop_assert!(JobState::Running.may_become(state));
            let failed = matches!(decision, Decision::Retry { .. } | Decision::Dead(_));
            prop_assert_eq!(decision.attempt_outcome().is_some(), failed);
        }

        /// A job is tried until it succeeds, fails for good or has used up its attempts, and never after.
        #[test]
        fn tries_never_exceed_the_policy(failures in proptest::collection::vec(failure(), 1..20), max in 1..10i16) {
            let policy = RetryPolicy { max_attempts: max, ..RetryPolicy::default() };
            let (mut tries, mut interval) = (0, None);
            for failure in failures {
                tries += 1;
                let permanent = failure.meaning == Meaning::Permanent;
                let wish = match failure.meaning { Meaning::Transient { after } => after, _ => None };
                match after_failure(tries, &policy, interval, failure, false) {
                    Decision::Retry { delay, interval: next, .. } => {
                        prop_assert!(tries < max && !permanent);
                        prop_assert!(delay >= wish.unwrap_or_default().min(LONGEST_WISH));
                        interval = Some(next);
                    }
                    Decision::Dead(_) => {
                        prop_assert!(permanent || tries == max);
                        return Ok(());
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn finished_jobs_stay_finished_unless_a_person_retries_them_or_gives_them_up() {
        for state in JobState::ALL {
            for next in state.leads_to() {
                let by_hand = *next == JobState::Available || (state, *next) == (JobState::Dead, JobState::Cancelled);
                assert!(!state.is_final() || by_hand, "{state:?} -> {next:?}");
                assert_ne!(state, *next);
            }
        }
        assert!(JobState::Succeeded.leads_to().is_empty());
        assert!(JobState::ALL.iter().all(|s| *s == JobState::Running || !s.may_become(JobState::Succeeded)));
    }

    #[test]
    fn a_lost_answer_is_recorded_as_in_doubt_also_when_it_was_the_last_try() {
        let policy = RetryPolicy::default();
        let outcome =
            |attempt| after_failure(attempt, &policy, None, Failure::in_doubt("lost"), false).attempt_outcome();
        assert_eq!((outcome(1), outcome(policy.max_attempts)), (Some("in_doubt"), Some("in_doubt")));
    }

    #[test]
    fn a_marked_job_is_held_when_its_answer_is_lost_and_only_then() {
        let state = |failure| after_failure(1, &RetryPolicy::default(), None, failure, true).state(false);
        assert_eq!(state(Failure::in_doubt("lost")), JobState::Dead);
        assert_eq!(state(Failure::transient("452 disk full")), JobState::Retrying);
    }
}
