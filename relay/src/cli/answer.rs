//! What a one-shot command answers: text or JSON on standard output, and an exit code.

use serde_json::json;
use shared::settings::Faults;
use shared::telemetry::complain;
use shared::terminal::{self, Answer};

pub(super) use shared::terminal::{print, print_json};

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

    /// Asks a person, unless told not to. `Err` with the exit code when there is nobody to ask, or the answer is no.
    pub(super) async fn confirm(self, yes: bool, question: &str, what: &str) -> Result<(), u8> {
        if yes {
            return Ok(());
        }
        match terminal::confirm(question).await {
            Answer::Yes => Ok(()),
            Answer::No => Err(self.refuse("nothing was done", 0)),
            Answer::NobodyToAsk => {
                let message = format!("{what}, and there is no terminal to ask at: give --yes");
                Err(self.refuse(&message, super::EXIT_SETTINGS))
            }
        }
    }
}
