//! An email address: one mailbox, in one written form for sending and one normal form for telling accounts apart.
//!
//! The rule. **For sending**: the local part as the person wrote it (composed, NFC), the domain as DNS knows it
//! (lower case, international names as A-labels, no dot at the end). **Normal form** ([`EmailAddress::key`]): the
//! same domain, and the local part in lower case with compatibility characters such as full-width letters folded
//! (NFKC). So `Ada@Example.COM.` and `ａｄａ@example.com` are the account of `ada@example.com`. Dots and `+tags` stay
//! significant: whether they matter is known to the mailbox's provider only.
//!
//! Refused although the standards allow them, because hardly anyone has one and much mail software gets them wrong:
//! quoted local parts, comments, groups, address literals, domains without a dot. Whether the mailbox exists is not
//! asked here; the verification email finds out.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

const LONGEST: usize = 254;
const LONGEST_LOCAL: usize = 64;

/// A checked address.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    address: String,
    key: String,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailAddressError {
    /// Not `something@domain`.
    #[error("must be one address such as ada@example.com")]
    Form,
    /// Longer than mail servers must accept.
    #[error("must not be longer than 254 bytes, of which 64 before the @")]
    TooLong,
    /// Something before the @ that is no letter, digit or one of the usual signs, or misplaced dots.
    #[error("has a part before the @ that is not made of letters, digits and .!#$%&'*+/=?^_`{{|}}~- with single dots")]
    LocalPart,
    /// No domain name of the public DNS.
    #[error("has a part after the @ that is not a domain name such as example.com")]
    Domain,
}

impl EmailAddress {
    /// Checks an address as a person typed it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, EmailAddressError> {
        use EmailAddressError::{Domain, Form, LocalPart, TooLong};

        // Before anything else is done with it. An international domain grows in bytes when written as A-labels or
        // not, so this first bound is generous.
        if text.len() > 4 * LONGEST {
            return Err(TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(Form)?;
        if local.is_empty() || domain.is_empty() || text.chars().any(char::is_whitespace) {
            return Err(Form);
        }
        let local: String = local.nfc().collect();
        let key = fold(&local);
        if !is_dot_atom(&local) || !is_dot_atom(&key) {
            return Err(LocalPart);
        }
        let domain = domain_name(domain).ok_or(Domain)?;

        let too_long = |local: &str| local.len() > LONGEST_LOCAL || local.len() + 1 + domain.len() > LONGEST;
        if too_long(&local) || too_long(&key) {
            return Err(TooLong);
        }
        Ok(Self { address: format!("{local}@{domain}"), key: format!("{key}@{domain}") })
    }

    /// An address that was parsed before and stored in both forms. Rules may have changed since; what was good stays.
    pub fn restore(address: String, key: String) -> Self {
        Self { address, key }
    }

    /// The address to send to.
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// The normal form: two addresses with the same key are one account.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Shows nothing: addresses belong in no log.
impl std::fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

/// Lower case can bring back what normalising removed and the other way round; the second round settles it.
fn fold(local: &str) -> String {
    let once: String = local.nfkc().collect::<String>().to_lowercase().nfkc().collect();
    once.to_lowercase().nfkc().collect()
}

fn is_dot_atom(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

fn is_atom_character(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+/=?^_`{|}~-".contains(c)
    } else {
        c.is_alphanumeric() || is_combining_mark(c)
    }
}

fn domain_name(domain: &str) -> Option<String> {
    let uts46 = Uts46::new();
    let ascii =
        uts46.to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::VerifyAllowRootDot);
    let ascii = ascii.ok()?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    let (_, top) = name.rsplit_once('.')?;
    // An all-digit top level is an IP address.
    (!top.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_written_form_is_kept_and_the_normal_form_folds() {
        for (text, address, key) in [
            ("ada@example.com", "ada@example.com", "ada@example.com"),
            ("Ada.L+x@Example.COM.", "Ada.L+x@example.com", "ada.l+x@example.com"),
            ("ada@bücher.example", "ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
            ("ada@ｅｘａｍｐｌｅ．ｃｏｍ", "ada@example.com", "ada@example.com"),
            ("ａｄａ@example.com", "ａｄａ@example.com", "ada@example.com"),
            ("JOSE\u{301}@example.com", "JOS\u{c9}@example.com", "jos\u{e9}@example.com"),
            ("用户@例え。jp", "用户@xn--r8jz45g.jp", "用户@xn--r8jz45g.jp"),
            ("a!#$%&'*+/=?^_`{|}~-b@a-b.co", "a!#$%&'*+/=?^_`{|}~-b@a-b.co", "a!#$%&'*+/=?^_`{|}~-b@a-b.co"),
        ] {
            let parsed = good(text);
            assert_eq!((parsed.as_str(), parsed.key()), (address, key), "{text}");
        }
        assert_eq!(format!("{:?}", good("ada@example.com")), "EmailAddress(…)");
    }

    #[test]
    fn lengths_are_bounded_in_the_form_that_is_sent() {
        let local = "a".repeat(64);
        let domain = format!("{}.{}.{}.example", "b".repeat(63), "c".repeat(63), "d".repeat(53));
        let longest = format!("{local}@{domain}");
        assert_eq!(longest.len(), 254);
        good(&longest);
        for text in [format!("{local}@e.{domain}"), format!("a{local}@example.com"), "é".repeat(33) + "@example.com"] {
            assert_eq!(EmailAddress::parse(&text), Err(EmailAddressError::TooLong), "{text}");
        }
        assert_eq!(EmailAddress::parse(&"a".repeat(1 << 20)), Err(EmailAddressError::TooLong));
    }

    #[test]
    fn everything_else_is_refused() {
        use EmailAddressError::{Domain, Form, LocalPart};
        for (text, error) in [
            ("", Form),
            ("ada", Form),
            ("@example.com", Form),
            ("ada@", Form),
            (" ada@example.com", Form),
            ("ada@example.com\n", Form),
            ("ada@example.com\r\nBcc: eve@example.com", Form),
            ("a b@example.com", Form),
            ("\"a b\"@example.com", Form),
            ("Ada <ada@example.com>", Form),
            ("\"ada\"@example.com", LocalPart),
            ("ada(comment)@example.com", LocalPart),
            ("ada@eve@example.com", LocalPart),
            ("ada,eve@example.com", LocalPart),
            ("group:ada@example.com;", LocalPart),
            (".ada@example.com", LocalPart),
            ("ada.@example.com", LocalPart),
            ("a..da@example.com", LocalPart),
            ("a\u{2024}.da@example.com", LocalPart),
            ("a\0da@example.com", LocalPart),
            ("a\u{202e}da@example.com", LocalPart),
            ("a\u{200b}da@example.com", LocalPart),
            ("ada@localhost", Domain),
            ("ada@[127.0.0.1]", Domain),
            ("ada@127.0.0.1", Domain),
            ("ada@.example.com", Domain),
            ("ada@example..com", Domain),
            ("ada@-example.com", Domain),
            ("ada@ex_ample.com", Domain),
            ("ada@exa\0mple.com", Domain),
            ("ada@xn--zzzzzzzz999999.com", Domain),
            (&format!("ada@{}.com", "a".repeat(64)), Domain),
        ] {
            assert_eq!(EmailAddress::parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_are_good_addresses_of_the_same_account(text in r"[\PC.]{1,12}@[\PC.a-z]{1,20}\.[a-z]{2,4}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                let again = good(address.as_str());
                prop_assert_eq!(&again, &address);
                let key = good(address.key());
                prop_assert_eq!(key.key(), address.key());
            }
        }

        #[test]
        fn letter_case_makes_no_other_account(text in "[a-zA-Z0-9]{1,9}@[a-zA-Z]{1,9}\\.[a-zA-Z]{2,3}") {
            let key = good(&text).key().to_owned();
            prop_assert_eq!(good(&text.to_uppercase()).key().to_owned(), key.clone());
            prop_assert_eq!(good(&text.to_lowercase()).key().to_owned(), key);
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = EmailAddress::parse(&text);
        }
    }
}
