//! What to call a person: any script, one line, not too long, not nothing.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use crate::characters;

const LONGEST_GRAPHEMES: usize = 64;
/// A single grapheme can be made endlessly long, so bytes are bounded as well.
const LONGEST_BYTES: usize = 2048;

/// A checked display name: 1 to 64 graphemes that show something, composed (NFC), without white space around it and
/// without control, line-breaking or direction-turning characters.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

/// What is wrong with a display name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DisplayNameError {
    /// Empty, or nothing that shows.
    #[error("must not be empty or only white space")]
    Empty,
    /// Too long.
    #[error("must not be longer than 64 characters")]
    TooLong,
    /// Control characters, line breaks, direction marks.
    #[error("must not hold control characters, line breaks or characters that turn the direction of text")]
    Unsafe,
}

impl DisplayName {
    /// Checks a name as a person typed it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, DisplayNameError> {
        // Before anything else is done with it: normalising costs more than counting bytes.
        if text.len() > LONGEST_BYTES {
            return Err(DisplayNameError::TooLong);
        }
        let name: String = text.trim().nfc().collect();
        if name.chars().any(characters::is_unsafe) {
            Err(DisplayNameError::Unsafe)
        } else if name.chars().all(characters::is_invisible) {
            Err(DisplayNameError::Empty)
        } else if name.len() > LONGEST_BYTES || name.graphemes(true).count() > LONGEST_GRAPHEMES {
            Err(DisplayNameError::TooLong)
        } else {
            Ok(Self(name))
        }
    }

    /// A name that was parsed before and stored. Rules may have changed since; what was good stays.
    pub fn restore(name: String) -> Self {
        Self(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for DisplayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DisplayName(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_scripts_are_good() {
        for name in ["Ada", "Zoë Ångström", "王小明", "أحمد", "O'Neil, Jr.", "👩‍👩‍👧‍👦", "Ada <b>", "می‌خواهم"]
        {
            assert_eq!(DisplayName::parse(name).map(|name| name.0), Ok(name.nfc().collect()), "{name}");
        }
        assert_eq!(DisplayName::parse("  Ada \u{a0}").unwrap().as_str(), "Ada");
        let family = "👩‍👩‍👧‍👦".repeat(64);
        assert_eq!(DisplayName::parse(&family).unwrap().as_str(), family);
    }

    #[test]
    fn each_rule_is_told() {
        use DisplayNameError::{Empty, TooLong, Unsafe};
        for (name, error) in [
            ("", Empty),
            (" \u{3000}\t", Empty),
            ("\u{200d}\u{3164}", Empty),
            (&"a".repeat(65), TooLong),
            (&format!("a{}", "\u{301}".repeat(2000)), TooLong),
            ("Ada\r\nBcc: eve@example.com", Unsafe),
            ("Ada\u{202e}evE", Unsafe),
            ("A\0da", Unsafe),
            ("A\u{2028}da", Unsafe),
        ] {
            assert_eq!(DisplayName::parse(name), Err(error), "{name:?}");
        }
    }
}
