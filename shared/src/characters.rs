//! Which characters a name or an address may not hold, asked at the API and again when an email is rendered.
//!
//! Rows can be written by any language, so the second asking is no repetition: it guards headers and subjects against
//! line breaks, and readers against text that runs the other way than it says.

/// Whether a character could break a line, hide, or turn the direction of what follows.
///
/// The joiners U+200C and U+200D are allowed: Persian, the scripts of India and emoji need them.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{2028}' | '\u{2029}'                  // line and paragraph separator
            | '\u{061c}' | '\u{200e}' | '\u{200f}'   // direction marks
            | '\u{202a}'..='\u{202e}'                // embeddings and overrides
            | '\u{2066}'..='\u{2069}'                // isolates
            | '\u{fff9}'..='\u{fffb}'                // annotations
            | '\u{fdd0}'..='\u{fdef}'                // never characters
        )
        || (u32::from(c) & 0xfffe) == 0xfffe // never characters, at the end of each plane
}

/// Whether a character shows nothing by itself.
pub fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || is_unsafe(c)
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_lines_or_turns_text_is_unsafe() {
        for c in
            ['\0', '\r', '\n', '\t', '\u{7f}', '\u{85}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{ffff}', '\u{10fffe}']
        {
            assert!(is_unsafe(c) && is_invisible(c), "{c:?}");
        }
        for c in ['a', ' ', 'é', '文', '\u{200d}', '😀', '\u{a0}'] {
            assert!(!is_unsafe(c), "{c:?}");
        }
        for c in [' ', '\u{a0}', '\u{200d}', '\u{3164}', '\u{3000}'] {
            assert!(is_invisible(c), "{c:?}");
        }
        for c in ['a', 'é', '文', '😀'] {
            assert!(!is_invisible(c), "{c:?}");
        }
    }
}
