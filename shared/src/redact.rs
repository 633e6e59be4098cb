//! Text from elsewhere (a decoder, a panic, a mail server) made fit to be kept: no quoted values, no addresses, one line,
//! bounded.

/// What an error column holds at most, in bytes.
pub const ERROR_BYTES: usize = 4096;

/// The text without what stands in double quotes and without words that hold an `@`, on one line, cut to
/// [`ERROR_BYTES`]. Never empty.
pub fn redact(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(ERROR_BYTES));
    let mut rest = Some(text);
    let mut quoted = false;
    while let Some(text) = rest {
        let (part, after) = to_quote(text, quoted);
        rest = after;
        // Every other part stands in quotes: serde and others quote values so, and names in backticks.
        quoted = !quoted;
        if !quoted {
            kept.push_str("\"…\"");
            continue;
        }
        for (position, word) in part.split(|c: char| c.is_whitespace() || c.is_control()).enumerate() {
            if position > 0 {
                kept.push(' ');
            }
            kept.push_str(if word.contains('@') { "…@…" } else { word });
        }
        if kept.len() > 4 * ERROR_BYTES {
            break;
        }
    }
    let kept = kept.trim();
    if kept.is_empty() { "no message".to_owned() } else { cut(kept, ERROR_BYTES).to_owned() }
}

/// What stands before the next quote, and what comes after it. In quotes, one with a backslash before it is part of the value.
fn to_quote(text: &str, quoted: bool) -> (&str, Option<&str>) {
    let mut escaped = false;
    let quote = text.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = quoted && *c == '\\' && !escaped;
        ends
    });
    quote.map_or((text, None), |(at, _)| (&text[..at], Some(&text[at + 1..])))
}

/// The longest start of the text that fits into so many bytes.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_addresses_are_left_out() {
        assert_eq!(
            redact("invalid type: string \"ann@x.org\", expected u32"),
            "invalid type: string \"…\", expected u32"
        );
        assert_eq!(redact(r#"string "a\"secret\\", expected "b" or c"#), "string \"…\", expected \"…\" or c");
        assert_eq!(redact("550 <ann@x.org>:\r\nno such user"), "550 …@…  no such user");
        assert_eq!(redact("\n"), "no message");
        assert_eq!(redact("missing field `user_id`"), "missing field `user_id`");
        assert!(redact(&"é".repeat(9000)).len() <= ERROR_BYTES);
    }
}
