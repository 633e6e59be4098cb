//! What a cluster should be like, and setting up its data directory accordingly.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cluster::{Cluster, SUPERUSER};
use super::site::Site;
use crate::leash::Ending;

/// What a cluster should be like; see [`Cluster::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    home: Option<PathBuf>,
    port: Option<u16>,
    in_memory: bool,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// Adds a setting of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Trades safety against a power cut for speed: no fsync, and in memory where there is room. What PostgreSQL does
    /// and says is otherwise as ever, also after a crash of the server alone.
    #[must_use]
    pub fn without_fsync(mut self) -> Self {
        self.in_memory = true;
        self.setting("fsync", "off").setting("full_page_writes", "off")
    }

    /// Keeps the data in this directory, from one run to the next.
    #[must_use]
    pub fn persistent(mut self, directory: impl Into<PathBuf>) -> Self {
        self.home = Some(directory.into());
        self
    }

    /// Insists on a port; otherwise a free one is taken.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets a variable of the server's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the cluster up, unless its directory holds one already, and starts it.
    pub async fn start(self) -> Result<Cluster> {
        let mut site = match &self.home {
            Some(directory) => Site::persistent(directory).await?,
            None if self.in_memory => Site::in_memory().await?,
            None => Site::temporary().await?,
        };
        let password_file = site.base().join("superuser.password");
        if !site.data_dir().join("PG_VERSION").is_file() {
            initialise(&site, &password_file).await?;
        }
        let password =
            fs::read_to_string(&password_file).with_context(|| format!("cannot read {}", password_file.display()))?;
        site.set_environment(self.environment);
        Cluster::open(site, &password, &self.settings, self.port).await
    }
}

async fn initialise(site: &Site, password_file: &Path) -> Result<()> {
    site.write(password_file, &uuid::Uuid::new_v4().simple().to_string())?;
    let mut command = site.command("initdb", Ending::Kill)?;
    command.arg("-D").arg(site.data_dir()).args(["-U", SUPERUSER, "--auth=scram-sha-256"]);
    command.arg(format!("--pwfile={}", password_file.display())).args(["--encoding=UTF8", "--locale=C"]);
    if site.is_temporary() {
        command.arg("--no-sync");
    }
    site.run_command(command).await.context("cannot set up a PostgreSQL cluster")
}

pub(super) fn settings_file(site: &Site) -> PathBuf {
    site.data_dir().join("aftercommit.conf")
}

/// Our settings have a file of their own in the data directory, so that a base backup takes them along.
pub(super) fn write_settings(site: &Site, settings: &[(String, String)]) -> Result<()> {
    let text: String = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
    site.write(&settings_file(site), &text)?;
    let main = site.data_dir().join("postgresql.conf");
    let mut content = fs::read_to_string(&main).with_context(|| format!("cannot read {}", main.display()))?;
    let include = "\ninclude 'aftercommit.conf'\n";
    if !content.contains(include) {
        content.push_str(include);
        site.write(&main, &content)?;
    }
    Ok(())
}

pub(super) fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}
