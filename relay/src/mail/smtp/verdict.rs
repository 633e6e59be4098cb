//! From what went wrong at a step to how the try ended: the reply is looked up in the table, and what was said is kept.

use std::time::Duration;

use super::outcomes::{Outcomes, Phase, Ruling, unanswered};
use super::reply::Reply;
use crate::deliver::{Failure, Meaning, Outcome};

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server said no.
    Reply(Reply),
    /// The connection broke, or there never was one.
    Lost(String),
    /// Nothing came within this time.
    Timeout(Duration),
    /// The server said what it may not say here.
    Protocol(&'static str),
    /// The recipient's address needs SMTPUTF8, which the server does not offer.
    NoInternationalAddresses,
}

impl Trouble {
    /// Whether it may only mean that a connection lay idle for too long.
    pub(super) fn may_be_stale(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.code() == 421,
            Self::Lost(_) | Self::Protocol(_) | Self::Timeout(_) => true,
            Self::NoInternationalAddresses => false,
        }
    }

    /// Whether the connection is as good as before.
    pub(super) fn leaves_connection_usable(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.code() != 421,
            Self::NoInternationalAddresses => true,
            Self::Lost(_) | Self::Timeout(_) | Self::Protocol(_) => false,
        }
    }

    fn text(&self, phase: Phase) -> String {
        match self {
            // A server may quote the line that it did not like, and here that line is the password.
            Self::Reply(reply) if phase == Phase::Auth => reply.numbers(),
            Self::Reply(reply) => reply.text(),
            Self::Lost(reason) => reason.clone(),
            Self::Timeout(limit) => format!("no answer within {} s", limit.as_secs_f64()),
            Self::Protocol(what) => format!("the server {what}"),
            Self::NoInternationalAddresses => "the address needs SMTPUTF8, which the server does not offer".to_owned(),
        }
    }
}

/// What it means.
pub(super) fn outcome(table: &Outcomes, phase: Phase, trouble: &Trouble) -> Outcome {
    let ruling = match trouble {
        Trouble::Reply(reply) => table.of(phase, reply.code(), reply.enhanced()),
        Trouble::NoInternationalAddresses => Ruling::Dead,
        Trouble::Lost(_) | Trouble::Timeout(_) | Trouble::Protocol(_) => unanswered(phase),
    };
    let error = format!("{}: {}", phase.as_str(), trouble.text(phase));
    let reply = match trouble {
        Trouble::Reply(reply) => Some(reply),
        _ => None,
    };
    let meaning = match ruling {
        Ruling::Pause => return Outcome::Away(error),
        Ruling::Retry => Meaning::Transient { after: reply.and_then(Reply::wish) },
        Ruling::Dead => Meaning::Permanent,
        Ruling::InDoubt => Meaning::InDoubt,
    };
    Outcome::Failed(Failure {
        error,
        phase: Some(phase.as_str()),
        code: reply.map(|reply| i32::from(reply.code())),
        enhanced_code: reply.and_then(Reply::enhanced_code),
        reply: reply.map(Reply::text),
        reached: true,
        meaning,
    })
}

#[cfg(test)]
mod tests {
    use super::super::reply::Parsed;
    use super::*;

    fn reply(text: &str) -> Trouble {
        match Reply::parse(format!("{text}\r\n").as_bytes()) {
            Parsed::Whole(reply, _) => Trouble::Reply(reply),
            _ => panic!("{text}"),
        }
    }

    /// `a` away, `r` retried, `d` dead, `?` in doubt; a letter for each phase, in order.
    fn row(trouble: &Trouble) -> String {
        let letter = |phase| match outcome(&Outcomes::default(), phase, trouble) {
            Outcome::Away(_) => 'a',
            Outcome::Failed(Failure { meaning: Meaning::Transient { .. }, .. }) => 'r',
            Outcome::Failed(Failure { meaning: Meaning::Permanent, .. }) => 'd',
            Outcome::Failed(Failure { meaning: Meaning::InDoubt, .. }) => '?',
            other => panic!("{other:?}"),
        };
        Phase::ALL.into_iter().map(letter).collect()
    }

    #[test]
    fn the_whole_table() {
        for (trouble, expected) in [
            (reply("421 4.3.2 shutting down"), "aaaaarrrrr"),
            (reply("421"), "aaaaarrrrr"),
            (reply("452 4.3.1 out of space"), "aaaaarrrrr"),
            (reply("450 4.7.1 too many mails"), "aaaaarrrrr"),
            (reply("450 4.2.1 mailbox busy"), "aaaarrrrrr"),
            (reply("451"), "aaaarrrrrr"),
            (reply("535 5.7.8 bad password"), "aaaaaddddd"),
            (reply("530 5.7.0 login first"), "aaaaaddddd"),
            (reply("530"), "aaaaaddddd"),
            (reply("550 5.7.1 relaying denied"), "aaaaaddddd"),
            (reply("550 5.1.1 no such user"), "aaaadddddd"),
            (reply("552 4.2.2 classes that do not agree"), "aaaadddddd"),
            (reply("554"), "aaaadddddd"),
            (Trouble::Lost("reset".into()), "aaaaarrrr?"),
            (Trouble::Timeout(Duration::from_secs(1)), "aaaaarrrr?"),
            (Trouble::Protocol("said nonsense"), "aaaaarrrr?"),
            (Trouble::NoInternationalAddresses, "dddddddddd"),
        ] {
            assert_eq!(row(&trouble), expected, "{trouble:?}");
        }
    }

    #[test]
    fn no_word_of_a_server_is_kept_while_it_is_told_a_password() {
        let said = reply("500 5.5.2 what is AUTH PLAIN AGFkYQBzZWNyZXQ=?");
        assert_eq!(outcome(&Outcomes::default(), Phase::Auth, &said), Outcome::Away("auth: 500 5.5.2".to_owned()));
        assert_eq!(outcome(&Outcomes::default(), Phase::Auth, &reply("535")), Outcome::Away("auth: 535".to_owned()));
    }

    #[test]
    fn a_failure_says_how_far_it_came_and_what_was_said() {
        let Outcome::Failed(failure) =
            outcome(&Outcomes::default(), Phase::Rcpt, &reply("450 4.7.1 greylisted, try again in 60 seconds"))
        else {
            panic!()
        };
        assert_eq!((failure.phase, failure.code), (Some("rcpt"), Some(450)));
        assert_eq!(failure.error, "rcpt: 450 4.7.1 greylisted, try again in 60 seconds");
        assert_eq!(failure.meaning, Meaning::Transient { after: Some(Duration::from_secs(60)) });
    }
}
