//! How commands answer a person or a program: text or JSON on standard output, colour where it is wanted, and a question
//! before what can't be undone.
//!
//! Whoever reads may go away at any time (`relay status | head`): that is no fault. Text is written with its styles, and
//! loses them where they are not wanted: `--color`, `NO_COLOR`, `CLICOLOR`, `TERM=dumb`, or an output that is no terminal.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde_json::Value;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Holds for everything that is printed from now on.
    pub fn apply(self) {
        let choice = match self {
            Self::Auto => return,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// Prints text, which ends with a newline.
pub fn print(text: &str) {
    let mut out = anstream::stdout().lock();
    // Nobody is left to be told that nobody reads.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints JSON, laid out.
pub fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

/// Prints one line of JSON: an answer of many.
pub fn print_json_line(value: &Value) {
    print(&format!("{value}\n"));
}

/// What stands out.
pub fn strong(text: &str) -> String {
    styled(text, Style::new().bold())
}

/// What is beside the point.
pub fn faint(text: &str) -> String {
    styled(text, Style::new().dimmed())
}

/// What is in order.
pub fn good(text: &str) -> String {
    styled(text, AnsiColor::Green.on_default())
}

/// What wants a look.
pub fn warning(text: &str) -> String {
    styled(text, AnsiColor::Yellow.on_default())
}

/// What is wrong.
pub fn bad(text: &str) -> String {
    styled(text, AnsiColor::Red.on_default().bold())
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// How wide a text is when it is shown: without its styles.
pub fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// What a person answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Yes,
    /// Leave it.
    No,
    /// There is no terminal to ask at.
    NobodyToAsk,
}

/// Whether there is a person to ask.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on the terminal, and takes anything but a clear yes for a no.
pub async fn confirm(question: &str) -> Answer {
    if !can_ask() {
        return Answer::NobodyToAsk;
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let (answered, answer) = tokio::sync::oneshot::channel();
    // A thread of its own: one that waits for a person can't be waited for at the end.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        let _ = answered.send(read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"));
    });
    if answer.await.unwrap_or(false) { Answer::Yes } else { Answer::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_take_no_room() {
        assert_eq!((width(&bad("né")), width("plain")), (2, 5));
    }
}
