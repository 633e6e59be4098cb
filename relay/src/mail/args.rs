//! What an email job's `args` say: written by handlers, and checked again when the mail is made, because rows are
//! written by any language.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::display_name::{DisplayName, DisplayNameError};
use shared::email_address::{EmailAddress, EmailAddressError};
use shared::redact::redact;
use uuid::Uuid;

/// The arguments of an email job, as they stand in its row.
#[derive(Serialize, Deserialize)]
pub struct EmailArgs<'a> {
    /// Which mail: one of [`super::template::MAILS`].
    pub template: Cow<'a, str>,
    /// In which language, if there is a template in it.
    #[serde(default = "english")]
    pub locale: Cow<'a, str>,
    /// The address of the one recipient.
    pub to: Cow<'a, str>,
    /// What to call the recipient.
    #[serde(default)]
    pub name: Cow<'a, str>,
    /// Whose account it is about.
    pub user_id: Uuid,
    /// What else the mail's own templates want to know, as `data`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

/// The same, checked.
pub struct CheckedArgs {
    /// Which mail.
    pub template: String,
    /// In which language, if there is a template in it.
    pub locale: String,
    /// To whom.
    pub to: EmailAddress,
    /// The recipient's address as the user's row has it; what the token is for.
    pub address: String,
    /// What to call the recipient, if that can be said in a mail.
    pub name: Option<String>,
    /// Whose account it is about.
    pub user_id: Uuid,
    /// What else the mail's templates want to know.
    pub data: Map<String, Value>,
}

/// Why the arguments are of no use. No message holds a value.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// Not the JSON that it should be.
    #[error("args can't be read: {}", redact(&.0.to_string()))]
    Json(#[from] serde_json::Error),
    /// The address is none.
    #[error("args.to {0}")]
    Address(#[from] EmailAddressError),
    /// The name would do harm.
    #[error("args.name {0}")]
    Name(DisplayNameError),
    /// A text would do harm.
    #[error("args.data must not hold control characters other than line ends and tabs, or characters that turn text")]
    Data,
}

fn english<'a>() -> Cow<'a, str> {
    Cow::Borrowed("en")
}

impl CheckedArgs {
    /// Reads and checks arguments.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(json: &str) -> Result<Self, ArgsError> {
        let EmailArgs { template, locale, to, name, user_id, data } = serde_json::from_str(json)?;
        let (template, locale, to) = (template.into_owned(), locale.into_owned(), to.into_owned());
        let name = match DisplayName::parse(&name) {
            Ok(name) => greeting(name.as_str()),
            // Nobody is kept from a mail by a name that is missing or long.
            Err(DisplayNameError::Empty | DisplayNameError::TooLong) => None,
            Err(error @ DisplayNameError::Unsafe) => return Err(ArgsError::Name(error)),
        };
        if !data.iter().all(|(key, value)| is_plain(key) && is_safe(value)) {
            return Err(ArgsError::Data);
        }
        Ok(Self { template, locale, to: EmailAddress::parse(&to)?, address: to, name, user_id, data })
    }
}

/// Whether no text in a value could break out of its place in a mail, or mislead its reader.
fn is_safe(value: &Value) -> bool {
    match value {
        Value::String(text) => is_plain(text),
        Value::Array(list) => list.iter().all(is_safe),
        Value::Object(map) => map.iter().all(|(key, value)| is_plain(key) && is_safe(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\n' | '\t') || !shared::characters::is_unsafe(c))
}

/// A name as it may stand in a mail. Mail programs make links of what looks like one, and a name is chosen by whoever
/// registers somebody else's address: what could become a link is written so that it does not, or left out.
fn greeting(name: &str) -> Option<String> {
    let of_a_link = |c: char| matches!(c, '@' | ':' | '\u{ff20}' | '\u{ff1a}' | '\u{fe6b}');
    if name.contains(of_a_link) || name.contains("//") || name.to_lowercase().contains("www.") {
        return None;
    }
    let mut out = String::with_capacity(name.len() + 8);
    let mut letters = name.chars().peekable();
    while let Some(c) = letters.next() {
        out.push(c);
        // A dot with something right behind it is how a host name looks; "J.R." reads as well as "J. R.".
        let dot = matches!(c, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}' | '\u{2024}');
        if dot && letters.peek().is_some_and(|next| !next.is_whitespace()) {
            out.push(' ');
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn args(to: &str, name: &str) -> String {
        json!({ "template": "welcome", "to": to, "name": name, "user_id": Uuid::nil() }).to_string()
    }

    #[test]
    fn what_handlers_write_is_read() {
        let written = EmailArgs {
            template: "welcome".into(),
            locale: "de".into(),
            to: "ada@example.org".into(),
            name: "Ada".into(),
            user_id: Uuid::from_u128(7),
            data: Map::new(),
        };
        let read = CheckedArgs::read(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!((read.template.as_str(), read.locale.as_str()), ("welcome", "de"));
        assert_eq!((read.address.as_str(), read.name.as_deref()), ("ada@example.org", Some("Ada")));
        assert_eq!(read.user_id, Uuid::from_u128(7));
    }

    #[test]
    fn good_arguments_are_read() {
        let read = CheckedArgs::read(&args("Ada@Example.org", "Ada")).unwrap();
        assert_eq!(
            (read.locale.as_str(), read.to.as_str(), read.address.as_str()),
            ("en", "Ada@example.org", "Ada@Example.org")
        );
        assert_eq!(read.name.as_deref(), Some("Ada"));
    }

    #[test]
    fn bad_ones_are_refused_without_being_quoted() {
        for (json, expected) in [
            ("{}".to_owned(), "missing field"),
            ("[[[".to_owned(), "args can't be read"),
            (format!("{{\"other\":{}", "[".repeat(100_000)), "args can't be read"),
            (args("canary\r\nBcc: x@y.zz", "Ada"), "args.to must be one address"),
            (args("ada@example.org", "canary\r\nX: y"), "args.name must not hold"),
            (args("ada@example.org", "canary\u{202e}"), "args.name must not hold"),
            (
                json!({ "template": "welcome", "to": "a@b.cc", "user_id": Uuid::nil(),
                     "data": { "lines": ["fine\n", "canary\u{202e}"] } })
                .to_string(),
                "args.data must not hold",
            ),
            (json!({ "template": "welcome", "to": 5, "user_id": "canary" }).to_string(), "args can't be read"),
        ] {
            let Err(error) = CheckedArgs::read(&json) else { panic!("{json}") };
            let told = error.to_string();
            assert!(told.contains(expected) && !told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn no_name_becomes_a_link() {
        for (name, expected) in [
            ("Ada Lovelace", Some("Ada Lovelace")),
            ("J.R.R. Tolkien", Some("J. R. R. Tolkien")),
            ("evil.example", Some("evil. example")),
            ("https://evil.example", None),
            ("mailto:x", None),
            ("a@evil.example", None),
            ("WWW.evil", None),
            ("Ada <b>Lovelace</b>", Some("Ada <b>Lovelace</b>")),
        ] {
            assert_eq!(greeting(name).as_deref(), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_dot_touches_what_follows(name in "\\PC{0,40}") {
            if let Some(greeting) = greeting(&name) {
                prop_assert!(!greeting.contains("://"));
                for (dot, next) in greeting.chars().zip(greeting.chars().skip(1)) {
                    prop_assert!(dot != '.' || next.is_whitespace());
                }
            }
        }
    }
}
