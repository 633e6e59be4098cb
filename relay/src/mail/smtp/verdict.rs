//! The table: how far a mail came and what went wrong, to what that means for its job. Pure.
//!
//! Before MAIL, nothing that goes wrong is about this mail: every other one would have met the same, so the service
//! counts as away and no attempt is spent. MAIL says the same for every mail as well, so what breaks there, and a reply
//! that is about the server or our access to it, counts so too; any other reply is taken at its word. From RCPT on it is
//! this mail's own failure: one bad domain must not stop all mail. Only what is lost after the final dot leaves a doubt.

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
    /// MAIL FROM with a parameter that only this mail needs: what goes wrong may be about this mail.
    OwnMail,
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
            Self::Mail | Self::OwnMail => "mail",
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
pub(super) fn outcome(phase: Phase, trouble: &Trouble) -> Outcome {
    let error = format!("{}: {}", phase.as_str(), trouble.text(phase));
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
        (Phase::Mail, Trouble::Reply(reply)) if is_about_the_server(reply) => Outcome::Away(error),
        (Phase::Mail, Trouble::Lost(_) | Trouble::Timeout(_) | Trouble::Protocol(_)) => Outcome::Away(error),
        (_, Trouble::Reply(reply)) if reply.code() >= 500 => failed(Meaning::Permanent),
        (_, Trouble::Reply(reply)) if reply.code() >= 400 => transient(reply.wish()),
        (Phase::Mail | Phase::OwnMail | Phase::Rcpt | Phase::Data | Phase::Body, _) => transient(None),
        (Phase::Dot, _) => failed(Meaning::InDoubt),
    }
}

/// Going down; a login that is missing or refused (RFC 4954); the server's own state and policy (x.3.x and x.7.x of
/// RFC 3463).
fn is_about_the_server(reply: &Reply) -> bool {
    matches!(reply.code(), 421 | 530 | 534 | 535 | 538) || matches!(reply.enhanced(), Some((_, 3 | 7, _)))
}

#[cfg(test)]
mod tests {
    use super::super::reply::Parsed;
    use super::*;

    const PHASES: [Phase; 10] = [
        Phase::Connect,
        Phase::Tls,
        Phase::Ehlo,
        Phase::Auth,
        Phase::Mail,
        Phase::OwnMail,
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
        assert_eq!(outcome(Phase::Auth, &said), Outcome::Away("auth: 500 5.5.2".to_owned()));
        assert_eq!(outcome(Phase::Auth, &reply("535")), Outcome::Away("auth: 535".to_owned()));
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
