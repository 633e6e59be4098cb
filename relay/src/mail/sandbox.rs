//! The sandbox: on a staging system, the only recipients that mail is sent to.
//!
//! It is asked by the worker right before a mail is made, whoever wrote the job. Everybody else's mail is called off
//! rather than sent to some address of the staging system: it holds links that work for its recipient's account.

use shared::email_address::EmailAddress;
use shared::settings::Faults;

const NAME: &str = "MAIL_SANDBOX";

/// Who may be written to, compared in the addresses' normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    domains: Vec<String>,
    addresses: Vec<String>,
}

/// The reason of a job that was called off for it.
pub const REASON: &str = "not sent: the recipient is not on the list of the sandbox (MAIL_SANDBOX)";

impl Sandbox {
    /// Reads `*@example.org, qa@example.com`, or `none` for nobody at all.
    pub fn parse(text: &str, faults: &mut Faults) -> Option<Self> {
        let mut sandbox = Self::default();
        if text.trim() == "none" {
            return Some(sandbox);
        }
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            // A domain is checked as that of an address.
            let domain = entry.strip_prefix("*@").map(|domain| format!("x@{domain}"));
            let Ok(address) = EmailAddress::parse(domain.as_deref().unwrap_or(entry)) else {
                faults.push(
                    NAME,
                    "has an entry that is neither an address nor *@ and a domain",
                    "Give such as *@example.org,qa@example.com, or none",
                );
                return None;
            };
            match domain {
                Some(_) => sandbox.domains.push(domain_of(&address).to_owned()),
                None => sandbox.addresses.push(address.key().to_owned()),
            }
        }
        Some(sandbox)
    }

    /// Whether this address may be written to.
    pub fn allows(&self, to: &EmailAddress) -> bool {
        self.domains.iter().any(|allowed| allowed == domain_of(to))
            || self.addresses.iter().any(|allowed| allowed == to.key())
    }

    /// Says in the log that most mail will not be sent. Addresses are counted, not told.
    pub fn announce(&self) {
        let (domains, addresses) = (self.domains.join(", "), self.addresses.len());
        tracing::warn!(
            domains,
            addresses,
            "SANDBOX: mail is sent to these domains and so many single addresses only; all other mail is called off"
        );
    }
}

fn domain_of(address: &EmailAddress) -> &str {
    address.key().rsplit_once('@').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(text: &str) -> Result<Sandbox, String> {
        let mut faults = Faults::new();
        Sandbox::parse(text, &mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn only_the_listed_are_written_to() {
        let list = sandbox("*@Example.org, Qa@Bücher.example,x@one.example").unwrap();
        let none = sandbox("none").unwrap();
        for (to, allowed) in [
            ("ada@example.org", true),
            ("ADA@EXAMPLE.ORG", true),
            ("qa@xn--bcher-kva.example", true),
            ("x@one.example", true),
            ("y@one.example", false),
            ("qa2@bücher.example", false),
            ("ada@sub.example.org", false),
            ("ada@notexample.org", false),
            ("ada@example.org.evil.example", false),
        ] {
            let to = EmailAddress::parse(to).unwrap();
            assert_eq!(list.allows(&to), allowed, "{}", to.key());
            assert!(!none.allows(&to));
        }
    }

    #[test]
    fn what_is_no_list_is_told_without_being_quoted() {
        for text in ["example.org", "*@", "*", "canary@", "*@*.example.org", "a@b.cc;d@e.ff"] {
            let told = sandbox(text).unwrap_err();
            assert!(told.starts_with("MAIL_SANDBOX: has an entry") && !told.contains("canary"), "{text}: {told}");
        }
    }
}
