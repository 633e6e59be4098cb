//! Directories that cannot outlive us.
//!
//! A small shell waits at the end of a pipe and removes the directory when nobody holds the other end any more: neither
//! we, however we end, nor any process that works in the directory and was given the pipe as its standard output.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A process that was killed along with us may write one last file while its directory is being removed.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT
cat >/dev/null
for try in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.1; done
"#;

/// A directory that is removed when this is dropped or this process dies.
#[derive(Debug)]
pub struct Broom {
    directory: PathBuf,
    shell: Child,
    /// Always there until drop, which has to close it before it waits for the shell.
    pipe: Option<PipeWriter>,
}

impl Broom {
    /// Takes charge of a directory; `prepare` may give the shell another user.
    pub fn over(directory: PathBuf, prepare: impl FnOnce(&mut Command)) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "broom"]).arg(&directory).current_dir("/").process_group(0);
        command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null());
        prepare(&mut command);
        let shell = command.spawn().context("cannot start the shell that removes the directory")?;
        Ok(Self { directory, shell, pipe: Some(writer) })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a process that works in the directory holds, so that it is not removed under its feet.
    pub fn hold(&self) -> Result<Stdio> {
        let pipe = self.pipe.as_ref().context("the broom is at work")?;
        Ok(pipe.try_clone()?.into())
    }
}

impl Drop for Broom {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Whoever drops a directory expects it to be gone afterwards.
        let _ = self.shell.wait();
    }
}
