//! What JSON may hold and `jsonb` may not.
//!
//! `jsonb` keeps strings as text, which has no NUL and no lone half of a surrogate pair, and numbers as numeric, which ends at
//! 16,383 digits after the point. It goes down into what is nested as far as the server's stack reaches. Text that was only
//! ever `json`, on another server, may have all of them.

/// The digits of a number, and its exponent, are taken up to this: together they stay within numeric.
const MOST: usize = 8_000;

/// Brackets within brackets.
const DEEPEST: usize = 500;

/// Whether `jsonb` takes some valid JSON.
pub(super) fn fits_jsonb(json: &str) -> bool {
    !is_suspicious(json) || Scan { rest: json.as_bytes(), depth: 0 }.fits()
}

/// Whether a closer look is needed: few texts are long, or have escapes, many brackets, or what may be an exponent of four
/// digits. Each byte is looked at, without a branch, which takes less time than to search for the few that count.
fn is_suspicious(json: &str) -> bool {
    let bytes = json.as_bytes();
    let any = |found: u8, here: bool| found | u8::from(here);
    let escapes = bytes.iter().fold(0, |found, byte| any(found, *byte == b'\\'));
    let exponents = bytes.windows(6).fold(0, |found, window| any(found, may_be_exponent(window)));
    let brackets = || bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    (escapes | exponents) != 0 || bytes.len() > MOST || (bytes.len() > DEEPEST && brackets() > DEEPEST)
}

/// Whether bytes begin with the end of a number's digits and the begin of an exponent.
fn may_be_exponent(window: &[u8]) -> bool {
    let &[last, e, sign, first, second, third] = window else { return false };
    let digit = |byte: u8| byte.is_ascii_digit();
    let begin = digit(sign) | (sign == b'+') | (sign == b'-');
    (e | 0x20 == b'e') & digit(last) & begin & digit(first) & digit(second) & digit(third)
}

struct Scan<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Scan<'_> {
    fn fits(mut self) -> bool {
        while let Some(byte) = self.next() {
            let fits = match byte {
                b'"' => self.string(),
                b'-' | b'0'..=b'9' => self.number(),
                b'[' | b'{' => {
                    self.depth += 1;
                    self.depth <= DEEPEST
                }
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    true
                }
                _ => true,
            };
            if !fits {
                return false;
            }
        }
        true
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// To the end of a string that has begun.
    fn string(&mut self) -> bool {
        while let Some(byte) = self.next() {
            match byte {
                b'"' => break,
                b'\\' if self.next() == Some(b'u') => match self.unit() {
                    0 | 0xdc00..=0xdfff => return false,
                    0xd800..=0xdbff => {
                        let escape = self.next() == Some(b'\\') && self.next() == Some(b'u');
                        if !escape || !(0xdc00..=0xdfff).contains(&self.unit()) {
                            return false;
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        true
    }

    /// The four digits of an escape; 0 where there are none.
    fn unit(&mut self) -> u32 {
        let Some((digits, rest)) = self.rest.split_at_checked(4) else { return 0 };
        self.rest = rest;
        std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    /// To the end of a number that has begun.
    fn number(&mut self) -> bool {
        let length = self.rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
        let (number, rest) = self.rest.split_at(length.count());
        self.rest = rest;
        let mut parts = number.splitn(2, |byte| matches!(byte, b'e' | b'E'));
        let digits = parts.next().map_or(0, <[u8]>::len);
        let exponent = parts.next().map_or(Ok(0), |exponent| {
            let exponent = std::str::from_utf8(exponent).unwrap_or_default();
            exponent.trim_start_matches(['+', '-']).parse()
        });
        digits < MOST && exponent.is_ok_and(|exponent: usize| exponent <= MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_cannot_keep_is_found() {
        let long = format!("[1{}]", "0".repeat(9_000));
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (deepest, too_deep, wide) = (deep(500), deep(501), format!("[{}1]", "[[]],".repeat(900)));
        let fits = [
            "{}",
            &deepest,
            &wide,
            r#"{"a": "x\u00e9\n\\u0000", "e5": [1.5e300, -2E-10, 0e0, 1e007999], "b": "1e99999"}"#,
            r#""\ud83d\ude00""#,
            r#""\\\\u0000""#,
        ];
        for json in fits {
            assert!(fits_jsonb(json), "{json}");
        }
        let unfit = [
            r#""\u0000""#,
            r#"{"\u0000": 1}"#,
            r#"["\\\u0000"]"#,
            r#""\ud83d""#,
            r#""\ud83d\n""#,
            r#""\ud83d\u0041""#,
            r#""\ude00\ud83d""#,
            "[1e99999]",
            "1E+8001",
            "1e8001",
            "-1e-99999999999999999999999",
            &long,
            &too_deep,
        ];
        for json in unfit {
            assert!(!fits_jsonb(json), "{json}");
        }
    }
}
