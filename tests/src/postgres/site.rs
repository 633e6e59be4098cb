//! A place for a cluster: a directory, the programs, the account, and the broom that removes the directory.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::account::Account;
use super::binaries::Binaries;
use crate::broom::Broom;
use crate::leash::{self, Ending, Leashed};

/// The longest that a one-shot tool may take: a base backup on a loaded machine is the slowest of them.
const TOOL_PATIENCE: Duration = Duration::from_secs(120);

/// A file system in memory, and how much has to be free there: write-ahead log alone may take a gigabyte.
const MEMORY: &str = "/dev/shm";
const MEMORY_NEEDED: u64 = 4 << 30;

/// A directory for one cluster. Removed at the end if it is a temporary one.
#[derive(Debug)]
pub struct Site {
    account: Account,
    binaries: Binaries,
    base: PathBuf,
    broom: Option<Broom>,
    /// What the server is told beside what everybody is.
    environment: Vec<(String, String)>,
}

impl Site {
    /// A directory of its own that disappears with us. Finds or fetches the programs.
    pub async fn temporary() -> Result<Self> {
        Self::temporary_in(Vec::new()).await
    }

    /// The same in memory, where there is plenty of room for it: three times as fast to set up.
    pub async fn in_memory() -> Result<Self> {
        let room = rustix::fs::statvfs(MEMORY).is_ok_and(|free| free.f_bavail * free.f_frsize >= MEMORY_NEEDED);
        Self::temporary_in(if room { vec![PathBuf::from(MEMORY)] } else { Vec::new() }).await
    }

    async fn temporary_in(preferred: Vec<PathBuf>) -> Result<Self> {
        let account = Account::for_server()?;
        let binaries = find(&account, None).await?;
        let base = temporary_directory(preferred, &account)?;
        let broom = Some(Broom::over(base.clone(), |shell| account.apply(shell))?);
        Ok(Self { account, binaries, base, broom, environment: Vec::new() })
    }

    /// A directory that stays. Its data, if there are any, decide which version is needed.
    pub async fn persistent(base: &Path) -> Result<Self> {
        let account = Account::for_server()?;
        fs::create_dir_all(base).with_context(|| format!("cannot make {}", base.display()))?;
        let base = fs::canonicalize(base)?;
        account.own(&base)?;
        if !account.can_enter(&base) {
            bail!("{} is out of reach for the user that runs PostgreSQL: choose another place", base.display());
        }
        let wanted = fs::read_to_string(base.join("data/PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        let binaries = find(&account, wanted).await?;
        Ok(Self { account, binaries, base, broom: None, environment: Vec::new() })
    }

    pub(super) fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// The programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The account that servers and tools run under.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The directory; it holds the data directory and the server's log.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Whether the directory goes when we go.
    pub fn is_temporary(&self) -> bool {
        self.broom.is_some()
    }

    /// A command for a PostgreSQL tool here: on a leash, under the right account, with a clean environment.
    pub fn command(&self, tool: &str, ending: Ending) -> Result<Command> {
        let mut command = leash::command(self.binaries.tool(tool)?, ending);
        self.account.apply(&mut command);
        command.current_dir(&self.base).env("HOME", &self.base).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            // A PGDATA or PGOPTIONS of the caller's shell is meant for another server.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // Whoever runs in the directory holds the broom back until it has ended.
        command.stdout(self.broom.as_ref().map_or_else(|| Ok(Stdio::null()), Broom::hold)?);
        Ok(command)
    }

    /// Runs a tool to its end, such as `pg_basebackup` or `pg_ctl promote`.
    pub async fn run(&self, tool: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        let mut command = self.command(tool, Ending::Kill)?;
        command.args(arguments);
        self.run_command(command).await
    }

    /// Runs a command made by [`Site::command`] to its end; what it said on standard error becomes the error.
    pub async fn run_command(&self, mut command: Command) -> Result<()> {
        command.stderr(Stdio::piped());
        let mut leashed = leash::spawn(command, Ending::Kill)?;
        let complaint = leashed.output().1.map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = String::new();
                stderr.read_to_string(&mut text).map(|_| text)
            })
        });
        let status = leashed.wait(TOOL_PATIENCE).await?;
        let complaint = complaint.and_then(|reader| reader.join().ok()).transpose()?.unwrap_or_default();
        ensure!(status.success(), "PostgreSQL's tool ended with {status}: {}", complaint.trim());
        Ok(())
    }

    /// Starts a server on the data directory, with its log in the site's `server.log`.
    pub(super) fn serve(&self, port: u16) -> Result<Leashed> {
        // A temporary server has nothing to save; one that stays wants its checkpoint.
        let ending = if self.is_temporary() { Ending::Quit } else { Ending::Interrupt };
        let mut command = self.command("postgres", ending)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        command.arg("-D").arg(self.data_dir()).args(["-p", &port.to_string()]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]).stderr(log);
        leash::spawn(command, ending)
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.base.join("server.log")
    }

    /// Writes a file that the server's account owns.
    pub(super) fn write(&self, path: &Path, content: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        self.account.own(path)
    }
}

/// Where data that should stay go: `preferred`, or a place of the system's if the server's user cannot get there.
pub fn durable_home(preferred: &Path) -> Result<PathBuf> {
    let account = Account::for_server()?;
    let parent = preferred.parent().unwrap_or(Path::new("/"));
    if account.can_enter(parent) { Ok(preferred.to_owned()) } else { Ok(PathBuf::from("/var/lib/aftercommit")) }
}

async fn find(account: &Account, wanted: Option<u32>) -> Result<Binaries> {
    let account = account.clone();
    tokio::task::spawn_blocking(move || Binaries::find(&account, wanted)).await?
}

/// A new directory that the account owns and can reach; a private TMPDIR of root's may be out of its reach.
fn temporary_directory(preferred: Vec<PathBuf>, account: &Account) -> Result<PathBuf> {
    let usual = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    for parent in preferred.into_iter().chain(usual) {
        let Ok(directory) = tempfile::Builder::new().prefix("aftercommit-postgres-").tempdir_in(&parent) else {
            continue;
        };
        account.own(directory.path())?;
        if account.can_enter(directory.path()) {
            return Ok(directory.keep());
        }
    }
    bail!("no temporary directory can be reached by the user that runs PostgreSQL: set TMPDIR to one")
}
