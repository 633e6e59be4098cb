//! What the benchmarks share: a server that measurements are not disturbed on, medians, and who registers.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::databases::DatabaseServer;
use crate::postgres::Builder;

#[path = "../../api/src/store/statements.rs"]
pub mod statements;

/// A server with fsync and room, and without a checkpoint that would fall into one run and not into another.
pub fn server() -> Builder {
    DatabaseServer::for_tests()
        .setting("shared_buffers", "1GB")
        .setting("max_wal_size", "16GB")
        .setting("checkpoint_timeout", "1h")
}

/// The middle one of some values; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A person who has not registered yet.
pub struct Person {
    /// The address.
    pub email: String,
    /// The name.
    pub name: String,
}

impl Person {
    /// The next one of this process.
    pub fn next() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { email: format!("person{number}@example.org"), name: format!("Person {number}") }
    }

    /// Registers without the event.
    ///
    /// `statement` is [`statements::INSERT_USER_ALONE`].
    pub async fn register_alone(&self, client: &Client, statement: &Statement) -> Result<()> {
        let Self { email, name } = self;
        let rows = client.query(statement, &[&Uuid::now_v7(), email, email, name]).await?;
        ensure!(rows.len() == 1, "the account is new");
        Ok(())
    }

    /// Registers, by the statement that `api` makes: its [`statements::INSERT_USER`].
    pub async fn register(&self, client: &Client, statement: &Statement) -> Result<()> {
        let Self { email, name } = self;
        let user_id = Uuid::now_v7();
        let payload = json!({ "user_id": user_id, "email": email, "display_name": name });
        let metadata = json!({
            "traceparent": format!("00-{}-00f067aa0ba902b7-01", Uuid::new_v4().simple()),
            "correlation_id": Uuid::now_v7(),
        });
        let rows = client
            .query(
                statement,
                &[
                    &Uuid::now_v7(),
                    &"user",
                    &user_id.to_string(),
                    &"user.registered",
                    &1_i32,
                    &payload,
                    &metadata,
                    &user_id,
                    email,
                    email,
                    name,
                ],
            )
            .await?;
        ensure!(rows.len() == 1, "the account is new");
        Ok(())
    }
}
