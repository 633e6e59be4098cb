//! What a one-shot command answers: text or JSON on standard output, and an exit code.
//!
//! Whoever reads may go away at any time (`relay status | head`): that is no fault.

use std::io::Write;

use serde_json::{Value, json};
use shared::settings::Faults;
use shared::telemetry::complain;

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// For programs; errors too.
    Json,
}

impl Form {
    pub(super) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Says why a command ends without an answer.
    pub(super) fn refuse(self, message: &str, exit_code: u8) -> u8 {
        match self {
            Self::Text => complain(message),
            Self::Json => print_json(&json!({"error": message, "exit_code": exit_code})),
        }
        exit_code
    }

    /// Says what is wrong with the settings, if anything is.
    pub(super) fn check(self, faults: Faults) -> Result<(), u8> {
        faults.finish().map_err(|faults| self.refuse(&faults.to_string(), super::EXIT_SETTINGS))
    }
}

/// Prints text, which ends with a newline.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to be told that nobody reads.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints JSON, laid out.
pub(super) fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}
