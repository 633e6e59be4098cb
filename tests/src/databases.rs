//! Databases for tests: a pair of its own for each test, made as production makes them.
//!
//! A [`DatabaseServer`] is a cluster with the roles of `migrations/roles.sql` and two templates that the real
//! migrations filled, as the owner, once. A test clones both in some 50 ms and works with the real roles, so a missing
//! grant fails the test as it would fail production. The tests of one program share one server; a test that stops its
//! server, or wants application and jobs on two, starts servers of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use shared::database_url::DatabaseUrl;
use shared::migrate::Schema;
use shared::settings::{Faults, Secret};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

use crate::postgres::{Builder, Cluster, connect};
use crate::wait::SOON;

/// Who is at the other end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// PostgreSQL's superuser: what a test does behind the system's back.
    Superuser,
    /// Owns both databases and runs migrations.
    Owner,
    /// The api's role in the application database.
    Api,
    /// The relay's role in the application database: it may read the outbox.
    Relay,
    /// The relay's role in the jobs database.
    Jobs,
}

impl Role {
    /// The roles that `migrations/roles.sql` makes.
    pub const OURS: [Self; 4] = [Self::Owner, Self::Api, Self::Relay, Self::Jobs];

    /// The role's name in PostgreSQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Superuser => crate::postgres::SUPERUSER,
            Self::Owner => "aftercommit_owner",
            Self::Api => "aftercommit_api",
            Self::Relay => "aftercommit_relay",
            Self::Jobs => "aftercommit_jobs",
        }
    }
}

/// Which of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users and the outbox.
    App,
    /// Jobs and lane cursors.
    Jobs,
}

impl Kind {
    fn template(self) -> &'static str {
        match self {
            Self::App => "app_template",
            Self::Jobs => "jobs_template",
        }
    }

    fn migrations(self) -> PathBuf {
        project_folder().join("migrations").join(match self {
            Self::App => "app",
            Self::Jobs => "jobs",
        })
    }

    /// Who may read which migrations are in.
    fn readers(self) -> &'static [&'static str] {
        match self {
            Self::App => &["aftercommit_api", "aftercommit_relay"],
            Self::Jobs => &["aftercommit_jobs"],
        }
    }
}

/// The folder of the whole project.
pub fn project_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// A cluster with roles, and passwords for them.
#[derive(Debug)]
pub struct DatabaseServer {
    cluster: Cluster,
    password: String,
    templates: OnceCell<()>,
    made: AtomicU32,
}

impl DatabaseServer {
    /// Starts a cluster and makes the roles there.
    pub async fn start(builder: Builder) -> Result<Arc<Self>> {
        let cluster = builder.start().await?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let client = cluster.connect("postgres").await?;
        let script = std::fs::read_to_string(project_folder().join("migrations/roles.sql"))?;
        client.batch_execute(&script).await.context("migrations/roles.sql")?;
        for role in Role::OURS {
            client.batch_execute(&format!("ALTER ROLE {} PASSWORD '{password}'", role.name())).await?;
        }
        Ok(Arc::new(Self { cluster, password, templates: OnceCell::new(), made: AtomicU32::new(0) }))
    }

    /// A cluster that has the roles already, such as a copy of another: with the password that they have there.
    pub fn adopt(cluster: Cluster, password: &str) -> Arc<Self> {
        let (templates, made) = (OnceCell::new(), AtomicU32::new(0));
        Arc::new(Self { cluster, password: password.to_owned(), templates, made })
    }

    /// The server that all tests of this program share. It does not survive a power cut, and need not.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<DatabaseServer>> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::start(Self::for_tests().without_fsync())).await.cloned()
    }

    /// A cluster with the room that tests need: many sessions, prepared transactions, logical decoding.
    pub fn for_tests() -> Builder {
        Cluster::builder()
            .setting("max_connections", "300")
            .setting("max_prepared_transactions", "100")
            .setting("wal_level", "logical")
            .setting("max_wal_size", "256MB")
    }

    /// The cluster itself.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The password of our roles.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str, role: Role) -> String {
        match role {
            Role::Superuser => self.cluster.superuser_url(database),
            _ => self.cluster.url(database, role.name(), &self.password),
        }
    }

    /// A database by its name, made empty for the owner unless it is there.
    pub async fn database(self: &Arc<Self>, name: &str) -> Result<Database> {
        self.create_database(name).await?;
        Ok(self.existing(name))
    }

    /// A database that is there, by its name.
    pub fn existing(self: &Arc<Self>, name: &str) -> Database {
        Database { server: self.clone(), name: name.to_owned(), through: None }
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        let client = self.cluster.connect("postgres").await?;
        if client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name]).await?.is_none() {
            client.batch_execute(&format!("CREATE DATABASE {name} OWNER {}", Role::Owner.name())).await?;
        }
        Ok(())
    }

    /// Makes a migrated database of one kind.
    pub async fn create(self: &Arc<Self>, kind: Kind) -> Result<Database> {
        self.templates.get_or_try_init(|| self.make_templates()).await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}_{number}", if kind == Kind::App { "app" } else { "jobs" });
        let template = kind.template();
        let client = self.cluster.connect("postgres").await?;
        let owner = Role::Owner.name();
        client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template} OWNER {owner}")).await?;
        copy_grants(&client, template, &name).await?;
        Ok(self.existing(&name))
    }

    async fn make_templates(&self) -> Result<()> {
        for kind in [Kind::App, Kind::Jobs] {
            self.create_database(kind.template()).await?;
            let migrated = migrate(kind, &self.url(kind.template(), Role::Owner)).await;
            migrated.with_context(|| format!("migrating {}", kind.template()))?;
        }
        let client = self.cluster.connect("postgres").await?;
        for kind in [Kind::App, Kind::Jobs] {
            // A session in a template would keep it from being cloned.
            client.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", kind.template())).await?;
        }
        Ok(())
    }
}

/// Applies migrations as the binaries do: as the owner, through the same code.
async fn migrate(kind: Kind, url: &str) -> Result<()> {
    let mut faults = Faults::new();
    let url = DatabaseUrl::parse(&Secret::new(url), "DATABASE_URL", &mut faults);
    faults.finish()?;
    // Read now and not compiled in, so that a new migration needs no new build of the tests.
    let migrations = Migrator::new(kind.migrations()).await?;
    let schema = Schema {
        migrations: Box::leak(Box::new(migrations)),
        command: "",
        setting: "DATABASE_URL",
        roles: &[],
        readers: kind.readers(),
    };
    shared::migrate::run(&url.context("an URL")?, &schema, SOON).await?;
    Ok(())
}

/// A clone has its template's content, but not the rights on the database itself: who may connect, make temporary
/// tables.
async fn copy_grants(client: &Client, template: &str, clone: &str) -> Result<()> {
    client.batch_execute(&format!("REVOKE ALL ON DATABASE {clone} FROM PUBLIC")).await?;
    let grants = client
        .query(
            "SELECT format('GRANT %s ON DATABASE %I TO %s', privilege_type, $2::text,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
             FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
             WHERE datname = $1",
            &[&template, &clone],
        )
        .await?;
    for grant in grants {
        client.batch_execute(grant.get(0)).await?;
    }
    Ok(())
}

/// One database of a test's own.
#[derive(Clone, Debug)]
pub struct Database {
    server: Arc<DatabaseServer>,
    name: String,
    through: Option<u16>,
}

impl Database {
    /// Its name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server that it is on.
    pub fn server(&self) -> &Arc<DatabaseServer> {
        &self.server
    }

    /// The same database at another port, such as a [`Forwarder`](crate::forwarder::Forwarder)'s.
    #[must_use]
    pub fn through(&self, port: u16) -> Self {
        Self { through: Some(port), ..self.clone() }
    }

    /// The URL for a role.
    pub fn url(&self, role: Role) -> String {
        let url = self.server.url(&self.name, role);
        match self.through {
            Some(port) => url.replace(&format!(":{}/", self.server.cluster.port()), &format!(":{port}/")),
            None => url,
        }
    }

    /// A session of a role's.
    pub async fn connect(&self, role: Role) -> Result<Client> {
        connect(&self.url(role)).await.with_context(|| format!("connecting to {} as {role:?}", self.name))
    }

    /// A small pool of sessions of a role's.
    pub async fn pool(&self, role: Role) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(5).connect(&self.url(role)).await?)
    }
}

/// The pair that the system works on.
#[derive(Clone, Debug)]
pub struct Databases {
    /// Users and the outbox.
    pub app: Database,
    /// Jobs and lane cursors.
    pub jobs: Database,
}

impl Databases {
    /// A new pair on the shared server.
    pub async fn new() -> Result<Self> {
        Self::on(&DatabaseServer::shared().await?).await
    }

    /// A new pair on a server of the test's own.
    pub async fn on(server: &Arc<DatabaseServer>) -> Result<Self> {
        Self::across(server, server).await
    }

    /// A new pair with each database on a server of its own.
    pub async fn across(app: &Arc<DatabaseServer>, jobs: &Arc<DatabaseServer>) -> Result<Self> {
        Ok(Self { app: app.create(Kind::App).await?, jobs: jobs.create(Kind::Jobs).await? })
    }
}
