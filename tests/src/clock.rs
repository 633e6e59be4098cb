//! A wall clock that a test sets, for one program: Debian's `faketime`.
//!
//! Only the wall clock jumps. The monotonic clock goes on as it does when somebody sets the time of a machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::skip::skip;

/// The library, for programs with several threads.
const PLACES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The clock of the programs that were given its [`Clock::environment`].
#[derive(Debug)]
pub struct Clock {
    library: &'static str,
    directory: tempfile::TempDir,
}

impl Clock {
    /// One that is right; `None`, with a line that says so, where there is no `faketime`.
    pub fn new_or_skip(test: &str) -> Result<Option<Self>> {
        let Some(library) = PLACES.into_iter().find(|path| Path::new(path).exists()) else {
            skip(test, "no libfaketime (Debian: faketime)");
            return Ok(None);
        };
        // Read by PostgreSQL's account as well.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let directory =
            tempfile::Builder::new().prefix("aftercommit-clock-").permissions(readable).tempdir_in("/tmp")?;
        let clock = Self { library, directory };
        clock.set("+0")?;
        Ok(Some(clock))
    }

    /// Sets it off by so much, as in `+2h` or `-400d`, at once and for every program under it.
    pub fn set(&self, offset: &str) -> Result<()> {
        // In one step: a program may read it at any time.
        let next = self.directory.path().join("next");
        std::fs::write(&next, offset)?;
        std::fs::rename(next, self.file()).context("the clock's file")
    }

    /// What puts a program under it.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }
}
