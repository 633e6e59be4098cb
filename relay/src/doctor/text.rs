//! The report for people.

use shared::terminal::{bad, faint, good, strong, warning};

use super::{Level, Report};

pub(super) fn of(report: &Report, all: bool) -> String {
    let mut text = String::new();
    let mut part = "";
    for finding in report.findings.iter().filter(|finding| all || finding.level > Level::Ok) {
        if finding.part != part {
            part = finding.part;
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}\n", strong(part)));
        }
        let word = format!("{:<7}", finding.level.as_str());
        let word = match finding.level {
            Level::Ok => good(&word),
            Level::Note => word,
            Level::Warning => warning(&word),
            Level::Problem => bad(&word),
        };
        text.push_str(&format!("  {word}  {}: {}\n", finding.check, finding.what));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("           {}\n", faint(remedy)));
        }
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    let count = |level, one: &str| match report.count(level) {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    };
    let (problems, warnings) = (count(Level::Problem, "problem"), count(Level::Warning, "warning"));
    text.push_str(&format!("{gap}{problems}, {warnings}, {}\n", count(Level::Note, "note")));
    text
}
