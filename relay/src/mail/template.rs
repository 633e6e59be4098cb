//! Templates: subject, text and HTML of each mail, from the binary or from a directory, all rendered at start.
//!
//! Values are never templates. A variable that is not there is an error, at start and not in a customer's mail. HTML
//! parts are escaped because their names end in `.html`; that this works is asserted at start as well.

mod files;
pub mod about;
mod check;
pub mod error;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use shared::public_url::PublicUrl;
use shared::token::Verification;
use time::OffsetDateTime;

use super::Settings;
use super::args::CheckedArgs;
use about::About;
pub use error::TemplateError;
use files::{BUILT_IN, Files};

/// Please confirm that this address is yours, with a link.
pub const VERIFY_EMAIL: &str = "verify_email";
/// The address is confirmed.
pub const WELCOME: &str = "welcome";
/// Somebody, perhaps you, tried to open an account with an address that has one.
pub const ALREADY_REGISTERED: &str = "already_registered";

/// The mails that handlers ask for, by the name that jobs use.
pub const MAILS: &[&str] = &[VERIFY_EMAIL, WELCOME, ALREADY_REGISTERED];

/// What a mail is made of.
const PARTS: [&str; 3] = ["subject.txt", "txt", "html"];

/// The locale of mails that are not there in the wanted one.
const FALLBACK: &str = "en";

/// The longest subject, in characters.
const LONGEST_SUBJECT: usize = 200;

/// The longest part, in bytes.
const LONGEST_PART: usize = 1 << 20;

/// The longest address to unsubscribe at, so that its header stays a short line.
const LONGEST_UNSUBSCRIBE: usize = 900;

/// What a template may do: steps of the engine, and templates within templates.
const FUEL: u64 = 1_000_000;
const DEEPEST: usize = 20;

/// What a mail says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// One line.
    pub subject: String,
    /// For those who read text.
    pub text: String,
    /// For those who read HTML.
    pub html: String,
    /// Where one unsubscribes, if there is such a place: an https address.
    pub unsubscribe: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    files: Arc<Files>,
    /// By mail, for those that have any.
    about: BTreeMap<String, About>,
}

/// What templates can use.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    name: Option<&'a str>,
    site: &'a str,
    home: &'a str,
    link: &'a str,
    valid_for: &'a str,
    user_id: &'a str,
    data: &'a Value,
}

impl Values<'_> {
    fn context(&self, locale: &str) -> Value {
        let Values { name, site, home, link, valid_for, user_id, data } = *self;
        context! { locale, name, site, home, link, valid_for, user_id, data }
    }
}

/// Their names, and that of the locale.
const VARIABLES: [&str; 8] = ["locale", "name", "site", "home", "link", "valid_for", "user_id", "data"];

impl Templates {
    /// Loads all templates, those of a directory in the place of those in the binary, and renders each.
    ///
    /// # Errors
    /// Everything that is broken, uses what is not there, or does not escape.
    pub fn load(directory: Option<&Path>) -> Result<Self, Vec<TemplateError>> {
        let mut files = Files::of(BUILT_IN.iter().copied());
        let own = match directory {
            Some(directory) => files.overlay(directory).map_err(|error| vec![error])?,
            None => vec![],
        };
        Self::of(files, &own)
    }

    /// Checks these files; of `own` ones, each must be of use.
    fn of(files: Files, own: &[String]) -> Result<Self, Vec<TemplateError>> {
        let files = Arc::new(files);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEEPEST);
        let mut errors = vec![];
        let mut about = BTreeMap::new();
        for mail in files.mails() {
            let file = format!("{mail}.json");
            match files.text(&file).map(|text| about::read(&file, text)) {
                Some(Ok(known)) => drop(about.insert(mail.to_owned(), known)),
                Some(Err(error)) => errors.push(error),
                None => {}
            }
        }
        let mut templates = Self { environment, files, about };
        errors.extend(check::check(&mut templates, own));
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    /// Every mail by name, with the locales it is there in.
    pub fn mails(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.files.mails().map(|mail| (mail, self.files.locales(mail).collect()))
    }

    /// What is said of a mail beside its text.
    pub fn about(&self, mail: &str) -> About {
        self.about.get(mail).cloned().unwrap_or_default()
    }

    /// The locale that a mail is rendered in: the wanted one, its language (de for de-AT), or the fallback.
    pub fn locale<'a>(&'a self, mail: &'a str, wanted: &str) -> &'a str {
        let plain = |locale: &str| locale.replace('_', "-").to_ascii_lowercase();
        let mut wanted = plain(wanted);
        loop {
            if let Some(locale) = self.files.locales(mail).find(|locale| plain(locale) == wanted) {
                return locale;
            }
            match wanted.rfind('-') {
                Some(end) => wanted.truncate(end),
                None => return FALLBACK,
            }
        }
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
        let token = self.token(args, settings, occurred_at);
        let place = Place::of(&settings.public_url, &token, settings.link_ttl);
        let (user_id, data) = (args.user_id.to_string(), Value::from(Serde(&args.data)));
        let values = place.values(args.name.as_deref(), &user_id, &data);
        let mail = self.known(&args.template)?;
        self.fill(mail, self.locale(mail, &args.locale), &values)
    }

    /// The token in the link of a job's mail: the same at every attempt.
    pub(super) fn token(&self, args: &CheckedArgs, settings: &Settings, occurred_at: OffsetDateTime) -> String {
        let expires_at = occurred_at.checked_add(settings.link_ttl.try_into().unwrap_or(time::Duration::MAX));
        settings.keys.sign(&Verification {
            user_id: args.user_id,
            email: &args.address,
            expires_at: expires_at.unwrap_or(occurred_at),
        })
    }

    /// Renders a mail as it would be for nobody, and says in which locale.
    ///
    /// # Errors
    /// When there is no such template.
    pub fn sample<'a>(
        &'a self,
        mail: &'a str,
        locale: &str,
        public_url: &PublicUrl,
    ) -> Result<(Content, &'a str), TemplateError> {
        let mail = self.known(mail)?;
        let place = Place::of(public_url, "a-sample-of-a-token", std::time::Duration::from_secs(24 * 3600));
        let data = Value::from(Serde(self.about(mail).sample));
        let user_id = uuid::Uuid::nil().to_string();
        let locale = self.locale(mail, locale);
        Ok((self.fill(mail, locale, &place.values(Some("Ada Lovelace"), &user_id, &data))?, locale))
    }

    /// A mail's name, if there is such a mail.
    fn known<'a>(&self, mail: &'a str) -> Result<&'a str, TemplateError> {
        if self.files.mails().any(|known| known == mail) {
            return Ok(mail);
        }
        Err(TemplateError::Unknown(self.files.mails().collect::<Vec<_>>().join(", ")))
    }

    fn fill(&self, mail: &str, locale: &str, values: &Values<'_>) -> Result<Content, TemplateError> {
        let (subject, text, html) = self.texts(mail, locale, values)?;
        let unsubscribe = match &self.about(mail).list_unsubscribe {
            Some(template) => Some(self.unsubscribe(mail, template, &values.context(locale))?),
            None => None,
        };
        Ok(Content { subject, text, html, unsubscribe })
    }

    /// Subject, text and HTML.
    fn texts(&self, mail: &str, locale: &str, values: &Values<'_>) -> Result<(String, String, String), TemplateError> {
        let context = values.context(locale);
        let part = |ending: &str| self.part(&format!("{locale}/{mail}.{ending}"), &context);
        let subject_file = || format!("{locale}/{mail}.{}", PARTS[0]);
        let subject = part(PARTS[0])?.trim().to_owned();
        let one_line = !subject.chars().any(shared::characters::is_unsafe);
        if !one_line || !(1..=LONGEST_SUBJECT).contains(&subject.chars().count()) {
            let problem = format!("the subject is not one line of 1 to {LONGEST_SUBJECT} characters");
            return Err(TemplateError::of(subject_file(), problem));
        }
        Ok((subject, part("txt")?, part("html")?))
    }

    fn part(&self, file: &str, context: &Value) -> Result<String, TemplateError> {
        let wrong = |error: minijinja::Error| TemplateError::engine(&error, file, |name| self.files.text(name));
        let template = self.environment.get_template(file).map_err(wrong)?;
        let mut out = Capped(vec![]);
        if let Err(error) = template.render_captured_to(context.clone(), &mut out) {
            let too_long = out.0.len() >= LONGEST_PART;
            return Err(if too_long { TemplateError::of(file, "renders to more than 1 MiB") } else { wrong(error) });
        }
        String::from_utf8(out.0).map_err(|_| TemplateError::of(file, "renders to something that is no text"))
    }

    fn unsubscribe(&self, mail: &str, template: &str, context: &Value) -> Result<String, TemplateError> {
        let file = format!("{mail}.json");
        let wrong = |problem: String| TemplateError::of(file.clone(), format!("list_unsubscribe {problem}"));
        let address =
            self.environment.render_str(template, context.clone()).map_err(|error| wrong(error.kind().to_string()))?;
        let usable = address.starts_with("https://")
            && address.len() <= LONGEST_UNSUBSCRIBE
            && address.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
            && url::Url::parse(&address).is_ok();
        if usable { Ok(address) } else { Err(wrong("is no https address of at most 900 characters".to_owned())) }
    }
}

/// Takes so much and no more.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST_PART.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
        if room == bytes.len() { Ok(room) } else { Err(io::ErrorKind::FileTooLarge.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a mail's links lead.
struct Place {
    site: String,
    home: String,
    link: String,
    valid_for: String,
}

impl Place {
    fn of(public_url: &PublicUrl, token: &str, valid_for: std::time::Duration) -> Self {
        Self {
            site: public_url.origin().split("://").last().unwrap_or_default().to_owned(),
            home: public_url.join("/"),
            link: public_url.verification_link(token),
            valid_for: in_words(valid_for.as_secs()),
        }
    }

    fn values<'a>(&'a self, name: Option<&'a str>, user_id: &'a str, data: &'a Value) -> Values<'a> {
        let Self { site, home, link, valid_for } = self;
        Values { name, site, home, link, valid_for, user_id, data }
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
mod tests;
