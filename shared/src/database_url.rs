//! The address of a PostgreSQL database, parsed once into parts that both drivers understand alike.
//!
//! The two drivers read URLs differently: they know different parameters, fall back to different environment
//! variables, and take `sslmode=prefer` to mean "in clear if the server says so". So neither gets the text: each gets
//! the parts, and what is not understood is a fault instead of being ignored.
//!
//! Encryption: over loopback and unix sockets none is needed, elsewhere the server's certificate is verified against
//! its name (`verify-full`, also the default) unless the URL says `sslmode=disable`. The modes in between give no
//! protection against someone in the middle, and are refused.

use std::fmt;
use std::path::PathBuf;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::settings::{Faults, Secret};

/// What to write, for messages.
pub const EXAMPLE: &str = "postgres://user:password@host:5432/database";

/// Where a database is and how to log in.
#[derive(Debug, Clone)]
pub struct DatabaseUrl {
    /// Over what the server is reached.
    pub host: Host,
    /// The port, or the suffix of the unix socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The role's password, where one is needed.
    pub password: Option<Secret>,
    /// The database.
    pub dbname: String,
    /// How the connection is protected.
    pub tls: Tls,
}

/// Over what the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or IP address (IPv6 without brackets).
    Tcp(String),
    /// The directory that holds the server's unix socket.
    Socket(PathBuf),
}

/// How a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Disable,
    /// The server's certificate must be valid for its name.
    VerifyFull {
        /// The authorities to trust, as a PEM file; the public web's when absent.
        root: Option<PathBuf>,
    },
}

impl DatabaseUrl {
    /// Reads the setting `name`. Every fault is collected; the value itself is never in one, for it holds a password.
    pub fn parse(text: &Secret, name: &str, faults: &mut Faults) -> Option<Self> {
        match parse(text.expose().trim()) {
            Ok(url) => Some(url),
            Err(problems) => {
                for (problem, remedy) in problems {
                    faults.push(name, problem, remedy);
                }
                None
            }
        }
    }

    /// The address without its password, for logs and messages.
    pub fn redacted(&self) -> String {
        let Self { user, dbname, port, .. } = self;
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("postgres://{user}@[{host}]:{port}/{dbname}"),
            Host::Tcp(host) => format!("postgres://{user}@{host}:{port}/{dbname}"),
            Host::Socket(path) => format!("postgres://{user}@/{dbname}?host={}&port={port}", path.display()),
        }
    }

    /// The connection options of sqlx. Passwords come from the URL only, not from `~/.pgpass`, and statements are not
    /// logged.
    pub fn connect_options(&self, application_name: &str) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            .database(&self.dbname)
            .application_name(application_name)
            .disable_statement_logging();
        options = match &self.host {
            Host::Tcp(host) => options.host(host),
            Host::Socket(path) => options.socket(path),
        };
        if let Some(password) = &self.password {
            options = options.password(password.expose());
        }
        match &self.tls {
            Tls::Disable => options.ssl_mode(PgSslMode::Disable),
            Tls::VerifyFull { root } => {
                let options = options.ssl_mode(PgSslMode::VerifyFull);
                match root {
                    Some(root) => options.ssl_root_cert(root),
                    None => options,
                }
            }
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

/// A problem and what to do about it.
type Problem = (String, String);

fn parse(text: &str) -> Result<DatabaseUrl, Vec<Problem>> {
    // With a socket the URL has no host, which the URL standard allows only without user and port.
    let (text, hostless) = name_the_missing_host(text);
    let url = Url::parse(&text).map_err(|error| {
        let hint = "if the password holds any of @ : / ? # %, write them as %40 %3A %2F %3F %23 %25";
        vec![(format!("is not a URL ({error})"), format!("Give it as {EXAMPLE}; {hint}"))]
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        let problem = format!("has the scheme {:?}", url.scheme());
        return Err(vec![(problem, format!("Give it as {EXAMPLE}"))]);
    }

    let mut problems = Vec::new();
    let mut note = |problem: String, remedy: &str| problems.push((problem, remedy.to_owned()));

    let mut host = url.host_str().filter(|_| !hostless).map(decoded);
    let mut port = url.port().map(|port| port.to_string());
    let mut user = Some(decoded(url.username())).filter(|user| !user.is_empty());
    let mut password = url.password().map(decoded);
    let mut dbname = Some(decoded(url.path().trim_start_matches('/'))).filter(|name| !name.is_empty());
    let (mut sslmode, mut root) = (None, None);
    for (key, value) in url.query_pairs() {
        let value = value.into_owned();
        match key.as_ref() {
            "host" => host = Some(value),
            "port" => port = Some(value),
            "user" => user = Some(value),
            "password" => password = Some(value),
            "dbname" => dbname = Some(value),
            "sslmode" => sslmode = Some(value),
            "sslrootcert" if value == "system" => root = None,
            "sslrootcert" => root = Some(PathBuf::from(value)),
            other => note(
                format!("has the unknown parameter {other:?}"),
                "Remove it; known are host, port, user, password, dbname, sslmode and sslrootcert",
            ),
        }
    }

    let host = match host {
        None => {
            note("names no host".into(), &format!("Give it as {EXAMPLE}"));
            Host::Tcp(String::new())
        }
        Some(host) if host.contains(',') => {
            note("names several hosts".into(), "Give one; let a virtual address or a proxy follow failovers");
            Host::Tcp(host)
        }
        Some(host) if host.starts_with('/') => Host::Socket(host.into()),
        Some(host) => Host::Tcp(host.trim_start_matches('[').trim_end_matches(']').to_owned()),
    };
    let port = port.map_or(Ok(5432), |port| port.parse()).unwrap_or_else(|_| {
        note("has a port that is not a number from 1 to 65535".into(), "Correct it");
        0
    });
    if user.is_none() {
        note("names no user".into(), &format!("Give it as {EXAMPLE}"));
    }
    if dbname.is_none() {
        note("names no database".into(), &format!("Give it as {EXAMPLE}"));
    }
    let tls = tls(sslmode.as_deref(), root, is_local(&host)).unwrap_or_else(|(problem, remedy)| {
        note(problem, &remedy);
        Tls::Disable
    });

    match (user, dbname) {
        (Some(user), Some(dbname)) if problems.is_empty() => {
            let password = password.map(Secret::new);
            Ok(DatabaseUrl { host, port, user, password, dbname, tls })
        }
        _ => Err(problems),
    }
}

/// Puts a host where there is none (`postgres://user@/db?host=/run/postgresql`), and says whether it did.
fn name_the_missing_host(text: &str) -> (String, bool) {
    let Some((scheme, rest)) = text.split_once("://") else {
        return (text.to_owned(), false);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (format!("{login}@"), host),
        None => (String::new(), authority),
    };
    if host.is_empty() || host.starts_with(':') {
        (format!("{scheme}://{login}nohost{host}{path}"), true)
    } else {
        (text.to_owned(), false)
    }
}

fn decoded(text: &str) -> String {
    // A form decoder does this, once the three characters that mean something to it are hidden from it.
    let plain = text.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    url::form_urlencoded::parse(plain.as_bytes()).next().map(|(value, _)| value.into_owned()).unwrap_or_default()
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Socket(_) => true,
        Host::Tcp(host) if host == "localhost" => true,
        Host::Tcp(host) => host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
    }
}

fn tls(mode: Option<&str>, root: Option<PathBuf>, local: bool) -> Result<Tls, Problem> {
    let refused = |problem: &str, remedy: &str| Err((problem.to_owned(), remedy.to_owned()));
    match mode {
        Some("disable") => Ok(Tls::Disable),
        None | Some("allow" | "prefer") if local => Ok(Tls::Disable),
        None | Some("verify-full") => match root {
            Some(path) if std::fs::File::open(&path).is_err() => refused(
                &format!("has an sslrootcert that can't be read ({})", path.display()),
                "Check its path and permissions",
            ),
            root => Ok(Tls::VerifyFull { root }),
        },
        Some("allow" | "prefer") => refused(
            "has an sslmode that falls back to no encryption",
            "Use sslmode=verify-full (with sslrootcert=FILE for a private authority), or sslmode=disable on a network \
             that you trust",
        ),
        Some("require" | "verify-ca") => refused(
            "has an sslmode that does not check who the server is",
            "Use sslmode=verify-full (with sslrootcert=FILE for a private authority)",
        ),
        Some(_) => refused("has an unknown sslmode", "Use verify-full or disable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> DatabaseUrl {
        let mut faults = Faults::new();
        let url = DatabaseUrl::parse(&Secret::new(text), "DATABASE_URL", &mut faults);
        url.unwrap_or_else(|| panic!("{text}: {faults}"))
    }

    fn bad(text: &str) -> String {
        let mut faults = Faults::new();
        assert!(DatabaseUrl::parse(&Secret::new(text), "DATABASE_URL", &mut faults).is_none(), "{text}");
        faults.finish().expect_err("a fault").to_string()
    }

    #[test]
    fn the_parts_come_out_decoded() {
        let url = good("postgres://ap%69:p%40ss+w%3A=r&d@db.example:6543/a%2Fpp?sslmode=disable");
        assert_eq!(url.user, "api");
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p@ss+w:=r&d"));
        assert_eq!(url.host, Host::Tcp("db.example".into()));
        assert_eq!((url.port, url.dbname.as_str()), (6543, "a/pp"));
        assert_eq!(url.redacted(), "postgres://api@db.example:6543/a/pp");
        assert!(!format!("{url:?}").contains("p@ss"));
    }

    #[test]
    fn unix_sockets_and_ipv6_are_understood() {
        let socket = Host::Socket("/run/postgresql".into());
        for text in [
            "postgres://me@/app?host=/run/postgresql",
            "postgres://me@:5432/app?host=/run/postgresql",
            "postgresql://me@%2Frun%2Fpostgresql/app",
            "postgres:///?host=/run/postgresql&user=me&dbname=app",
        ] {
            let url = good(text);
            assert_eq!((&url.host, url.user.as_str(), url.dbname.as_str()), (&socket, "me", "app"), "{text}");
            assert_eq!(url.tls, Tls::Disable);
        }
        let url = good("postgres://me@[::1]:5433/app");
        assert_eq!((url.host.clone(), url.tls.clone()), (Host::Tcp("::1".into()), Tls::Disable));
        assert_eq!(url.redacted(), "postgres://me@[::1]:5433/app");
    }

    #[test]
    fn outside_this_machine_the_server_is_verified_or_encryption_is_plainly_off() {
        let far = "postgres://me:secret@db.example/app";
        assert_eq!(good(far).tls, Tls::VerifyFull { root: None });
        assert_eq!(good(&format!("{far}?sslmode=verify-full")).tls, Tls::VerifyFull { root: None });
        assert_eq!(good(&format!("{far}?sslmode=disable")).tls, Tls::Disable);
        for mode in ["allow", "prefer", "require", "verify-ca", "sometimes"] {
            let text = bad(&format!("{far}?sslmode={mode}"));
            assert!(text.contains("verify-full") && !text.contains("secret"), "{text}");
        }
        assert!(bad(&format!("{far}?sslrootcert=/no/such.pem")).contains("/no/such.pem"));
        assert_eq!(good("postgres://me@localhost/app?sslmode=prefer").tls, Tls::Disable);
        assert!(bad("postgres://me@localhost/app?sslmode=require").contains("verify-full"));
    }

    #[test]
    fn every_fault_is_told_and_no_password() {
        for (text, expected) in [
            ("", "not a URL"),
            ("db.example:5432", "scheme"),
            ("mysql://me:secret@db/app", "scheme"),
            ("postgres://me:secret@db/app?sslmode=disable&fallback=1", "fallback"),
            ("postgres://me:secret@a,b/app?sslmode=disable", "several hosts"),
            ("postgres://me:secret@db:0x1/app", "not a URL"),
            ("postgres://me:secret@localhost/app?port=0x1", "port"),
            ("postgres://me:secret@/app", "no host"),
        ] {
            let told = bad(text);
            assert!(told.contains(expected) && !told.contains("secret"), "{text}: {told}");
        }
        let told = bad("postgres://localhost/?sslmode=require");
        assert_eq!(told.lines().count(), 3, "{told}");
    }
}
