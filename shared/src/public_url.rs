//! Where people reach `api`, and the links that lead there.
//!
//! Links in emails are built from this setting only, never from a request's Host header, which anyone can write.

use url::Url;

use crate::settings::{Faults, text};

/// The path of the page that a verification link opens, and of the form on it.
pub const VERIFY_EMAIL_PATH: &str = "/verify-email";

/// The setting `PUBLIC_URL`: an origin, perhaps with a path below which `api` is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    base: String,
    origin: String,
}

impl PublicUrl {
    /// Reads the setting. It is required, and https unless it is this machine.
    pub fn parse(value: Option<String>, faults: &mut Faults) -> Option<Self> {
        const NAME: &str = "PUBLIC_URL";
        const REMEDY: &str = "Give the address at which people reach api, such as https://accounts.example.com";
        let Some(value) = text(value) else {
            faults.push(NAME, "is not set", REMEDY);
            return None;
        };
        let problem = match Url::parse(value.trim()) {
            Err(error) => format!("{value:?} is not a URL ({error})"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => format!("{value:?} is not an http address"),
            Ok(url) if !url.username().is_empty() || url.password().is_some() => "holds a user or a password".into(),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                format!("{value:?} has a query or fragment")
            }
            Ok(url) if url.scheme() == "http" && !is_loopback(&url) => {
                faults.push(NAME, format!("{value:?} is not encrypted"), "Give an https address; http is for loopback");
                return None;
            }
            Ok(url) => {
                let base = url.as_str().trim_end_matches('/').to_owned();
                return Some(Self { base, origin: url.origin().ascii_serialization() });
            }
        };
        faults.push(NAME, problem, REMEDY);
        None
    }

    /// The origin as browsers write it in the Origin header.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The address of a path of `api`, which begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The link for a verification email. Tokens are of URL-safe characters.
    pub fn verification_link(&self, token: &str) -> String {
        format!("{}?token={token}", self.join(VERIFY_EMAIL_PATH))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<PublicUrl, String> {
        let mut faults = Faults::new();
        PublicUrl::parse(Some(value.to_owned()), &mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn links_lead_to_the_setting() {
        let url = parse("https://Accounts.example.com/").unwrap();
        assert_eq!(url.origin(), "https://accounts.example.com");
        assert_eq!(url.verification_link("abc"), "https://accounts.example.com/verify-email?token=abc");
        let below = parse("http://127.0.0.1:8080/accounts/").unwrap();
        assert_eq!(below.join("/docs"), "http://127.0.0.1:8080/accounts/docs");
        assert_eq!(below.origin(), "http://127.0.0.1:8080");
        for local in ["http://localhost", "http://[::1]:8080", "http://app.localhost"] {
            parse(local).unwrap();
        }
    }

    #[test]
    fn what_makes_no_safe_link_is_refused() {
        for (value, expected) in [
            ("", "not set"),
            ("accounts.example.com", "not a URL"),
            ("ftp://example.com", "http address"),
            ("http://example.com", "not encrypted"),
            ("http://localhost.example.com", "not encrypted"),
            ("https://me:secret@example.com", "a user or a password"),
            ("https://example.com/?a=b", "query"),
        ] {
            let told = parse(value).expect_err(value);
            assert!(told.contains(expected) && !told.contains("secret"), "{told}");
        }
    }
}
