//! The audit trail: what people did, row by row.

use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, GenericClient};

use super::who::{By, Operator};
use super::{Slice, moment};
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};
use crate::text::one_line;

/// What the database takes of a reason.
const LONGEST_REASON: usize = 1_000;

/// `record`: an action, with how many rows it changed, and whether it has ended.
const RECORD: &str = "
    INSERT INTO operator_actions (operator, via, action, filter, affected, reason, finished_at)
    VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN now() END)
    RETURNING action_id";

/// `add`: more of the same action.
const ADD: &str = "
    UPDATE operator_actions
       SET affected    = affected + $2,
           finished_at = CASE WHEN $3 THEN clock_timestamp() END
     WHERE action_id = $1";

/// `actions`: the newest actions before one.
const ACTIONS: &str = "
    SELECT action_id, extract(epoch FROM started_at)::float8, extract(epoch FROM finished_at)::float8,
           operator, via, action, filter, affected, reason
      FROM operator_actions
     WHERE action_id < $1
     ORDER BY action_id DESC
     LIMIT $2";

/// What somebody is about to do.
#[derive(Clone, Debug)]
pub struct Action<'a> {
    /// Who, and why.
    pub by: By<'a>,
    /// What, in a few words: `retry jobs`, `pause`.
    pub action: &'a str,
    /// On what: a JSON object.
    pub filter: Value,
}

impl Action<'_> {
    /// Writes down a whole action, in the caller's transaction: the one that makes the change. Returns its number.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn record(&self, client: &impl GenericClient, affected: u64) -> Result<i64, tokio_postgres::Error> {
        self.insert(client, affected, true).await
    }

    /// Writes down the first part of an action that [`add`] goes on with.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn begin(&self, client: &impl GenericClient, affected: u64) -> Result<i64, tokio_postgres::Error> {
        self.insert(client, affected, false).await
    }

    async fn insert(
        &self,
        client: &impl GenericClient,
        affected: u64,
        ended: bool,
    ) -> Result<i64, tokio_postgres::Error> {
        let affected = i64::try_from(affected).unwrap_or(i64::MAX);
        let reason = self.by.reason.map(|reason| one_line(reason, LONGEST_REASON)).filter(|reason| !reason.is_empty());
        let Operator { name, via } = self.by.operator;
        let rows = client
            .query_typed(
                RECORD,
                &[
                    (name, Type::TEXT),
                    (via, Type::TEXT),
                    (&self.action, Type::TEXT),
                    (&Json(&self.filter), Type::JSONB),
                    (&affected, Type::INT8),
                    (&reason, Type::TEXT),
                    (&ended, Type::BOOL),
                ],
            )
            .await?;
        rows[0].try_get(0)
    }
}

/// Adds to an action that was begun, in the caller's transaction; `ended` when this was the last part.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn add(
    client: &impl GenericClient,
    action_id: i64,
    affected: u64,
    ended: bool,
) -> Result<(), tokio_postgres::Error> {
    let affected = i64::try_from(affected).unwrap_or(i64::MAX);
    client.query_typed(ADD, &[(&action_id, Type::INT8), (&affected, Type::INT8), (&ended, Type::BOOL)]).await.map(drop)
}

/// An action as it stands in the trail.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionRow {
    /// Its number; later ones are higher.
    pub action_id: i64,
    /// When it began.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended; none while it is under way, or when it was interrupted.
    pub finished_at: Option<OffsetDateTime>,
    /// Who.
    pub operator: String,
    /// From where.
    pub via: String,
    /// What.
    pub action: String,
    /// On what.
    pub filter: Value,
    /// How many rows were changed.
    pub affected: i64,
    /// Why.
    pub reason: Option<String>,
}

/// The newest actions, or those before the one that the last page ended with.
///
/// # Errors
/// When the database does not answer.
pub async fn list(client: &Client, slice: Slice<i64>) -> Result<Vec<ActionRow>, Error> {
    let before = slice.after.unwrap_or(i64::MAX);
    let rows =
        within(PATIENCE, client.query_typed(ACTIONS, &[(&before, Type::INT8), (&slice.limit, Type::INT8)])).await?;
    rows.iter()
        .map(|row| {
            Ok(ActionRow {
                action_id: row.try_get(0)?,
                started_at: moment(row.try_get(1)?),
                finished_at: moment(row.try_get(2)?),
                operator: row.try_get(3)?,
                via: row.try_get(4)?,
                action: row.try_get(5)?,
                filter: row.try_get(6)?,
                affected: row.try_get(7)?,
                reason: row.try_get(8)?,
            })
        })
        .collect()
}
