//! Reading settings: text from flags and the environment becomes typed values, and every fault is collected.
//!
//! A person who starts a binary with three wrong settings learns all three at once, one line each, and the process
//! exits with 2. Nothing here knows which settings exist: each binary has its own table. No value is ever printed
//! for a secret, and values of other settings only where the line would be useless without them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Everything that is wrong with the settings of one start.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Debug)]
struct Fault {
    setting: String,
    problem: String,
    remedy: String,
}

impl Faults {
    /// No fault yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one: which setting, what is wrong with it, what to do about it.
    pub fn push(&mut self, setting: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Fault { setting: setting.into(), problem: problem.into(), remedy: remedy.into() });
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each fault: the setting, what is wrong with it, what to do about it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.0.iter().map(|fault| (&*fault.setting, &*fault.problem, &*fault.remedy))
    }

    /// `Err` with all faults when there is any.
    pub fn finish(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Fault { setting, problem, remedy } = fault;
            write!(f, "{setting}: {problem}. {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A value that is shown to nobody: `Debug` and `Display` print `[hidden]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Call it where it is used, never where it is passed along.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// So that clap can hold a secret without ever printing it.
impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// A secret that may be given as itself or as the path of a file (`X` or `X_FILE`). Absent is `None` and no fault.
/// An empty value counts as absent, because compose files pass unset variables on as empty ones.
pub fn secret(name: &str, value: Option<Secret>, file: Option<&Path>, faults: &mut Faults) -> Option<Secret> {
    let value = value.filter(|secret| !secret.expose().is_empty());
    let file = file.filter(|path| !path.as_os_str().is_empty());
    match (value, file) {
        (Some(_), Some(_)) => {
            faults.push(name, format!("is given twice, as {name} and as {name}_FILE"), "Give one of the two");
            None
        }
        (Some(value), None) => Some(value),
        (None, Some(file)) => secret_file(name, file, faults),
        (None, None) => None,
    }
}

/// As [`secret`], and absent is a fault.
pub fn required_secret(
    name: &str,
    value: Option<Secret>,
    file: Option<&Path>,
    example: &str,
    faults: &mut Faults,
) -> Option<Secret> {
    let faults_before = faults.0.len();
    let found = secret(name, value, file, faults);
    if found.is_none() && faults.0.len() == faults_before {
        faults.push(name, "is not set", format!("Give it as {example}, or its file as {name}_FILE"));
    }
    found
}

fn secret_file(name: &str, file: &Path, faults: &mut Faults) -> Option<Secret> {
    let setting = format!("{name}_FILE");
    let shown = file.display();
    match std::fs::read_to_string(file) {
        Ok(text) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if text.is_empty() {
                faults.push(setting, format!("the file {shown} is empty"), "Write the secret into it");
                return None;
            }
            Some(Secret::new(text))
        }
        Err(error) => {
            faults.push(setting, format!("the file {shown} can't be read ({error})"), "Check its path and permissions");
            None
        }
    }
}

/// An optional text setting; an empty one counts as absent.
pub fn text(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.trim().is_empty())
}

/// A value of any type that can be parsed from text, or the default when it is absent. `expected` completes
/// "Give …" and should hold an example.
pub fn parsed<T: FromStr>(name: &str, value: Option<String>, default: T, expected: &str, faults: &mut Faults) -> T {
    match text(value) {
        None => default,
        Some(given) => match given.trim().parse() {
            Ok(parsed) => parsed,
            Err(_) => {
                faults.push(name, format!("{given:?} is not valid"), format!("Give {expected}"));
                default
            }
        },
    }
}

/// A whole number within bounds, or the default.
pub fn number(
    name: &str,
    value: Option<String>,
    default: u64,
    bounds: std::ops::RangeInclusive<u64>,
    faults: &mut Faults,
) -> u64 {
    let (low, high) = (*bounds.start(), *bounds.end());
    let expected = format!("a whole number from {low} to {high}");
    let number = parsed(name, value, default, &expected, faults);
    if !bounds.contains(&number) {
        faults.push(name, format!("{number} is out of bounds"), format!("Give {expected}"));
        return default;
    }
    number
}

/// `true` or `false`, or the default.
pub fn switch(name: &str, value: Option<String>, default: bool, faults: &mut Faults) -> bool {
    let Some(given) = text(value) else {
        return default;
    };
    match given.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => true,
        "false" | "0" | "no" | "off" => false,
        _ => {
            faults.push(name, format!("{given:?} is neither true nor false"), "Give true or false");
            default
        }
    }
}

/// A time span with its unit (`250ms`, `30s`, `15m`, `24h`, `7d`), or the default. Zero is a fault: no interval or
/// time limit here means anything at zero.
pub fn duration(name: &str, value: Option<String>, default: Duration, faults: &mut Faults) -> Duration {
    let Some(given) = text(value) else {
        return default;
    };
    match parse_duration(given.trim()) {
        Some(span) if !span.is_zero() => span,
        Some(_) => {
            faults.push(name, "must be longer than zero", "Give a time span such as 500ms, 30s, 15m or 24h");
            default
        }
        None => {
            faults.push(
                name,
                format!("{given:?} is not a time span"),
                "Give a whole number with its unit, such as 500ms, 30s, 15m, 24h or 7d",
            );
            default
        }
    }
}

/// At most this: a longer span is a typo, and would overflow timers and timestamps.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads a time span with its unit; `None` when it is none, or longer than anything that makes sense.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis)).filter(|span| *span <= LONGEST)
}

/// The variables named `AFTERCOMMIT_*` that are set although no such setting exists, each with what may have been
/// meant. The settings bear no prefix, so such a variable is a misunderstanding that would otherwise go unnoticed.
pub fn unknown_variables(set: impl IntoIterator<Item = String>, known: &[&str]) -> Vec<(String, Option<String>)> {
    set.into_iter()
        .filter(|name| name.starts_with("AFTERCOMMIT_") && !known.contains(&name.as_str()))
        .map(|name| {
            let bare = name.trim_start_matches("AFTERCOMMIT_");
            let meant = known.iter().find(|known| **known == bare);
            let meant = meant.map(|known| (*known).to_owned());
            (name, meant)
        })
        .collect()
}

/// Logs a warning for each of [`unknown_variables`] in this process's environment.
pub fn warn_about_unknown_variables(known: &[&str]) {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, meant) in unknown_variables(set, known) {
        match meant {
            Some(meant) => tracing::warn!("{name} is not a setting and is ignored; the setting is called {meant}"),
            None => tracing::warn!("{name} is not a setting and is ignored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_fault(faults: Faults) -> String {
        faults.finish().expect_err("a fault").to_string()
    }

    #[test]
    fn all_faults_are_told_one_line_each() {
        let mut faults = Faults::new();
        assert_eq!(number("A", Some("x".into()), 7, 1..=9, &mut faults), 7);
        assert_eq!(number("B", Some("10".into()), 7, 1..=9, &mut faults), 7);
        assert!(switch("C", Some("maybe".into()), true, &mut faults));
        duration("D", Some("5".into()), Duration::from_secs(1), &mut faults);
        duration("E", Some("0s".into()), Duration::from_secs(1), &mut faults);
        let text = one_fault(faults);
        assert_eq!(text.lines().count(), 5, "{text}");
        for (line, name) in text.lines().zip(["A: ", "B: ", "C: ", "D: ", "E: "]) {
            assert!(line.starts_with(name), "{line}");
        }
    }

    #[test]
    fn time_spans_need_their_unit_and_cannot_overflow() {
        let span = |text: &str| parse_duration(text);
        assert_eq!(span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(span("15m"), Some(Duration::from_secs(900)));
        assert_eq!(span("24h"), Some(Duration::from_secs(86_400)));
        for bad in ["", "15", "-1s", "1.5s", "s", "99999999999999999999s", "18446744073709551615d", "99999d"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_comes_from_its_value_or_its_file_but_not_from_both() {
        let folder = std::env::temp_dir().join(format!("settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (full, empty) = (folder.join("full"), folder.join("empty"));
        std::fs::write(&full, "from the file\n").unwrap();
        std::fs::write(&empty, "\n").unwrap();

        let mut faults = Faults::new();
        let from_value = secret("S", Some(Secret::new("v")), None, &mut faults);
        assert_eq!(from_value.as_ref().map(Secret::expose), Some("v"));
        let from_file = secret("S", Some(Secret::new("")), Some(&full), &mut faults);
        assert_eq!(from_file.as_ref().map(Secret::expose), Some("from the file"));
        assert_eq!(secret("S", None, None, &mut faults), None);
        assert!(faults.is_empty());

        secret("S", Some(Secret::new("v")), Some(&full), &mut faults);
        secret("S", None, Some(&empty), &mut faults);
        secret("S", None, Some(&folder.join("missing")), &mut faults);
        required_secret("S", None, None, "an example", &mut faults);
        let text = one_fault(faults);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains("from the file"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "[hidden] [hidden]");
    }

    #[test]
    fn a_prefixed_variable_is_told_with_what_was_meant() {
        let set = ["AFTERCOMMIT_DATABASE_URL", "AFTERCOMMIT_X", "DATABASE_URL", "PATH"];
        let unknown = unknown_variables(set.map(str::to_owned), &["DATABASE_URL"]);
        assert_eq!(
            unknown,
            [
                ("AFTERCOMMIT_DATABASE_URL".to_owned(), Some("DATABASE_URL".to_owned())),
                ("AFTERCOMMIT_X".to_owned(), None),
            ]
        );
    }
}
