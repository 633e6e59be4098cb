//! Who operates: the name that a row of `operator_actions` bears.

use crate::text::one_line;

/// A person, or whatever acts for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The name: an OS user and host, or a login.
    pub name: String,
    /// Where it was asked for: `cli` or `dashboard`.
    pub via: &'static str,
}

/// Who does something, and why.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Who.
    pub operator: &'a Operator,
    /// Why, in the operator's own words.
    pub reason: Option<&'a str>,
}

/// What the database takes.
const LONGEST: usize = 200;

impl Operator {
    /// Whoever runs this process: the user of the operating system, and the host.
    pub fn of_this_process() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = user_name(&users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::new(&format!("{user} on {host}"), "cli")
    }

    /// A login of the dashboard.
    pub fn dashboard(login: &str) -> Self {
        Self::new(login, "dashboard")
    }

    fn new(name: &str, via: &'static str) -> Self {
        let name = one_line(name, LONGEST);
        Self { name: if name.is_empty() { "unknown".to_owned() } else { name }, via }
    }
}

/// The name of a user in the text of `/etc/passwd`.
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_or_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\n:x:7:7::/:\nada:x:1000:1000:Ada:/home/ada:/bin/sh\nbroken\n";
        assert_eq!((user_name(users, 1000), user_name(users, 7), user_name(users, 1)), (Some("ada"), None, None));
        assert_eq!(Operator::of_this_process().via, "cli");
    }

    #[test]
    fn a_name_fits_into_its_column() {
        assert_eq!(Operator::dashboard("").name, "unknown");
        assert_eq!(Operator::dashboard("a\nb").name, "a b");
        assert!(Operator::dashboard(&"é".repeat(500)).name.len() <= LONGEST);
    }
}
