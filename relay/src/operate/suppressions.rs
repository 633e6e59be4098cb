//! The suppression list of mail, changed by hand: put an address on it, take it off, look at it.
//!
//! The row in the audit trail bears the address's SHA-256 rather than the address: the trail is kept for good, and an
//! address must not outlive its erasure there. Whoever has an address can find what was done about it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::email_address::EmailAddress;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::audit::Action;
use super::{By, Slice, moment};
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};
use crate::text::one_line;

/// What the database takes of a reason.
const LONGEST_REASON: usize = 1_000;

/// `suppress`: no more mail to an address.
const SUPPRESS: &str = "
    INSERT INTO mail_suppressions (address, reason, source)
    VALUES ($1, $2, 'operator')
        ON CONFLICT DO NOTHING";

/// `unsuppress`: mail to an address again.
const UNSUPPRESS: &str = "DELETE FROM mail_suppressions WHERE address = $1";

/// `suppressed`: addresses behind one, in their order.
const SUPPRESSED: &str = r#"
    SELECT address, reason, source, extract(epoch FROM suppressed_at)::float8
      FROM mail_suppressions
     WHERE address > $1
     ORDER BY address
     LIMIT $2"#;

/// `suppressed_one`: one address.
const SUPPRESSED_ONE: &str = "
    SELECT address, reason, source, extract(epoch FROM suppressed_at)::float8
      FROM mail_suppressions
     WHERE address = $1";

/// An address on the list.
#[derive(Clone, PartialEq)]
pub struct Suppression {
    /// The address, in its normal form.
    pub address: String,
    /// Why.
    pub reason: String,
    /// `operator` or `bounce`.
    pub source: String,
    /// Since when.
    pub suppressed_at: Option<OffsetDateTime>,
}

/// Puts an address on the list. Returns `false` when it is there already; then its reason stays.
///
/// # Errors
/// When the database does not answer; then nothing was changed.
pub async fn suppress(client: &mut Client, address: &EmailAddress, reason: &str, by: By<'_>) -> Result<bool, Error> {
    let reason = one_line(reason, LONGEST_REASON);
    let reason = if reason.is_empty() { "no reason given".to_owned() } else { reason };
    let action = Action { by, action: "suppress mail", filter: filter(address) };
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&address.key(), Type::TEXT), (&reason, Type::TEXT)];
    within(PATIENCE, change(client, SUPPRESS, &parameters, &action)).await
}

/// Takes an address off the list. Returns `false` when it is not on it.
///
/// # Errors
/// When the database does not answer; then nothing was changed.
pub async fn unsuppress(client: &mut Client, address: &EmailAddress, by: By<'_>) -> Result<bool, Error> {
    let action = Action { by, action: "unsuppress mail", filter: filter(address) };
    within(PATIENCE, change(client, UNSUPPRESS, &[(&address.key(), Type::TEXT)], &action)).await
}

/// A page of the list, in the order of addresses.
///
/// # Errors
/// When the database does not answer.
pub async fn list(client: &Client, slice: Slice<String>) -> Result<Vec<Suppression>, Error> {
    let after = slice.after.unwrap_or_default();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::TEXT), (&slice.limit, Type::INT8)];
    within(PATIENCE, client.query_typed(SUPPRESSED, &parameters)).await?.iter().map(suppression).collect()
}

/// One address, if it is on the list.
///
/// # Errors
/// When the database does not answer.
pub async fn find(client: &Client, address: &EmailAddress) -> Result<Option<Suppression>, Error> {
    let rows = within(PATIENCE, client.query_typed(SUPPRESSED_ONE, &[(&address.key(), Type::TEXT)])).await?;
    rows.first().map(suppression).transpose()
}

fn suppression(row: &tokio_postgres::Row) -> Result<Suppression, Error> {
    Ok(Suppression {
        address: row.try_get(0)?,
        reason: row.try_get(1)?,
        source: row.try_get(2)?,
        suppressed_at: moment(row.try_get(3)?),
    })
}

fn filter(address: &EmailAddress) -> Value {
    let mut hash = String::with_capacity(64);
    for byte in Sha256::digest(address.key()) {
        let _ = write!(hash, "{byte:02x}");
    }
    json!({ "address_sha256": hash })
}

async fn change(
    client: &mut Client,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
    action: &Action<'_>,
) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let changed = transaction.execute_typed(statement, parameters).await? > 0;
    if changed {
        action.record(&transaction, 1).await?;
    }
    transaction.commit().await?;
    Ok(changed)
}
