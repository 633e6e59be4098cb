//! Connections to the two databases, each with bounds on everything that can hang.
//!
//! The application side may be behind a transaction pooler: nothing is set for the session and no statement is named,
//! unless the server itself has told that the session is the connection's own.
//! The jobs side must be PostgreSQL itself: lanes are session locks, and LISTEN must hear. What is set here at start-up
//! would not hold across a transaction pooler, which is how one is noticed.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shared::database_url::{DatabaseUrl, Host, Tls};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

/// A server that does not answer within this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long PostgreSQL keeps a session on the jobs side whose relay went silent, and with it its lanes.
pub const SESSION_LEASE: Duration = Duration::from_secs(15);

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, or the connection broke.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The certificate authorities named by `sslrootcert` cannot be read.
    #[error("sslrootcert {path}: {problem}")]
    RootCertificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Settings of the session did not hold.
    #[error(
        "JOBS_DATABASE_URL leads to a transaction pooler; lanes and LISTEN need a session of their own: \
         point it at PostgreSQL itself, or at a pool in session mode"
    )]
    TransactionPooler,
}

/// What PostgreSQL said, without DETAIL (which quotes values), or what happened to the connection.
fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Connects to the application database.
///
/// # Errors
/// When there is no server, no answer, or no entry.
pub async fn application(url: &DatabaseUrl, name: &str) -> Result<Client, Error> {
    open(&config(url, name), &url.tls, |_| {}).await
}

/// Connects to the application database for a session with these settings, if it can be had: where a transaction pooler
/// stands in between, the connection is an ordinary one, and the flag is false.
///
/// # Errors
/// As [`application`].
pub async fn application_session(
    url: &DatabaseUrl,
    name: &str,
    settings: &[(&str, &str)],
) -> Result<(Client, bool), Error> {
    match own_session(url, name, settings, |_| {}).await {
        Ok(Some(client)) => return Ok((client, true)),
        Err(Error::Postgres(error)) if error.as_db_error().is_none_or(|db| speaks_for_postgres(db.code())) => {
            return Err(error.into());
        }
        Ok(None) | Err(Error::Postgres(_)) => {}
        Err(error) => return Err(error),
    }
    Ok((application(url, name).await?, false))
}

/// Whether an error at start-up has nothing to do with what the start-up asked for: who may not come in (28), into what (3D),
/// not now (53, 57). Others may be how a pooler says that it passes no options on.
fn speaks_for_postgres(code: &SqlState) -> bool {
    ["28", "3D", "53", "57"].iter().any(|class| code.code().starts_with(class))
}

/// Connects to the application database and hands each notification to `heard`.
///
/// # Errors
/// As [`application`].
pub async fn application_listener(
    url: &DatabaseUrl,
    name: &str,
    heard: impl Fn(Notification) + Send + 'static,
) -> Result<Client, Error> {
    open(&config(url, name), &url.tls, heard).await
}

/// Connects to the jobs database, on a session that PostgreSQL ends when it hears nothing for [`SESSION_LEASE`].
///
/// # Errors
/// As [`application`], and when the settings of the session do not hold, as behind a transaction pooler.
pub async fn jobs(url: &DatabaseUrl, name: &str) -> Result<Client, Error> {
    let lease = SESSION_LEASE.as_millis().to_string();
    jobs_session(url, name, &[("idle_session_timeout", &lease)], |_| {}).await
}

/// Connects to the jobs database for LISTEN, and hands each notification to `heard`. The session may be silent.
///
/// # Errors
/// As [`jobs`].
pub async fn jobs_listener(
    url: &DatabaseUrl,
    name: &str,
    heard: impl Fn(Notification) + Send + 'static,
) -> Result<Client, Error> {
    jobs_session(url, name, &[], heard).await
}

async fn jobs_session(
    url: &DatabaseUrl,
    name: &str,
    settings: &[(&str, &str)],
    heard: impl Fn(Notification) + Send + 'static,
) -> Result<Client, Error> {
    let lease = SESSION_LEASE.as_millis().to_string();
    let every = [
        ("synchronous_commit", "on"),
        ("search_path", "aftercommit"),
        ("idle_in_transaction_session_timeout", lease.as_str()),
    ];
    match own_session(url, name, &[&every, settings].concat(), heard).await {
        Ok(session) => session.ok_or(Error::TransactionPooler),
        // What pgbouncer answers to a start-up parameter that it does not pass on.
        Err(Error::Postgres(e)) if e.as_db_error().is_some_and(|db| db.message().contains("startup parameter")) => {
            Err(Error::TransactionPooler)
        }
        Err(error) => Err(error),
    }
}

/// A setting that means nothing to PostgreSQL.
const MARK: &str = "aftercommit.session";

/// Opens a session with settings from its start; none when the server has not got them, because a pooler stands in between.
async fn own_session(
    url: &DatabaseUrl,
    name: &str,
    settings: &[(&str, &str)],
    heard: impl Fn(Notification) + Send + 'static,
) -> Result<Option<Client>, Error> {
    // Where it is found again, the server has it from this very connection.
    let mark = Uuid::new_v4().simple().to_string();
    let settings = [settings, &[(MARK, mark.as_str())]].concat();
    let options: Vec<_> = settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    let mut config = config(url, name);
    config.options(options.join(" "));
    let client = open(&config, &url.tls, heard).await?;
    let asked = [(&MARK as &(dyn ToSql + Sync), Type::TEXT)];
    let told = within(CONNECT_TIMEOUT, client.query_typed("SELECT current_setting($1, true)", &asked)).await?;
    let told: Option<String> = told.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok((told == Some(mark)).then_some(client))
}

/// A statement's parameter, often one value for each of many rows.
pub type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// One value for each of many rows, as an array.
pub fn column<'a, R, T: ToSql + Sync + Send + 'a>(rows: &'a [R], of: impl FnMut(&'a R) -> T) -> Column<'a> {
    Box::new(rows.iter().map(of).collect::<Vec<_>>())
}

/// Gives an operation a bound. What was under way when it passes is unknown: the caller drops the connection.
///
/// # Errors
/// What the operation says, or [`Error::Timeout`].
pub async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, operation).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Timeout(limit)),
    }
}

fn config(url: &DatabaseUrl, name: &str) -> Config {
    let mut config = Config::new();
    match &url.host {
        Host::Tcp(host) => config.host(host),
        Host::Socket(directory) => config.host_path(directory),
    };
    config
        .port(url.port)
        .user(&url.user)
        .dbname(&url.dbname)
        .application_name(name)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(3))
        .keepalives_retries(3)
        .tcp_user_timeout(SESSION_LEASE);
    if let Some(password) = &url.password {
        config.password(password.expose());
    }
    config
}

async fn open(config: &Config, tls: &Tls, heard: impl Fn(Notification) + Send + 'static) -> Result<Client, Error> {
    match tls {
        Tls::Disable => {
            open_with(config.clone().ssl_mode(tokio_postgres::config::SslMode::Disable), NoTls, heard).await
        }
        Tls::VerifyFull { root } => {
            let connector = MakeRustlsConnect::new(tls_config(root.as_deref())?);
            open_with(config.clone().ssl_mode(tokio_postgres::config::SslMode::Require), connector, heard).await
        }
    }
}

async fn open_with<T>(config: &Config, tls: T, heard: impl Fn(Notification) + Send + 'static) -> Result<Client, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = within(CONNECT_TIMEOUT, config.connect(tls)).await?;
    // Ends when the client is dropped or the connection breaks; the client's next call then says so.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                AsyncMessage::Notification(notification) => heard(notification),
                AsyncMessage::Notice(notice) => tracing::debug!(message = notice.message(), "postgres notice"),
                _ => {}
            }
        }
    });
    Ok(client)
}

fn tls_config(root: Option<&std::path::Path>) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    match root {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let unreadable = |problem: String| Error::RootCertificates { path: path.display().to_string(), problem };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))? {
                let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
                roots.add(certificate).map_err(|e| unreadable(e.to_string()))?;
            }
        }
    }
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()));
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::RootCertificates { path: "TLS".to_owned(), problem: e.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
