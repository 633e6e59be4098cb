//! Chosen rows of the outbox, page by page: what replay reads.
//!
//! A page is bounded by the rows it passes over, not by the rows it finds, so that no statement runs long however few
//! are chosen out of however many. Its bound comes from an index alone. What is read is what has committed; windows and
//! cursors play no part here.

use std::pin::pin;

use futures_util::TryStreamExt;
use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream};
use uuid::Uuid;

use super::window::TransactionId;
use super::{Error, OutboxRow, PATIENCE, Reading, SLICE_BYTES, outbox_row};
use crate::postgres::within;

/// Rows that one page passes over at most.
pub const PAGE_ROWS: i64 = 10_000;

/// Which events are wanted; what is none wants all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `type/id`: the type ends at the first slash.
    pub aggregate: Option<String>,
    /// The event's type, one of these.
    pub types: Option<Vec<String>>,
    /// The event's time, from this on.
    pub from: Option<OffsetDateTime>,
    /// The event's time, before this.
    pub to: Option<OffsetDateTime>,
}

/// How the outbox is gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walk {
    /// All of it, in the order of the primary key.
    All(Option<Uuid>),
    /// The lane of one aggregate, in the order of its index.
    Lane(Option<(TransactionId, i64, Uuid)>),
}

/// A part of a walk.
#[derive(Debug)]
pub struct Page {
    /// The chosen rows.
    pub rows: Vec<OutboxRow>,
    /// Where to go on; none at the end.
    pub next: Option<Walk>,
}

/// A bound on one read, halved when rows turn out to be large, so that little is sent in vain.
#[derive(Clone, Copy, Debug)]
pub struct Limit(usize);

impl Limit {
    /// To begin with.
    pub const MOST: Self = Self(super::SLICE_ROWS);

    fn after(self, rows: usize, whole: bool) -> Self {
        Self(if whole { (self.0 * 2).min(Self::MOST.0) } else { rows.max(1) })
    }
}

/// `page_end`: the last row of a page by the primary key.
pub const PAGE_END: &str = "
    SELECT event_id
      FROM aftercommit.outbox
     WHERE ($1::uuid IS NULL OR event_id > $1)
     ORDER BY event_id
    OFFSET $2 - 1
     LIMIT 1";

/// `lane_page_end`: the last row of a page of an aggregate's lane.
pub const LANE_PAGE_END: &str = "
    SELECT transaction_id, position
      FROM aftercommit.outbox
     WHERE aftercommit.lane(aggregate_id) = aftercommit.lane(substr($1, strpos($1, '/') + 1))
       AND ($2::xid8 IS NULL OR (transaction_id, position, event_id) > ($2, $3, $4))
     ORDER BY transaction_id, position
    OFFSET $5 - 1
     LIMIT 1";

macro_rules! read {
    ($range:literal) => {
        concat!(
            "
    SELECT event_id, position, transaction_id, aggregate_type, aggregate_id, event_type, event_version,
           payload, metadata, occurred_at, durable_at_commit, aftercommit.lane(aggregate_id)
      FROM aftercommit.outbox
     WHERE ($1::text        IS NULL OR aggregate_type || '/' || aggregate_id = $1)
       AND ($2::text[]      IS NULL OR event_type = ANY ($2))
       AND ($3::timestamptz IS NULL OR occurred_at >= $3)
       AND ($4::timestamptz IS NULL OR occurred_at <  $4)",
            $range
        )
    };
}

/// `page`: the chosen rows of a page by the primary key.
pub const PAGE: &str = read!(
    "
       AND ($5::uuid IS NULL OR event_id >  $5)
       AND ($6::uuid IS NULL OR event_id <= $6)
     ORDER BY event_id
     LIMIT $7"
);

/// `lane_page`: the chosen rows of a page of an aggregate's lane.
pub const LANE_PAGE: &str = read!(
    "
       AND aftercommit.lane(aggregate_id) = aftercommit.lane(substr($1, strpos($1, '/') + 1))
       AND ($5::xid8 IS NULL OR (transaction_id, position, event_id) > ($5, $6, $7))
       AND ($8::xid8 IS NULL OR (transaction_id, position) <= ($8, $9))
     ORDER BY transaction_id, position, event_id
     LIMIT $10"
);

/// `by_id`: the chosen rows among some events.
pub const BY_ID: &str = read!(
    "
       AND event_id = ANY ($5)
     ORDER BY event_id
     LIMIT $6"
);

/// `present`: which of some events are in the outbox.
pub const PRESENT: &str = "
    SELECT event_id
      FROM aftercommit.outbox
     WHERE event_id = ANY ($1)";

type Parameters<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

impl Reading<'_> {
    /// The next page of a walk.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn page(&self, filter: &Filter, walk: &Walk, limit: &mut Limit) -> Result<Page, Error> {
        match walk {
            Walk::All(after) => self.primary_key_page(filter, *after, limit).await,
            Walk::Lane(after) => self.lane_page(filter, *after, limit).await,
        }
    }

    async fn primary_key_page(&self, filter: &Filter, after: Option<Uuid>, limit: &mut Limit) -> Result<Page, Error> {
        let end: Parameters<'_> = vec![(&after, Type::UUID), (&PAGE_ROWS, Type::INT8)];
        let end = self.one(PAGE_END, end).await?;
        let end: Option<Uuid> = end.map(|row| row.try_get(0)).transpose()?;
        let rows = limit.0 as i64;
        let mut parameters = filter.parameters();
        parameters.extend([(&after as _, Type::UUID), (&end as _, Type::UUID), (&rows as _, Type::INT8)]);
        let (rows, whole) = self.bounded(PAGE, parameters, limit).await?;
        let next = match rows.last() {
            Some(last) if !whole => Some(last.envelope.event_id),
            _ => end,
        };
        Ok(Page { rows, next: next.map(|after| Walk::All(Some(after))) })
    }

    async fn lane_page(
        &self,
        filter: &Filter,
        after: Option<(TransactionId, i64, Uuid)>,
        limit: &mut Limit,
    ) -> Result<Page, Error> {
        let (id, position, event_id) = (after.map(|a| a.0), after.map(|a| a.1), after.map(|a| a.2));
        let after_columns: [(&(dyn ToSql + Sync), Type); 3] =
            [(&id, Type::XID8), (&position, Type::INT8), (&event_id, Type::UUID)];
        let mut end: Parameters<'_> = vec![(&filter.aggregate, Type::TEXT)];
        end.extend(after_columns.clone());
        end.push((&PAGE_ROWS, Type::INT8));
        let end = self.one(LANE_PAGE_END, end).await?;
        let end_id: Option<TransactionId> = end.as_ref().map(|row| row.try_get(0)).transpose()?;
        let end_position: Option<i64> = end.as_ref().map(|row| row.try_get(1)).transpose()?;
        let rows = limit.0 as i64;
        let mut parameters = filter.parameters();
        parameters.extend(after_columns);
        parameters.extend([(&end_id as _, Type::XID8), (&end_position as _, Type::INT8), (&rows as _, Type::INT8)]);
        let (rows, whole) = self.bounded(LANE_PAGE, parameters, limit).await?;
        let next = match rows.last() {
            Some(last) if !whole => Some((last.transaction_id, last.envelope.position, last.envelope.event_id)),
            // Rows may share transaction and position after a move of history: all of them were in this page.
            _ => end_id.zip(end_position).map(|(id, position)| (id, position, Uuid::max())),
        };
        Ok(Page { rows, next: next.map(|after| Walk::Lane(Some(after))) })
    }

    /// The chosen rows among some events, ascending by id, as many as fit; the flag says whether these are all.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn by_id(
        &self,
        filter: &Filter,
        events: &[Uuid],
        limit: &mut Limit,
    ) -> Result<(Vec<OutboxRow>, bool), Error> {
        let rows = limit.0 as i64;
        let mut parameters = filter.parameters();
        parameters.extend([(&events as _, Type::UUID_ARRAY), (&rows as _, Type::INT8)]);
        self.bounded(BY_ID, parameters, limit).await
    }

    /// Which of some events are in the outbox.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn present_ids(&self, events: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let rows = within(PATIENCE, self.source.query(PRESENT, &[(&events, Type::UUID_ARRAY)])).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    async fn one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        Ok(within(PATIENCE, self.source.query(sql, &parameters)).await?.into_iter().next())
    }

    /// Rows up to the limit and about [`SLICE_BYTES`]; the flag says whether these are all.
    async fn bounded(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        limit: &mut Limit,
    ) -> Result<(Vec<OutboxRow>, bool), Error> {
        let rows_limit = limit.0;
        let read = async {
            let stream = self.source.stream(sql, parameters).await?;
            take(stream, rows_limit).await
        };
        let (rows, whole) = within(PATIENCE, read).await?;
        *limit = limit.after(rows.len(), whole || rows.len() == rows_limit);
        Ok((rows, whole))
    }
}

async fn take(stream: RowStream, limit: usize) -> Result<(Vec<OutboxRow>, bool), tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(row) = stream.try_next().await? {
        let row = outbox_row(&row, row.try_get(11)?)?;
        bytes += row.envelope.payload.get().len() + row.envelope.metadata.get().len();
        rows.push(row);
        if bytes >= SLICE_BYTES {
            return Ok((rows, false));
        }
    }
    let whole = rows.len() < limit;
    Ok((rows, whole))
}

impl Filter {
    pub(super) fn parameters(&self) -> Parameters<'_> {
        vec![
            (&self.aggregate, Type::TEXT),
            (&self.types, Type::TEXT_ARRAY),
            (&self.from, Type::TIMESTAMPTZ),
            (&self.to, Type::TIMESTAMPTZ),
        ]
    }
}
