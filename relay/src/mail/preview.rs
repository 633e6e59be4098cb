//! A mail as it would be sent, for people to look at: made by the code that sends it.
//!
//! One thing is left out: the token in a verification link. Whoever may look into a mail may not confirm an address that
//! is not theirs.

use std::path::Path;

use mail_parser::{MessageParser, PartType};
use time::OffsetDateTime;
use uuid::Uuid;

use super::args::CheckedArgs;
use super::target::Target;
use super::{Email, message};

/// What stands in place of a token.
const HIDDEN: &str = "left-out-of-previews";

/// What a mail says.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// Its headers in their order, decoded.
    pub headers: Vec<(String, String)>,
    /// For those who read text.
    pub text: String,
    /// For those who read HTML.
    pub html: String,
    /// How large it is on the wire, in bytes.
    pub size: usize,
}

impl Preview {
    /// Takes a mail apart. What is missing is empty.
    pub fn of(bytes: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(bytes) else { return Self::default() };
        let part =
            |wanted: fn(&PartType<'_>) -> Option<String>| message.parts.iter().find_map(|part| wanted(&part.body));
        let headers = message.headers_raw().map(|(name, raw)| {
            let decoded = if name.eq_ignore_ascii_case("subject") { message.subject() } else { None };
            let value = decoded.map_or_else(|| raw.split_whitespace().collect::<Vec<_>>().join(" "), str::to_owned);
            (name.to_owned(), value)
        });
        Self {
            headers: headers.collect(),
            text: part(|body| if let PartType::Text(text) = body { Some(text.to_string()) } else { None })
                .unwrap_or_default(),
            html: part(|body| if let PartType::Html(html) = body { Some(html.to_string()) } else { None })
                .unwrap_or_default(),
            size: bytes.len(),
        }
    }

    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .unwrap_or_default()
    }
}

impl Email {
    /// The mail of a job, without its token.
    ///
    /// # Errors
    /// Why the job can't be sent.
    pub fn preview(&self, job_id: Uuid, args: &str, occurred_at: OffsetDateTime) -> Result<Preview, String> {
        let args = CheckedArgs::read(args).map_err(|error| error.to_string())?;
        let mut content =
            self.templates.render(&args, &self.settings, occurred_at).map_err(|error| error.to_string())?;
        let token = self.templates.token(&args, &self.settings, occurred_at);
        for part in [&mut content.text, &mut content.html] {
            *part = part.replace(&token, HIDDEN);
        }
        let mail = message::build(&self.settings.from, &args.to, &content, job_id, occurred_at);
        Ok(Preview::of(&mail.map_err(|error| error.to_string())?.bytes))
    }

    /// The directory that mail goes to instead of a server, if it does.
    pub fn mailbox(&self) -> Option<&Path> {
        match &self.settings.target {
            Target::Mailbox(directory) => Some(directory),
            Target::Smtp(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_taken_apart_and_decoded() {
        let mail = concat!(
            "From: App <no-reply@app.example>\r\nTo: zoe@example.org\r\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\r\n",
            "MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary=b\r\n\r\n",
            "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
            "Hello Zo=C3=AB\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<b>hi</b>\r\n--b--\r\n"
        );
        let preview = Preview::of(mail.as_bytes());
        assert_eq!((preview.header("Subject"), preview.header("to")), ("Grüße", "zoe@example.org"));
        assert_eq!(preview.header("Content-Type"), "multipart/alternative; boundary=b");
        assert_eq!((preview.text.trim(), preview.html.trim()), ("Hello Zoë", "<b>hi</b>"));
        assert!(Preview::of(b"").headers.is_empty());
    }
}
