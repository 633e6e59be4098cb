//! A fast SMTP server for volume: Postfix's `smtp-sink`, which takes mail and throws it away, or into a file.
//!
//! It says nothing of what it heard while it runs; [`crate::smtp_sink`] is for that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;

use crate::postgres::free_port;
use crate::process::{Launch, Running};
use crate::skip::skip;
use crate::wait::until;

/// Debian installs it where not everybody's PATH leads.
const PLACES: [&str; 3] = ["/usr/sbin/smtp-sink", "/usr/local/sbin/smtp-sink", "/usr/bin/smtp-sink"];

/// How often it is started on another port when its port was taken meanwhile.
const TRIES: usize = 5;

/// The server; ended when dropped.
#[derive(Debug)]
pub struct FastSink {
    port: u16,
    process: Running,
}

impl FastSink {
    /// The program, where it is installed.
    pub fn program() -> Option<PathBuf> {
        PLACES.iter().map(PathBuf::from).find(|path| path.exists())
    }

    /// Starts a server that keeps its mail in a file; `None`, with a line that says so, where there is none.
    pub async fn start_or_skip(test: &str, kept: &Path) -> Result<Option<Self>> {
        if Self::program().is_none() {
            skip(test, "no smtp-sink (Debian: postfix)");
            return Ok(None);
        }
        Self::start(Some(kept)).await.map(Some)
    }

    /// Starts a server.
    pub async fn start(kept: Option<&Path>) -> Result<Self> {
        let program = Self::program().context("smtp-sink is not installed (Debian: postfix)")?;
        for _ in 0..TRIES {
            let port = free_port()?;
            let mut arguments = vec![];
            if rustix::process::geteuid().is_root() {
                // As root it insists on being somebody else. Whoever keeps mail must be able to write where it goes.
                arguments.extend(["-u", if kept.is_some() { "root" } else { "nobody" }]);
            }
            let kept = kept.map(|path| path.display().to_string());
            if let Some(path) = &kept {
                arguments.extend(["-D", path]);
            }
            let address = format!("127.0.0.1:{port}");
            arguments.extend([&*address, "1000"]);
            let process = Launch::new("smtp-sink", &program).arguments(arguments).start()?;
            let listens = until("smtp-sink to listen", async || {
                if process.ended()?.is_some() {
                    return Ok(Some(false));
                }
                Ok(TcpStream::connect(&address).await.is_ok().then_some(true))
            });
            if listens.await? {
                return Ok(Self { port, process });
            }
        }
        bail!("smtp-sink does not start")
    }

    /// Where it listens, as `SMTP_URL` has it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Ends it, so that what it keeps is on file.
    pub async fn end(self) -> Result<()> {
        self.process.signal(crate::leash::Signal::TERM)?;
        self.process.wait(Duration::from_secs(10)).await.map(drop)
    }
}
