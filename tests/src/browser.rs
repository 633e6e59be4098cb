//! A real Chromium without a window, driven as a person would: by chromedriver, one browser with a profile of its own
//! for each session.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::postgres::free_port;
use crate::process::{Launch, Running};
use crate::skip::skip;
use crate::wait::until;

/// How a browser shows pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// On a desk, on a light ground.
    Light,
    /// On a desk, on a dark ground.
    Dark,
    /// On a phone of 360 pixels.
    Phone,
}

/// What Chromium is told: nothing that goes to the network by itself, and no sandbox of its own, which root has not.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

/// A browser; closed when dropped.
pub struct Browser {
    client: Client,
    // Dropped after the client: the driver ends the browser, and then its profile goes.
    _driver: Running,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None`, with a line that says so, where Chromium is not installed.
    pub async fn start_or_skip(test: &str, look: Look) -> Result<Option<Self>> {
        let (Some(driver), Some(chromium)) =
            (on_path(&["chromedriver"]), on_path(&["chromium", "chromium-browser", "google-chrome"]))
        else {
            skip(test, "chromium and chromedriver (Debian: chromium, chromium-driver) are not installed");
            return Ok(None);
        };
        Self::start(driver, chromium, look).await.map(Some)
    }

    async fn start(driver: PathBuf, chromium: PathBuf, look: Look) -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("aftercommit-browser-").tempdir()?;
        let port = free_port()?;
        let driver = Launch::new("chromedriver", driver).arguments([format!("--port={port}")]).start()?;
        driver.line_with("started successfully").await?;
        let scheme = if look == Look::Dark { 0 } else { 1 };
        let own = [
            format!("--user-data-dir={}", profile.path().display()),
            format!("--blink-settings=preferredColorScheme={scheme}"),
            "--window-size=1280,1400".to_owned(),
        ];
        let arguments: Vec<String> = ARGUMENTS.iter().map(|argument| (*argument).to_owned()).chain(own).collect();
        let mut options = json!({ "args": arguments, "binary": chromium });
        if look == Look::Phone {
            options["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": 360, "height": 1200, "pixelRatio": 1.0 } });
        }
        let Value::Object(capabilities) = json!({ "goog:chromeOptions": options }) else { bail!("an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("chromedriver starts no browser")?;
        Ok(Self { client, _driver: driver, _profile: profile })
    }

    /// Goes to a page.
    pub async fn open(&self, url: &str) -> Result<()> {
        Ok(self.client.goto(url).await?)
    }

    /// Where it is.
    pub async fn url(&self) -> Result<String> {
        Ok(self.client.current_url().await?.to_string())
    }

    /// Waits for an element, by a CSS selector.
    pub async fn find(&self, selector: &str) -> Result<Element> {
        self.locate(Locator::Css(selector), selector).await
    }

    /// Presses a link or a button, by its text.
    pub async fn press(&self, text: &str) -> Result<()> {
        let path = format!("//*[self::a or self::button][contains(normalize-space(.), '{text}')]");
        Ok(self.locate(Locator::XPath(&path), text).await?.click().await?)
    }

    async fn locate(&self, locator: Locator<'_>, what: &str) -> Result<Element> {
        until(&format!("{what:?} on the page"), async || Ok(self.client.find(locator).await.ok())).await
    }

    /// Writes into a field.
    pub async fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let field = self.find(selector).await?;
        field.clear().await?;
        Ok(field.send_keys(text).await?)
    }

    /// What the page says, as a reader sees it.
    pub async fn text(&self) -> Result<String> {
        Ok(self.find("body").await?.text().await?)
    }

    /// Waits until the page says something, without being loaded again by us.
    pub async fn wait_for_text(&self, text: &str) -> Result<String> {
        until(&format!("the page to say {text:?}"), async || {
            Ok(self.text().await.ok().filter(|said| said.contains(text)))
        })
        .await
    }

    /// Runs a script in the page; its last argument is what it calls with its answer.
    pub async fn script(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute_async(script, Vec::new()).await?)
    }

    /// What a frame says.
    pub async fn text_in_frame(&self, selector: &str) -> Result<String> {
        self.find(selector).await?.enter_frame().await?;
        let text = self.text().await;
        self.client.enter_parent_frame().await?;
        text
    }

    /// Keeps a picture of the page where tests keep their files.
    pub async fn picture(&self, name: &str) -> Result<()> {
        let folder = crate::databases::project_folder().join("target").join("pictures");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(format!("{name}.png")), self.client.screenshot().await?)?)
    }

    /// Ends it.
    pub async fn close(self) -> Result<()> {
        Ok(self.client.close().await?)
    }
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()))
}
