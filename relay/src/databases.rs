//! The two databases as a one-shot command meets them: connected to, fit for the work, or a reason why not.

use std::time::Duration;

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::Standing;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{outbox, postgres, schema};

/// The bound on any one exchange with the jobs database.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why a database is of no use at the moment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The application database is away or refuses.
    #[error("application database: {0}")]
    Application(outbox::Error),
    /// The outbox is not there, or may not be read.
    #[error("application database: there is no outbox that this role may read; run `api migrate`")]
    NoOutbox,
    /// The jobs database is away or refuses.
    #[error("jobs database: {0}")]
    Jobs(#[from] postgres::Error),
    /// The jobs database's schema and this build do not fit.
    #[error("jobs database: {0}")]
    Schema(Standing),
}

impl Error {
    /// Whether the state of a database refuses the work, rather than something having failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Schema(_) | Self::NoOutbox)
            || matches!(self, Self::Application(outbox::Error::Standby | outbox::Error::Subscribed))
            || matches!(self, Self::Jobs(postgres::Error::TransactionPooler))
    }
}

impl From<outbox::Error> for Error {
    fn from(error: outbox::Error) -> Self {
        let outbox::Error::Postgres(postgres::Error::Postgres(source)) = &error else {
            return Self::Application(error);
        };
        let none = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE];
        if source.code().is_some_and(|code| none.contains(code)) { Self::NoOutbox } else { Self::Application(error) }
    }
}

/// A session on the application database.
///
/// # Errors
/// When it is away. Its state is asked in every transaction that reads.
pub async fn application(url: &DatabaseUrl, name: &str) -> Result<Client, Error> {
    Ok(postgres::application(url, name).await.map_err(outbox::Error::from)?)
}

/// A session on a jobs database of the right schema. It may be silent while the other database is being read, and keeps
/// to plans by index, for the statistics of these tables are of another moment.
///
/// # Errors
/// When it is away, or its schema is another.
pub async fn jobs(url: &DatabaseUrl, name: &str) -> Result<Client, Error> {
    let client = postgres::jobs_listener(url, name, |_| {}).await?;
    match postgres::within(PATIENCE, schema::standing(&client)).await? {
        Standing::Fits => {}
        other => return Err(Error::Schema(other)),
    }
    postgres::within(PATIENCE, client.batch_execute("SET enable_seqscan = off; SET jit = off")).await?;
    Ok(client)
}
