//! A mail to nobody, with sample data: what templates look like, before anybody gets one.

use serde_json::{Value, json};
use shared::email_address::EmailAddress;
use shared::public_url::PublicUrl;
use time::macros::datetime;
use uuid::Uuid;

use super::message::{self, Sender};
use super::template::{Content, Templates};

/// In which form it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Subject and text.
    Text,
    /// The HTML.
    Html,
    /// The whole mail as it would be sent.
    Source,
}

/// See the module.
pub struct Sample {
    template: String,
    locale: String,
    content: Content,
    source: String,
}

impl Sample {
    /// Renders a mail.
    ///
    /// # Errors
    /// When there is no such template.
    pub fn of(
        templates: &Templates,
        template: &str,
        locale: &str,
        url: &PublicUrl,
        from: &Sender,
    ) -> Result<Self, String> {
        let (content, locale) = templates.sample(template, locale, url).map_err(|error| error.to_string())?;
        let to = EmailAddress::parse("ada@example.org").map_err(|error| error.to_string())?;
        let date = datetime!(2026-01-02 12:00 UTC);
        let mail = message::build(from, &to, &content, Uuid::nil(), date).map_err(|error| error.to_string())?;
        let source = String::from_utf8_lossy(&mail.bytes).into_owned();
        Ok(Self { template: template.to_owned(), locale: locale.to_owned(), content, source })
    }

    /// In one form.
    pub fn format(&self, format: Format) -> String {
        match format {
            Format::Text => format!("Subject: {}\n\n{}", self.content.subject, self.content.text),
            Format::Html => self.content.html.clone(),
            Format::Source => self.source.clone(),
        }
    }

    /// In all forms.
    pub fn to_json(&self) -> Value {
        let Content { subject, text, html, unsubscribe } = &self.content;
        json!({
            "template": self.template, "locale": self.locale, "subject": subject, "text": text, "html": html,
            "list_unsubscribe": unsubscribe, "source": self.source,
        })
    }
}
