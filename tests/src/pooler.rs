//! A real pgbouncer in transaction mode, before one server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::databases::{DatabaseServer, Role};
use crate::leash::{self, Ending, Leashed};
use crate::postgres::{SUPERUSER, connect, free_port};
use crate::skip::skip;
use crate::wait::until;

/// How often another port is tried when one was taken meanwhile.
const TRIES: usize = 5;

/// A running pooler; stopped when dropped.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    // Declared before the directory, which it runs in.
    _process: Leashed,
    _directory: tempfile::TempDir,
}

impl Pooler {
    /// Starts one with two server connections a database and role, so that clients keep changing theirs. None, and a word
    /// for `test`, where pgbouncer is not installed.
    pub async fn before(server: &DatabaseServer, test: &str, settings: &[(&str, &str)]) -> Result<Option<Self>> {
        let Some(program) = installed() else {
            skip(test, "pgbouncer is not installed");
            return Ok(None);
        };
        for _ in 0..TRIES {
            if let Some(pooler) = Self::start(&program, server, settings).await? {
                return Ok(Some(pooler));
            }
        }
        bail!("pgbouncer: {TRIES} free ports were taken, one after the other")
    }

    async fn start(program: &Path, server: &DatabaseServer, settings: &[(&str, &str)]) -> Result<Option<Self>> {
        let account = server.cluster().site().account();
        let directory = tempfile::Builder::new().prefix("aftercommit-pgbouncer-").tempdir_in("/tmp")?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let port = free_port()?;
        let own: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let users: String = Role::OURS
            .iter()
            .map(|role| (role.name(), server.password()))
            .chain([(SUPERUSER, server.cluster().superuser_password())])
            .map(|(name, password)| format!("\"{name}\" \"{password}\"\n"))
            .collect();
        let users_file = directory.path().join("users.txt");
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 2\nmax_client_conn = 100\n{own}",
            server.cluster().port(),
            users_file.display(),
        );
        let config_file = directory.path().join("pgbouncer.ini");
        for (file, text) in [(&users_file, users), (&config_file, config)] {
            std::fs::write(file, text)?;
            account.own(file)?;
        }
        let mut command = leash::command(program, Ending::Kill);
        account.apply(&mut command);
        let log = std::fs::File::create(directory.path().join("log"))?;
        command.arg(&config_file).current_dir(directory.path()).stdout(log.try_clone()?).stderr(log);
        let mut process = leash::spawn(command, Ending::Kill)?;
        let url = server
            .url("postgres", Role::Superuser)
            .replace(&format!(":{}/", server.cluster().port()), &format!(":{port}/"));
        let answers = until("pgbouncer to answer", async || {
            if process.ended()?.is_some() {
                return Ok(Some(false));
            }
            Ok(connect(&url).await.is_ok().then_some(true))
        });
        let answers =
            answers.await.with_context(|| std::fs::read_to_string(directory.path().join("log")).unwrap_or_default())?;
        Ok(answers.then_some(Self { port, _process: process, _directory: directory }))
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Where it is; Debian puts it where only root's PATH leads.
fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}
