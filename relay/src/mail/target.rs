//! Where mail goes: the setting `SMTP_URL`.
//!
//! ```text
//! smtp://[user:password@]host[:587][?tls=required|none][&ca=FILE]
//! smtps://[user:password@]host[:465][?ca=FILE]
//! file:///directory
//! ```
//!
//! `smtp` means STARTTLS, required, unless the server is this machine or `tls=none` says plainly that mail goes
//! unencrypted. There is no mode that tries encryption and does without. A password never goes unencrypted to another
//! machine.

use std::path::PathBuf;

use shared::settings::{Faults, Secret};
use url::{Host, Url};

const NAME: &str = "SMTP_URL";
/// What to write, for messages.
pub const EXAMPLE: &str = "smtp://user:password@mail.example.com, smtps://… or file:///a/directory (development)";

/// Where mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A mail server.
    Smtp(SmtpServer),
    /// A directory, for development: each mail becomes a file.
    Mailbox(PathBuf),
}

/// A mail server and how to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: TlsMode,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// The file of certificate authorities to trust instead of the public ones.
    pub ca: Option<PathBuf>,
}

/// How the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// It is not.
    None,
    /// By STARTTLS; a server that does not offer it gets no mail.
    StartTls,
    /// From the first byte.
    Implicit,
}

impl Target {
    /// Reads the setting.
    pub fn parse(text: &Secret, faults: &mut Faults) -> Option<Self> {
        let url = match Url::parse(text.expose().trim()) {
            Ok(url) => url,
            Err(error) => {
                faults.push(NAME, format!("is not a URL ({error})"), format!("Give it as {EXAMPLE}"));
                return None;
            }
        };
        match url.scheme() {
            "file" => mailbox(&url, faults).map(Self::Mailbox),
            "smtp" | "smtps" => server(&url, faults).map(Self::Smtp),
            other => {
                faults.push(NAME, format!("has the scheme {other:?}"), format!("Give it as {EXAMPLE}"));
                None
            }
        }
    }
}

fn mailbox(url: &Url, faults: &mut Faults) -> Option<PathBuf> {
    let path = url.to_file_path().ok().filter(|path| path.parent().is_some());
    if path.is_none() {
        faults.push(NAME, "names no directory on this machine", "Give it as file:///a/directory");
    }
    path
}

fn server(url: &Url, faults: &mut Faults) -> Option<SmtpServer> {
    let mut problems = 0;
    let mut note = |problem: String, remedy: &str| {
        faults.push(NAME, problem, remedy);
        problems += 1;
    };
    // For schemes that it does not know, the parser keeps an IPv4 address as a name.
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decode(name),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => {
            note("names no host".into(), &format!("Give it as {EXAMPLE}"));
            String::new()
        }
    };
    if !matches!(url.path(), "" | "/") {
        note("has a path".into(), "Remove what follows the host and port");
    }
    let implicit = url.scheme() == "smtps";
    let local = is_loopback(&host);
    let mut tls = match (implicit, local) {
        (true, _) => TlsMode::Implicit,
        (false, true) => TlsMode::None,
        (false, false) => TlsMode::StartTls,
    };
    let mut ca = None;
    for (key, value) in url.query_pairs() {
        match (key.as_ref(), value.as_ref()) {
            ("tls", "required") if !implicit => tls = TlsMode::StartTls,
            ("tls", "none") if !implicit => tls = TlsMode::None,
            ("tls", "required") => {}
            ("tls", _) => note(
                "has a tls that is not known".into(),
                "Give tls=required or tls=none; smtps:// is always encrypted",
            ),
            ("ca", path) => match std::fs::File::open(path) {
                Ok(_) => ca = Some(PathBuf::from(path)),
                Err(error) => note(format!("has a ca that can't be read ({error})"), "Check its path and permissions"),
            },
            (other, _) => note(format!("has the unknown parameter {other:?}"), "Remove it; known are tls and ca"),
        }
    }
    let login = match (decode(url.username()), url.password().map(decode)) {
        (user, None) if user.is_empty() => None,
        (user, Some(password)) if !user.is_empty() && !password.is_empty() => Some((user, Secret::new(password))),
        _ => {
            note("has a user without a password, or the reverse".into(), &format!("Give it as {EXAMPLE}"));
            None
        }
    };
    if login.is_some() && tls == TlsMode::None && !local {
        note(
            "would send its password unencrypted to another machine".into(),
            "Leave tls=none out, use smtps://, or leave user and password out",
        );
    }
    let port = url.port().unwrap_or(if implicit { 465 } else { 587 });
    (problems == 0).then_some(SmtpServer { host, port, tls, login, ca })
}

fn decode(text: &str) -> String {
    let plain = text.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    url::form_urlencoded::parse(plain.as_bytes()).next().map(|(value, _)| value.into_owned()).unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        let mut faults = Faults::new();
        Target::parse(&Secret::new(text), &mut faults).ok_or_else(|| faults.to_string())
    }

    fn server(text: &str) -> SmtpServer {
        match parse(text) {
            Ok(Target::Smtp(server)) => server,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn encryption_is_required_unless_said_otherwise() {
        for (url, host, port, tls) in [
            ("smtp://mail.example.com", "mail.example.com", 587, TlsMode::StartTls),
            ("smtp://mail.example.com:25?tls=none", "mail.example.com", 25, TlsMode::None),
            ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, TlsMode::None),
            ("smtp://localhost:1025?tls=required", "localhost", 1025, TlsMode::StartTls),
            ("smtp://[::1]:25", "::1", 25, TlsMode::None),
            ("smtp://[2001:db8::1]", "2001:db8::1", 587, TlsMode::StartTls),
            ("smtp://127.0.0.1.example.com", "127.0.0.1.example.com", 587, TlsMode::StartTls),
            ("smtps://mail.example.com", "mail.example.com", 465, TlsMode::Implicit),
        ] {
            let read = server(url);
            assert_eq!((read.host.as_str(), read.port, read.tls), (host, port, tls), "{url}");
        }
        let read = server("smtp://us%40er:p%3Ass+w@mail.example.com");
        assert_eq!(read.login, Some(("us@er".into(), Secret::new("p:ss+w"))));
        assert!(!format!("{read:?}").contains("p:ss"));
    }

    #[test]
    fn directories_are_mailboxes() {
        assert_eq!(parse("file:///tmp/ma%20il"), Ok(Target::Mailbox("/tmp/ma il".into())));
        for url in ["file:///", "file://other/tmp"] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn faults_are_told_without_the_password() {
        for (url, expected) in [
            ("", "not a URL"),
            ("mail.example.com:25", "scheme"),
            ("http://mail.example.com", "scheme"),
            ("smtp://:25", "not a URL"),
            ("smtp:///x", "no host"),
            ("smtp://me:secret@mail.example.com?tls=none", "unencrypted"),
            ("smtp://me@mail.example.com", "without a password"),
            ("smtp://me:secret@mail.example.com/inbox", "a path"),
            ("smtp://mail.example.com?tls=maybe", "tls"),
            ("smtps://mail.example.com?tls=none", "always encrypted"),
            ("smtp://mail.example.com?ca=/no/such.pem", "ca"),
            ("smtp://mail.example.com?timeout=5", "unknown parameter"),
            ("smtp://mail.example.com?starttls=1", "unknown parameter"),
        ] {
            let told = parse(url).expect_err(url);
            assert!(told.contains(expected) && !told.contains("secret"), "{url}: {told}");
        }
        server("smtp://me:secret@localhost?tls=none");
    }
}
