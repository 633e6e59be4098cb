//! axe-core, which finds what keeps people with screen readers, keyboards or weak eyes from using a page. It is fetched
//! by npm, pinned by version and hash, and is a tool of the tests alone.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::browser::Browser;
use crate::databases::project_folder;
use crate::skip::skip;

const VERSION: &str = "4.14.1";
const HASH: &str = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";

/// Something that axe-core found.
#[derive(Debug, Deserialize)]
pub struct Finding {
    /// The rule's name.
    pub id: String,
    /// minor, moderate, serious or critical.
    pub impact: Option<String>,
    /// What the rule says.
    pub help: String,
    /// The elements, by selector.
    pub nodes: Vec<String>,
}

impl Finding {
    /// Whether it keeps people out.
    pub fn is_serious(&self) -> bool {
        matches!(self.impact.as_deref(), Some("serious" | "critical"))
    }
}

/// The tool's source; `None`, with a line that says so, where npm is not installed.
pub fn source_or_skip(test: &str) -> Result<Option<String>> {
    if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join("npm").is_file())
    {
        skip(test, "npm, which fetches axe-core, is not installed");
        return Ok(None);
    }
    fs::read_to_string(file()?).map(Some).context("axe-core")
}

/// What is wrong with the page that a browser shows.
pub async fn findings(browser: &Browser, source: &str) -> Result<Vec<Finding>> {
    const RUN: &str = "
        ;const done = arguments[arguments.length - 1];
        axe.run(document, { resultTypes: ['violations'] }).then(
            (found) => done(found.violations.map(({ id, impact, help, nodes }) =>
                ({ id, impact, help, nodes: nodes.map((node) => node.target.join(' ')) }))),
            (error) => done([{ id: 'failed', impact: 'critical', help: String(error), nodes: [] }]));";
    Ok(serde_json::from_value(browser.script(&format!("{source}{RUN}")).await?)?)
}

fn file() -> Result<PathBuf> {
    let folder = project_folder().join("target");
    let file = folder.join(format!("axe-core-{VERSION}.js"));
    fs::create_dir_all(&folder)?;
    // One fetches, the others wait.
    let lock = File::create(folder.join("axe-core.lock"))?;
    lock.lock()?;
    if !file.exists() {
        let work = tempfile::Builder::new().prefix(".axe-core-").tempdir_in(&folder)?;
        let fetched = Command::new("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-save",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(work.path())
            .arg(format!("axe-core@{VERSION}"))
            .current_dir(work.path())
            .stdin(Stdio::null())
            .output()?;
        ensure!(fetched.status.success(), "npm install axe-core: {}", String::from_utf8_lossy(&fetched.stderr));
        let lock_file = fs::read(work.path().join("node_modules/.package-lock.json"))?;
        let lock_file: serde_json::Value = serde_json::from_slice(&lock_file)?;
        let hash = &lock_file["packages"]["node_modules/axe-core"]["integrity"];
        ensure!(hash == HASH, "axe-core is not the package we know: its hash is {hash}");
        fs::rename(work.path().join("node_modules/axe-core/axe.min.js"), &file)?;
    }
    Ok(file)
}
