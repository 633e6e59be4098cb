//! The bytes of a mail: the same for the same job, whenever and wherever it is rendered.
//!
//! Date, Message-ID and MIME boundary come from the job instead of from a clock and dice. Both bodies are always encoded
//! (quoted-printable), and the finished bytes are checked: nothing that came from a row can end a header, a line, or the
//! message.

mod sender;

use std::time::{Duration, SystemTime};

use lettre::Address;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message, MultiPart, SinglePart};
use shared::email_address::EmailAddress;
use time::OffsetDateTime;
use uuid::Uuid;

use super::template::Content;
pub use sender::Sender;
use sender::{UNSUBSCRIBE, mailbox};

/// The longest line that a mail may have, without its end (RFC 5322, 2.1.1).
const LONGEST_LINE: usize = 998;

/// A mail, ready to be sent.
#[derive(Clone)]
pub struct Mail {
    /// The sender of the envelope.
    pub sender: Address,
    /// The recipient of the envelope.
    pub recipient: Address,
    /// The recipient's address as text, to be kept out of error texts.
    pub to: String,
    /// The part of the Message-ID before its @: the job's id.
    pub id: String,
    /// The whole mail with CRLF line ends.
    pub bytes: Vec<u8>,
    /// Whether it is rather held than sent twice.
    pub hold: bool,
}

/// Why no mail could be made. No message holds a value.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// An address that mail software would not take.
    #[error("the recipient's address can't be written in a mail")]
    Address,
    /// Refused by the library.
    #[error("the mail can't be put together")]
    Build,
    /// The bytes are not what a mail server may be sent.
    #[error("the mail has a {0}")]
    Bytes(&'static str),
}

/// Puts a mail together.
///
/// # Errors
/// When what it would be is no mail.
pub fn build(
    from: &Sender,
    to: &EmailAddress,
    content: &Content,
    job_id: Uuid,
    date: OffsetDateTime,
) -> Result<Mail, MessageError> {
    let recipient = mailbox(to, true)?;
    let id = job_id.hyphenated().to_string();
    let seconds = u64::try_from(date.unix_timestamp()).map_err(|_| MessageError::Build)?;
    // "=_" can't occur in quoted-printable text.
    let boundary = format!("=_{}", job_id.simple());
    let mut message = Message::builder().from(from.mailbox.clone());
    if let Some(reply_to) = &from.reply_to {
        message = message.reply_to(reply_to.clone());
    }
    message = message
        .to(Mailbox::new(None, recipient.clone()))
        .subject(content.subject.clone())
        .date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        .message_id(Some(format!("<{id}@{}>", from.address().domain())))
        // No out-of-office answers, please (RFC 3834).
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()));
    if let Some(address) = &content.unsubscribe {
        let [at, by] = UNSUBSCRIBE.map(HeaderName::new_from_ascii_str);
        // A long address may stand on one line; broken into two it would be none.
        let address = format!("<{address}>");
        message = message
            .raw_header(HeaderValue::dangerous_new_pre_encoded(at, address.clone(), address))
            .raw_header(HeaderValue::new(by, "List-Unsubscribe=One-Click".to_owned()));
    }
    if let Some(name) = &from.idempotency_header {
        message = message.raw_header(HeaderValue::new(name.clone(), id.clone()));
    }
    let message = message
        .multipart(
            MultiPart::alternative()
                .boundary(boundary)
                .singlepart(part(ContentType::TEXT_PLAIN, &content.text)?)
                .singlepart(part(ContentType::TEXT_HTML, &content.html)?),
        )
        .map_err(|_| MessageError::Build)?;
    let bytes = message.formatted();
    check(&bytes)?;
    if !headers(&bytes).eq(from.headers(content).into_iter().map(str::as_bytes)) {
        return Err(MessageError::Bytes("header too many or too few"));
    }
    Ok(Mail { sender: from.address().clone(), recipient, to: to.as_str().to_owned(), id, bytes, hold: false })
}

fn part(kind: ContentType, text: &str) -> Result<SinglePart, MessageError> {
    let lines: String = text.lines().flat_map(|line| [line, "\r\n"]).collect();
    let body = Body::new_with_encoding(lines, ContentTransferEncoding::QuotedPrintable);
    let body = body.map_err(|_| MessageError::Build)?;
    Ok(SinglePart::builder().header(kind).body(body))
}

/// The names of the headers; what goes on in a second line has none.
fn headers(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').take_while(|line| *line != b"\r\n");
    let firsts = lines.filter(|line| !line.starts_with(b" ") && !line.starts_with(b"\t"));
    firsts.map(|line| line.split(|byte| *byte == b':').next().unwrap_or_default())
}

/// Whether these bytes are lines that end in CRLF and nothing else that any server could take for the end of one, none
/// of them too long, with nothing but text in them.
fn check(bytes: &[u8]) -> Result<(), MessageError> {
    use MessageError::Bytes;
    let Some(lines) = bytes.strip_suffix(b"\r\n") else {
        return Err(Bytes("last line without an end"));
    };
    let mut rest = lines;
    let mut in_header = true;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap_or(rest.len());
        let line = &rest[..end];
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err(Bytes("bare carriage return or line feed"));
        }
        if line.iter().any(|byte| *byte == 0x7f || (*byte < 0x20 && *byte != b'\t')) {
            return Err(Bytes("control character"));
        }
        if line.len() > LONGEST_LINE {
            return Err(Bytes("line that is too long"));
        }
        in_header &= !line.is_empty();
        if !in_header && !line.is_ascii() {
            return Err(Bytes("body that is not encoded"));
        }
        rest = &rest[(end + 2).min(rest.len())..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::settings::Faults;

    const JOB: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_8c34_a21f_d62e_29c9_cbc6);

    fn sender(text: &str) -> Result<Sender, String> {
        let mut faults = Faults::new();
        Sender::parse(Some(text.to_owned()), &mut faults).ok_or_else(|| faults.to_string())
    }

    fn mail(to: &str, subject: &str, body: &str) -> Result<Mail, MessageError> {
        let content =
            Content { subject: subject.to_owned(), text: body.to_owned(), html: body.to_owned(), unsubscribe: None };
        let date = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        build(
            &sender("Exämple <no-reply@example.com>").unwrap(),
            &EmailAddress::parse(to).unwrap(),
            &content,
            JOB,
            date,
        )
    }

    #[test]
    fn the_bytes_are_pinned() {
        let first = mail("ada@example.org", "Grüße", "Hello Zoë.\n.\nBye").unwrap();
        assert_eq!(first.bytes, mail("ada@example.org", "Grüße", "Hello Zoë.\n.\nBye").unwrap().bytes);
        let text = String::from_utf8(first.bytes).unwrap();
        for expected in [
            "To: ada@example.org\r\n",
            "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n",
            "Message-ID: <01890a5d-ac96-8c34-a21f-d62e29c9cbc6@example.com>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "boundary=\"=_01890a5dac968c34a21fd62e29c9cbc6\"",
            "--=_01890a5dac968c34a21fd62e29c9cbc6\r\n",
            "Content-Transfer-Encoding: quoted-printable\r\n",
            "\r\nHello Zo=C3=AB.\r\n.\r\nBye\r\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
        assert_eq!(first.id, "01890a5d-ac96-8c34-a21f-d62e29c9cbc6");
    }

    #[test]
    fn what_all_mail_bears_stands_in_its_place() {
        let mut faults = Faults::new();
        let sender = sender("no-reply@example.com")
            .unwrap()
            .reply_to(Some("Help <help@example.com>".to_owned()), &mut faults)
            .idempotency_header(Some("Idempotency-Key".to_owned()), &mut faults);
        assert!(faults.is_empty(), "{faults}");
        let unsubscribe = format!("https://example.com/u?{}", "x".repeat(200));
        let content = Content { unsubscribe: Some(unsubscribe.clone()), subject: "s".into(), ..Content::default() };
        let to = EmailAddress::parse("ada@example.org").unwrap();
        let mail = build(&sender, &to, &content, JOB, OffsetDateTime::UNIX_EPOCH).unwrap();
        let text = String::from_utf8(mail.bytes).unwrap();
        for expected in [
            "Reply-To: Help <help@example.com>\r\n".to_owned(),
            format!("\r\nIdempotency-Key: {JOB}\r\n"),
            format!("\r\nList-Unsubscribe: <{unsubscribe}>\r\n"),
            "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected:?} in {text}");
        }
        for name in ["Subject", "bcc", "X Y", "X:Y", "", "Content-Id", "é", "X-\r\nBcc"] {
            let mut faults = Faults::new();
            let _ = sender.clone().idempotency_header(Some(name.to_owned()), &mut faults);
            assert_eq!(faults.is_empty(), name.is_empty(), "{name:?}");
        }
    }

    #[test]
    fn headers_are_counted_as_a_mail_program_does() {
        let names = |bytes: &'static [u8]| headers(bytes).map(String::from_utf8_lossy).collect::<Vec<_>>();
        assert_eq!(names(b"A: b\r\n c\r\nBcc: d\r\n\r\nE: f\r\n"), ["A", "Bcc"]);
        assert_eq!(names(b"A: b\r\n"), ["A"]);
    }

    #[test]
    fn lax_line_ends_do_not_pass() {
        for bytes in [
            &b"a: b\r\n\r\n.\nx\r\n"[..],
            b"a: b\r\n\r\n.\rx\r\n",
            b"a: b\n",
            b"a: b\r\n\r\nx\0\r\n",
            b"a: b\r\n\r\n\xc3\xa9\r\n",
            b"",
        ] {
            assert!(check(bytes).is_err(), "{bytes:?}");
        }
        check(b"a: b\r\n\r\n.\r\nx\r\n").unwrap();
    }

    proptest! {
        /// Whatever a row or a template holds: lines end in CRLF, and there are as many headers as there should be.
        #[test]
        fn nothing_breaks_out(
            subject in "\\PC{1,120}", body in "([\\PC\\r\\n\\t]|\\r\\n\\.\\r\\n|\\n\\.\\n|\\r\\.\\r){0,400}", local in "[a-zé\\.]{1,20}",
        ) {
            let to = format!("a{local}a@example.org");
            prop_assume!(EmailAddress::parse(&to).is_ok() && !subject.trim().is_empty());
            let mail = mail(&to, subject.trim(), &body).unwrap();
            let text = String::from_utf8(mail.bytes).unwrap();
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            let headers = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).count();
            prop_assert_eq!(headers, 8, "{}", head);
            // One boundary before each part and one behind the last; none out of what was put in.
            prop_assert_eq!(text.matches(&format!("--=_{}", JOB.simple())).count(), 3);
            prop_assert_eq!(text.replace("\r\n", "").matches(['\r', '\n']).count(), 0);
        }
    }
}
