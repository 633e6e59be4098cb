//! How mail servers are treated: bounds of time, the use of connections, and what replies mean.

use std::time::Duration;

use shared::settings::parse_duration;

use super::outcomes::Outcomes;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The bound on each step.
    pub timeouts: Timeouts,
    /// After so many mails a connection is closed: servers have caps, and load balancers only act on new connections.
    pub mails_per_connection: u32,
    /// How long an unused connection is kept: servers close what lies idle for minutes, and count it meanwhile.
    pub idle: Duration,
    /// What replies mean.
    pub outcomes: Outcomes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            mails_per_connection: 100,
            idle: Duration::from_secs(15),
            outcomes: Outcomes::default(),
        }
    }
}

/// The bound on each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving and connecting, and the TLS handshake.
    pub connect: Duration,
    /// The first words, EHLO, AUTH, MAIL and RCPT.
    pub command: Duration,
    /// DATA, up to 354.
    pub data: Duration,
    /// Writing the mail.
    pub body: Duration,
    /// The answer to the final dot. Giving up here sends the mail twice, so it is the ten minutes of RFC 5321.
    pub dot: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [connect, command, data, body, dot] = [10, 60, 120, 180, 600].map(Duration::from_secs);
        Self { connect, command, data, body, dot }
    }
}

impl Timeouts {
    /// The same bound everywhere.
    pub fn all(limit: Duration) -> Self {
        Self { connect: limit, command: limit, data: limit, body: limit, dot: limit }
    }

    /// The usual bounds but for these: `connect=5s, dot=5m`, or one for all: `30s`.
    ///
    /// # Errors
    /// What is wrong with the first wrong one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let span = |text: &str| {
            parse_duration(text.trim())
                .filter(|span| !span.is_zero())
                .ok_or_else(|| format!("has {text:?} where a time span such as 30s should be"))
        };
        if !text.trim().is_empty() && !text.contains('=') {
            return span(text).map(Self::all);
        }
        let mut timeouts = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (step, limit) = part.split_once('=').ok_or_else(|| format!("has {part:?}, which has no ="))?;
            let slot = match step.trim() {
                "connect" => &mut timeouts.connect,
                "command" => &mut timeouts.command,
                "data" => &mut timeouts.data,
                "body" => &mut timeouts.body,
                "dot" => &mut timeouts.dot,
                other => {
                    return Err(format!("names the step {other:?}; there are connect, command, data, body and dot"));
                }
            };
            *slot = span(limit)?;
        }
        Ok(timeouts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_for_all_steps_or_for_some() {
        let seconds = Duration::from_secs;
        assert_eq!(Timeouts::parse(""), Ok(Timeouts::default()));
        assert_eq!(Timeouts::parse("5s"), Ok(Timeouts::all(seconds(5))));
        let some = Timeouts { connect: seconds(3), dot: seconds(300), ..Timeouts::default() };
        assert_eq!(Timeouts::parse("connect=3s, dot=5m"), Ok(some));
        for (text, told) in
            [("5", "\"5\""), ("0s", "\"0s\""), ("rcpt=5s", "\"rcpt\""), ("dot=5m, 3s", "no ="), ("dot=", "\"\"")]
        {
            assert!(Timeouts::parse(text).unwrap_err().contains(told), "{text}");
        }
    }
}
