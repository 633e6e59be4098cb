//! Events as people look at them: listed, followed as they come, and each with what became of it.
//!
//! The outbox is read as dispatch reads it, in short transactions that say first which server this is; what became of an
//! event is in the jobs database. Nothing here writes, and no cursor is moved.

pub mod timeline;
pub mod tail;

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::outbox::listing::{EventRow, Step};
use crate::outbox::page::Filter;
use crate::outbox::{self, Error};
use crate::text;

/// A page of events, newest first. Goes on from step to step until the page is full or the outbox at its end.
///
/// # Errors
/// When the application database is away, or must not be read from.
pub async fn list(
    application: &Client,
    filter: &Filter,
    event_ids: Option<&[Uuid]>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Step, Error> {
    let mut page = Step { rows: Vec::new(), next: after };
    loop {
        let room = limit - page.rows.len() as i64;
        let (reading, _) = outbox::look(application, &[]).await?;
        let step = reading.step_back(filter, event_ids, page.next, room).await?;
        reading.end().await?;
        page.rows.extend(step.rows);
        page.next = step.next;
        if page.next.is_none() || page.rows.len() as i64 >= limit {
            return Ok(page);
        }
    }
}

impl EventRow {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "event_id": self.event_id,
            "position": self.position,
            "lane": self.lane,
            "aggregate_type": self.aggregate_type,
            "aggregate_id": self.aggregate_id,
            "event_type": self.event_type,
            "event_version": self.event_version,
            "occurred_at": self.occurred_at.format(&Rfc3339).ok(),
            "metadata": text::json(&self.metadata),
        })
    }
}
