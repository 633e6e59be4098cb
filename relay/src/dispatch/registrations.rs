//! Since when each handler is known, so that a new one never runs by itself on what happened before it was added.
//!
//! Events are run through again when the application database's history has moved. A handler that was added last week
//! must not then mail everybody who registered last year.

use std::collections::HashMap;

use time::OffsetDateTime;
use tokio_postgres::Client;

/// When each handler was first seen; none for those of the first start.
#[derive(Clone, Debug, Default)]
pub struct Registrations(HashMap<String, Option<OffsetDateTime>>);

/// `register`: makes handlers known that are not yet. Those of the first start have no bound.
const REGISTER: &str = "
    INSERT INTO handlers (handler, registered_at)
    SELECT handler, CASE WHEN EXISTS (SELECT FROM handlers) THEN now() END
      FROM unnest($1::text[]) AS handler
        ON CONFLICT (handler) DO NOTHING";

/// `registrations`: since when each handler is known.
const REGISTRATIONS: &str = "SELECT handler, registered_at FROM handlers";

/// Makes the handlers known that are not yet, and reads since when each is.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn register(client: &Client, handlers: &[&'static str]) -> Result<Registrations, tokio_postgres::Error> {
    client.execute(REGISTER, &[&handlers]).await?;
    load(client).await
}

/// Reads since when each handler is known.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn load(client: &Client) -> Result<Registrations, tokio_postgres::Error> {
    let rows = client.query(REGISTRATIONS, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map(Registrations)
}

impl Registrations {
    /// Whether a handler may run by itself on something that happened at this time.
    pub fn covers(&self, handler: &str, occurred_at: OffsetDateTime) -> bool {
        self.0.get(handler).copied().flatten().is_none_or(|registered_at| registered_at <= occurred_at)
    }
}
