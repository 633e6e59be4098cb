//! The outbox for people: the newest events first, without their payload.
//!
//! As in [`super::page`], a step is bounded by the rows it passes over, so that no statement runs long however few events
//! match.

use shared::envelope::Envelope;
use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::page::{Filter, PAGE_ROWS};
use super::types::Moment;
use super::{Error, PATIENCE, Reading};
use crate::postgres::within;

/// An event in a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Its id.
    pub event_id: Uuid,
    /// Its place in the outbox.
    pub position: i64,
    /// Its lane.
    pub lane: i16,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// What happened.
    pub event_type: String,
    /// In which version it is written.
    pub event_version: i32,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// Trace context and the like: JSON.
    pub metadata: String,
}

impl EventRow {
    /// Of an event that was read whole.
    pub fn of(envelope: &Envelope) -> Self {
        Self {
            event_id: envelope.event_id,
            position: envelope.position,
            lane: envelope.lane,
            aggregate_type: envelope.aggregate_type.to_string(),
            aggregate_id: envelope.aggregate_id.to_string(),
            event_type: envelope.event_type.to_string(),
            event_version: envelope.event_version,
            occurred_at: envelope.occurred_at,
            metadata: envelope.metadata.get().to_owned(),
        }
    }
}

/// `step_end`: the last row of a step, by the primary key from its end.
pub const STEP_END: &str = "
    SELECT event_id
      FROM aftercommit.outbox
     WHERE ($1::uuid IS NULL OR event_id < $1)
     ORDER BY event_id DESC
    OFFSET $2 - 1
     LIMIT 1";

/// `step`: the chosen rows of a step.
pub const STEP: &str = "
    SELECT event_id, position, aftercommit.lane(aggregate_id), aggregate_type, aggregate_id, event_type, event_version,
           occurred_at, metadata::text
      FROM aftercommit.outbox
     WHERE ($1::text        IS NULL OR aggregate_type || '/' || aggregate_id = $1)
       AND ($2::text[]      IS NULL OR event_type = ANY ($2))
       AND ($3::timestamptz IS NULL OR occurred_at >= $3)
       AND ($4::timestamptz IS NULL OR occurred_at <  $4)
       AND ($5::uuid[]      IS NULL OR event_id = ANY ($5))
       AND ($6::uuid        IS NULL OR event_id <  $6)
       AND ($7::uuid        IS NULL OR event_id >= $7)
     ORDER BY event_id DESC
     LIMIT $8";

/// A step backwards through the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The chosen events.
    pub rows: Vec<EventRow>,
    /// Where to go on; none at the end.
    pub next: Option<Uuid>,
}

impl Reading<'_> {
    /// The chosen events behind one, newest first: at most `limit`, out of at most [`PAGE_ROWS`] that are passed over.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn step_back(
        &self,
        filter: &Filter,
        event_ids: Option<&[Uuid]>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Step, Error> {
        let end: Option<Uuid> = match event_ids {
            // Named events are found by their ids.
            Some(_) => None,
            None => {
                let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::UUID), (&PAGE_ROWS, Type::INT8)];
                let rows = within(PATIENCE, self.source.query(STEP_END, &parameters)).await?;
                rows.first().map(|row| row.try_get(0)).transpose()?
            }
        };
        let mut parameters = filter.parameters();
        parameters.extend([
            (&event_ids as _, Type::UUID_ARRAY),
            (&after as _, Type::UUID),
            (&end as _, Type::UUID),
            (&limit as _, Type::INT8),
        ]);
        let rows = within(PATIENCE, self.source.query(STEP, &parameters)).await?;
        let rows = rows
            .iter()
            .map(|row| {
                let Moment(occurred_at) = row.try_get(7)?;
                Ok(EventRow {
                    event_id: row.try_get(0)?,
                    position: row.try_get(1)?,
                    lane: row.try_get(2)?,
                    aggregate_type: row.try_get(3)?,
                    aggregate_id: row.try_get(4)?,
                    event_type: row.try_get(5)?,
                    event_version: row.try_get(6)?,
                    occurred_at,
                    metadata: row.try_get(8)?,
                })
            })
            .collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        let full = rows.len() as i64 >= limit;
        let next = if full { rows.last().map(|row| row.event_id) } else { end };
        Ok(Step { rows, next })
    }
}
