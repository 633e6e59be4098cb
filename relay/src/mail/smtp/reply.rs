//! A server's reply: read within bounds, and what can be told from it.

use std::str::FromStr;
use std::time::Duration;

use lettre::transport::smtp::response::Response;

/// The longest line of a reply that is read (RFC 5321 allows 512).
pub(super) const LONGEST_LINE: usize = 2_048;

/// The longest reply that is read.
pub(super) const LONGEST_REPLY: usize = 65_536;

/// A reply, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    response: Response,
}

/// What stands at the beginning of what was received.
pub(super) enum Parsed {
    /// Not a whole reply yet.
    Incomplete,
    /// A reply, and how many bytes it has.
    Whole(Reply, usize),
    /// No reply, whatever follows.
    Garbage,
}

impl Reply {
    /// Looks for a reply at the beginning of `received`.
    pub(super) fn parse(received: &[u8]) -> Parsed {
        let mut end = 0;
        loop {
            let Some(line) = received[end..].iter().position(|byte| *byte == b'\n') else {
                let too_long = received.len() - end > LONGEST_LINE || received.len() > LONGEST_REPLY;
                return if too_long { Parsed::Garbage } else { Parsed::Incomplete };
            };
            let text = &received[end..end + line];
            end += line + 1;
            let code_is_digits = text.len() >= 3 && text[..3].iter().all(u8::is_ascii_digit);
            if !code_is_digits || line > LONGEST_LINE || end > LONGEST_REPLY {
                return Parsed::Garbage;
            }
            match text.get(3) {
                Some(b'-') => {}
                None | Some(b' ' | b'\r') => break,
                Some(_) => return Parsed::Garbage,
            }
        }
        // Line ends and the space after the code as the grammar wants them, and text of any encoding.
        let text = String::from_utf8_lossy(&received[..end]);
        let ended = |line| [line, if str::len(line) == 3 { " \r\n" } else { "\r\n" }];
        let lines: String = text.lines().flat_map(ended).collect();
        match Response::from_str(&lines) {
            Ok(response) => Parsed::Whole(Self { response }, end),
            Err(_) => Parsed::Garbage,
        }
    }

    /// The three digits.
    pub(super) fn code(&self) -> u16 {
        self.response.code().into()
    }

    /// As the library has it.
    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    /// The same in capitals: what a server offers may come in any case, and the library knows one. So does `AUTH=`, an
    /// old way to write `AUTH `.
    pub(super) fn in_capitals(&self) -> Response {
        let capitals = |line: &str| line.to_ascii_uppercase().replacen("AUTH=", "AUTH ", 1);
        Response::new(self.response.code(), self.response.message().map(capitals).collect())
    }

    /// Code and text on one line.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.code(), self.response.message().collect::<Vec<_>>().join(" "))
    }

    /// The codes without the words.
    pub(super) fn numbers(&self) -> String {
        match self.enhanced_code() {
            Some(enhanced) => format!("{} {enhanced}", self.code()),
            None => self.code().to_string(),
        }
    }

    /// The enhanced status code as text.
    pub(super) fn enhanced_code(&self) -> Option<String> {
        self.enhanced().map(|(class, subject, detail)| format!("{class}.{subject}.{detail}"))
    }

    /// The enhanced status code (RFC 3463), if it is there and of the reply's class.
    pub(super) fn enhanced(&self) -> Option<(u16, u16, u16)> {
        let word = self.response.first_word()?;
        let mut parts = word.split('.').map(|part| part.parse::<u16>().ok());
        let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
        (parts.next().is_none() && class == self.code() / 100).then_some((class, subject, detail))
    }

    /// How long the server asks to be left alone, as in "try again in 300 seconds", "retry after 5min" or "come back in
    /// 00:04:59".
    pub(super) fn wish(&self) -> Option<Duration> {
        let text = self.text().to_ascii_lowercase();
        let words: Vec<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'))
            .map(|word| word.trim_matches(':'))
            .filter(|word| !word.is_empty())
            .collect();
        let asks = |word: &str| matches!(word, "in" | "after" | "for" | "least" | "wait");
        words.iter().enumerate().filter(|(_, word)| asks(word)).find_map(|(at, _)| time(&words[at + 1..]))
    }
}

/// The time that these words begin with.
fn time(words: &[&str]) -> Option<Duration> {
    let first = words.first()?;
    if let Some((rest, seconds)) = first.rsplit_once(':') {
        let (hours, minutes) = rest.split_once(':').unwrap_or(("0", rest));
        let part = |text: &str| text.parse::<u64>().ok().filter(|number| *number < 10_000);
        return Some(Duration::from_secs(part(hours)? * 3600 + part(minutes)? * 60 + part(seconds)?));
    }
    let digits = first.find(|c: char| !c.is_ascii_digit()).unwrap_or(first.len());
    let (number, unit) = first.split_at(digits);
    let unit = if unit.is_empty() { words.get(1)? } else { unit };
    let seconds = match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::authentication::Mechanism;
    use lettre::transport::smtp::extension::{Extension, ServerInfo};
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Reply {
        match Reply::parse(text.as_bytes()) {
            Parsed::Whole(reply, length) if length == text.len() => reply,
            _ => panic!("{text:?}"),
        }
    }

    #[test]
    fn replies_are_read() {
        let reply = whole("250-mx.example.org\r\n250-PIPELINING\r\n250 SMTPUTF8\r\n");
        assert_eq!((reply.code(), reply.text().as_str()), (250, "250 mx.example.org PIPELINING SMTPUTF8"));
        assert_eq!(whole("354\r\n").code(), 354);
        assert_eq!(whole("250 2.0.0 ok\n").enhanced(), Some((2, 0, 0)));
        assert_eq!(whole("450 4.2.1 busy\r\n").enhanced(), Some((4, 2, 1)));
        for text in ["450 5.2.1 busy\r\n", "450 busy\r\n", "450 4.2 x\r\n", "450 4.2.1.1 x\r\n"] {
            assert_eq!(whole(text).enhanced(), None, "{text}");
        }
        assert!(matches!(Reply::parse(b"250 first\r\n250 second\r\n"), Parsed::Whole(_, 11)));
        assert!(matches!(Reply::parse(b"250-mx.exa"), Parsed::Incomplete));
        for text in ["hello\r\n", "25\r\n", "250+x\r\n", "250-a\r\n251 b\r\n", "950 x\r\n"] {
            assert!(matches!(Reply::parse(text.as_bytes()), Parsed::Garbage), "{text}");
        }
        assert!(matches!(Reply::parse(&[b'2'; LONGEST_LINE + 1]), Parsed::Garbage));
        assert!(matches!(Reply::parse("250-x\r\n".repeat(20_000).as_bytes()), Parsed::Garbage));
    }

    #[test]
    fn offers_may_come_in_any_case() {
        let reply = whole("250-mx.example.org\r\n250-StartTls\r\n250-smtputf8\r\n250 AUTH=plain login\r\n");
        let server = ServerInfo::from_response(&reply.in_capitals()).unwrap();
        for offer in [Extension::StartTls, Extension::SmtpUtfEight, Extension::Authentication(Mechanism::Login)] {
            assert!(server.supports_feature(offer), "{offer}");
        }
    }

    #[test]
    fn wishes_are_understood() {
        for (text, seconds) in [
            ("450 4.7.1 Greylisted, try again in 300 seconds\r\n", Some(300)),
            ("451 please retry in 5 minutes.\r\n", Some(300)),
            ("421 come back after 1 hour\r\n", Some(3600)),
            ("450 4.7.1 Greylisted for 300s\r\n", Some(300)),
            ("451 4.7.1 Greylisting in action, please come back in 00:04:59\r\n", Some(299)),
            ("451 wait at least 5min, then try again\r\n", Some(300)),
            ("450 stay for a while; retry in 2 m\r\n", Some(120)),
            ("450-4.7.1 greylisted\r\n450 4.7.1 try again in: 60 seconds\r\n", Some(60)),
            ("450 in 99999999999999999999 seconds\r\n", None),
            ("450 in 1:99999999:00\r\n", None),
            ("450 wait\r\n", None),
            ("450 listed for 127.0.0.1 in 5 lists\r\n", None),
            ("450 4.2.0 mailbox 42 busy\r\n", None),
        ] {
            assert_eq!(whole(text).wish(), seconds.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_more_is_taken_than_is_there(bytes in proptest::collection::vec(any::<u8>(), 0..200), code in 200..600u16) {
            let _ = Reply::parse(&bytes);
            let mut started = format!("{code} ").into_bytes();
            started.extend(&bytes);
            started.extend(b"\r\n");
            if let Parsed::Whole(reply, length) = Reply::parse(&started) {
                prop_assert!(length <= started.len());
                let _ = (reply.enhanced(), reply.wish(), reply.text());
            }
        }
    }
}
