//! Settings: flags and environment variables, checked all at once.
//!
//! Everything arrives as text and is read here, so that a start with three mistakes tells all three.

pub mod delivery;
pub mod dashboard;
pub mod limits;
pub mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use shared::database_url::{self, DatabaseUrl};
use shared::settings::{self, Faults, Secret};
use shared::telemetry::Logging;
use shared::trace::export::Endpoint;

/// Every environment variable that the relay reads, for the warning about misspelt ones.
pub const VARIABLES: &[&str] = &[
    "DATABASE_URL",
    "JOBS_DATABASE_URL",
    "JOB_QUEUE_ENABLED",
    "RELAY_LISTEN",
    "DISPATCH_WORKERS",
    "SMTP_URL",
    "MAIL_FROM",
    "MAIL_REPLY_TO",
    "MAIL_IDEMPOTENCY_HEADER",
    "MAIL_TEMPLATES",
    "PUBLIC_URL",
    "VERIFICATION_KEYS",
    "VERIFICATION_TTL",
    "SMTP_CONNECTIONS",
    "SMTP_MAILS_PER_CONNECTION",
    "SMTP_IDLE",
    "SMTP_TIMEOUTS",
    "SMTP_OUTCOMES",
    "MAIL_SUPPRESS_BOUNCES",
    "MAIL_SANDBOX",
    "MAIL_RATE",
    "MAIL_RATE_OF_ALL",
    "MAIL_DOMAIN_RATE",
    "MAIL_DOMAIN_CONNECTIONS",
    "DELIVERY_BATCH",
    "DELIVERY_LEASE",
    "DELIVERY_POLL",
    "SHUTDOWN_GRACE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "DASHBOARD_LISTEN",
    "DASHBOARD_TOKEN",
    "DASHBOARD_READ_TOKEN",
    "DASHBOARD_HOSTS",
    "UPKEEP_INTERVAL",
    "AUDIT_SPAN",
    "JOBS_RETENTION",
    "LOG_FORMAT",
    "LOG_LEVEL",
];

/// How log lines look and which are written.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Logging")]
pub struct LoggingArgs {
    /// text or json
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or directives such as info,relay=debug
    #[arg(long, env = "LOG_LEVEL", global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl LoggingArgs {
    /// Reads both.
    pub fn read(self, faults: &mut Faults) -> Logging {
        Logging::parse(self.log_format, self.log_level, faults)
    }
}

/// The application database, where the outbox is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Databases")]
pub struct ApplicationDatabaseArgs {
    /// The application database, as a role that may SELECT the outbox and nothing else
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<Secret>,
    /// The file that holds it
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
}

impl ApplicationDatabaseArgs {
    /// Reads it; absent is a fault.
    pub fn read(self, faults: &mut Faults) -> Option<DatabaseUrl> {
        database("DATABASE_URL", self.database_url, self.database_url_file, faults)
    }
}

/// The jobs database, where jobs and cursors are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Databases")]
pub struct JobsDatabaseArgs {
    /// The jobs database: PostgreSQL itself, not a transaction pooler
    #[arg(long, env = "JOBS_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    jobs_database_url: Option<Secret>,
    /// The file that holds it
    #[arg(long, env = "JOBS_DATABASE_URL_FILE", value_name = "FILE")]
    jobs_database_url_file: Option<PathBuf>,
}

impl JobsDatabaseArgs {
    /// Reads it; absent is a fault.
    pub fn read(self, faults: &mut Faults) -> Option<DatabaseUrl> {
        database("JOBS_DATABASE_URL", self.jobs_database_url, self.jobs_database_url_file, faults)
    }
}

fn database(name: &str, value: Option<Secret>, file: Option<PathBuf>, faults: &mut Faults) -> Option<DatabaseUrl> {
    let url = settings::required_secret(name, value, file.as_deref(), database_url::EXAMPLE, faults)?;
    DatabaseUrl::parse(&url, name, faults)
}

/// Where /livez and /readyz are served.
pub fn listen(value: Option<String>, faults: &mut Faults) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], 9090));
    settings::parsed("RELAY_LISTEN", value, default, "an address with a port, such as 127.0.0.1:9090", faults)
}

/// The relay as a service.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Service")]
pub struct ServiceArgs {
    /// false: start, report as paused, and leave the outbox alone [default: true]
    #[arg(long, env = "JOB_QUEUE_ENABLED", value_name = "BOOL")]
    job_queue_enabled: Option<String>,
    /// Where /livez and /readyz are served [default: 127.0.0.1:9090]
    #[arg(long, env = "RELAY_LISTEN", value_name = "ADDRESS")]
    relay_listen: Option<String>,
    /// Workers that dispatch, each with a connection to either database [default: 1]
    #[arg(long, env = "DISPATCH_WORKERS", value_name = "NUMBER")]
    dispatch_workers: Option<String>,
    /// The collector that traces are sent to by OTLP over HTTP, such as http://127.0.0.1:4318 [default: none are made]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otel_exporter_otlp_endpoint: Option<String>,
}

/// See [`ServiceArgs`].
#[derive(Clone, Debug)]
pub struct Service {
    /// Whether events are dispatched and jobs delivered.
    pub job_queue_enabled: bool,
    /// Where health is served.
    pub listen: SocketAddr,
    /// Dispatching workers, 1 to 16.
    pub dispatch_workers: usize,
    /// Where traces go.
    pub traces: Option<Endpoint>,
}

impl ServiceArgs {
    /// Reads them.
    pub fn read(self, faults: &mut Faults) -> Service {
        let workers = settings::number("DISPATCH_WORKERS", self.dispatch_workers, 1, 1..=16, faults);
        Service {
            job_queue_enabled: settings::switch("JOB_QUEUE_ENABLED", self.job_queue_enabled, true, faults),
            listen: listen(self.relay_listen, faults),
            dispatch_workers: usize::try_from(workers).unwrap_or(1),
            traces: Endpoint::parse(self.otel_exporter_otlp_endpoint, faults),
        }
    }
}
