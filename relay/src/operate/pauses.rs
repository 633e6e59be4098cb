//! Pausing and resuming: of dispatch, of delivery, of one kind of jobs.
//!
//! A pause is a row in the jobs database, so it holds for every relay and outlives them all. Relays are told at once by
//! a notification (see `operate::watch`); what they have in hand ends, and nothing new is begun.

use std::fmt;

use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::audit::Action;
use super::{By, moment};
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};
use crate::text::one_line;

/// Where relays are told that something was paused or resumed.
pub const CHANNEL: &str = "aftercommit_operate";

/// What can be paused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Dispatch: events wait in the outbox.
    Dispatch,
    /// Delivery: of one kind of jobs, or of every kind.
    Delivery(Option<String>),
}

impl Part {
    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Dispatch => ("dispatch", ""),
            Self::Delivery(kind) => ("delivery", kind.as_deref().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch => f.write_str("dispatch"),
            Self::Delivery(None) => f.write_str("delivery"),
            Self::Delivery(Some(kind)) => write!(f, "delivery of {kind}"),
        }
    }
}

/// A pause that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// What is paused.
    pub part: Part,
    /// Since when.
    pub paused_at: Option<OffsetDateTime>,
    /// By whom.
    pub paused_by: String,
    /// Why.
    pub reason: Option<String>,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is paused by {}", self.part, self.paused_by)?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// `pauses`: what is paused.
pub(super) const PAUSES: &str = "
    SELECT part, kind, extract(epoch FROM paused_at)::float8, paused_by, reason
      FROM pauses
     ORDER BY part DESC, kind";

/// `pause`: pauses a part, unless it is.
const PAUSE: &str = "
    INSERT INTO pauses (part, kind, paused_by, reason)
    VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";

/// `resume`: lets a part go on.
const RESUME: &str = "DELETE FROM pauses WHERE part = $1 AND kind = $2";

/// `tell`: tells the relays, once the transaction commits.
const TELL: &str = "SELECT pg_notify($1, '')";

/// What is paused.
///
/// # Errors
/// When the database does not answer.
pub async fn list(client: &Client) -> Result<Vec<Pause>, Error> {
    let rows = within(PATIENCE, client.query_typed(PAUSES, &[])).await?;
    rows.iter()
        .map(|row| {
            let (part, kind): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
            let part = match part {
                "dispatch" => Part::Dispatch,
                _ => Part::Delivery(Some(kind.to_owned()).filter(|kind| !kind.is_empty())),
            };
            Ok(Pause { part, paused_at: moment(row.try_get(2)?), paused_by: row.try_get(3)?, reason: row.try_get(4)? })
        })
        .collect()
}

/// Pauses a part, and tells the relays. Returns `false` when it was paused already.
///
/// # Errors
/// When the database does not answer; then nothing was changed.
pub async fn pause(client: &mut Client, part: &Part, by: By<'_>) -> Result<bool, Error> {
    let reason = by.reason.map(|reason| one_line(reason, 1_000)).filter(|reason| !reason.is_empty());
    let (column, kind) = part.columns();
    let action = Action { by, action: "pause", filter: filter(part) };
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
        [(&column, Type::TEXT), (&kind, Type::TEXT), (&by.operator.name, Type::TEXT), (&reason, Type::TEXT)];
    within(PATIENCE, change(client, PAUSE, &parameters, &action)).await
}

/// Lets a part go on, and tells the relays. Returns `false` when it was not paused: one kind of a delivery that is
/// paused as a whole goes on with the whole.
///
/// # Errors
/// When the database does not answer; then nothing was changed.
pub async fn resume(client: &mut Client, part: &Part, by: By<'_>) -> Result<bool, Error> {
    let (column, kind) = part.columns();
    let action = Action { by, action: "resume", filter: filter(part) };
    within(PATIENCE, change(client, RESUME, &[(&column, Type::TEXT), (&kind, Type::TEXT)], &action)).await
}

fn filter(part: &Part) -> serde_json::Value {
    match part {
        Part::Dispatch => json!({"part": "dispatch"}),
        Part::Delivery(None) => json!({"part": "delivery"}),
        Part::Delivery(Some(kind)) => json!({"part": "delivery", "kind": kind}),
    }
}

async fn change(
    client: &mut Client,
    statement: &str,
    parameters: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)],
    action: &Action<'_>,
) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let changed = transaction.execute_typed(statement, parameters).await? > 0;
    if changed {
        action.record(&transaction, 1).await?;
        transaction.query_typed(TELL, &[(&CHANNEL, Type::TEXT)]).await?;
    }
    transaction.commit().await?;
    Ok(changed)
}
