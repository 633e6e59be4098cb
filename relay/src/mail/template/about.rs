//! What a mail's `.json` says of it beside its text.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::TemplateError;

/// See the module. Every part may be left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct About {
    /// What to do when nobody knows whether it was sent.
    pub in_doubt: InDoubt,
    /// Where one unsubscribes: an https address, itself a template. Not for mail that people need, such as links to verify
    /// an address.
    pub list_unsubscribe: Option<String>,
    /// What `data` may look like: used to check the templates at start and in previews.
    pub sample: Map<String, Value>,
}

/// What follows when a server took a mail, perhaps, and the answer was lost.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InDoubt {
    /// It is sent again, with the same bytes and Message-ID: it may arrive twice.
    #[default]
    Resend,
    /// It is held for a person to decide: it may not arrive at all.
    Hold,
}

impl InDoubt {
    /// As files have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::Hold => "hold",
        }
    }
}

impl FromStr for About {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

/// Reads a file.
pub(super) fn read(file: &str, text: &str) -> Result<About, TemplateError> {
    text.parse().map_err(|error: serde_json::Error| {
        let place = Some((error.line(), error.column()));
        // The author's own words, and no row's.
        TemplateError::Wrong { file: file.to_owned(), place, problem: error.to_string() }
    })
}
