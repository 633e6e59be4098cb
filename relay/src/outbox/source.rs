//! Where the outbox is read from: a connection, and what is kept on it.
//!
//! A connection may lead through a transaction pooler, to another session with each transaction. Then nothing can be kept:
//! settings are given with each transaction, and PostgreSQL plans each statement anew, which is most of the time that it
//! spends on a few events. On a [`Session`] of its own a worker keeps both: settings from the start, and plans from
//! the first use.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::LazyLock;

use futures_util::future::try_join_all;
use shared::database_url::DatabaseUrl;
use tokio_postgres::types::{BorrowToSql, ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, Statement};

use super::{Error, PATIENCE, evidence, look, rows};
use crate::postgres::{self, within};

/// Statements are planned for index reads only, and ended by the server where the relay does not go on (it may be frozen).
const SETTINGS: [(&str, &str); 7] = [
    ("statement_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("max_parallel_workers_per_gather", "0"),
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("jit", "off"),
    ("row_security", "off"),
];

/// `begin`: the transaction, and whether this server is a standby. `SHOW` takes no snapshot, so the answer is older than the
/// snapshot that follows and a promotion in between can't be missed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SHOW in_hot_standby";

/// On a session of its own, plans are made once. A plan for each execution may look cheaper, and costs more than the execution.
const KEEP_PLANS: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

/// What is not kept is planned for each execution, on a worker's session too.
const PLAN_EACH: (&str, &str) = ("plan_cache_mode", "auto");

/// `begin` with the settings. One SELECT costs a third of as many SETs.
static BEGIN_WITH_SETTINGS: LazyLock<String> = LazyLock::new(|| {
    let set = SETTINGS.iter().chain([&PLAN_EACH]);
    let set: Vec<_> = set.map(|(name, value)| format!("set_config('{name}', '{value}', true)")).collect();
    format!("{BEGIN}; SELECT {}", set.join(", "))
});

/// What dispatch asks again and again.
const KEPT: [&str; 6] =
    [look::LOOK, look::LOOK_PLAIN, rows::READ, rows::READ_WHOLE, rows::READ_SINGLE, evidence::WITNESS];

/// A worker's connection to the application database.
pub struct Session {
    client: Client,
    kept: Option<HashMap<&'static str, Statement>>,
}

impl Session {
    /// Connects, and prepares what dispatch asks if the session is the connection's own.
    ///
    /// # Errors
    /// As [`postgres::application`], and when there is no outbox that may be read.
    pub async fn connect(url: &DatabaseUrl, name: &str) -> Result<Self, Error> {
        let (client, own) = postgres::application_session(url, name, &[&SETTINGS[..], &[KEEP_PLANS]].concat()).await?;
        if !own {
            tracing::debug!("a pooler stands before the application database: nothing is kept on its sessions");
            return Ok(Self { client, kept: None });
        }
        let prepare = async |sql| Ok((sql, client.prepare(sql).await?));
        let kept = within(PATIENCE, try_join_all(KEPT.map(prepare))).await?;
        let kept = Some(kept.into_iter().collect());
        Ok(Self { client, kept })
    }

    /// Whether plans are kept: no pooler stands in between.
    pub fn is_own(&self) -> bool {
        self.kept.is_some()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// What reads the outbox: a worker's [`Session`], or any connection.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub(super) client: &'a Client,
    kept: Option<&'a HashMap<&'static str, Statement>>,
}

impl<'a> From<&'a Session> for Source<'a> {
    fn from(session: &'a Session) -> Self {
        Self { client: &session.client, kept: session.kept.as_ref() }
    }
}

impl<'a> From<&'a Client> for Source<'a> {
    fn from(client: &'a Client) -> Self {
        Self { client, kept: None }
    }
}

impl Source<'_> {
    /// What begins a transaction on it.
    pub(super) fn begin(&self) -> &'static str {
        if self.kept.is_some() { BEGIN } else { &BEGIN_WITH_SETTINGS }
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match self.statement(sql) {
            Some(statement) => {
                let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
                self.client.query(statement, &values).await
            }
            None => self.client.query_typed(sql, parameters).await,
        }
    }

    pub(super) async fn stream<P: BorrowToSql>(
        &self,
        sql: &str,
        parameters: impl IntoIterator<Item = (P, Type), IntoIter: ExactSizeIterator>,
    ) -> Result<RowStream, tokio_postgres::Error> {
        match self.statement(sql) {
            Some(statement) => self.client.query_raw(statement, parameters.into_iter().map(|(value, _)| value)).await,
            None => self.client.query_typed_raw(sql, parameters).await,
        }
    }

    fn statement(&self, sql: &str) -> Option<&Statement> {
        self.kept.and_then(|kept| kept.get(sql))
    }
}
