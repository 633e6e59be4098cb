//! Log lines: one per event on standard error, as text for people or as JSON for collectors.
//!
//! Standard output is left to what a command is asked to print. No line holds an address, a token, a key or a body;
//! that is the business of whoever writes one, except for panics: their messages may quote data, so only the place
//! is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::settings::{self, Faults};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// How log lines look.
    pub format: LogFormat,
    /// Which are written: a level, or directives such as `info,relay=debug`.
    pub filter: String,
}

impl Logging {
    /// Reads the settings `LOG_FORMAT` and `LOG_LEVEL`.
    pub fn parse(format: Option<String>, level: Option<String>, faults: &mut Faults) -> Self {
        let format = match settings::text(format).as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                faults.push("LOG_FORMAT", format!("{other:?} is no format"), "Give text or json");
                LogFormat::Text
            }
        };
        let mut filter = settings::text(level).unwrap_or_else(|| "info".to_owned());
        if let Err(error) = EnvFilter::try_new(&filter) {
            let remedy = "Give error, warn, info, debug or trace, or directives such as info,api=debug";
            faults.push("LOG_LEVEL", format!("{filter:?} is not valid ({error})"), remedy);
            filter = "info".to_owned();
        }
        Self { format, filter }
    }
}

/// Libraries whose lines below a warning quote what passes through them: parameters of statements, requests, bytes.
const TALKATIVE: [&str; 6] = ["tokio_postgres", "sqlx", "hyper", "hyper_util", "h2", "lettre"];

/// The filter as it was given, except that no level makes a library quote data.
fn filter(given: &str) -> EnvFilter {
    let quiet = TALKATIVE.iter().filter_map(|library| format!("{library}=warn").parse().ok());
    quiet.fold(EnvFilter::new(given), EnvFilter::add_directive)
}

/// Starts logging to standard error. Call it once, as soon as the settings are known.
pub fn init(logging: &Logging) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(&logging.filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call (two tests in one process) keeps the first subscriber.
    let _ = match logging.format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked; its message is not logged, for it may quote data");
    }));
}

/// Writes one line to standard error without the panic that `eprintln!` gives when nobody reads it.
pub fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr.make_writer(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_settings_are_checked_at_once() {
        let mut faults = Faults::new();
        let logging = Logging::parse(Some("xml".into()), Some("info,api=loud".into()), &mut faults);
        assert_eq!(logging, Logging { format: LogFormat::Text, filter: "info".into() });
        assert_eq!(faults.finish().expect_err("faults").to_string().lines().count(), 2);

        let mut faults = Faults::new();
        let logging = Logging::parse(Some("json".into()), Some("warn,api=debug".into()), &mut faults);
        assert_eq!(logging, Logging { format: LogFormat::Json, filter: "warn,api=debug".into() });
        assert!(faults.is_empty());
    }
}
