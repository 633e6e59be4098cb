//! Child processes that cannot outlive us.
//!
//! `SIGKILL` leaves a parent no time to tidy up, so the child's own side has to notice. A shell hands a pipe to a
//! small watcher in the background and then *becomes* the program (`exec`: the process id is the one we spawned). The
//! pipe's other end is ours and nobody else's: it closes when we die, however we die, and the watcher sends the signal
//! that it was given. When we reap the child ourselves we say so first, so that no recycled process id is ever hit.
//!
//! What this does not do: it does not restart anything, and it does not watch the program's own children.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// The inner shell is started by a shell that ends at once, so the program does not find a child it never made.
const SCRIPT: &str = r#"
signal=$1; shift
exec 3<&0 </dev/null
( ( trap '' HUP INT TERM QUIT
    IFS= read -r _ <&3 || { kill -"$signal" $$; kill -CONT $$; }
  ) >/dev/null 2>&1 & )
exec 3<&-
exec "$@"
"#;

/// What the program is sent when its parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `SIGKILL`: nothing of it is needed any more.
    Kill,
    /// `SIGQUIT`: PostgreSQL's immediate shutdown.
    Quit,
    /// `SIGINT`: PostgreSQL's fast shutdown, which leaves a clean data directory.
    Interrupt,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Quit => "QUIT",
            Self::Interrupt => "INT",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::KILL,
            Self::Quit => Signal::QUIT,
            Self::Interrupt => Signal::INT,
        }
    }
}

/// A command that will run `program` on a leash; arguments, environment, user and output are the caller's to add.
///
/// The program gets a process group of its own, so that a Ctrl-C meant for us does not reach it behind our back.
pub fn command(program: impl AsRef<OsStr>, ending: Ending) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(SCRIPT).arg("leash").arg(ending.name()).arg(program).process_group(0);
    command
}

/// Starts a command made by [`command`].
pub fn spawn(mut command: Command, ending: Ending) -> Result<Leashed> {
    let program = command.get_args().nth(4).unwrap_or_default().to_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", Path::new(&program).display()))?;
    let rope = child.stdin.take();
    Ok(Leashed { child, rope, ending, status: None })
}

/// A running program that ends when this value is dropped or this process dies.
#[derive(Debug)]
pub struct Leashed {
    child: Child,
    rope: Option<ChildStdin>,
    ending: Ending,
    status: Option<ExitStatus>,
}

impl Leashed {
    /// The program's own process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The program's standard output and error, where they were piped; each can be taken once.
    pub fn output(&mut self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Sends a signal; a program that has ended already gets none.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal process {}", self.child.id()))
    }

    /// The exit status, if the program has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.release();
            }
        }
        Ok(self.status)
    }

    /// Waits for the program to end; an error once `patience` has run out.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("process {} did not end within {patience:?}", self.child.id());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells the watcher that there is nothing left to watch.
    fn release(&mut self) {
        if let Some(mut rope) = self.rope.take() {
            // The watcher may be gone already; then there is nobody to tell.
            let _ = rope.write_all(b"\n");
        }
    }

    /// Ends the program as its parent's death would, and by force if it takes longer than a few seconds.
    fn end(&mut self) -> Result<()> {
        self.signal(self.ending.signal())?;
        // A stopped process takes no other signal than SIGKILL until it goes on.
        self.signal(Signal::CONT)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ended()?.is_none() {
            if Instant::now() >= deadline {
                self.signal(Signal::KILL)?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        // Nothing can be reported from here; the watcher still holds the other way to end the program.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn sh(script: &str, ending: Ending) -> Command {
        let mut command = command("/bin/sh", ending);
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn runs_the_program_under_the_spawned_process_id() -> Result<()> {
        let mut command = sh("echo $$", Ending::Kill);
        command.stdout(Stdio::piped());
        let mut leashed = spawn(command, Ending::Kill)?;
        let mut said = String::new();
        leashed.output().0.context("piped")?.read_to_string(&mut said)?;
        assert_eq!(said.trim(), leashed.pid().to_string());
        assert!(leashed.wait(Duration::from_secs(10)).await?.success());
        Ok(())
    }

    #[tokio::test]
    async fn a_parent_that_vanishes_takes_the_program_with_it() -> Result<()> {
        let mut leashed = spawn(sh("exec sleep 600", Ending::Kill), Ending::Kill)?;
        // What the kernel does for a parent that was killed: the pipe closes, and nothing was said.
        drop(leashed.rope.take());
        let status = leashed.wait(Duration::from_secs(10)).await?;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        Ok(())
    }

    #[tokio::test]
    async fn the_watcher_goes_quietly_when_the_program_ended_by_itself() -> Result<()> {
        let mut command = sh("exit 7", Ending::Kill);
        command.stdout(Stdio::piped());
        let mut leashed = spawn(command, Ending::Kill)?;
        assert_eq!(leashed.wait(Duration::from_secs(10)).await?.code(), Some(7));
        leashed.signal(Signal::KILL)?;
        assert!(leashed.rope.is_none());
        Ok(())
    }
}
