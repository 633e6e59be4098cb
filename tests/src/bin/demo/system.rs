//! The system that the demo runs: started step by step as an operator would, each step saying where things are.

use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::broom::Broom;
use tests::databases::{DatabaseServer, Databases, Role, project_folder};
use tests::mailbox::Mailbox;
use tests::postgres::{Account, Builder, Cluster, durable_home, free_port};
use tests::process::{Launch, built_programs};
use tests::services::{self, Service};

use crate::screen::{Screen, took};

/// The addresses that the README names; others are taken when these are in use.
const USUAL_ADDRESSES: [(&str, &str); 2] = [("API_LISTEN", "127.0.0.1:8080"), ("RELAY_LISTEN", "127.0.0.1:9090")];

/// Where the dashboard is, unless the address is in use.
const USUAL_DASHBOARD: &str = "127.0.0.1:9091";

/// Everything that runs. Dropped from the top, so that nobody loses what it depends on.
pub struct System {
    /// The HTTP API.
    pub api: Service,
    /// The relay.
    pub relay: Service,
    /// Where the relay shows its dashboard.
    pub dashboard: String,
    /// Where the relay delivers to.
    pub mailbox: Mailbox,
    /// Both databases.
    pub databases: Databases,
    server: Arc<DatabaseServer>,
    home: Home,
}

impl System {
    /// Starts everything.
    pub async fn start(keep: Option<&Option<PathBuf>>, screen: &Screen) -> Result<Self> {
        let started = Instant::now();
        built_programs(false).await?;
        screen.heading("aftercommit, the whole system on this machine");

        let home = Home::choose(keep)?;
        let step = Instant::now();
        let server = DatabaseServer::start(home.cluster()).await?;
        screen.item("PostgreSQL", &describe(server.cluster()), &took(step.elapsed()));

        let step = Instant::now();
        let (app, jobs) = tokio::try_join!(server.database("aftercommit_app"), server.database("aftercommit_jobs"))?;
        let databases = Databases { app, jobs };
        migrate(&databases).await?;
        let names = format!("{}, {}", databases.app.name(), databases.jobs.name());
        screen.item("databases", &names, &format!("migrated in {}", took(step.elapsed())));

        let mailbox = Mailbox::new(home.folder("mail")?);
        let keys = home.verification_keys()?;
        let step = Instant::now();
        let api = services::api(&databases, &keys).await?;
        let api = start_service(api, "api", "API_LISTEN", &home).await?;
        screen.item("api", &api.url, &took(step.elapsed()));
        let step = Instant::now();
        let dashboard =
            if is_free(USUAL_DASHBOARD) { USUAL_DASHBOARD.to_owned() } else { format!("127.0.0.1:{}", free_port()?) };
        let relay = services::relay(&databases, &keys, &api.url, &mailbox.url()).await?;
        let relay = relay.environment([("DASHBOARD_LISTEN", &*dashboard)]);
        let relay = start_service(relay, "relay", "RELAY_LISTEN", &home).await?;
        screen.item("relay", &relay.url, &took(step.elapsed()));
        let dashboard = format!("http://{dashboard}");
        screen.item("dashboard", &dashboard, "");
        screen.item("mail", &mailbox.directory().display().to_string(), "");
        screen.item("logs", &home.path().join("*.log").display().to_string(), "");
        screen.line(format_args!("\n  {}", screen.dim(&format!("ready after {}", took(started.elapsed())))));
        Ok(Self { api, relay, dashboard, mailbox, databases, server, home })
    }

    /// Says what to try.
    pub fn invite(&self, screen: &Screen) {
        let api = &self.api.url;
        screen.heading("Register somebody; the mails show up here");
        screen.line(format_args!("  curl -i {api}/v1/users -H 'Content-Type: application/json' \\"));
        screen.line("       -d '{\"email\": \"ada@example.org\", \"display_name\": \"Ada\"}'");
        screen.heading("Look around");
        screen.item("dashboard", &self.dashboard, "lag, events, jobs, mail, replay");
        screen.item("API", &format!("{api}/docs"), "");
        screen.item("health", &format!("{}/readyz", self.relay.url), "");
        screen.item("outbox", &format!("psql '{}'", self.databases.app.url(Role::Owner)), "TABLE outbox;");
        screen.item("jobs", &format!("psql '{}'", self.databases.jobs.url(Role::Owner)), "TABLE jobs;");
        let end = if self.home.stays() { "stops everything; the data stay" } else { "stops and removes everything" };
        screen.line(format_args!("\n  Ctrl-C {end}.\n"));
    }

    /// Shows each mail that comes; ends with an error when a service ends.
    pub async fn watch(&self, screen: &Screen) -> Result<()> {
        let mut shown: HashSet<String> = self.mailbox.mails()?.into_iter().map(|mail| mail.message_id).collect();
        loop {
            for mail in self.mailbox.mails()? {
                if shown.insert(mail.message_id.clone()) {
                    screen.item("mail", &format!("to {}: {}", mail.to.join(", "), mail.subject), "");
                    if let Ok(link) = mail.link() {
                        screen.item("", link.as_str(), "");
                    }
                }
            }
            self.api.process.fail_if_ended()?;
            self.relay.process.fail_if_ended()?;
            ensure!(self.server.cluster().is_running()?, "PostgreSQL has ended:\n{}", self.server.cluster().log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops everything in order, and checks that each part ended well.
    pub async fn stop(self, screen: &Screen) -> Result<()> {
        let step = Instant::now();
        for (name, service) in [("relay", &self.relay), ("api", &self.api)] {
            let status = service.process.terminate().await?;
            ensure!(status.success(), "{name} ended with {status}:\n{}", service.process.output());
        }
        let stays = self.home.stays().then(|| self.home.path().display().to_string());
        drop(self);
        let rest = stays.map_or_else(|| "nothing is left".to_owned(), |path| format!("the data are in {path}"));
        screen.line(screen.dim(&format!("  stopped in {}; {rest}", took(step.elapsed()))));
        Ok(())
    }
}

async fn migrate(databases: &Databases) -> Result<()> {
    let app = databases.app.url(Role::Owner);
    let jobs = databases.jobs.url(Role::Owner);
    let run = async |program: &str, variable: &str, url: &str| -> Result<()> {
        let launch = Launch::built(program).await?.arguments(["migrate"]).environment([(variable, url)]);
        launch.run().await?.success().with_context(|| format!("{program} migrate")).map(drop)
    };
    tokio::try_join!(run("api", "DATABASE_URL", &app), run("relay", "JOBS_DATABASE_URL", &jobs))?;
    Ok(())
}

async fn start_service(launch: Launch, name: &str, listen: &str, home: &Home) -> Result<Service> {
    let launch = launch.log(home.path().join(format!("{name}.log")));
    let usual = USUAL_ADDRESSES.into_iter().find(|(variable, address)| *variable == listen && is_free(address));
    services::start(launch, listen, usual.as_slice()).await?.ready().await.with_context(|| name.to_owned())
}

fn is_free(address: &str) -> bool {
    std::net::TcpListener::bind(address).is_ok()
}

fn describe(cluster: &Cluster) -> String {
    let as_user = match cluster.site().account() {
        Account::Own => String::new(),
        Account::Lent { name, .. } => format!(" as user {name}"),
    };
    format!("{} on 127.0.0.1:{}{as_user}", cluster.site().binaries().version, cluster.port())
}

/// Where the demo keeps its files.
enum Home {
    /// Gone afterwards.
    Temporary(Broom),
    /// There in the next run.
    Kept(PathBuf),
}

impl Home {
    fn choose(keep: Option<&Option<PathBuf>>) -> Result<Self> {
        let Some(directory) = keep else {
            let directory = tempfile::Builder::new().prefix("aftercommit-demo-").tempdir()?.keep();
            return Ok(Self::Temporary(Broom::over(directory, |_| ())?));
        };
        let directory = match directory {
            Some(directory) => std::path::absolute(directory)?,
            None => durable_home(&project_folder().join(".data"))?,
        };
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        // The user that runs PostgreSQL for root has to pass through here.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self::Kept(directory))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(broom) => broom.directory(),
            Self::Kept(directory) => directory,
        }
    }

    fn stays(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// PostgreSQL as it comes, durable; commit times are kept so that the walk can tell them.
    fn cluster(&self) -> Builder {
        let builder = Cluster::builder().setting("track_commit_timestamp", "on");
        match self {
            Self::Temporary(_) => builder,
            Self::Kept(directory) => builder.persistent(directory.join("postgres")),
        }
    }

    /// The keys of verification links; links of an earlier run go on working where the data are kept.
    fn verification_keys(&self) -> Result<String> {
        let file = self.path().join("verification.keys");
        if let Ok(keys) = std::fs::read_to_string(&file) {
            return Ok(keys);
        }
        let keys = services::verification_keys();
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        file.write_all(keys.as_bytes())?;
        Ok(keys)
    }
}
