//! The settings of `api`: one table of flags and variables, read into types with all faults at once.
//!
//! Every setting is taken as text here and checked in [`Serve::read`], because clap would stop at the first fault.

mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::database_url::{self, DatabaseUrl};
use shared::manual::{self, Shell};
use shared::public_url::PublicUrl;
use shared::settings::{self, Faults, Secret};
use shared::telemetry::Logging;
use shared::terminal::Color;
use shared::token::{self, KeyRing};
use shared::trace::export::Endpoint;

pub use upkeep::{Databases, Erase, EraseArgs, Prune, PruneArgs};

use crate::http::client::TrustedProxies;
use crate::store::limits::Limit;

/// People register, read and verify accounts over HTTP; what happened goes into the outbox with them.
#[derive(Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "Settings are given as flags or as the variables named beside them.\n\n\
    Examples:\n  \
    api                        the service, with its settings in the environment\n  \
    api migrate                bring the schema up to date, as the owner\n  \
    api healthcheck            is the api on this machine ready?\n\n\
    Exit codes: 0 done, 1 failed while working, 2 wrong usage or settings, 3 refused by the state of the database; \
    see `api exit-codes`."
)]
pub struct Cli {
    /// What to do; serving is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
    /// When to use colour; NO_COLOR is heeded too
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// What `api` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Serve HTTP until SIGTERM (the default)
    Serve,
    /// Bring the application database's schema up to date, as its owner
    Migrate,
    /// Delete events whose time is up and that nobody needs any more, as the owner of both databases
    #[command(
        after_help = "Keeps what a relay has not dispatched, witnesses of cursors and checkpoints, and events with an \
        open failure or an unfinished job. Safe to run at any time, and again.\n\nExit codes: 0 done, 1 failed while \
        working, 2 wrong usage or settings, 3 refused by the state of a database."
    )]
    Prune(PruneArgs),
    /// Blank what events, and the jobs made of them, say about one aggregate, as the owner of both databases
    #[command(
        after_help = "The rows stay, so that ids, order and cursors do: handlers pass them by from then on. Events that \
        are not dispatched yet, or have an open failure or an unfinished job, refuse it.\n\nExit codes: 0 done, 1 \
        failed while working, 2 wrong usage or settings, 3 refused by the state of a database."
    )]
    Erase(EraseArgs),
    /// Ask the api on this machine whether it is ready (for containers without a shell)
    Healthcheck,
    /// Print the completions for a shell, such as: api completions bash > /etc/bash_completion.d/api
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write a manual page for each command
    Man {
        /// The directory, made if need be
        #[arg(long, value_name = "DIRECTORY")]
        out: PathBuf,
    },
    /// Print what the exit codes mean
    #[command(long_about = manual::EXIT_CODES)]
    ExitCodes,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $variable:literal),+ $(,)?) => {
        /// Every setting, as text.
        #[allow(rustdoc::broken_intra_doc_links, reason = "these comments are the help, where brackets are for people")]
        #[derive(Args)]
        pub struct Settings {
            $($(#[doc = $doc])+ #[arg(long, env = $variable, global = true, hide_env_values = true)]
            $field: Option<$type>,)+
        }

        /// The variables of [`Settings`].
        pub const VARIABLES: &[&str] = &[$($variable),+];
    };
}

settings! {
    /// The application database, as postgres://user:password@host:5432/database [required]
    database_url: Secret = "DATABASE_URL",
    /// A file that holds DATABASE_URL
    database_url_file: PathBuf = "DATABASE_URL_FILE",
    /// The jobs database, for prune and erase alone, as its owner
    jobs_database_url: Secret = "JOBS_DATABASE_URL",
    /// A file that holds JOBS_DATABASE_URL
    jobs_database_url_file: PathBuf = "JOBS_DATABASE_URL_FILE",
    /// How old events must be before prune deletes them [default: 30d]
    outbox_retention: String = "OUTBOX_RETENTION",
    /// Where to listen [default: 127.0.0.1:8080]
    api_listen: String = "API_LISTEN",
    /// The address at which people reach api; links in emails lead there [required to serve]
    public_url: String = "PUBLIC_URL",
    /// The keys of verification links, as kid:base64key[,kid2:base64key2] with 32 random bytes each; the first signs,
    /// all are accepted [required to serve]
    verification_keys: Secret = "VERIFICATION_KEYS",
    /// A file that holds VERIFICATION_KEYS
    verification_keys_file: PathBuf = "VERIFICATION_KEYS_FILE",
    /// The bearer token of services that may read addresses, of at least 16 characters [default: nobody may]
    api_token: Secret = "API_TOKEN",
    /// A file that holds API_TOKEN
    api_token_file: PathBuf = "API_TOKEN_FILE",
    /// What a registration of a known address is answered: conflict (409), or neutral (202, as a new one is)
    /// [default: conflict]
    registration_reply: String = "REGISTRATION_REPLY",
    /// Registrations per client network (/24, /56), such as 100/1h, or off [default: 100/1h]
    registration_limit: String = "REGISTRATION_LIMIT",
    /// Repeated verification emails per address, or off [default: 3/1h]
    resend_limit_address: String = "RESEND_LIMIT_ADDRESS",
    /// Repeated verification emails per client network, or off [default: 20/1h]
    resend_limit_network: String = "RESEND_LIMIT_NETWORK",
    /// Repeated verification emails in all, or off [default: 5000/1h]
    resend_limit_total: String = "RESEND_LIMIT_TOTAL",
    /// Proxies whose X-Forwarded-For is believed, as addresses or networks separated by commas [default: none]
    trusted_proxies: String = "TRUSTED_PROXIES",
    /// Connections to the database, 1 to 1000 [default: 10]
    api_database_connections: String = "API_DATABASE_CONNECTIONS",
    /// How long a request waits for one of them before 503 [default: 3s]
    api_acquire_timeout: String = "API_ACQUIRE_TIMEOUT",
    /// HTTP connections held at once, 8 to 100000; at the limit new ones wait [default: 1024]
    api_max_connections: String = "API_MAX_CONNECTIONS",
    /// How long a client may take to send a request's head, and its body [default: 10s]
    api_read_timeout: String = "API_READ_TIMEOUT",
    /// How long requests may take to finish after SIGTERM [default: 10s]
    api_shutdown_grace: String = "API_SHUTDOWN_GRACE",
    /// Where /metrics is served, or off [default: 127.0.0.1:9091]
    api_metrics_listen: String = "API_METRICS_LISTEN",
    /// How long migrate waits for locks before it gives up [default: 5m]
    migrate_patience: String = "MIGRATE_PATIENCE",
    /// The collector that traces are sent to by OTLP over HTTP, such as http://127.0.0.1:4318 [default: none are made]
    otel_exporter_otlp_endpoint: String = "OTEL_EXPORTER_OTLP_ENDPOINT",
    /// How log lines look: text or json [default: text]
    log_format: String = "LOG_FORMAT",
    /// Which log lines are written: a level, or directives such as info,api=debug [default: info]
    log_level: String = "LOG_LEVEL",
}

/// What `api serve` needs.
pub struct Serve {
    pub database_url: DatabaseUrl,
    pub database_connections: u32,
    pub acquire_timeout: Duration,
    pub listen: SocketAddr,
    /// Where metrics are served, if they are.
    pub metrics_listen: Option<SocketAddr>,
    pub max_connections: usize,
    pub read_timeout: Duration,
    pub shutdown_grace: Duration,
    pub public_url: PublicUrl,
    pub keys: KeyRing,
    pub api_token: Option<Secret>,
    pub registration_reply: RegistrationReply,
    pub limits: Limits,
    pub trusted_proxies: TrustedProxies,
    pub traces: Option<Endpoint>,
    pub logging: Logging,
}

/// Where `api healthcheck` asks.
pub fn healthcheck(given: Settings) -> Result<SocketAddr, Faults> {
    let mut faults = Faults::new();
    let listen = listen(given.api_listen, &mut faults);
    faults.finish().map(|()| listen)
}

fn listen(value: Option<String>, faults: &mut Faults) -> SocketAddr {
    let expected = "an address with port, such as 127.0.0.1:8080";
    settings::parsed("API_LISTEN", value, SocketAddr::from(([127, 0, 0, 1], 8080)), expected, faults)
}

fn metrics_listen(value: Option<String>, faults: &mut Faults) -> Option<SocketAddr> {
    if value.as_deref() == Some("off") {
        return None;
    }
    let expected = "an address with port, such as 127.0.0.1:9091, or off";
    let default = SocketAddr::from(([127, 0, 0, 1], 9091));
    Some(settings::parsed("API_METRICS_LISTEN", value, default, expected, faults))
}

/// What `api migrate` needs.
pub struct Migrate {
    pub database_url: DatabaseUrl,
    pub patience: Duration,
    pub logging: Logging,
}

/// What a registration of a known address is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationReply {
    /// 409: plain, and tells whoever asks that the address has an account.
    Conflict,
    /// 202 for new and known addresses alike; the owner of a known one is told by email.
    Neutral,
}

/// How often things may be asked for; absent is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub registration_per_network: Option<Limit>,
    pub resend_per_address: Option<Limit>,
    pub resend_per_network: Option<Limit>,
    pub resend_in_total: Option<Limit>,
}

impl Serve {
    /// Checks all settings.
    pub fn read(given: Settings) -> Result<Self, Faults> {
        let mut faults = Faults::new();
        let f = &mut faults;
        let database_url = database_url(given.database_url, given.database_url_file, f);
        let listen = listen(given.api_listen, f);
        let metrics_listen = metrics_listen(given.api_metrics_listen, f);
        let public_url = PublicUrl::parse(given.public_url, f);
        let keys_file = given.verification_keys_file.as_deref();
        let keys =
            settings::required_secret("VERIFICATION_KEYS", given.verification_keys, keys_file, token::EXAMPLE, f);
        let keys = keys.and_then(|keys| KeyRing::parse(&keys, "VERIFICATION_KEYS", f));
        let api_token = settings::secret("API_TOKEN", given.api_token, given.api_token_file.as_deref(), f);
        if api_token.as_ref().is_some_and(|token| token.expose().len() < 16) {
            f.push("API_TOKEN", "is shorter than 16 characters", "Give a random one (`openssl rand -hex 32`)");
        }
        let registration_reply = match settings::text(given.registration_reply).as_deref() {
            None | Some("conflict") => RegistrationReply::Conflict,
            Some("neutral") => RegistrationReply::Neutral,
            Some(other) => {
                f.push("REGISTRATION_REPLY", format!("{other:?} is no reply"), "Give conflict or neutral");
                RegistrationReply::Conflict
            }
        };
        let limits = Limits {
            registration_per_network: limit("REGISTRATION_LIMIT", given.registration_limit, 100, f),
            resend_per_address: limit("RESEND_LIMIT_ADDRESS", given.resend_limit_address, 3, f),
            resend_per_network: limit("RESEND_LIMIT_NETWORK", given.resend_limit_network, 20, f),
            resend_in_total: limit("RESEND_LIMIT_TOTAL", given.resend_limit_total, 5000, f),
        };
        let proxies = "addresses or networks such as 10.0.0.0/8, separated by commas";
        let trusted_proxies =
            settings::parsed("TRUSTED_PROXIES", given.trusted_proxies, TrustedProxies::default(), proxies, f);
        let number = |name, value, default, bounds, f: &mut Faults| settings::number(name, value, default, bounds, f);
        let connections = number("API_DATABASE_CONNECTIONS", given.api_database_connections, 10, 1..=1000, f);
        let max_connections = number("API_MAX_CONNECTIONS", given.api_max_connections, 1024, 8..=100_000, f);
        let acquire_timeout = seconds("API_ACQUIRE_TIMEOUT", given.api_acquire_timeout, 3, f);
        let read_timeout = seconds("API_READ_TIMEOUT", given.api_read_timeout, 10, f);
        let shutdown_grace = seconds("API_SHUTDOWN_GRACE", given.api_shutdown_grace, 10, f);
        let traces = Endpoint::parse(given.otel_exporter_otlp_endpoint, f);
        let logging = Logging::parse(given.log_format, given.log_level, f);
        match (database_url, public_url, keys, faults.is_empty()) {
            (Some(database_url), Some(public_url), Some(keys), true) => Ok(Self {
                database_url,
                // Both bounds above fit.
                database_connections: u32::try_from(connections).unwrap_or(u32::MAX),
                acquire_timeout,
                listen,
                metrics_listen,
                max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
                read_timeout,
                shutdown_grace,
                public_url,
                keys,
                api_token,
                registration_reply,
                limits,
                trusted_proxies,
                traces,
                logging,
            }),
            _ => Err(faults),
        }
    }
}

impl Migrate {
    /// Checks the settings that a migration needs.
    pub fn read(given: Settings) -> Result<Self, Faults> {
        let mut faults = Faults::new();
        let database_url = database_url(given.database_url, given.database_url_file, &mut faults);
        let patience = seconds("MIGRATE_PATIENCE", given.migrate_patience, 300, &mut faults);
        let logging = Logging::parse(given.log_format, given.log_level, &mut faults);
        match (database_url, faults.is_empty()) {
            (Some(database_url), true) => Ok(Self { database_url, patience, logging }),
            _ => Err(faults),
        }
    }
}

fn database_url(value: Option<Secret>, file: Option<PathBuf>, faults: &mut Faults) -> Option<DatabaseUrl> {
    let text = settings::required_secret("DATABASE_URL", value, file.as_deref(), database_url::EXAMPLE, faults)?;
    DatabaseUrl::parse(&text, "DATABASE_URL", faults)
}

fn seconds(name: &str, value: Option<String>, default: u64, faults: &mut Faults) -> Duration {
    settings::duration(name, value, Duration::from_secs(default), faults)
}

fn limit(name: &str, value: Option<String>, per_hour: u32, faults: &mut Faults) -> Option<Limit> {
    match settings::text(value).as_deref().map(str::trim) {
        None => Some(Limit { count: per_hour, per: Duration::from_secs(3600) }),
        Some("off") => None,
        Some(given) => {
            let limit = given.parse().ok();
            if limit.is_none() {
                let remedy = "Give how many in which time, such as 100/1h, or off";
                faults.push(name, format!("{given:?} is not a limit"), remedy);
            }
            limit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[&str] = &[
        "--database-url=postgres://me:canary@localhost/app",
        "--public-url=http://localhost:8080",
        "--verification-keys=k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ];

    fn read(flags: &[&str]) -> Result<Serve, String> {
        let cli = Cli::try_parse_from([&["api"], flags].concat()).map_err(|error| error.to_string())?;
        Serve::read(cli.settings).map_err(|faults| faults.to_string())
    }

    #[test]
    fn the_defaults_serve() {
        let config = read(GOOD).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.registration_reply, RegistrationReply::Conflict);
        let hour = Duration::from_secs(3600);
        assert_eq!(config.limits.registration_per_network, Some(Limit { count: 100, per: hour }));
        let off = read(&[GOOD, &["--registration-limit=off"]].concat()).unwrap();
        assert_eq!(off.limits.registration_per_network, None);
    }

    #[test]
    fn all_faults_come_at_once_and_no_secret_with_them() {
        let told = read(&[
            "--database-url=mysql://me:canary@localhost/app",
            "--verification-keys=k:Y2FuYXJ5",
            "--api-token=canary",
            "--api-listen=8080",
            "--registration-reply=maybe",
            "--registration-limit=0/1h",
            "--trusted-proxies=10.0.0.0/33",
            "--api-database-connections=0",
            "--api-read-timeout=0s",
            "--log-format=xml",
        ])
        .err()
        .unwrap();
        assert_eq!(told.lines().count(), 11, "{told}");
        assert!(!told.contains("canary") && !told.contains("Y2Fu"), "{told}");
    }

    #[test]
    fn help_names_every_setting_and_shows_no_value() {
        use clap::CommandFactory;
        let help = Cli::command().render_long_help().to_string();
        for variable in VARIABLES {
            assert!(help.contains(&format!("[env: {variable}")), "{variable}: {help}");
        }
        Cli::command().debug_assert();
    }
}
