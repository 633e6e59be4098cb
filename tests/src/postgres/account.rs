//! Who runs the server. PostgreSQL refuses to run as root, so root lends it an unprivileged account.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Accounts that root may lend, the better one first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The account that PostgreSQL's programs run under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// We are an ordinary user and run them ourselves.
    Own,
    /// We are root and run them as somebody else.
    Lent {
        /// The account's name, for messages.
        name: String,
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Account {
    /// The account for this process's servers.
    pub fn for_server() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        for name in UNPRIVILEGED {
            if let (Some(uid), Some(gid)) = (numeric_id("-u", name), numeric_id("-g", name)) {
                return Ok(Self::Lent { name: name.to_owned(), uid, gid });
            }
        }
        bail!("PostgreSQL does not run as root, and this system has neither of the users {UNPRIVILEGED:?} to lend it");
    }

    /// Makes `command` run under this account.
    pub fn apply(&self, command: &mut Command) {
        if let Self::Lent { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Gives a file or a directory to this account.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Self::Lent { name, uid, gid } = self {
            chown(path, Some(*uid), Some(*gid)).with_context(|| format!("cannot give {} to {name}", path.display()))?;
        }
        Ok(())
    }

    /// Whether this account can use the directory: a home of mode 0700 above it would keep it out.
    pub fn can_enter(&self, directory: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(directory).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}

/// What `id` says about an account; `None` if there is no such account.
fn numeric_id(which: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([which, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
