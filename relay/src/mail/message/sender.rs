//! Who mail is from, and the headers that all mail bears for it.

use std::str::FromStr;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::message::header::HeaderName;
use shared::email_address::EmailAddress;
use shared::settings::{self, Faults};

use super::super::template::Content;
use super::MessageError;

/// Headers that a mail may have only from here, and none of which may bear the idempotency key.
const RESERVED: [&str; 17] = [
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "return-path",
    "received",
    "auto-submitted",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "dkim-signature",
];

/// Who mail is from, and what all mail bears.
#[derive(Clone, Debug)]
pub struct Sender {
    pub(super) mailbox: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
    pub(super) idempotency_header: Option<HeaderName>,
}

impl Sender {
    /// Reads the setting `MAIL_FROM`; absent is a fault.
    pub fn parse(value: Option<String>, faults: &mut Faults) -> Option<Self> {
        let Some(text) = settings::text(value) else {
            faults.push("MAIL_FROM", "is not set", REMEDY);
            return None;
        };
        let mailbox = sender_mailbox("MAIL_FROM", &text, faults)?;
        Some(Self { mailbox, reply_to: None, idempotency_header: None })
    }

    /// The same with the setting `MAIL_REPLY_TO`, if it is given: where answers go.
    #[must_use]
    pub fn reply_to(mut self, value: Option<String>, faults: &mut Faults) -> Self {
        self.reply_to = settings::text(value).and_then(|text| sender_mailbox("MAIL_REPLY_TO", &text, faults));
        self
    }

    /// The same with the setting `MAIL_IDEMPOTENCY_HEADER`, if it is given: the header by which a mail provider knows a
    /// mail that it already has. It bears the job's id.
    #[must_use]
    pub fn idempotency_header(mut self, value: Option<String>, faults: &mut Faults) -> Self {
        let Some(name) = settings::text(value) else { return self };
        let (name, lower) = (name.trim().to_owned(), name.trim().to_ascii_lowercase());
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && name.len() <= 64;
        let taken = RESERVED.contains(&&*lower) || lower.starts_with("content-") || lower.starts_with("mime-");
        match HeaderName::new_from_ascii(name) {
            Ok(name) if plain && !taken => self.idempotency_header = Some(name),
            _ => faults.push(
                "MAIL_IDEMPOTENCY_HEADER",
                "is not a header's name that is free for it",
                "Give the one that the mail provider documents, such as Idempotency-Key",
            ),
        }
        self
    }

    /// The address alone.
    pub fn address(&self) -> &Address {
        &self.mailbox.email
    }

    /// The headers of a mail, in their order.
    pub(super) fn headers(&self, content: &Content) -> Vec<&str> {
        let mut names = vec!["From"];
        names.extend(self.reply_to.as_ref().map(|_| "Reply-To"));
        names.extend(["To", "Subject", "Date", "Message-ID", "Auto-Submitted"]);
        names.extend(content.unsubscribe.iter().flat_map(|_| UNSUBSCRIBE));
        names.extend(self.idempotency_header.as_ref().map(|name| -> &str { name }));
        names.extend(["MIME-Version", "Content-Type"]);
        names
    }
}

/// RFC 8058: one click, by a POST.
pub(super) const UNSUBSCRIBE: [&str; 2] = ["List-Unsubscribe", "List-Unsubscribe-Post"];

const REMEDY: &str = "Give one as no-reply@example.com or \"Example <no-reply@example.com>\"";

fn sender_mailbox(setting: &str, text: &str, faults: &mut Faults) -> Option<Mailbox> {
    let (name, address) = match text.trim().strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (name.trim().trim_matches('"'), address),
        None => ("", text.trim()),
    };
    let address = EmailAddress::parse(address).ok().and_then(|address| mailbox(&address, false).ok());
    let unsafe_name = name.chars().any(|c| shared::characters::is_unsafe(c) || "<>\"".contains(c));
    let (Some(address), false) = (address, unsafe_name) else {
        faults.push(setting, "is not a sender's address with an ASCII part before the @", REMEDY);
        return None;
    };
    Some(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), address))
}

/// An address as the mail library has it. International local parts need a server that takes them; a sender's may not
/// be one, or hardly any recipient could answer.
pub(super) fn mailbox(address: &EmailAddress, international: bool) -> Result<Address, MessageError> {
    let text = address.as_str();
    if !international && !text.is_ascii() {
        return Err(MessageError::Address);
    }
    Address::from_str(text).map_err(|_| MessageError::Address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(text: &str) -> Result<Sender, String> {
        let mut faults = Faults::new();
        Sender::parse(Some(text.to_owned()), &mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn senders_are_read() {
        for text in
            ["no-reply@example.com", "Example <no-reply@example.com>", "\"Example, Inc.\" <no-reply@bücher.example>"]
        {
            sender(text).unwrap();
        }
        for text in [
            "",
            "example.com",
            "A <b",
            "é@example.com",
            "A\r\nBcc: x@y.zz <no-reply@example.com>",
            "a@b.cc <c@d.ee>, <f@g.hh>",
        ] {
            assert!(sender(text).is_err(), "{text}");
        }
    }
}
