//! Copies of a cluster, in all the ways in which the history of a database moves: standbys that are promoted, cold
//! copies, base backups, dumps, upgrades.
//!
//! A cluster here costs a copy of a directory in memory and a start, not an `initdb`: all of them descend from one that
//! is set up once, and so share its system identifier, as real copies do. Its standbys need no base backup either, as
//! it is a cold one. A cluster of another descent is [`other`].

mod dump;
mod standby;
mod upgrade;

pub use dump::Dump;
pub use standby::{await_replay, detach, promote, standby_of};
pub use upgrade::upgrade;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::OnceCell;

use crate::databases::{Database, DatabaseServer, Kind};
use crate::postgres::{Cluster, Site, Stop};

/// Small, fast, and with nothing that takes transaction ids by itself: tests foretell them.
const SETTINGS: [(&str, &str); 16] = [
    ("max_connections", "60"),
    ("shared_buffers", "32MB"),
    ("max_prepared_transactions", "20"),
    ("wal_level", "logical"),
    ("wal_keep_size", "1GB"),
    ("max_wal_size", "2GB"),
    ("min_wal_size", "32MB"),
    ("wal_recycle", "off"),
    ("wal_init_zero", "off"),
    ("wal_retrieve_retry_interval", "50ms"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("log_checkpoints", "off"),
];

/// A data directory that no server is running on.
#[derive(Debug)]
pub struct AtRest {
    site: Site,
    superuser_password: String,
    password: String,
}

impl AtRest {
    /// A cold copy of a server that has been stopped.
    pub async fn of(server: &DatabaseServer) -> Result<Self> {
        ensure!(!server.cluster().is_running()?, "the server is still running");
        let (cluster, password) = (server.cluster(), server.password());
        Self::copied(&cluster.site().data_dir(), cluster.superuser_password(), password).await
    }

    /// A base backup of a running server, without any write-ahead log: it wants an archive to recover from.
    pub async fn backup_of(server: &DatabaseServer) -> Result<Self> {
        let cluster = server.cluster();
        let site = Site::in_memory().await?;
        let data = site.data_dir();
        let url = cluster.superuser_url("postgres");
        let arguments = ["--wal-method=none", "--checkpoint=fast", "--no-sync", "--no-manifest", "-d", &url, "-D"];
        site.run("pg_basebackup", arguments.iter().map(AsRef::as_ref).chain([data.as_os_str()])).await?;
        let superuser_password = cluster.superuser_password().to_owned();
        Ok(Self { site, superuser_password, password: server.password().to_owned() })
    }

    /// Another copy of the same.
    pub async fn again(&self) -> Result<Self> {
        Self::copied(&self.site.data_dir(), &self.superuser_password, &self.password).await
    }

    async fn copied(data: &Path, superuser_password: &str, password: &str) -> Result<Self> {
        let site = Site::in_memory().await?;
        copy(data, &site.data_dir()).await?;
        Ok(Self { site, superuser_password: superuser_password.to_owned(), password: password.to_owned() })
    }

    /// Puts an empty file there, such as `standby.signal`.
    pub fn mark(&self, name: &str) -> Result<()> {
        let file = self.site.data_dir().join(name);
        std::fs::write(&file, "")?;
        self.site.account().own(&file)
    }

    /// Lets the transaction counter go on from `epoch` times 2³² and something.
    pub async fn set_epoch(&self, epoch: u32) -> Result<()> {
        // At the first id of a page of the commit log: PostgreSQL makes that page itself, and no other is missed.
        let arguments = ["-e", &epoch.to_string(), "-x", "65536", "-D"].map(std::ffi::OsString::from);
        self.site.run("pg_resetwal", arguments.iter().cloned().chain([self.site.data_dir().into()])).await
    }

    /// Starts a server on it.
    pub async fn start(self, settings: &[(&str, &str)]) -> Result<Arc<DatabaseServer>> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings: Vec<_> = SETTINGS.iter().chain(settings).map(owned).collect();
        let cluster = Cluster::open(self.site, &self.superuser_password, &settings, None).await?;
        Ok(DatabaseServer::adopt(cluster, &self.password))
    }
}

/// A cluster with the roles and an empty application database.
pub async fn primary() -> Result<Arc<DatabaseServer>> {
    ancestor().await?.again().await?.start(&[]).await
}

/// The application database of a cluster that descends from [`primary`].
pub fn app(server: &Arc<DatabaseServer>) -> Database {
    server.existing("app_1")
}

/// A cluster with the roles alone, of another descent: its system identifier is another one.
pub async fn other() -> Result<AtRest> {
    static OTHER: OnceCell<AtRest> = OnceCell::const_new();
    OTHER.get_or_try_init(async || set_up(false).await).await?.again().await
}

/// What all clusters of this program descend from. It does not run.
async fn ancestor() -> Result<&'static AtRest> {
    static ANCESTOR: OnceCell<AtRest> = OnceCell::const_new();
    ANCESTOR.get_or_try_init(async || set_up(true).await).await
}

async fn set_up(with_app: bool) -> Result<AtRest> {
    let builder = SETTINGS.iter().fold(Cluster::builder().without_fsync(), |b, (name, value)| b.setting(name, value));
    let server = DatabaseServer::start(builder).await?;
    if with_app {
        server.create(Kind::App).await?;
        let client = server.cluster().connect("postgres").await?;
        client.batch_execute("DROP DATABASE app_template").await?;
        client.batch_execute("DROP DATABASE jobs_template").await?;
    }
    server.cluster().stop(Stop::Fast).await?;
    AtRest::of(&server).await
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to).stdin(Stdio::null()).stdout(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status()).await?.context("cannot run cp")?;
    ensure!(status.success(), "{} could not be copied", from.display());
    Ok(())
}
