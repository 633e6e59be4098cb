//! `xid8`, `pg_snapshot`, `xid` and times on the wire.

use std::error::Error;

use bytes::{Buf, BufMut, BytesMut};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::window::{Snapshot, TransactionId};

type Result<T> = std::result::Result<T, Box<dyn Error + Sync + Send>>;

impl<'a> FromSql<'a> for TransactionId {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Self> {
        Ok(Self(raw.try_get_u64()?))
    }

    accepts!(XID8);
}

impl ToSql for TransactionId {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull> {
        out.put_u64(self.0);
        Ok(IsNull::No)
    }

    accepts!(XID8);
    to_sql_checked!();
}

/// Count, xmin, xmax, then the ids in progress (`pg_snapshot_send`).
impl<'a> FromSql<'a> for Snapshot {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Self> {
        let count = raw.try_get_u32()?;
        let _xmin = raw.try_get_u64()?;
        let xmax = TransactionId(raw.try_get_u64()?);
        let xip = (0..count).map(|_| Ok(TransactionId(raw.try_get_u64()?))).collect::<Result<_>>()?;
        Ok(Self::new(xmax, xip))
    }

    accepts!(PG_SNAPSHOT);
}

impl ToSql for Snapshot {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull> {
        out.put_u32(u32::try_from(self.xip().len())?);
        out.put_u64(self.xmin().0);
        out.put_u64(self.xmax().0);
        for id in self.xip() {
            out.put_u64(id.0);
        }
        Ok(IsNull::No)
    }

    accepts!(PG_SNAPSHOT);
    to_sql_checked!();
}

/// When a writer says that something happened. Any time that PostgreSQL can hold, infinity among them, is read as one that
/// everything here can count with: from 2000 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub OffsetDateTime);

impl Moment {
    /// The first one, where PostgreSQL's own count begins.
    const FIRST: OffsetDateTime = datetime!(2000-01-01 0:00 UTC);
    /// The last one.
    const LAST: OffsetDateTime = datetime!(9999-01-01 0:00 UTC);
}

/// Microseconds since 2000 (`timestamptz_send`).
impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Self> {
        let since = Duration::microseconds(raw.try_get_i64()?);
        Ok(Self(Self::FIRST.saturating_add(since).clamp(Self::FIRST, Self::LAST)))
    }

    accepts!(TIMESTAMPTZ);
}

/// `xid`: the low 32 bits of a transaction id, as in a row's `xmin`.
#[derive(Clone, Copy, Debug)]
pub struct Xid(pub u32);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Self> {
        Ok(Self(raw.try_get_u32()?))
    }

    accepts!(XID);
}
