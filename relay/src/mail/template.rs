//! Templates: subject, text and HTML of each mail, in the binary, all rendered once at start.
//!
//! Values are never templates. A variable that is not there is an error, at start and not in a customer's mail. HTML
//! parts are escaped because their names end in `.html`; that this works is asserted at start as well.

use minijinja::{Environment, UndefinedBehavior, context};
use shared::token::Verification;
use time::OffsetDateTime;

use super::Settings;
use super::args::CheckedArgs;

macro_rules! sources {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("templates/", $name)))),*] };
}

/// Every file. A mail is `subject.txt`, `txt` and `html` of the same name in a locale's folder.
const SOURCES: &[(&str, &str)] = sources![
    "en/layout.html",
    "en/verify_email.subject.txt",
    "en/verify_email.txt",
    "en/verify_email.html",
    "en/welcome.subject.txt",
    "en/welcome.txt",
    "en/welcome.html",
    "en/already_registered.subject.txt",
    "en/already_registered.txt",
    "en/already_registered.html",
];

/// Please confirm that this address is yours, with a link.
pub const VERIFY_EMAIL: &str = "verify_email";
/// The address is confirmed.
pub const WELCOME: &str = "welcome";
/// Somebody, perhaps you, tried to open an account with an address that has one.
pub const ALREADY_REGISTERED: &str = "already_registered";

/// The mails, by the name that jobs use.
pub const MAILS: &[&str] = &[VERIFY_EMAIL, WELCOME, ALREADY_REGISTERED];

/// What a mail is made of.
const PARTS: [&str; 3] = ["subject.txt", "txt", "html"];

/// The locale of mails that are not there in the wanted one.
const FALLBACK: &str = "en";

/// The longest subject, in characters.
const LONGEST_SUBJECT: usize = 200;

/// What a mail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// One line.
    pub subject: String,
    /// For those who read text.
    pub text: String,
    /// For those who read HTML.
    pub html: String,
}

/// Why a mail can't be rendered. No message holds a value.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Wrong in itself.
    #[error("template {}, line {}: {}", .0.name().unwrap_or("?"), .0.line().unwrap_or(0), .0.kind())]
    Broken(minijinja::Error),
    /// A mail without one of its parts.
    #[error("template {0} is missing")]
    Missing(String),
    /// No such mail.
    #[error("there is no template of that name; known are {}", MAILS.join(", "))]
    Unknown,
    /// A subject that is no header line.
    #[error("template {0}: the subject is not one line of 1 to {LONGEST_SUBJECT} characters")]
    Subject(String),
    /// Escaping does not work.
    #[error("template {0}: values are not escaped as they should be")]
    Escaping(String),
}

impl From<minijinja::Error> for TemplateError {
    fn from(error: minijinja::Error) -> Self {
        Self::Broken(error)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Templates(Environment<'static>);

/// What templates can use.
struct Values<'a> {
    name: Option<&'a str>,
    site: &'a str,
    home: &'a str,
    link: &'a str,
    valid_for: &'a str,
}

impl Templates {
    /// Loads all templates and renders each once.
    ///
    /// # Errors
    /// When one is broken, uses what is not there, or does not escape.
    pub fn load() -> Result<Self, TemplateError> {
        Self::of(SOURCES.iter().copied())
    }

    fn of(sources: impl Iterator<Item = (&'static str, &'static str)>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in sources {
            environment.add_template(name, source)?;
        }
        let templates = Self(environment);
        for mail in MAILS {
            templates.check(mail, FALLBACK)?;
        }
        // In another locale any mail may be missing, but none in part.
        for (name, _) in templates.0.templates() {
            let Some((locale, file)) = name.split_once('/') else { continue };
            if let Some(mail) = MAILS.iter().find(|mail| PARTS.iter().any(|part| file == format!("{mail}.{part}"))) {
                templates.check(mail, locale)?;
            }
        }
        Ok(templates)
    }

    /// Renders a mail with values that show whether they are escaped, and without a name.
    fn check(&self, mail: &str, locale: &str) -> Result<(), TemplateError> {
        if let Some(part) = PARTS.iter().find(|part| !self.has(&format!("{locale}/{mail}.{part}"))) {
            return Err(TemplateError::Missing(format!("{locale}/{mail}.{part}")));
        }
        const PROBE: &str = "<i>&\"'{{ 1 }}";
        let probe = Values { name: Some(PROBE), site: PROBE, home: PROBE, link: PROBE, valid_for: PROBE };
        let content = self.fill(mail, locale, &probe)?;
        let escaped = !content.html.contains("<i>") && content.html.contains("&lt;i&gt;&amp;&quot;");
        if !escaped || !content.html.contains("{{ 1 }}") || !content.text.contains(PROBE) {
            return Err(TemplateError::Escaping(format!("{locale}/{mail}")));
        }
        self.fill(mail, locale, &Values { name: None, ..probe }).map(drop)
    }

    fn has(&self, name: &str) -> bool {
        self.0.get_template(name).is_ok()
    }

    /// The locale that a mail is rendered in: the wanted one, its language, or the fallback.
    fn locale<'a>(&self, mail: &str, wanted: &'a str) -> &'a str {
        let language = wanted.split(['-', '_']).next().unwrap_or(wanted);
        let there = |locale: &&str| self.has(&format!("{locale}/{mail}.{}", PARTS[0]));
        [wanted, language].into_iter().find(there).unwrap_or(FALLBACK)
    }

    /// Renders the mail of a job.
    ///
    /// # Errors
    /// When there is no such template, or it does not render.
    pub fn render(
        &self,
        args: &CheckedArgs,
        settings: &Settings,
        occurred_at: OffsetDateTime,
    ) -> Result<Content, TemplateError> {
        let mail = MAILS.iter().find(|mail| **mail == args.template).ok_or(TemplateError::Unknown)?;
        let expires_at = occurred_at.checked_add(settings.link_ttl.try_into().unwrap_or(time::Duration::MAX));
        let token = settings.keys.sign(&Verification {
            user_id: args.user_id,
            email: &args.address,
            expires_at: expires_at.unwrap_or(occurred_at),
        });
        let home = settings.public_url.join("/");
        let site = settings.public_url.origin().split("://").last().unwrap_or_default();
        let values = Values {
            name: args.name.as_deref(),
            site,
            home: &home,
            link: &settings.public_url.verification_link(&token),
            valid_for: &in_words(settings.link_ttl.as_secs()),
        };
        self.fill(mail, self.locale(mail, &args.locale), &values)
    }

    fn fill(&self, mail: &str, locale: &str, values: &Values<'_>) -> Result<Content, TemplateError> {
        let Values { name, site, home, link, valid_for } = *values;
        let part = |ending: &str| {
            let template = self.0.get_template(&format!("{locale}/{mail}.{ending}"))?;
            Ok::<_, TemplateError>(template.render(context! { locale, name, site, home, link, valid_for })?)
        };
        let subject = part("subject.txt")?.trim().to_owned();
        let one_line = !subject.chars().any(shared::characters::is_unsafe);
        if !one_line || !(1..=LONGEST_SUBJECT).contains(&subject.chars().count()) {
            return Err(TemplateError::Subject(format!("{locale}/{mail}")));
        }
        Ok(Content { subject, text: part("txt")?, html: part("html")? })
    }
}

/// A time as people say it.
fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        s if s >= 172_800 && s % 86_400 == 0 => (s / 86_400, "day"),
        s if s >= 3_600 && s % 3_600 == 0 => (s / 3_600, "hour"),
        s if s >= 60 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_templates_load_and_every_mail_has_its_three_parts() {
        Templates::load().unwrap();
        for (missing, _) in SOURCES {
            let told =
                Templates::of(SOURCES.iter().copied().filter(|(name, _)| name != missing)).unwrap_err().to_string();
            assert!(told.contains(if missing.contains("layout") { "template" } else { missing }), "{missing}: {told}");
        }
    }

    #[test]
    fn another_locale_holds_whole_mails_and_the_rest_falls_back() {
        const GERMAN: [(&str, &str); 3] = [
            ("de/welcome.subject.txt", "Willkommen"),
            ("de/welcome.txt", "Hallo {{ name }}, {{ site }}"),
            ("de/welcome.html", "<p>Hallo {{ name }}, {{ site }}</p>"),
        ];
        let templates = Templates::of(SOURCES.iter().copied().chain(GERMAN)).unwrap();
        for (mail, wanted, locale) in [
            (WELCOME, "de", "de"),
            (WELCOME, "de-AT", "de"),
            (WELCOME, "de_CH", "de"),
            (WELCOME, "fr", "en"),
            (WELCOME, "", "en"),
            (WELCOME, "../en", "en"),
            (VERIFY_EMAIL, "de", "en"),
        ] {
            assert_eq!(templates.locale(mail, wanted), locale, "{mail} {wanted}");
        }
        let told = Templates::of(SOURCES.iter().copied().chain(GERMAN.into_iter().take(2))).unwrap_err().to_string();
        assert_eq!(told, "template de/welcome.html is missing");
        let wrong = ("de/welcome.html", "<p>Hallo {{ nmae }}</p>");
        let told = Templates::of(SOURCES.iter().copied().chain(GERMAN.into_iter().take(2)).chain([wrong])).unwrap_err();
        assert!(told.to_string().contains("de/welcome.html, line 1"), "{told}");
    }

    #[test]
    fn a_variable_that_is_not_there_is_an_error() {
        let mut templates = Templates::load().unwrap();
        templates.0.add_template("en/welcome.txt", "\nHello {{ nmae }}").unwrap();
        let told = templates.check(WELCOME, FALLBACK).unwrap_err().to_string();
        assert!(told.contains("en/welcome.txt, line 2") && told.contains("undefined"), "{told}");
    }

    #[test]
    fn a_part_that_does_not_escape_and_a_subject_of_two_lines_are_errors() {
        let mut templates = Templates::load().unwrap();
        templates.0.add_template("en/welcome.html", "{{ name|safe }} &lt;i&gt;&amp;&quot;").unwrap();
        assert!(matches!(templates.check(WELCOME, FALLBACK), Err(TemplateError::Escaping(_))));
        let mut templates = Templates::load().unwrap();
        templates.0.add_template("en/welcome.subject.txt", "a\nb").unwrap();
        assert!(matches!(templates.check(WELCOME, FALLBACK), Err(TemplateError::Subject(_))));
    }

    #[test]
    fn times_are_said_in_words() {
        let words = [86_400, 3_600, 7_200, 172_800, 90, 5].map(in_words);
        assert_eq!(words, ["24 hours", "1 hour", "2 hours", "2 days", "1 minute", "5 seconds"]);
    }
}
