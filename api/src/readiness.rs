//! Whether requests can be served: asked of the database every other second, on a connection of its own.
//!
//! So `/readyz` answers at once and from memory, however busy the pool is, and each change is logged once.

use std::time::Duration;

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::{Standing, sqlstate};
use shared::shutdown::CancellationToken;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::watch;

use crate::schema::SCHEMA;

const INTERVAL: Duration = Duration::from_secs(2);
/// While unready, so that a start or a recovery is seen soon.
const SHORT_INTERVAL: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(3);

/// Purpose: a standby, or a primary set to read-only, can't take registrations.
const READ_ONLY: &str =
    "SELECT current_setting('in_hot_standby') = 'on' OR current_setting('transaction_read_only') = 'on'";

/// The reason why requests can't be served; `None` when they can.
pub type Unready = Option<Reason>;

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Which part: `application database`, `schema`, `standby`, `api`.
    pub about: &'static str,
    /// In words, with what to do; no secrets.
    pub words: String,
}

/// The database itself.
const DATABASE: &str = "application database";

fn reason(about: &'static str, words: impl Into<String>) -> Reason {
    Reason { about, words: words.into() }
}

/// Watches the database until shutdown, which is a reason as well.
pub async fn watch(url: DatabaseUrl, state: watch::Sender<Unready>, shutdown: CancellationToken) {
    let options = url.connect_options("aftercommit api readiness");
    let mut connection = None;
    loop {
        let found = match tokio::time::timeout(LIMIT, probe(connection.take(), &options)).await {
            Ok(Ok((used, found))) => {
                connection = Some(used);
                found
            }
            Ok(Err(error)) => Some(reason(DATABASE, describe(&error))),
            Err(_) => Some(reason(DATABASE, "the database does not answer")),
        };
        let pause = if found.is_some() { SHORT_INTERVAL } else { INTERVAL };
        announce(&state, found);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    announce(&state, Some(reason("api", "api is stopping")));
}

fn announce(state: &watch::Sender<Unready>, reason: Unready) {
    state.send_if_modified(|known| {
        let changed = *known != reason;
        match &reason {
            Some(Reason { about, words }) if changed => tracing::warn!(about, reason = words, "not ready"),
            None if changed => tracing::info!("ready"),
            _ => {}
        }
        *known = reason;
        changed
    });
}

async fn probe(
    connection: Option<PgConnection>,
    options: &PgConnectOptions,
) -> Result<(PgConnection, Unready), sqlx::Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => PgConnection::connect_with(options).await?,
    };
    if sqlx::query_scalar(READ_ONLY).fetch_one(&mut connection).await? {
        return Ok((connection, Some(reason("standby", "the database is read-only, perhaps a standby"))));
    }
    let unfit = match Standing::ask(&SCHEMA, &mut connection).await? {
        Standing::Fits => None,
        other => Some(reason("schema", other.to_string())),
    };
    Ok((connection, unfit))
}

/// In words that hold nothing of what the server quotes.
fn describe(error: &sqlx::Error) -> String {
    match (sqlstate(error), error) {
        (Some(code), _) => match code.as_str() {
            "28P01" | "28000" => format!("the database refuses the login (SQLSTATE {code}); check DATABASE_URL"),
            "3D000" => "the database does not exist; check DATABASE_URL".to_owned(),
            "57P03" => "the database is starting or stopping".to_owned(),
            _ => format!("the database answers with SQLSTATE {code}"),
        },
        (None, sqlx::Error::Io(error)) => format!("the database can't be reached ({})", error.kind()),
        (None, sqlx::Error::Tls(_)) => "TLS to the database failed; check sslmode and sslrootcert".to_owned(),
        _ => "the connection to the database failed".to_owned(),
    }
}

/// The state before the first answer.
pub fn unknown() -> (watch::Sender<Unready>, watch::Receiver<Unready>) {
    watch::channel(Some(reason(DATABASE, "the database has not answered yet")))
}
