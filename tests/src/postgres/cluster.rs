//! A running server: start, stop, start again, and how to reach it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio_postgres::{Client, NoTls};

use super::setup::{Builder, setting_line, settings_file, write_settings};
use super::site::Site;
use crate::leash::{Leashed, Signal};

/// The superuser's name.
pub const SUPERUSER: &str = "postgres";

const PATIENCE: Duration = Duration::from_secs(60);

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends the sessions, writes a checkpoint.
    Fast,
    /// Drops everything at once: the next start recovers from the write-ahead log, as after a crash.
    Immediate,
}

/// A PostgreSQL server that we started; stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the site: the server has to be gone before its directory goes.
    server: Mutex<Option<Leashed>>,
    site: Site,
    password: String,
    port: u16,
}

/// Why a server did not come up.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Somebody took the port between our look and the server's.
    #[error("port {0} was taken")]
    PortTaken(u16),
    /// The last processes of the server before still hold its shared memory.
    #[error("the server before has not gone yet")]
    StillThere,
    #[error("{0}")]
    Other(#[from] anyhow::Error),
}

impl Cluster {
    /// A cluster with PostgreSQL's own defaults: durable, temporary, on a free port.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a server on the data that are in the site, for example those of a base backup.
    pub async fn open(
        site: Site,
        superuser_password: &str,
        settings: &[(String, String)],
        port: Option<u16>,
    ) -> Result<Self> {
        write_settings(&site, settings)?;
        let mut cluster = Self { server: Mutex::new(None), site, password: superuser_password.to_owned(), port: 0 };
        let mut tries = 0;
        loop {
            tries += 1;
            cluster.port = port.map_or_else(free_port, Ok)?;
            match cluster.launch().await {
                Ok(()) => return Ok(cluster),
                Err(Failure::PortTaken(_)) if port.is_none() && tries < 10 => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Where the cluster lives: its directory, programs and account.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database for a role.
    pub fn url(&self, database: &str, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database for the superuser.
    pub fn superuser_url(&self, database: &str) -> String {
        self.url(database, SUPERUSER, &self.password)
    }

    /// The superuser's password, which a standby made from this cluster shares.
    pub fn superuser_password(&self) -> &str {
        &self.password
    }

    /// A session of the superuser's.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.superuser_url(database)).await
    }

    /// Adds settings; they hold from the next start, or from a reload where PostgreSQL allows it.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = settings_file(&self.site);
        let mut text = fs::read_to_string(&path)?;
        settings.iter().for_each(|(name, value)| text.push_str(&setting_line(name, value)));
        self.site.write(&path, &text)
    }

    /// Stops the server; one that has ended already is left as it is.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        self.end(signal).await
    }

    /// Kills the server's first process, as the kernel does when memory runs out; the others follow by themselves.
    pub async fn kill(&self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        let server = self.server().take();
        if let Some(mut server) = server {
            server.signal(signal)?;
            server.wait(PATIENCE).await?;
        }
        Ok(())
    }

    /// Starts the server again, on the same port.
    pub async fn start_again(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.launch().await {
                Ok(()) => return Ok(()),
                // The port is written in everybody's URLs, so there is no other; it may be free again soon.
                Err(Failure::PortTaken(_) | Failure::StillThere) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Freezes the server's first process, or lets it go on; its sessions stay as they are.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server().as_mut().context("the server is stopped")?.signal(signal)
    }

    /// The process id of the server's first process.
    pub fn pid(&self) -> Option<u32> {
        self.server().as_ref().map(Leashed::pid)
    }

    /// Whether the server's first process is there.
    pub fn is_running(&self) -> Result<bool> {
        self.server().as_mut().map_or(Ok(false), |server| Ok(server.ended()?.is_none()))
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.site.log_file()).unwrap_or_default()
    }

    fn server(&self) -> MutexGuard<'_, Option<Leashed>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server once and waits until it answers.
    async fn launch(&self) -> Result<(), Failure> {
        let logged = self.log().len();
        let mut server = self.site.serve(self.port)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if server.ended()?.is_some() {
                return Err(self.failure(logged));
            }
            // Whoever answers with our password is our server, even if the port was somebody else's a moment ago.
            if let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(2), self.connect("postgres")).await {
                drop(client);
                *self.server() = Some(server);
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(anyhow!("PostgreSQL does not answer:\n{}", last_lines(&self.log(), logged)).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn failure(&self, logged: usize) -> Failure {
        let log = self.log();
        let said = log.get(logged..).unwrap_or(&log);
        if said.contains("could not create any TCP/IP sockets") {
            Failure::PortTaken(self.port)
        } else if said.contains("pre-existing shared memory block") || said.contains("lock file") {
            Failure::StillThere
        } else {
            anyhow!("PostgreSQL does not start:\n{}", last_lines(&log, logged)).into()
        }
    }
}

/// A session; its connection runs until the client is dropped.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // How a session ends is seen by whoever uses the client.
        let _ = connection.await;
    });
    Ok(client)
}

/// A port that is free now: one by chance, from below the range that systems give to outgoing connections (from 32768 on
/// Linux, from 49152 elsewhere), of which the tests make thousands. It may still be taken a moment later: whoever uses it
/// tries again.
pub fn free_port() -> Result<u16> {
    const TRIES: usize = 100;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = (0..TRIES).map(|_| rand::random_range(10_000..32_000));
    ports.find(is_free).context("no port is free between 10000 and 32000")
}

fn last_lines(log: &str, from: usize) -> String {
    let lines: Vec<&str> = log.get(from..).unwrap_or(log).lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
