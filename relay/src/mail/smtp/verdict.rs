//! The table: how far a mail came and what went wrong, to what that means for its job. Pure.
//!
//! Up to MAIL, nothing that goes wrong is about this mail: every other one would have met the same, so the service counts
//! as away and no attempt is spent. From RCPT on it is this mail's own failure: one bad domain must not stop all mail.
//! Only what is lost after the final dot leaves a doubt.

use std::time::Duration;

use super::reply::Reply;
use crate::deliver::{Failure, Meaning, Outcome};

/// How far a mail came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Resolving, connecting, and the server's first words.
    Connect,
    /// STARTTLS and the handshake.
    Tls,
    /// EHLO.
    Ehlo,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, up to 354.
    Data,
    /// The text, up to the final dot.
    Body,
    /// From the final dot on.
    Dot,
}

impl Phase {
    /// As `job_attempts` has it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Ehlo => "ehlo",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
        }
    }
}

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
            Self::Lost(_) | Self::Protocol(_) => true,
            Self::Timeout(_) | Self::NoInternationalAddresses => false,
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

    fn text(&self) -> String {
        match self {
            Self::Reply(reply) => reply.text(),
            Self::Lost(reason) => reason.clone(),
            Self::Timeout(limit) => format!("no answer within {} s", limit.as_secs_f64()),
            Self::Protocol(what) => format!("the server {what}"),
            Self::NoInternationalAddresses => "the address needs SMTPUTF8, which the server does not offer".to_owned(),
        }
    }
}

/// What it means.
pub(super) fn outcome(phase: Phase, trouble: &Trouble) -> Outcome {
    let error = format!("{}: {}", phase.as_str(), trouble.text());
    let code = match trouble {
        Trouble::Reply(reply) => Some(i32::from(reply.code())),
        _ => None,
    };
    let failed =
        |meaning| Outcome::Failed(Failure { error: error.clone(), phase: Some(phase.as_str()), code, meaning });
    let transient = |after| failed(Meaning::Transient { after });

    match (phase, trouble) {
        (_, Trouble::NoInternationalAddresses) => failed(Meaning::Permanent),
        (Phase::Connect | Phase::Tls | Phase::Ehlo | Phase::Auth, _) => Outcome::Away(error),
        // The sender is the same for every mail. A server that refuses it for good says so of each; but when it says
        // that we are not let in, no mail is to blame.
        (Phase::Mail, Trouble::Reply(reply)) if reply.code() >= 500 && !is_about_access(reply) => {
            failed(Meaning::Permanent)
        }
        (Phase::Mail, _) => Outcome::Away(error),
        (_, Trouble::Reply(reply)) if reply.code() >= 500 => failed(Meaning::Permanent),
        (_, Trouble::Reply(reply)) if reply.code() >= 400 => transient(reply.wish()),
        (Phase::Rcpt | Phase::Data | Phase::Body, _) => transient(None),
        (Phase::Dot, _) => failed(Meaning::InDoubt),
    }
}

/// Login required, refused, or the like (RFC 4954, and 5.7.x of RFC 3463).
fn is_about_access(reply: &Reply) -> bool {
    matches!(reply.code(), 530 | 534 | 535 | 538) || matches!(reply.enhanced(), Some((5, 7, _)))
}

#[cfg(test)]
mod tests {
    use super::super::reply::Parsed;
    use super::*;

    const PHASES: [Phase; 9] = [
        Phase::Connect,
        Phase::Tls,
        Phase::Ehlo,
        Phase::Auth,
        Phase::Mail,
        Phase::Rcpt,
        Phase::Data,
        Phase::Body,
        Phase::Dot,
    ];

    fn reply(text: &str) -> Trouble {
        match Reply::parse(format!("{text}\r\n").as_bytes()) {
            Parsed::Whole(reply, _) => Trouble::Reply(reply),
            _ => panic!("{text}"),
        }
    }

    /// `a` away, `r` retried, `d` dead, `?` in doubt; a letter for each phase, in order.
    fn row(trouble: &Trouble) -> String {
        let letter = |phase| match outcome(phase, trouble) {
            Outcome::Away(_) => 'a',
            Outcome::Failed(Failure { meaning: Meaning::Transient { .. }, .. }) => 'r',
            Outcome::Failed(Failure { meaning: Meaning::Permanent, .. }) => 'd',
            Outcome::Failed(Failure { meaning: Meaning::InDoubt, .. }) => '?',
            other => panic!("{other:?}"),
        };
        PHASES.into_iter().map(letter).collect()
    }

    #[test]
    fn the_whole_table() {
        for (trouble, expected) in [
            (reply("421 4.3.2 shutting down"), "aaaaarrrr"),
            (reply("450 4.2.1 mailbox busy"), "aaaaarrrr"),
            (reply("451"), "aaaaarrrr"),
            (reply("535 5.7.8 bad password"), "aaaaadddd"),
            (reply("530 5.7.0 login first"), "aaaaadddd"),
            (reply("550 5.7.1 relaying denied"), "aaaaadddd"),
            (reply("550 5.1.1 no such user"), "aaaaddddd"),
            (reply("554"), "aaaaddddd"),
            (Trouble::Lost("reset".into()), "aaaaarrr?"),
            (Trouble::Timeout(Duration::from_secs(1)), "aaaaarrr?"),
            (Trouble::Protocol("said nonsense"), "aaaaarrr?"),
            (Trouble::NoInternationalAddresses, "ddddddddd"),
        ] {
            assert_eq!(row(&trouble), expected, "{trouble:?}");
        }
    }

    #[test]
    fn a_failure_says_how_far_it_came_and_what_was_said() {
        let Outcome::Failed(failure) = outcome(Phase::Rcpt, &reply("450 4.7.1 greylisted, try again in 60 seconds"))
        else {
            panic!()
        };
        assert_eq!((failure.phase, failure.code), (Some("rcpt"), Some(450)));
        assert_eq!(failure.error, "rcpt: 450 4.7.1 greylisted, try again in 60 seconds");
        assert_eq!(failure.meaning, Meaning::Transient { after: Some(Duration::from_secs(60)) });
    }
}
