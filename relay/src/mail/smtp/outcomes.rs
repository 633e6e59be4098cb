//! The table: how far a mail came and what the server replied, to what that means for its job. Pure.
//!
//! It is written as rules, the first that fits decides, and an operator's own (`SMTP_OUTCOMES`) stand before the usual
//! ones in the same words. What is lost without a reply is no matter of taste and has its own table in [`unanswered`].
//!
//! Before MAIL nothing that goes wrong is about this mail: every other one would have met the same, so the service counts
//! as away and no attempt is spent. MAIL says the same for every mail as well, so a reply there that is about the server or
//! our access to it counts so too. From RCPT on it is this mail's own failure: one bad domain must not stop all mail.

use std::fmt;
use std::str::FromStr;

/// The usual rules. A reply that no line here fits does not exist: codes begin with 4 or 5.
pub const USUAL: &str = "
connect = pause
tls     = pause
ehlo    = pause
auth    = pause

# Going down; a login that is missing or refused (RFC 4954); the server's own state, and its policy (RFC 3463).
mail 421       = pause
mail 530       = pause
mail 534       = pause
mail 535       = pause
mail 538       = pause
mail * x.3.x   = pause
mail * x.7.x   = pause

* 4xx = retry
* 5xx = dead
";

/// How far a mail came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
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
    /// Every phase, in the order of a mail's way.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Tls,
        Self::Ehlo,
        Self::Auth,
        Self::Mail,
        Self::OwnMail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
    ];

    /// As rules and `job_attempts` have it.
    pub const fn as_str(self) -> &'static str {
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

    /// Whether nothing has been said of a mail yet.
    pub fn is_before_mail(self) -> bool {
        self < Self::Mail
    }
}

/// What follows for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The service counts as away: delivery pauses, and no attempt is spent.
    Pause,
    /// This try failed; there is another.
    Retry,
    /// It will never work.
    Dead,
    /// Nobody knows whether it worked.
    InDoubt,
}

/// What a lost connection, silence or nonsense means. Only what is lost after the final dot leaves a doubt.
pub const fn unanswered(phase: Phase) -> Ruling {
    match phase {
        Phase::Connect | Phase::Tls | Phase::Ehlo | Phase::Auth | Phase::Mail => Ruling::Pause,
        Phase::OwnMail | Phase::Rcpt | Phase::Data | Phase::Body => Ruling::Retry,
        Phase::Dot => Ruling::InDoubt,
    }
}

/// The three parts of an enhanced status code (RFC 3463).
pub type Enhanced = (u16, u16, u16);

/// The rules that decide, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes(Vec<Rule>);

/// One line: `rcpt 452 4.2.2 = retry`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// In any phase, if none.
    phase: Option<Phase>,
    /// The digits of the reply code; any, if none.
    code: [Option<u16>; 3],
    /// The parts of the enhanced code. None: whether or not there is one.
    enhanced: Option<[Option<u16>; 3]>,
    ruling: Ruling,
}

/// A rule that can't be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} {problem}")]
pub struct RuleError {
    rule: String,
    problem: &'static str,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self(rules(USUAL).expect("the usual rules are rules, as a test says"))
    }
}

impl Outcomes {
    /// The usual rules behind these, which are separated by commas or line ends.
    ///
    /// # Errors
    /// The first that is none.
    pub fn with(text: &str) -> Result<Self, RuleError> {
        let mut all = rules(text)?;
        all.extend(Self::default().0);
        Ok(Self(all))
    }

    /// What a reply means.
    pub fn of(&self, phase: Phase, code: u16, enhanced: Option<Enhanced>) -> Ruling {
        let fits = |rule: &&Rule| {
            // What goes wrong may be about this mail: then it is no reason to stop all others.
            let allowed = phase != Phase::OwnMail || rule.ruling != Ruling::Pause;
            allowed && rule.fits(phase, code, enhanced)
        };
        // The usual rules end with every code that a refusal can have.
        self.0.iter().find(fits).map_or(Ruling::Retry, |rule| rule.ruling)
    }
}

impl Rule {
    fn fits(&self, phase: Phase, code: u16, enhanced: Option<Enhanced>) -> bool {
        let digits = [code / 100, code / 10 % 10, code % 10];
        let same = |wanted: &[Option<u16>; 3], given: [u16; 3]| {
            wanted.iter().zip(given).all(|(wanted, given)| wanted.is_none_or(|wanted| wanted == given))
        };
        self.phase.is_none_or(|wanted| wanted.as_str() == phase.as_str())
            && same(&self.code, digits)
            && match (&self.enhanced, enhanced) {
                (None, _) => true,
                (Some(wanted), Some((class, subject, detail))) => same(wanted, [class, subject, detail]),
                (Some(_), None) => false,
            }
    }
}

fn rules(text: &str) -> Result<Vec<Rule>, RuleError> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|rule| !rule.is_empty()).map(str::parse).collect()
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = |problem| RuleError { rule: text.to_owned(), problem };
        let (reply, ruling) = text.split_once('=').ok_or(wrong("has no ="))?;
        let ruling = match ruling.trim() {
            "pause" => Ruling::Pause,
            "retry" => Ruling::Retry,
            "dead" => Ruling::Dead,
            _ => return Err(wrong("does not end in =retry, =dead or =pause")),
        };
        let mut words = reply.split_whitespace();
        let phase =
            match words.next() {
                None => return Err(wrong("names no phase")),
                Some("*") => None,
                Some(word) => Some(Phase::ALL.into_iter().find(|phase| phase.as_str() == word).ok_or(wrong(
                    "begins with no phase: connect, tls, ehlo, auth, mail, rcpt, data, body, dot or *",
                ))?),
            };
        let code = match words.next() {
            None | Some("*") => [None; 3],
            Some(word) => code(word).ok_or(wrong("has a reply code that is not such as 452, 45x or 4xx"))?,
        };
        let enhanced = match words.next() {
            None => None,
            Some(word) => Some(enhanced(word).ok_or(wrong("has an enhanced code that is not such as 4.2.2 or x.7.x"))?),
        };
        if words.next().is_some() {
            return Err(wrong("has more than a phase, a reply code and an enhanced code"));
        }
        if let (Some(class), Some([Some(other), ..])) = (code[0], enhanced)
            && class != other
        {
            return Err(wrong("has an enhanced code of another class than its reply code"));
        }
        if phase.is_some_and(Phase::is_before_mail) && ruling != Ruling::Pause {
            return Err(wrong("would blame a mail before the server has heard of it; there only =pause is possible"));
        }
        if phase.is_none() && ruling == Ruling::Pause {
            return Err(wrong("would stop all mail for whatever one recipient's server says; name a phase"));
        }
        Ok(Self { phase, code, enhanced, ruling })
    }
}

fn code(word: &str) -> Option<[Option<u16>; 3]> {
    let mut digits = word.chars().map(|c| match c {
        'x' => Some(None),
        c => c.to_digit(10).map(|digit| u16::try_from(digit).ok()),
    });
    let code = [digits.next()??, digits.next()??, digits.next()??];
    // Only refusals are ruled on.
    (digits.next().is_none() && matches!(code[0], Some(4 | 5))).then_some(code)
}

fn enhanced(word: &str) -> Option<[Option<u16>; 3]> {
    let mut parts = word.split('.').map(|part| match part {
        "x" => Some(None),
        part => part.parse().ok().filter(|number: &u16| *number < 1000).map(Some),
    });
    let code = [parts.next()??, parts.next()??, parts.next()??];
    (parts.next().is_none() && matches!(code[0], None | Some(4 | 5))).then_some(code)
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::InDoubt => "in doubt",
        })
    }
}

#[cfg(test)]
#[path = "outcomes_tests.rs"]
mod tests;
