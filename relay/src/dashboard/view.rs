//! Making pages: templates, which are all parsed at start, and what they say numbers and times with.
//!
//! Values are escaped because every template's name ends in `.html`; one that a template uses and a page does not give
//! is an error.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use poem::http::StatusCode;
use poem::web::Html;
use time::OffsetDateTime;
use time::macros::format_description;

use super::session::Role;
use super::{App, assets};
use crate::text;

macro_rules! sources {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("templates/", $name)))),*] };
}

const SOURCES: &[(&str, &str)] = sources![
    "layout.html",
    "macros.html",
    "login.html",
    "go_on.html",
    "message.html",
    "overview.html",
    "events.html",
    "event.html",
    "failures.html",
    "jobs.html",
    "job.html",
    "change.html",
    "mail.html",
    "mailbox.html",
    "replay.html",
    "replay_run.html",
    "pause.html",
    "audit.html",
];

/// A page: which template, and what it says.
#[derive(Debug)]
pub struct Page {
    /// What it is called.
    pub title: String,
    /// The entry of the navigation that it is under, by its path.
    pub section: &'static str,
    /// The template's name.
    pub template: &'static str,
    /// What the template is given.
    pub values: Value,
}

/// Something to be said instead of a page.
#[derive(Clone, Copy, Debug)]
pub struct Message(pub &'static str, pub &'static str);

impl Message {
    /// The host is none of ours.
    pub const HOST: Self = Self(
        "Not known by this name",
        "The dashboard answers to addresses and to the names in DASHBOARD_HOSTS. Add the one that you came by, or come by an address.",
    );
    /// Another site's page sent the request.
    pub const FOREIGN: Self =
        Self("Not from here", "This request came from another site's page, or from nowhere, and was not carried out.");
    /// The form's token does not fit.
    pub const STALE_FORM: Self =
        Self("This page is too old", "Nothing was changed. Go back, load the page again, and repeat what you did.");
    /// A reader wants to change something.
    pub const READ_ONLY: Self =
        Self("You may only look", "Nothing was changed. Log in with the token of those who may change things.");
    /// No session, and no page that could lead to one.
    pub const NOBODY: Self = Self("Log in first", "Nothing was changed.");
    /// A wrong bearer token.
    pub const WRONG_TOKEN: Self = Self("Wrong token", "That is no token of this dashboard.");
    /// Too many wrong tokens.
    pub const TOO_MANY: Self = Self("Too many wrong tokens", "Wait for a minute.");
    /// A form that is none of ours.
    pub const LARGE_FORM: Self = Self("Too much", "The form holds more than a form of this dashboard could.");
    /// A form that does not arrive.
    pub const SLOW_FORM: Self = Self("Too slow", "The form did not arrive in time.");
    /// No such page.
    pub const NO_PAGE: Self = Self("Not found", "There is no such page.");
}

/// See the module.
pub struct View(Environment<'static>);

impl View {
    /// Parses all templates.
    ///
    /// # Errors
    /// When one is broken.
    pub fn new() -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_debug(false);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("time", |value: Value| element(&value, OffsetDateTime::now_utc()));
        environment.add_filter("span", |seconds: f64| text::span(seconds));
        environment.add_filter("urlencode", |text: &str| {
            url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
        });
        environment.add_filter("laid_out", |json: &str| laid_out(json));
        environment.add_global("assets", assets::VERSION.as_str());
        environment.add_global("version", env!("CARGO_PKG_VERSION"));
        for (name, source) in SOURCES {
            environment.add_template(name, source)?;
        }
        Ok(Self(environment))
    }

    /// A page in its frame, for somebody.
    pub fn page(&self, shell: Value, page: &Page) -> Html<String> {
        let Page { title, section, template, values } = page;
        self.html(
            template,
            context! { shell, title => title.as_str(), section => *section, live_only => false, ..values.clone() },
        )
    }

    /// The part of a page that changes by itself.
    pub fn live(&self, shell: Value, page: &Page) -> String {
        let Page { title, section, template, values } = page;
        self.html(
            template,
            context! { shell, title => title.as_str(), section => *section, live_only => true, ..values.clone() },
        )
        .0
    }

    /// A page without a frame: before anybody is in.
    pub fn bare(&self, template: &str, values: Value) -> Html<String> {
        let frame = context! { shell => (), title => "aftercommit", section => "", live_only => false };
        self.html(template, context! { ..values, ..frame })
    }

    fn html(&self, template: &str, values: Value) -> Html<String> {
        let rendered = self.0.get_template(template).and_then(|template| template.render(values));
        Html(rendered.unwrap_or_else(|error| {
            // A test renders every page; what is left is a page that says so, and a line for whoever mends it.
            // Its long form quotes the page's values.
            let (name, line, what) = (error.name().unwrap_or(template), error.line(), error.kind().to_string());
            tracing::error!(template = name, line, what, "a page of the dashboard can't be made");
            "<!doctype html><title>Broken page</title><p>This page can't be made; the relay's log says why.</p>"
                .to_owned()
        }))
    }
}

impl App {
    /// A page that refuses, for whoever it may be.
    pub fn refuse(&self, status: StatusCode, Message(title, text): Message) -> poem::Response {
        use poem::IntoResponse as _;
        self.view.bare("message.html", context! { title, text }).with_status(status).into_response()
    }

    /// What every page's frame shows.
    pub fn shell(&self, session: &super::session::Session, path: &str) -> Value {
        context! {
            path,
            form => self.door.form_token(session),
            may_change => session.role == Role::Operator,
            name => session.name.as_str(),
            role => session.role.as_str(),
            logs_in => self.door.asks_for_a_token(),
            mailbox => self.email.mailbox().is_some(),
        }
    }
}

/// A time as people say it, with the exact one for those who point at it. Templates give seconds since 1970; what is
/// none, infinite or beyond all calendars is a dash.
fn element(value: &Value, now: OffsetDateTime) -> Result<Value, Error> {
    let seconds = match value.kind() {
        ValueKind::None | ValueKind::Undefined => return Ok(Value::from_safe_string("–".to_owned())),
        _ => f64::try_from(value.clone())?,
    };
    let time = moment(seconds);
    let Some(time) = time else { return Ok(Value::from_safe_string("never".to_owned())) };
    let exact = |error| Error::new(ErrorKind::InvalidOperation, "a time can't be written").with_source(error);
    let machine =
        time.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"));
    let title =
        time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3] UTC"));
    let words = relative(seconds - now.unix_timestamp_nanos() as f64 / 1e9);
    let (machine, title) = (machine.map_err(exact)?, title.map_err(exact)?);
    Ok(Value::from_safe_string(format!("<time datetime=\"{machine}\" title=\"{title}\">{words}</time>")))
}

fn moment(seconds: f64) -> Option<OffsetDateTime> {
    // Beyond every calendar, and far below what the integer holds.
    let millis = Some(seconds * 1e3).filter(|millis| millis.abs() < 1e15)?.round() as i128;
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).ok().filter(|time| time.year() > 0)
}

/// Seconds from now in their largest unit; the page's script says the same.
fn relative(seconds: f64) -> String {
    let size = seconds.abs();
    let words = match size {
        s if s < 1.0 => return "now".to_owned(),
        s if s < 60.0 => format!("{} s", s.floor()),
        s if s < 3_600.0 => format!("{} min", (s / 60.0).floor()),
        s if s < 86_400.0 => format!("{} h", (s / 3_600.0).floor()),
        s => format!("{} d", (s / 86_400.0).floor()),
    };
    if seconds < 0.0 { format!("{words} ago") } else { format!("in {words}") }
}

/// JSON with its lines in order; what is none stays as it is.
fn laid_out(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json).map_or_else(|_| json.to_owned(), |value| format!("{value:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_sound() {
        View::new().unwrap();
    }

    #[test]
    fn pages_without_a_frame_are_whole() {
        let view = View::new().unwrap();
        for (template, values, expected) in [
            ("message.html", context! { title => "Too much", text => "<b>" }, "<h1>Too much</h1>"),
            ("message.html", context! { title => "Too much", text => "<b>" }, "&lt;b&gt;"),
            ("login.html", context! { title => "Log in", next => "/jobs", problem => "" }, "name=\"token\""),
            ("go_on.html", context! { title => "Go on", next => "/jobs?a=b" }, "http-equiv=\"refresh\""),
        ] {
            let page = view.bare(template, values).0;
            assert!(page.contains(expected) && page.contains("</html>") && !page.contains("<nav"), "{page}");
        }
    }

    #[test]
    fn times_are_relative_with_the_exact_one_beside() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        for (seconds, expected) in
            [(-0.4, "now"), (-59.9, "59 s ago"), (-3_600.0, "1 h ago"), (90.0, "in 1 min"), (-2e5, "2 d ago")]
        {
            let said = element(&Value::from(1_800_000_000.0 + seconds), now).unwrap().to_string();
            assert!(said.contains(&format!(">{expected}<")), "{said}");
        }
        let said = element(&Value::from(1_800_000_000.123), now).unwrap().to_string();
        let expected = "<time datetime=\"2027-01-15T08:00:00.123Z\" title=\"2027-01-15 08:00:00.123 UTC\">now</time>";
        assert_eq!(said, expected);
        for odd in [f64::INFINITY, f64::NAN, 1e300, -1e300] {
            assert_eq!(element(&Value::from(odd), now).unwrap().to_string(), "never");
        }
        assert_eq!(element(&Value::from(()), now).unwrap().to_string(), "–");
    }
}
