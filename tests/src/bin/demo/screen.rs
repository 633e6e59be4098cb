//! What the demo shows: short lines, a little colour on a terminal, none elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Where the demo writes to.
pub struct Screen {
    colours: bool,
}

impl Screen {
    /// Standard output, with colours if it is a terminal whose user likes them.
    pub fn new() -> Self {
        Self { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Any line. A reader that has gone (`| head`) is no reason to fail.
    pub fn line(&self, text: impl Display) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// A heading.
    pub fn heading(&self, text: &str) {
        self.line(format_args!("\n{}\n", self.paint("1", text)));
    }

    /// A line with a label before it and a remark behind it.
    pub fn item(&self, label: &str, text: &str, remark: &str) {
        let label = self.paint("36", &format!("{label:<11}"));
        self.line(format_args!("  {label} {text}  {}", self.dim(remark)));
    }

    /// Text that matters less.
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A time that a person waited, in a unit that suits it.
pub fn took(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
