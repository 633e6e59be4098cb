//! The doctor's report, and what is asked of it.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::databases::Databases;
use tests::services::{relay, verification_keys};

/// A report.
pub struct Report {
    pub code: Option<i32>,
    pub json: Value,
}

/// Settings beside the usual ones, or in their place.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// Asks `relay doctor --json`. Mail goes nowhere unless the settings say so.
pub async fn doctor(databases: &Databases, settings: Settings<'_>, arguments: &[&str]) -> Result<Report> {
    let launch = relay(databases, &verification_keys(), "http://127.0.0.1:8080", "smtp://127.0.0.1:9").await?;
    let launch = launch.environment(settings.iter().copied());
    let finished = launch.arguments(["doctor", "--json"]).arguments(arguments.iter().copied()).run().await?;
    let json = serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))?;
    Ok(Report { code: finished.code(), json })
}

impl Report {
    /// What is said of a check: level and words.
    pub fn of(&self, part: &str, check: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings
            .filter(|finding| finding["part"] == part && finding["check"] == check)
            .map(|finding| (text(&finding["level"]), text(&finding["what"])))
            .collect()
    }

    /// That a check found something of this level, which holds these words; and says what to do about it.
    pub fn expect(&self, part: &str, check: &str, level: &str, words: &str) {
        let found = self.of(part, check);
        assert!(
            found.iter().any(|(of, what)| of == level && what.contains(words)),
            "{part}, {check}: wanted {level}: {words:?}, found {found:?} in\n{:#}",
            self.json
        );
        for finding in self.json["findings"].as_array().into_iter().flatten() {
            assert_eq!(finding["remedy"].is_string(), finding["level"] != "ok", "{finding}");
        }
    }
}
