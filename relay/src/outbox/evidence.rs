//! Rows as evidence: which row of a window vouches for most, and which rows are still there.

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::types::{Moment, Xid};
use super::window::{TransactionId, inserter, vouched};
use super::{Error, PATIENCE, Range, Reading, Witness};
use crate::postgres::within;

/// A row that can be a witness, and up to which transaction id it vouches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The row.
    pub witness: Witness,
    /// See [`vouched`].
    pub vouched: TransactionId,
}

/// `witness`: the row of a window with the greatest transaction id: of those that began since the lower snapshot ($2 to $3,
/// finished in $4), and of those that were in progress in it and have ended ($5). Each is one step into the index, however
/// large the window.
pub const WITNESS: &str = "
    SELECT event_id, transaction_id, position, inserter
      FROM ((SELECT event_id, transaction_id, position, xmin AS inserter
               FROM aftercommit.outbox
              WHERE aftercommit.lane(aggregate_id) = $1
                AND transaction_id >= $2
                AND transaction_id <  $3
                AND pg_visible_in_snapshot(transaction_id, $4)
              ORDER BY aftercommit.lane(aggregate_id) DESC, transaction_id DESC
              LIMIT 1)
             UNION ALL
            (SELECT row.*
               FROM unnest($5::xid8[]) AS ended (transaction_id)
              CROSS JOIN LATERAL (
                    SELECT event_id, transaction_id, position, xmin AS inserter
                      FROM aftercommit.outbox AS row
                     WHERE aftercommit.lane(row.aggregate_id) = $1
                       AND row.transaction_id = ended.transaction_id
                     LIMIT 1) AS row)) AS greatest
     ORDER BY transaction_id DESC
     LIMIT 1";

/// `present`: which rows are there, one answer each, in order.
const PRESENT: &str = "
    SELECT EXISTS (SELECT
                     FROM aftercommit.outbox AS row
                    WHERE row.event_id       = witness.event_id
                      AND row.transaction_id = witness.transaction_id
                      AND row.position       = witness.position)
      FROM unnest($1::uuid[], $2::xid8[], $3::bigint[])
           WITH ORDINALITY AS witness (event_id, transaction_id, position, number)
     ORDER BY number";

/// `absent`: which events are not there.
const ABSENT: &str = "
    SELECT event_id
      FROM unnest($1::uuid[]) AS lost (event_id)
     WHERE NOT EXISTS (SELECT FROM aftercommit.outbox AS row WHERE row.event_id = lost.event_id)";

/// `newest`: events by id, from the newest down.
const NEWEST: &str = "
    SELECT event_id, occurred_at
      FROM aftercommit.outbox
     WHERE ($1::uuid IS NULL OR event_id < $1)
     ORDER BY event_id DESC
     LIMIT $2";

impl Reading<'_> {
    /// The row of a window with the greatest transaction id, as evidence. In a window of everything, rows with ids that
    /// this history has given out go first: they vouch for more.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn evidence(&self, range: &Range<'_>) -> Result<Option<Evidence>, Error> {
        if range.everything {
            let own = Range { everything: false, ..range.clone() };
            if let Some(evidence) = self.greatest(&own).await? {
                return Ok(Some(evidence));
            }
        }
        self.greatest(range).await
    }

    async fn greatest(&self, range: &Range<'_>) -> Result<Option<Evidence>, Error> {
        let (low, high, upper, ended) = range.bounds();
        let rows = within(
            PATIENCE,
            self.source.query(
                WITNESS,
                &[
                    (&range.lane, Type::INT2),
                    (&low, Type::XID8),
                    (&high, Type::XID8),
                    (&upper, Type::PG_SNAPSHOT),
                    (&ended, Type::XID8_ARRAY),
                ],
            ),
        )
        .await?;
        let evidence = |row: &Row| {
            let transaction_id = row.try_get(1)?;
            let Xid(xmin) = row.try_get(3)?;
            Ok::<_, tokio_postgres::Error>(Evidence {
                witness: Witness { event_id: row.try_get(0)?, transaction_id, position: row.try_get(2)? },
                vouched: vouched(transaction_id, inserter(xmin, range.xmax)),
            })
        };
        Ok(rows.first().map(evidence).transpose()?)
    }

    /// Which of these rows are there.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn present(&self, witnesses: &[Witness]) -> Result<Vec<bool>, Error> {
        let columns = Witnesses::new(witnesses.iter().copied().map(Some));
        let rows = within(
            PATIENCE,
            self.source.query(
                PRESENT,
                &[
                    (&columns.event_ids, Type::UUID_ARRAY),
                    (&columns.transaction_ids, Type::XID8_ARRAY),
                    (&columns.positions, Type::INT8_ARRAY),
                ],
            ),
        )
        .await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Those of these events that are not there.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn absent(&self, event_ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let rows = within(PATIENCE, self.source.query(ABSENT, &[(&event_ids, Type::UUID_ARRAY)])).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Events with their times, from the newest by id down, below an id.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub async fn newest(&self, before: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, OffsetDateTime)>, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&before, Type::UUID), (&(limit as i64), Type::INT8)];
        let rows = within(PATIENCE, self.source.query(NEWEST, &parameters)).await?;
        let event = |row: &Row| {
            let Moment(occurred_at) = row.try_get(1)?;
            Ok::<_, tokio_postgres::Error>((row.try_get(0)?, occurred_at))
        };
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }
}

/// Witnesses as columns, for `unnest`.
pub(super) struct Witnesses {
    pub(super) event_ids: Vec<Option<Uuid>>,
    pub(super) transaction_ids: Vec<Option<TransactionId>>,
    pub(super) positions: Vec<Option<i64>>,
}

impl Witnesses {
    pub(super) fn new(witnesses: impl Iterator<Item = Option<Witness>> + Clone) -> Self {
        Self {
            event_ids: witnesses.clone().map(|w| w.map(|w| w.event_id)).collect(),
            transaction_ids: witnesses.clone().map(|w| w.map(|w| w.transaction_id)).collect(),
            positions: witnesses.map(|w| w.map(|w| w.position)).collect(),
        }
    }
}
