//! What the SMTP server is told to do, and when.

use std::time::Duration;

use serde::Serialize;

/// Where a session can be disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Before the banner.
    Connect,
    /// In place of the answer to EHLO.
    Ehlo,
    /// In place of the answer to STARTTLS.
    Starttls,
    /// In place of the answer to AUTH.
    Auth,
    /// In place of the answer to MAIL FROM.
    Mail,
    /// In place of the answer to RCPT TO.
    Rcpt,
    /// Before the 354.
    Data,
    /// After the 354, once the first bytes of the body are there.
    Body,
    /// After the final dot was read, before its answer.
    Dot,
}

/// What to do at a step. Delay comes first, then holding, then replying, then dropping.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    step: Step,
    to: Option<String>,
    times: Option<u32>,
    delay: Option<f64>,
    hold: bool,
    drop: bool,
    reply: Option<String>,
    drip: Option<f64>,
}

impl Rule {
    /// A rule for a step, for every recipient and every time.
    pub fn at(step: Step) -> Self {
        Self { step, to: None, times: None, delay: None, hold: false, drop: false, reply: None, drip: None }
    }

    /// Only for this recipient (from [`Step::Rcpt`] on).
    #[must_use]
    pub fn to(mut self, recipient: &str) -> Self {
        self.to = Some(recipient.to_owned());
        self
    }

    /// Only the next `times` times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Waits first.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay.as_secs_f64());
        self
    }

    /// Waits until [`SmtpSink::release`](crate::smtp_sink::SmtpSink::release).
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Drops the connection, after the reply if there is one.
    #[must_use]
    pub fn drop_connection(mut self) -> Self {
        self.drop = true;
        self
    }

    /// Answers with this reply, such as `451 4.3.0 try later`; a 421 closes the connection as well.
    #[must_use]
    pub fn reply(mut self, reply: &str) -> Self {
        self.reply = Some(reply.to_owned());
        self
    }

    /// Sends the reply a byte at a time, with such a pause behind each.
    #[must_use]
    pub fn drip(mut self, pause: Duration) -> Self {
        self.drip = Some(pause.as_secs_f64());
        self
    }
}
