//! What is wrong with a template: where, to the column, and what. No message holds a value.

use std::error::Error as _;

use minijinja::ErrorKind;

/// Why a mail can't be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No such mail.
    #[error("there is no template of that name; known are {0}")]
    Unknown(String),
    /// Wrong in itself, or of no use for this mail.
    #[error("template {file}{}: {problem}", place_text(.place))]
    Wrong {
        /// The file, as in `en/welcome.html`.
        file: String,
        /// Line and column, if it is about a place in the file.
        place: Option<(usize, usize)>,
        /// What.
        problem: String,
    },
}

fn place_text(place: &Option<(usize, usize)>) -> String {
    place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"))
}

impl TemplateError {
    /// About a file as a whole.
    pub(super) fn of(file: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Wrong { file: file.into(), place: None, problem: problem.into() }
    }

    /// What the engine says. `source` is a file's text.
    pub(super) fn engine<'a>(error: &minijinja::Error, file: &str, source: impl Fn(&str) -> Option<&'a str>) -> Self {
        // An include or a parent that failed says where in itself, further down.
        let mut deepest = error;
        while let Some(cause) = deepest.source().and_then(|cause| cause.downcast_ref()) {
            deepest = cause;
        }
        let file = deepest.name().unwrap_or(file);
        let text = source(file).unwrap_or_default();
        let range = deepest.range().filter(|range| text.get(range.clone()).is_some());
        let place = match &range {
            Some(range) => Some(place(text, range.start)),
            None => deepest.line().map(|line| (line, 1)),
        };
        let written = range.and_then(|range| text[range].lines().next()).map(|text| shared::redact::cut(text, 60));
        // The detail of other kinds may quote a value; these quote the template.
        let quotes_the_template = matches!(
            deepest.kind(),
            ErrorKind::SyntaxError
                | ErrorKind::TemplateNotFound
                | ErrorKind::UnknownFilter
                | ErrorKind::UnknownFunction
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownBlock
        );
        let problem = match (deepest.detail().filter(|_| quotes_the_template), written) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(written)) => format!("{} in `{written}`", deepest.kind()),
            (None, None) => deepest.kind().to_string(),
        };
        Self::Wrong { file: file.to_owned(), place, problem }
    }

    /// What it is about, to tell two errors apart.
    pub(super) fn place(&self) -> (String, Option<(usize, usize)>) {
        match self {
            Self::Unknown(known) => (known.clone(), None),
            Self::Wrong { file, place, .. } => (file.clone(), *place),
        }
    }

    /// About the first place where a word stands in a file.
    pub(super) fn word(file: &str, text: &str, word: &str, problem: String) -> Self {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let stands_alone = |at: usize| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part);
        let at = text.match_indices(word).map(|(at, _)| at).find(|at| stands_alone(*at));
        Self::Wrong { file: file.to_owned(), place: at.map(|at| place(text, at)), problem }
    }
}

/// Line and column, both from 1, of a place in a text.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
