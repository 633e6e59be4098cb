//! Real processes: built, started with settings of their own, watched, and ended with us.
//!
//! A process sees no variable of the caller's environment except where to find programs: a `DATABASE_URL` of the
//! developer's shell must not decide how a test ends. Its output is kept for assertions and, when it is dropped,
//! printed, which the test runner shows when the test fails.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::databases::project_folder;
use crate::leash::{self, Ending, Leashed, Signal};
use crate::wait::{SOON, until};

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: Option<PathBuf>,
}

impl Launch {
    /// A program by its path; `name` is for messages.
    pub fn new(name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: None,
        }
    }

    /// One of the project's own programs, built if need be.
    pub async fn built(name: &str) -> Result<Self> {
        Ok(Self::new(name, built_programs(true).await?.join(name)))
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets environment variables; a later value for a name replaces the earlier one.
    #[must_use]
    pub fn environment<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// Sends the output into a file instead of keeping it.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Running> {
        let mut command = leash::command(&self.program, Ending::Kill);
        command.args(&self.arguments).env_clear();
        // Coverage tools say where to write by LLVM_PROFILE_FILE.
        for name in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment);
        let output = Arc::new(Output::default());
        match &self.log {
            Some(file) => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
                command.stdout(file.try_clone()?).stderr(file);
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let mut leashed = leash::spawn(command, Ending::Kill)?;
        let (stdout, stderr) = leashed.output();
        let readers = [
            stdout.map(|stream| read_lines(stream, output.clone(), false)),
            stderr.map(|stream| read_lines(stream, output.clone(), true)),
        ];
        let readers = Mutex::new(readers.into_iter().flatten().collect());
        let shown_at_end = self.log.is_none();
        Ok(Running { name: self.name, leashed: Mutex::new(leashed), output, readers, log: self.log, shown_at_end })
    }

    /// Runs it to its end.
    pub async fn run(self) -> Result<Finished> {
        let mut running = self.start()?;
        running.shown_at_end = false;
        let status = running.wait(SOON).await?;
        let lines = running.output.lines();
        let of = |errors: bool| -> String {
            lines.iter().filter(|line| line.error == errors).map(|line| line.text.clone() + "\n").collect()
        };
        Ok(Finished { status, stdout: of(false), stderr: of(true) })
    }
}

/// A program that has run to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// An error with all that was said, unless it succeeded.
    pub fn success(self) -> Result<Self> {
        ensure!(self.status.success(), "{}:\n{}{}", self.status, self.stdout, self.stderr);
        Ok(self)
    }
}

#[derive(Debug)]
struct Line {
    error: bool,
    text: String,
}

#[derive(Debug, Default)]
struct Output(Mutex<Vec<Line>>);

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_lines(stream: impl Read + Send + 'static, output: Arc<Output>, error: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            output.lines().push(Line { error, text: String::from_utf8_lossy(&line).into_owned() });
        }
    })
}

/// A program that is running; killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    leashed: Mutex<Leashed>,
    output: Arc<Output>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    log: Option<PathBuf>,
    shown_at_end: bool,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.leashed().pid()
    }

    /// All that it has said so far, on both streams.
    pub fn output(&self) -> String {
        match &self.log {
            Some(file) => std::fs::read_to_string(file).unwrap_or_default(),
            None => self.output.lines().iter().map(|line| line.text.clone() + "\n").collect(),
        }
    }

    /// Waits for a line that holds `text`, and returns it.
    pub async fn line_with(&self, text: &str) -> Result<String> {
        until(&format!("{} to say {text:?}", self.name), async || {
            // Asked first: what it said last is then in the output.
            let going_on = self.fail_if_ended();
            if let Some(line) = self.output().lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            going_on.map(|()| None)
        })
        .await
        .with_context(|| format!("{} said:\n{}", self.name, self.output()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.leashed().signal(signal)
    }

    /// How it ended, if it has; then its output is complete.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let ended = self.leashed().ended()?;
        if ended.is_some() {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.drain(..).for_each(|reader| drop(reader.join()));
        }
        Ok(ended)
    }

    /// An error if it has ended, with what it said.
    pub fn fail_if_ended(&self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.output()),
            None => Ok(()),
        }
    }

    /// Waits for it to end.
    pub async fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        let ended = crate::wait::until_within(patience, &format!("{} to end", self.name), async || self.ended()).await;
        ended.with_context(|| format!("{} said:\n{}", self.name, self.output()))
    }

    /// Asks it to stop, as an operator does, and waits until it has.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(SOON).await
    }

    /// Kills it on the spot, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(SOON).await.map(drop)
    }

    fn leashed(&self) -> MutexGuard<'_, Leashed> {
        self.leashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let output = if self.shown_at_end { self.output() } else { String::new() };
        if !output.is_empty() {
            // The runner swallows this unless the test fails.
            eprintln!("── output of {} ({})\n{output}", self.name, self.pid());
        }
    }
}

/// The folder of the built `api` and `relay`, of the same profile as this program. Builds them, once per program;
/// cargo shows its progress unless `quiet`.
///
/// Several programs may do so at once: cargo's own lock lets one build and the others find it done.
pub async fn built_programs(quiet: bool) -> Result<&'static Path> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = BUILT.get_or_try_init(async || tokio::task::spawn_blocking(move || build(quiet)).await?).await?;
    Ok(folder)
}

fn build(quiet: bool) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/<profile>/demo or target/<profile>/deps/<test>.
    let folder = own.parent().context("no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("no folder")? } else { folder };
    let profile = match folder.file_name().and_then(|name| name.to_str()).context("no profile")? {
        "debug" => "dev",
        name => name,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace's features, so that nothing is built twice: once for its tests and once for us.
    cargo.args(["build", "--workspace", "--bin", "api", "--bin", "relay", "--profile", profile, "--target-dir"]);
    cargo.arg(folder.parent().context("no target directory")?).current_dir(project_folder());
    if quiet {
        cargo.arg("--quiet");
    }
    for (name, _) in std::env::vars_os() {
        // What cargo told this program about itself is not meant for other packages, and would have some built anew.
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|part| text.starts_with(part)) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.stdin(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "api and relay could not be built");
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Launch {
        Launch::new("sh", "/bin/sh").arguments(["-c", script])
    }

    #[tokio::test]
    async fn a_program_sees_its_own_settings_and_none_of_ours() -> Result<()> {
        let ours = "CARGO_MANIFEST_DIR";
        assert!(std::env::var_os(ours).is_some(), "cargo sets it for tests");
        let launch = sh("echo out $A $CARGO_MANIFEST_DIR; echo err >&2; exit 3").environment([("A", "1"), ("A", "2")]);
        let finished = launch.run().await?;
        assert_eq!(
            (finished.code(), finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(3), "out 2\n", "err\n")
        );
        assert!(finished.success().is_err());
        Ok(())
    }

    #[tokio::test]
    async fn waiting_for_a_line_ends_when_the_program_does() -> Result<()> {
        let running = sh("echo ready; exec sleep 600").start()?;
        assert_eq!(running.line_with("read").await?, "ready");
        running.kill().await?;
        let error = sh("echo something else; exit 4").start()?.line_with("ready").await.unwrap_err();
        assert!(format!("{error:#}").contains("something else"), "{error:#}");
        Ok(())
    }

    #[tokio::test]
    async fn output_goes_into_a_file_when_told() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let running = sh("echo out; echo err >&2").log(file.path()).start()?;
        assert!(running.wait(SOON).await?.success());
        assert_eq!(std::fs::read_to_string(file.path())?, "out\nerr\n");
        assert_eq!(running.output(), "out\nerr\n");
        Ok(())
    }
}
