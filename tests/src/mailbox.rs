//! Captured mail: what the relay writes into a mailbox directory, and what a mail says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mail_parser::{Address, Message, MessageParser, PartType};
use url::Url;

use crate::wait::until;

/// A mail, parsed.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The Message-ID, without its brackets.
    pub message_id: String,
    /// The sender's address.
    pub from: String,
    /// The recipients' addresses, as the header names them.
    pub to: Vec<String>,
    /// The subject, decoded.
    pub subject: String,
    /// The date, in RFC 3339.
    pub date: String,
    /// The plain text, decoded.
    pub text: String,
    /// The HTML, decoded.
    pub html: String,
    /// The mail as it went over the wire.
    pub raw: Vec<u8>,
}

impl Mail {
    /// Parses a mail; what is missing is empty.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        let message = MessageParser::default().parse(raw).context("not a mail")?;
        let part = |wanted: fn(&PartType<'_>) -> Option<String>| -> String {
            message.parts.iter().find_map(|part| wanted(&part.body)).unwrap_or_default()
        };
        Ok(Self {
            message_id: message.message_id().unwrap_or_default().to_owned(),
            from: addresses(message.from()).into_iter().next().unwrap_or_default(),
            to: addresses(message.to()),
            subject: message.subject().unwrap_or_default().to_owned(),
            date: message.date().map(mail_parser::DateTime::to_rfc3339).unwrap_or_default(),
            text: part(|body| match body {
                PartType::Text(text) => Some(text.to_string()),
                _ => None,
            }),
            html: part(|body| match body {
                PartType::Html(html) => Some(html.to_string()),
                _ => None,
            }),
            raw: raw.to_owned(),
        })
    }

    /// A header's value as it stands in the mail.
    pub fn header(&self, name: &str) -> Option<String> {
        let message: Message<'_> = MessageParser::default().parse(&self.raw)?;
        Some(message.header_raw(name.to_owned())?.trim().to_owned())
    }

    /// The first link in the text.
    pub fn link(&self) -> Result<Url> {
        let words = self.text.split(|character: char| character.is_whitespace() || "<>\"".contains(character));
        let mut links = words.filter(|word| word.starts_with("http://") || word.starts_with("https://"));
        let link = links.next().with_context(|| format!("no link in {:?}", self.text))?;
        Ok(Url::parse(link)?)
    }
}

fn addresses(header: Option<&Address<'_>>) -> Vec<String> {
    header.into_iter().flat_map(Address::iter).filter_map(|address| Some(address.address()?.to_owned())).collect()
}

/// A directory that the relay delivers into.
#[derive(Clone, Debug)]
pub struct Mailbox(PathBuf);

impl Mailbox {
    /// A directory; it need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// What `SMTP_URL` has to be for it.
    pub fn url(&self) -> String {
        format!("file://{}", self.0.display())
    }

    /// All mails that are there, oldest first.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // Any other name is a file that is still being written.
            if path.extension().is_some_and(|extension| extension == "eml") {
                files.push((path.metadata()?.modified()?, path));
            }
        }
        files.sort();
        files.iter().map(|(_, path)| Mail::parse(&std::fs::read(path)?)).collect()
    }

    /// Waits until there are `count` mails to an address, and returns them.
    pub async fn wait_for(&self, address: &str, count: usize) -> Result<Vec<Mail>> {
        until(&format!("{count} mails to {address} in {}", self.0.display()), async || {
            let mut mails = self.mails()?;
            mails.retain(|mail| mail.to.iter().any(|to| to == address));
            Ok((mails.len() >= count).then_some(mails))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = concat!(
        "From: App <no-reply@app.example>\r\n",
        "To: Zo=?utf-8?q?=C3=AB?= <zoe@example.org>\r\n",
        "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n",
        "Message-ID: <018f.1@app.example>\r\n",
        "Date: Fri, 1 May 2026 10:00:00 +0000\r\n",
        "X-Kind: first\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/alternative; boundary=b\r\n\r\n",
        "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
        "Hello Zo=C3=AB, follow http://127.0.0.1:1/verify-email?token=3Dabc=\r\ndef.\r\n",
        "--b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n",
        "PGI+aGk8L2I+\r\n--b--\r\n"
    );

    #[test]
    fn a_mail_is_taken_apart_and_decoded() -> Result<()> {
        let mail = Mail::parse(MAIL.as_bytes())?;
        assert_eq!(mail.message_id, "018f.1@app.example");
        assert_eq!((mail.from.as_str(), mail.to.as_slice()), ("no-reply@app.example", &["zoe@example.org".into()][..]));
        assert_eq!((mail.subject.as_str(), mail.date.as_str()), ("Grüße", "2026-05-01T10:00:00Z"));
        assert!(mail.text.starts_with("Hello Zoë"), "{}", mail.text);
        assert_eq!(mail.html, "<b>hi</b>");
        assert_eq!(mail.header("X-Kind").as_deref(), Some("first"));
        assert!(mail.link()?.as_str().starts_with("http://127.0.0.1:1/verify-email?token=abcdef"));
        Ok(())
    }

    #[test]
    fn a_mailbox_holds_what_is_complete() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mailbox = Mailbox::new(directory.path().join("not-yet"));
        assert!(mailbox.mails()?.is_empty());
        let mailbox = Mailbox::new(directory.path());
        std::fs::write(directory.path().join("a.eml"), MAIL)?;
        std::fs::write(directory.path().join("b.eml.tmp"), &MAIL[..20])?;
        assert_eq!(mailbox.mails()?.len(), 1);
        Ok(())
    }
}
