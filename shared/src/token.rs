//! The token in a verification link: proof that its bearer reads the mail of an address. Nothing of it is stored.
//!
//! It says which user, until when, and under which of our keys, and holds a keyed digest of the address instead of the
//! address, because links end up in logs. An HMAC-SHA-256 covers all of it. Fields are prefixed with their length, so
//! that no two different tokens have the same bytes, and each has one text only.
//!
//! The relay signs when it renders the email, `api` checks. What a valid token then means (already verified, address
//! changed meanwhile) is `api`'s to say.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::settings::{Faults, Secret};

const VERSION: u8 = 1;
const PURPOSE: &[u8] = b"verify-email";
const ADDRESS: &[u8] = b"address-of-verify-email";
/// No token of ours is longer; anything longer is not looked at.
const LONGEST_TOKEN: usize = 512;
const SHORTEST_KEY: usize = 32;
const LONGEST_KEY_ID: usize = 32;
const MAC_LENGTH: usize = 32;

/// What to write, for messages.
pub const EXAMPLE: &str = "kid:base64key[,kid2:base64key2] (a key: `openssl rand -base64 32`)";

/// What a token is made from.
#[derive(Clone, Copy)]
pub struct Verification<'a> {
    /// The user whose address is to be verified.
    pub user_id: Uuid,
    /// That address, as it stands in the user's row.
    pub email: &'a str,
    /// Until when the token is good; whole seconds count.
    pub expires_at: OffsetDateTime,
}

/// What a genuine token says. Whether it is for the user's present address, ask [`KeyRing::is_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The user whose address is to be verified.
    pub user_id: Uuid,
    /// Until when the token is good.
    pub expires_at: OffsetDateTime,
    key: usize,
    address: Vec<u8>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not made by us, or not unchanged, or under a key that was taken out of service.
    #[error("the token is not valid")]
    Invalid,
    /// Genuine, but its time is over.
    #[error("the token has expired")]
    Expired(Checked),
}

/// The keys in service: the first signs, all are accepted.
#[derive(Clone)]
pub struct KeyRing(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

impl KeyRing {
    /// Reads the setting `name`: `kid:base64key`, several of them separated by commas.
    pub fn parse(text: &Secret, name: &str, faults: &mut Faults) -> Option<Self> {
        let mut keys: Vec<Key> = Vec::new();
        let mut problems = 0;
        for (index, part) in text.expose().split(',').map(str::trim).enumerate() {
            let nth = index + 1;
            match parse_key(part) {
                Ok(key) if keys.iter().any(|other| other.id == key.id) => {
                    faults.push(name, format!("uses the key id {:?} twice", key.id), "Give each key an id of its own");
                    problems += 1;
                }
                Ok(key) => keys.push(key),
                Err(problem) => {
                    faults.push(name, format!("key {nth} {problem}"), format!("Give {EXAMPLE}"));
                    problems += 1;
                }
            }
        }
        (problems == 0).then_some(Self(keys))
    }

    /// Makes a token with the first key. The same input gives the same token, so that each attempt at an email
    /// renders the same bytes.
    pub fn sign(&self, verification: &Verification<'_>) -> String {
        // `parse` lets no empty ring through: an empty text is one key that can't be read.
        let key = &self.0[0];
        let mut body = vec![VERSION];
        put(&mut body, PURPOSE);
        put(&mut body, key.id.as_bytes());
        put(&mut body, verification.user_id.as_bytes());
        put(&mut body, &verification.expires_at.unix_timestamp().to_be_bytes());
        put(&mut body, &key.address_digest(verification.user_id, verification.email));
        let mac = key.mac.clone().chain_update(&body).finalize().into_bytes();
        body.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(body)
    }

    /// Checks a token's signature, in constant time, and then its expiry.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] for everything but a genuine token, [`TokenError::Expired`] for one that is too old.
    pub fn check(&self, token: &str, now: OffsetDateTime) -> Result<Checked, TokenError> {
        let checked = self.genuine(token).ok_or(TokenError::Invalid)?;
        if checked.expires_at <= now { Err(TokenError::Expired(checked)) } else { Ok(checked) }
    }

    /// Whether the token was made for this address of its user.
    pub fn is_for(&self, checked: &Checked, email: &str) -> bool {
        self.0.get(checked.key).is_some_and(|key| {
            let mac = key.address_mac(checked.user_id, email);
            mac.verify_slice(&checked.address).is_ok()
        })
    }

    fn genuine(&self, token: &str) -> Option<Checked> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LENGTH)?)?;
        let (version, mut rest) = body.split_first()?;
        let purpose = take(&mut rest)?;
        let key_id = take(&mut rest)?;
        let key = self.0.iter().position(|key| key.id.as_bytes() == key_id)?;
        self.0[key].mac.clone().chain_update(body).verify_slice(mac).ok()?;
        // From here on the bytes are our own; what follows is for tokens of another purpose or version under this key.
        if *version != VERSION || purpose != PURPOSE {
            return None;
        }
        let user_id = Uuid::from_slice(take(&mut rest)?).ok()?;
        let expires_at = i64::from_be_bytes(take(&mut rest)?.try_into().ok()?);
        let expires_at = OffsetDateTime::from_unix_timestamp(expires_at).ok()?;
        let address = take(&mut rest)?.to_vec();
        rest.is_empty().then_some(Checked { user_id, expires_at, key, address })
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    fn address_mac(&self, user_id: Uuid, email: &str) -> Hmac<Sha256> {
        let mut input = vec![VERSION];
        put(&mut input, ADDRESS);
        put(&mut input, user_id.as_bytes());
        put(&mut input, email.as_bytes());
        self.mac.clone().chain_update(input)
    }

    fn address_digest(&self, user_id: Uuid, email: &str) -> Vec<u8> {
        self.address_mac(user_id, email).finalize().into_bytes().to_vec()
    }
}

fn parse_key(part: &str) -> Result<Key, String> {
    let (id, key) = part.split_once(':').ok_or("is not of the form kid:base64key")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || id.len() > LONGEST_KEY_ID || !id.chars().all(plain) {
        return Err(format!("has an id that is not 1 to {LONGEST_KEY_ID} letters, digits or any of - _ ."));
    }
    let key = decode_key(key).ok_or("is not base64")?;
    if key.len() < SHORTEST_KEY {
        return Err(format!("has {} bytes, and {SHORTEST_KEY} random ones are the least", key.len()));
    }
    if key.iter().all(|byte| *byte == key[0]) {
        return Err("is one byte repeated, not random".to_owned());
    }
    // HMAC takes keys of any length.
    let mac = Hmac::new_from_slice(&key).map_err(|_| "has a length that can't be used")?;
    Ok(Key { id: id.to_owned(), mac })
}

/// Both alphabets, with or without padding: what the tools at hand print.
fn decode_key(text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { base64::alphabet::URL_SAFE } else { base64::alphabet::STANDARD };
    GeneralPurpose::new(&alphabet, lenient).decode(text).ok()
}

fn put(body: &mut Vec<u8>, field: &[u8]) {
    // Fields are key ids, digests, numbers and addresses; an address that long is refused by the database.
    let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(field);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (field, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = after;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;
    use uuid::uuid;

    const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const NEW: &str = "new:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
    const NOON: OffsetDateTime = datetime!(2026-01-02 12:00 UTC);

    fn ring(text: &str) -> KeyRing {
        let mut faults = Faults::new();
        KeyRing::parse(&Secret::new(text), "VERIFICATION_KEYS", &mut faults).unwrap_or_else(|| panic!("{faults}"))
    }

    fn ada() -> Verification<'static> {
        Verification {
            user_id: uuid!("0197a2b4-0000-7000-8000-000000000001"),
            email: "ada@example.com",
            expires_at: NOON,
        }
    }

    const BEFORE: OffsetDateTime = datetime!(2026-01-02 11:59:59.9 UTC);

    #[test]
    fn the_format_is_pinned() {
        // Links in mails that are under way must outlive a deploy: a change here needs a new version beside this one.
        assert_eq!(
            ring(OLD).sign(&ada()),
            "AQAMdmVyaWZ5LWVtYWlsAANvbGQAEAGXorQAAHAAgAAAAAAAAAEACAAAAABpV7NAACAtTl4mWGTAXkxYZ-iysL6YqNVnRJsaDRaH1V_Z58gcisV8VEIxMRpkNi2_il0k7TWBxORIdNcSIYqMP2TFGkF8"
        );
    }

    #[test]
    fn a_token_is_good_until_it_expires_and_for_its_address_only() {
        let keys = ring(OLD);
        let token = keys.sign(&ada());
        let checked = keys.check(&token, BEFORE).expect("good");
        assert_eq!((checked.user_id, checked.expires_at), (ada().user_id, NOON));
        assert!(keys.is_for(&checked, "ada@example.com"));
        assert!(!keys.is_for(&checked, "eve@example.com"));
        assert_eq!(keys.check(&token, NOON), Err(TokenError::Expired(checked)));
        assert!(!token.contains("ada") && URL_SAFE_NO_PAD.decode(&token).is_ok());
    }

    #[test]
    fn keys_rotate() {
        let token = ring(OLD).sign(&ada());
        let both = ring(&format!("{NEW}, {OLD}"));
        let checked = both.check(&token, BEFORE).expect("the old key is still accepted");
        assert!(both.is_for(&checked, ada().email));
        assert_eq!(ring(NEW).check(&token, BEFORE), Err(TokenError::Invalid));
        assert!(ring(NEW).check(&both.sign(&ada()), BEFORE).is_ok(), "the first key signs");
        // The id alone does not make a key.
        let impostor = ring(&OLD.replace("AAEC", "AAED"));
        assert_eq!(impostor.check(&token, BEFORE), Err(TokenError::Invalid));
    }

    #[test]
    fn no_changed_token_is_accepted() {
        let keys = ring(OLD);
        let token = keys.sign(&ada());
        for index in 0..token.len() {
            for other in ["A", "b", "-", "_", "9", "", "==", "\u{e9}"] {
                let mut changed = token.clone();
                changed.replace_range(index..=index, other);
                if changed != token {
                    assert_eq!(keys.check(&changed, BEFORE), Err(TokenError::Invalid), "{changed}");
                }
            }
        }
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for length in 0..bytes.len() {
            let cut = URL_SAFE_NO_PAD.encode(&bytes[..length]);
            assert_eq!(keys.check(&cut, BEFORE), Err(TokenError::Invalid));
        }
        assert_eq!(keys.check(&"A".repeat(1 << 20), BEFORE), Err(TokenError::Invalid));
    }

    #[test]
    fn weak_or_mistyped_keys_are_refused_without_being_shown() {
        for (text, expected) in [
            ("", "kid:base64key"),
            ("c2VjcmV0", "kid:base64key"),
            ("k:c2VjcmV0", "6 bytes"),
            ("k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not random"),
            ("k:not/base64!", "not base64"),
            ("k k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "an id that"),
            (&format!("{OLD},{OLD}"), "twice"),
            (&format!("{OLD},"), "key 2"),
        ] {
            let mut faults = Faults::new();
            assert!(KeyRing::parse(&Secret::new(text), "KEYS", &mut faults).is_none(), "{text}");
            let told = faults.to_string();
            assert!(told.contains(expected) && !told.contains("AAEC") && !told.contains("c2Vj"), "{told}");
        }
        assert_eq!(format!("{:?}", ring(OLD)), r#"["old"]"#);
    }
}
