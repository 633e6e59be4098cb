//! Who is looking: tokens, sessions in signed cookies, and the tokens of forms.
//!
//! A session is stored nowhere: its cookie says who it is and until when, under a key that follows from the tokens. So
//! every relay with the same tokens knows it, and it ends when they change. Pure but for the dice; times are passed in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shared::settings::Secret;

/// How long a session lasts.
pub const LASTS: i64 = 12 * 3600;

/// The longest name that somebody may go by.
const LONGEST_NAME: usize = 64;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look.
    Reader,
    /// Look, and change things.
    Operator,
}

impl Role {
    /// In cookies and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
        }
    }
}

/// What lets people in. Without any, everybody who reaches the dashboard is in.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// For those who may change things.
    pub operator: Option<Secret>,
    /// For those who may only look.
    pub reader: Option<Secret>,
}

impl Tokens {
    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        self.operator.is_none() && self.reader.is_none()
    }
}

/// Somebody who is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What they may do.
    pub role: Role,
    /// What they call themselves; for the audit trail.
    pub name: String,
    /// Until when, in seconds since 1970.
    pub expires_at: i64,
    /// What makes two sessions differ.
    nonce: String,
}

/// Makes and checks sessions.
#[derive(Clone)]
pub struct Doorkeeper {
    tokens: Tokens,
    key: Vec<u8>,
}

impl Doorkeeper {
    /// With these tokens; without any, under a key of this process alone.
    pub fn new(tokens: Tokens) -> Self {
        let key = if tokens.are_none() {
            rand::random::<[u8; 32]>().to_vec()
        } else {
            let mut mac = hmac(b"aftercommit dashboard sessions");
            for token in [&tokens.operator, &tokens.reader] {
                let token = token.as_ref().map_or("", |token| token.expose());
                mac.update(&(token.len() as u64).to_be_bytes());
                mac.update(token.as_bytes());
            }
            mac.finalize().into_bytes().to_vec()
        };
        Self { tokens, key }
    }

    /// Whether people have to show a token.
    pub fn asks_for_a_token(&self) -> bool {
        !self.tokens.are_none()
    }

    /// What a token lets its bearer do. Both are compared in full, in constant time.
    pub fn role_of(&self, token: &str) -> Option<Role> {
        let matches = |expected: &Option<Secret>| {
            let expected = expected.as_ref()?;
            let tag = self.mac(&["token", expected.expose()]).finalize().into_bytes();
            Some(self.mac(&["token", token]).verify_slice(&tag).is_ok())
        };
        let (operator, reader) = (matches(&self.tokens.operator), matches(&self.tokens.reader));
        match (operator, reader) {
            (Some(true), _) => Some(Role::Operator),
            (_, Some(true)) => Some(Role::Reader),
            _ => None,
        }
    }

    /// A new session.
    pub fn begin(&self, role: Role, name: &str, now: i64) -> Session {
        let name: String =
            name.trim().chars().filter(|c| !shared::characters::is_unsafe(*c)).take(LONGEST_NAME).collect();
        let nonce = BASE64.encode(rand::random::<[u8; 16]>());
        Session { role, name, expires_at: now + LASTS, nonce }
    }

    /// A session as its cookie has it.
    pub fn seal(&self, session: &Session) -> String {
        let text = text(session);
        let tag = BASE64.encode(self.mac(&["session", &text]).finalize().into_bytes());
        format!("{text}.{tag}")
    }

    /// The session that a cookie proves; none when it is not ours, not whole, or over.
    pub fn open(&self, cookie: &str, now: i64) -> Option<Session> {
        let (text, tag) = cookie.rsplit_once('.')?;
        let tag = BASE64.decode(tag).ok()?;
        self.mac(&["session", text]).verify_slice(&tag).ok()?;
        let mut parts = text.split('.');
        let (role, expires_at, nonce, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let role = [Role::Reader, Role::Operator].into_iter().find(|known| known.as_str() == role)?;
        let name = String::from_utf8(BASE64.decode(name).ok()?).ok()?;
        let session = Session { role, name, expires_at: expires_at.parse().ok()?, nonce: nonce.to_owned() };
        (session.expires_at > now).then_some(session)
    }

    /// What forms of a session carry, so that no other page can send them.
    pub fn form_token(&self, session: &Session) -> String {
        BASE64.encode(self.mac(&["form", &text(session)]).finalize().into_bytes())
    }

    /// Whether a form was made for this session.
    pub fn is_form_of(&self, session: &Session, token: &str) -> bool {
        let Ok(tag) = BASE64.decode(token) else { return false };
        self.mac(&["form", &text(session)]).verify_slice(&tag).is_ok()
    }

    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = hmac(&self.key);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

fn text(session: &Session) -> String {
    let Session { role, name, expires_at, nonce } = session;
    format!("{}.{expires_at}.{nonce}.{}", role.as_str(), BASE64.encode(name))
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doorkeeper(operator: &str) -> Doorkeeper {
        Doorkeeper::new(Tokens { operator: Some(Secret::new(operator)), reader: Some(Secret::new("reader")) })
    }

    #[test]
    fn a_token_is_worth_its_role() {
        let door = doorkeeper("operator");
        assert_eq!(door.role_of("operator"), Some(Role::Operator));
        assert_eq!(door.role_of("reader"), Some(Role::Reader));
        for wrong in ["", "operato", "operatorr", "Operator"] {
            assert_eq!(door.role_of(wrong), None, "{wrong}");
        }
        let open = Doorkeeper::new(Tokens { operator: None, reader: None });
        assert_eq!((open.asks_for_a_token(), open.role_of("")), (false, None));
    }

    #[test]
    fn a_session_outlives_the_process_but_not_its_time_nor_its_tokens() {
        let session = doorkeeper("one").begin(Role::Operator, " Ada\u{202e}\n Lovelace. ", 1_000);
        assert_eq!(session.name, "Ada Lovelace.");
        let cookie = doorkeeper("one").seal(&session);
        assert_eq!(doorkeeper("one").open(&cookie, 1_000 + LASTS - 1), Some(session));
        assert_eq!(doorkeeper("one").open(&cookie, 1_000 + LASTS), None);
        assert_eq!(doorkeeper("two").open(&cookie, 1_000), None);
    }

    #[test]
    fn nothing_of_a_session_can_be_changed() {
        let door = doorkeeper("one");
        let cookie = door.seal(&door.begin(Role::Reader, "Ada", 1_000));
        assert!(door.open(&cookie, 1_000).is_some());
        assert_eq!(door.open(&cookie.replacen("reader", "operator", 1), 1_000), None);
        for at in 0..cookie.len() {
            let mut bytes = cookie.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last letter of unpadded base64 may hold bits that say nothing; the decoder refuses other ones.
            assert_eq!(door.open(&changed, 1_000), None, "{changed}");
        }
        for odd in ["", ".", "...", "reader.1.2.3.4"] {
            assert_eq!(door.open(odd, 0), None, "{odd}");
        }
    }

    #[test]
    fn a_form_belongs_to_one_session() {
        let door = doorkeeper("one");
        let (ada, bob) = (door.begin(Role::Operator, "x", 1), door.begin(Role::Operator, "x", 1));
        let token = door.form_token(&ada);
        assert!(door.is_form_of(&ada, &token));
        assert!(!door.is_form_of(&bob, &token) && !door.is_form_of(&ada, "") && !door.is_form_of(&ada, "%"));
    }
}
