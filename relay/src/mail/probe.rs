//! A look at where mail goes, without sending any.

use super::{Email, Transport};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A mail server that would take mail.
    Smtp(Server),
    /// A directory, which can be written to.
    Directory(String),
}

/// A mail server, connected to and logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its host and port, as the setting has them.
    pub address: String,
    /// What it calls itself.
    pub name: String,
    /// How the connection is encrypted, if it is.
    pub tls: Option<&'static str>,
    /// Whether there was a login.
    pub logged_in: bool,
    /// Whether it takes addresses that are not ASCII.
    pub international: bool,
    /// What it offers, of what a relay could use.
    pub features: Vec<&'static str>,
}

impl Email {
    /// Connects to the mail server, encrypts, logs in and says goodbye; or tries the directory.
    ///
    /// # Errors
    /// How far it came, and what is in the way.
    pub async fn probe(&self) -> Result<Probe, String> {
        match &self.transport {
            Transport::Smtp(smtp) => smtp.probe().await.map(Probe::Smtp),
            Transport::Mailbox(directory) => {
                let path = directory.display().to_string();
                let file = directory.join(format!(".doctor-{}", std::process::id()));
                std::fs::write(&file, "")
                    .and_then(|()| std::fs::remove_file(&file))
                    .map_err(|error| format!("the directory {path} can't be written to: {error}"))?;
                Ok(Probe::Directory(path))
            }
        }
    }

    /// Whether mail is sent to some recipients only.
    pub fn is_sandboxed(&self) -> bool {
        self.settings.sandbox.is_some()
    }
}
