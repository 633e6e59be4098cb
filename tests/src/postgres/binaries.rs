//! Which PostgreSQL programs to use: those that are installed, else those that were fetched, else fetched now.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::account::Account;
use super::fetch;

/// The oldest major version that the system runs on.
pub const MINIMUM_MAJOR: u32 = 14;

/// Names the folder to use. The value `fetch` means: pass by what is installed.
const FOLDER_VARIABLE: &str = "PG_BIN";
const FETCH: &str = "fetch";

/// Places with one folder per version; the newest version is tried first.
const VERSIONED_PLACES: [(&str, &str); 6] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "bin"),
];

/// A server's version, as `postgres --version` states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// 15 of 15.18.
    pub major: u32,
    /// All of it, such as `15.18` or `18beta2`.
    pub text: String,
}

impl Version {
    /// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("(PostgreSQL)")?;
        let text = rest.split_whitespace().next()?.to_owned();
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major: digits.parse().ok()?, text })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// A folder with a usable server.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The folder.
    pub directory: PathBuf,
    /// The server's version.
    pub version: Version,
}

impl Binaries {
    /// The path of a tool. Fetched folders hold the server alone; `pg_basebackup` and the like want an installation.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if !path.is_file() {
            bail!("{} has no {name}: install PostgreSQL's client programs", self.directory.display());
        }
        Ok(path)
    }

    /// Finds or fetches programs that `account` can run; of version `wanted`, where existing data want it.
    ///
    /// Blocks, for minutes if it has to fetch.
    pub fn find(account: &Account, wanted: Option<u32>) -> Result<Self> {
        let forced = std::env::var(FOLDER_VARIABLE).ok().filter(|value| !value.is_empty());
        match forced.as_deref() {
            None => {}
            Some(FETCH) => return fetch::find_or_fetch(account, wanted, &Rejected::default()),
            Some(folder) => {
                return inspect(Path::new(folder), account, wanted)
                    .or_else(|reason| bail!("{FOLDER_VARIABLE}={folder}: {reason}"));
            }
        }
        match first_usable(installed_folders(), account, wanted) {
            Ok(binaries) => Ok(binaries),
            Err(rejected) => fetch::find_or_fetch(account, wanted, &rejected),
        }
    }

    /// Finds installed programs only.
    pub(super) fn find_installed(account: &Account, wanted: Option<u32>) -> Result<Self, Rejected> {
        first_usable(installed_folders(), account, wanted)
    }
}

/// The folders that were looked at and why each would not do.
#[derive(Debug, Default)]
pub struct Rejected(Vec<(PathBuf, String)>);

impl fmt::Display for Rejected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (folder, reason) in &self.0 {
            write!(formatter, "\n  {}: {reason}", folder.display())?;
        }
        Ok(())
    }
}

fn first_usable(folders: Vec<PathBuf>, account: &Account, wanted: Option<u32>) -> Result<Binaries, Rejected> {
    let mut rejected = Rejected::default();
    for folder in folders {
        match inspect(&folder, account, wanted) {
            Ok(binaries) => return Ok(binaries),
            Err(reason) => rejected.0.push((folder, reason)),
        }
    }
    Err(rejected)
}

/// Looks whether a folder will do; the error is the reason why not.
pub(super) fn inspect(folder: &Path, account: &Account, wanted: Option<u32>) -> Result<Binaries, String> {
    for program in ["postgres", "initdb"] {
        if !folder.join(program).is_file() {
            return Err(format!("has no {program}"));
        }
    }
    let mut command = Command::new(folder.join("postgres"));
    command.arg("--version").current_dir("/").stdin(Stdio::null());
    account.apply(&mut command);
    let output = command.output().map_err(|error| format!("cannot be run as the server's user: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("does not run: {}", said.lines().next().unwrap_or("no message")));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let version = Version::parse(&said).ok_or_else(|| format!("states no version: {}", said.trim()))?;
    if let Some(fault) = unsuitable(&version, wanted) {
        return Err(fault);
    }
    Ok(Binaries { directory: folder.to_owned(), version })
}

fn unsuitable(version: &Version, wanted: Option<u32>) -> Option<String> {
    match wanted {
        _ if version.major < MINIMUM_MAJOR => Some(format!("is {version}, older than {MINIMUM_MAJOR}")),
        Some(major) if version.major != major => Some(format!("is {version}, but the data are of version {major}")),
        _ => None,
    }
}

/// Where programs may be installed, in the order of preference: what the caller's PATH says comes first.
fn installed_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .filter(|folder| folder.is_absolute())
        .filter_map(|folder| home_of(&folder.join("initdb")))
        .collect();
    folders.extend(folder_by_pg_config());
    for (place, below) in VERSIONED_PLACES {
        folders.extend(newest_first(subfolders(Path::new(place))).into_iter().map(|folder| folder.join(below)));
    }
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| folder.is_dir() && seen.insert(folder.clone()));
    folders
}

/// The folder that a program is really in: what is on the PATH may be a few links to a whole installation.
fn home_of(program: &Path) -> Option<PathBuf> {
    Some(program.canonicalize().ok()?.parent()?.to_owned())
}

fn folder_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim())).filter(|folder| folder.is_absolute())
}

/// The folders in `place` that name a PostgreSQL version: `15`, `pgsql-15` (Red Hat), `postgresql@15` (Homebrew).
fn subfolders(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).filter(|path| folder_version(path).is_some()).collect()
}

fn newest_first(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.sort_by_key(|folder| std::cmp::Reverse(folder_version(folder)));
    folders
}

fn folder_version(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?;
    let number = ["pgsql-", "postgresql@"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a stand-in `postgres` that only states a version: the choice is under test, not the server.
    fn stating(parent: &Path, name: &str, version: &str) -> PathBuf {
        let folder = parent.join(name).join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        for program in ["postgres", "initdb"] {
            let path = folder.join(program);
            std::fs::write(&path, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    #[test]
    fn versions_are_read_in_every_form_that_servers_state_them() {
        for (line, major, text) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", 15, "15.18"),
            ("postgres (PostgreSQL) 18.4", 18, "18.4"),
            ("postgres (PostgreSQL) 19beta2", 19, "19beta2"),
            ("postgres (PostgreSQL) 14devel", 14, "14devel"),
        ] {
            assert_eq!(Version::parse(line), Some(Version { major, text: text.into() }), "{line}");
        }
        for line in ["", "postgres", "postgres (PostgreSQL)", "postgres (PostgreSQL) devel"] {
            assert_eq!(Version::parse(line), None, "{line}");
        }
    }

    #[test]
    fn versioned_folders_are_tried_newest_first_and_by_number() {
        let folders = ["9", "postgresql@18", "15", "pgsql-16"].map(PathBuf::from).to_vec();
        assert_eq!(newest_first(folders), ["postgresql@18", "pgsql-16", "15", "9"].map(PathBuf::from));
        assert_eq!(folder_version(Path::new("/usr/share")), None);
    }

    #[test]
    fn a_link_on_the_path_leads_to_the_installation() {
        let parent = tempfile::tempdir().unwrap();
        let real = stating(parent.path(), "18", "18.4");
        let link = parent.path().join("initdb");
        std::os::unix::fs::symlink(real.join("initdb"), &link).unwrap();
        assert_eq!(home_of(&link), Some(real.canonicalize().unwrap()));
        assert_eq!(home_of(&parent.path().join("nothing")), None);
    }

    #[test]
    fn the_first_usable_folder_wins_and_the_others_say_why_not() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let old = stating(parent.path(), "13", "13.20");
        let good = stating(parent.path(), "16", "16.9");
        let newer = stating(parent.path(), "18", "18.4");
        let empty = parent.path().join("empty");
        let account = Account::for_server().unwrap();
        let folders = vec![empty.clone(), old.clone(), good.clone(), newer.clone()];

        let found = first_usable(folders.clone(), &account, None).unwrap();
        assert_eq!((found.directory, found.version.major), (good, 16));
        assert_eq!(first_usable(folders.clone(), &account, Some(18)).unwrap().directory, newer);

        let reasons = first_usable(folders, &account, Some(17)).unwrap_err().to_string();
        for reason in ["has no postgres", "is 13.20, older than 14", "is 16.9, but the data are of version 17"] {
            assert!(reasons.contains(reason), "{reasons}");
        }
    }
}
