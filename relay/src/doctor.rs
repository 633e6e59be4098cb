//! Doctor: is everything around the relay as it must be? Each finding says what is so, how bad it is, and what to do.
//!
//! It looks with the relay's own roles and settings, so what it can't see the relay can't see either. It changes nothing
//! and sends no mail. When one side is away the others are looked at all the same.

mod server;
mod rights;
mod application;
mod jobs;
mod flow;
mod mail;
mod text;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shared::database_url::DatabaseUrl;
use shared::settings::Faults;

use crate::mail::Email;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and may not for long, or not in every case.
    Warning,
    /// It does not work, or loses something.
    Problem,
}

impl Level {
    /// As a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which part: `settings`, `application database`, `jobs database`, `flow`, `mail`.
    pub part: &'static str,
    /// What was looked at, as a durable name.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// What the doctor is told.
pub struct Patient {
    /// The application database, if it is known.
    pub application: Option<DatabaseUrl>,
    /// The jobs database, if it is known.
    pub jobs: Option<DatabaseUrl>,
    /// How mail is sent, if that is known.
    pub email: Option<Arc<Email>>,
    /// What is wrong with the settings.
    pub faults: Faults,
    /// From where on things are worth a word.
    pub limits: Limits,
}

/// From where on things are worth a word.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A transaction open for this long.
    pub transaction: Duration,
    /// An event or a job that waits for this long.
    pub lag: Duration,
    /// An event in the outbox that is this old.
    pub retention: Duration,
    /// A clock that differs by this much.
    pub clock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transaction: Duration::from_secs(5 * 60),
            lag: Duration::from_secs(5 * 60),
            // A day beyond what `api prune` keeps by default.
            retention: Duration::from_secs(31 * 24 * 3600),
            clock: Duration::from_secs(2),
        }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of the findings.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// For people; `all` with what is in order.
    pub fn to_text(&self, all: bool) -> String {
        text::of(self, all)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "part": finding.part, "check": finding.check, "level": finding.level.as_str(),
                "what": finding.what, "remedy": finding.remedy,
            })
        };
        json!({
            "worst": self.worst().as_str(),
            "problems": self.count(Level::Problem),
            "warnings": self.count(Level::Warning),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// Where the checks of one part put what they find.
struct Notes {
    part: &'static str,
    findings: Vec<Finding>,
}

impl Notes {
    fn new(part: &'static str) -> Self {
        Self { part, findings: Vec::new() }
    }

    fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.push(check, Level::Ok, what.into(), None);
    }

    fn note(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Note, what.into(), Some(remedy.into()));
    }

    fn warning(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Warning, what.into(), Some(remedy.into()));
    }

    fn problem(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Problem, what.into(), Some(remedy.into()));
    }

    fn push(&mut self, check: &'static str, level: Level, what: String, remedy: Option<String>) {
        self.findings.push(Finding { part: self.part, check, level, what, remedy });
    }

    /// A check that could not be made: that is a finding too.
    fn keep<T, E: std::fmt::Display>(&mut self, check: &'static str, asked: Result<T, E>) -> Option<T> {
        asked.map_err(|error| self.warning(check, format!("could not be looked at: {error}"), "Look at the error")).ok()
    }
}

/// Looks at everything.
pub async fn examine(patient: Patient) -> Report {
    let Patient { application, jobs, email, faults, limits } = patient;
    let mut settings = Notes::new("settings");
    for (setting, problem, remedy) in faults.iter() {
        settings.problem("setting", format!("{setting}: {problem}"), remedy);
    }
    if faults.is_empty() {
        settings.ok("setting", "every setting can be read");
    }
    let (application_notes, jobs_notes, flow_notes, mail_notes) = tokio::join!(
        async {
            match &application {
                Some(url) => application::examine(url, &limits).await,
                None => Notes::new("application database"),
            }
        },
        async {
            match &jobs {
                Some(url) => jobs::examine(url, &limits).await,
                None => Notes::new("jobs database"),
            }
        },
        async {
            match (&application, &jobs) {
                (Some(application), Some(jobs)) => flow::examine(application, jobs, &limits).await,
                _ => Notes::new("flow"),
            }
        },
        async {
            match &email {
                Some(email) => mail::examine(email).await,
                None => Notes::new("mail"),
            }
        },
    );
    let parts = [settings, application_notes, jobs_notes, flow_notes, mail_notes];
    Report { findings: parts.into_iter().flat_map(|notes| notes.findings).collect() }
}

/// What the doctor calls itself to PostgreSQL.
fn session_name() -> String {
    format!("aftercommit doctor {}", std::process::id())
}
