//! `api` and `relay` as an operator runs them: their settings by environment, ports that are free, and readiness.

use anyhow::{Result, bail};
use base64::Engine as _;

use crate::databases::{Databases, Role};
use crate::http;
use crate::postgres::free_port;
use crate::process::{Finished, Launch, Running};
use crate::wait::until;

/// Settings beside the usual ones, or in their place.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// How often a service is started on another port when its port was taken meanwhile.
const TRIES: usize = 5;

/// A running service with an HTTP port.
#[derive(Debug)]
pub struct Service {
    /// The process.
    pub process: Running,
    /// Where it listens: `http://127.0.0.1:<port>`.
    pub url: String,
}

impl Service {
    /// Waits until it says that it is ready.
    pub async fn ready(self) -> Result<Self> {
        until("readiness", async || {
            self.process.fail_if_ended()?;
            Ok(http::get(&format!("{}/readyz", self.url)).await.ok().filter(|answer| answer.status == 200))
        })
        .await?;
        Ok(self)
    }
}

/// Starts `api` on a pair of databases and waits until it answers; `api.url` is its public URL as well.
pub async fn start_api(databases: &Databases, keys: &str, settings: Settings<'_>) -> Result<Service> {
    start(api(databases, keys).await?, "API_LISTEN", settings).await
}

/// Starts `relay` on a pair of databases and waits until it answers.
pub async fn start_relay(
    databases: &Databases,
    keys: &str,
    public_url: &str,
    smtp_url: &str,
    settings: Settings<'_>,
) -> Result<Service> {
    start(relay(databases, keys, public_url, smtp_url).await?, "RELAY_LISTEN", settings).await
}

/// `api` with the settings that it cannot do without, but for its address.
pub async fn api(databases: &Databases, keys: &str) -> Result<Launch> {
    let database = databases.app.url(Role::Api);
    Ok(Launch::built("api").await?.environment([("DATABASE_URL", &*database), ("VERIFICATION_KEYS", keys)]))
}

/// `relay` with the settings that it cannot do without.
pub async fn relay(databases: &Databases, keys: &str, public_url: &str, smtp_url: &str) -> Result<Launch> {
    Ok(relay_command(databases).await?.environment([
        ("VERIFICATION_KEYS", keys),
        ("PUBLIC_URL", public_url),
        ("SMTP_URL", smtp_url),
        ("MAIL_FROM", "Aftercommit <no-reply@aftercommit.example>"),
    ]))
}

/// Runs a command of `relay`, such as `status` or `replay`, to its end.
pub async fn run_relay(databases: &Databases, arguments: &[&str]) -> Result<Finished> {
    relay_command(databases).await?.arguments(arguments.iter().copied()).run().await
}

/// Runs a command of `api` that is given both databases, as their owner: `prune` or `erase`.
pub async fn run_upkeep(databases: &Databases, arguments: &[&str]) -> Result<Finished> {
    let (app, jobs) = (databases.app.url(Role::Owner), databases.jobs.url(Role::Owner));
    let launch = Launch::built("api").await?.environment([("DATABASE_URL", &*app), ("JOBS_DATABASE_URL", &*jobs)]);
    launch.arguments(arguments.iter().copied()).run().await
}

async fn relay_command(databases: &Databases) -> Result<Launch> {
    let app = databases.app.url(Role::Relay);
    let jobs = databases.jobs.url(Role::Jobs);
    Ok(Launch::built("relay").await?.environment([("DATABASE_URL", &*app), ("JOBS_DATABASE_URL", &*jobs)]))
}

/// Fresh keys for verification links, as `VERIFICATION_KEYS` wants them.
pub fn verification_keys() -> String {
    let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let key = [first.into_bytes(), second.into_bytes()].concat();
    format!("k1:{}", base64::engine::general_purpose::STANDARD.encode(key))
}

/// Starts a service on a free port, or on the one that `settings` insist on, and waits until it answers.
pub async fn start(launch: Launch, listen: &str, settings: Settings<'_>) -> Result<Service> {
    for _ in 0..TRIES {
        let insisted = settings.iter().find(|(name, _)| *name == listen).map(|(_, value)| (*value).to_owned());
        let address = insisted.clone().map_or_else(|| free_port().map(|port| format!("127.0.0.1:{port}")), Ok)?;
        let url = format!("http://{address}");
        let mut usual = vec![(listen, &*address)];
        if listen == "API_LISTEN" {
            usual.push(("PUBLIC_URL", &*url));
            // Many run at the same time.
            usual.push(("API_METRICS_LISTEN", "off"));
        }
        let process = launch.clone().environment(usual).environment(settings.iter().copied()).start()?;
        let answers = until("an answer", async || {
            if process.ended()?.is_some() {
                return Ok(Some(false));
            }
            Ok(http::get(&format!("{url}/livez")).await.is_ok().then_some(true))
        });
        if answers.await? {
            return Ok(Service { process, url });
        }
        if insisted.is_some() || !process.output().contains("in use") {
            process.fail_if_ended()?;
        }
    }
    bail!("{listen}: {TRIES} free ports were taken, one after the other")
}
