//! Storing jobs the fast way: `COPY … FROM STDIN (FORMAT binary)`.
//!
//! PostgreSQL puts copied rows into the table page by page, with one record of WAL a page and without asking for each row
//! whether it is there already. A row that is there is an error of the whole transaction, so this is for jobs that are
//! expected to be new, and for callers that can [store them otherwise](super::store) when they are not.
//!
//! The stream is PostgreSQL's documented format: a header, per row the number of its fields and each with its length, and
//! an end mark. It is written straight from the jobs into one buffer, which is sent whenever it is full.

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio_postgres::{CopyInSink, Statement, Transaction};

use super::store::NewJob;

/// `copy_jobs`: stores jobs; one that is there already is an error.
pub const COPY: &str = "
    COPY jobs (job_id, event_id, handler, name, generation, kind, args, metadata, occurred_at, expires_at,
               max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
    FROM STDIN (FORMAT binary)";

/// How many columns [`COPY`] names.
const FIELDS: i16 = 15;

/// The signature, no flags, no header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// In place of a row: there are no more.
const END: i16 = -1;

/// In place of a field's length: it is null.
const NULL: i32 = -1;

/// The version of `jsonb` on the wire.
const JSONB: u8 = 1;

/// Bytes to a message: some hundred rows, so that the server is at work on the first while the next are written.
const MESSAGE: usize = 64 << 10;

/// Stores jobs in the caller's transaction. Returns how many there were.
///
/// # Errors
/// Whatever PostgreSQL says: above all that a job is there already.
pub async fn copy(
    transaction: &Transaction<'_>,
    statement: &Statement,
    jobs: &[NewJob],
) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(transaction.copy_in(statement).await?);
    let sink: &mut std::pin::Pin<&mut CopyInSink<Bytes>> = &mut sink;
    let mut buffer = BytesMut::with_capacity(MESSAGE + MESSAGE / 4);
    buffer.put_slice(HEADER);
    for new in jobs {
        row(&mut buffer, new);
        if buffer.len() >= MESSAGE {
            sink.send(buffer.split().freeze()).await?;
            buffer.reserve(MESSAGE + MESSAGE / 4);
        }
    }
    buffer.put_i16(END);
    sink.send(buffer.freeze()).await?;
    sink.as_mut().finish().await
}

/// In the order of [`COPY`]'s columns.
fn row(buffer: &mut BytesMut, new: &NewJob) {
    let NewJob { job_id, event, handler, generation, job, .. } = new;
    buffer.put_i16(FIELDS);
    field(buffer, job_id.as_bytes());
    field(buffer, event.event_id.as_bytes());
    field(buffer, handler.as_bytes());
    field(buffer, job.name.as_bytes());
    field(buffer, &generation.to_be_bytes());
    field(buffer, job.kind.as_bytes());
    jsonb(buffer, job.args.get());
    field(buffer, new.metadata().get().as_bytes());
    field(buffer, &microseconds(event.occurred_at).to_be_bytes());
    match new.expires_at() {
        Some(expires_at) => field(buffer, &microseconds(expires_at).to_be_bytes()),
        None => buffer.put_i32(NULL),
    }
    field(buffer, &job.retry.max_attempts.to_be_bytes());
    for number in [job.retry.initial, job.retry.multiplier, job.retry.max_interval, job.retry.jitter] {
        field(buffer, &number.to_be_bytes());
    }
}

fn field(buffer: &mut BytesMut, bytes: &[u8]) {
    length(buffer, bytes.len());
    buffer.put_slice(bytes);
}

fn jsonb(buffer: &mut BytesMut, text: &str) {
    length(buffer, text.len() + 1);
    buffer.put_u8(JSONB);
    buffer.put_slice(text.as_bytes());
}

fn length(buffer: &mut BytesMut, bytes: usize) {
    // A field beyond what the format can say is refused by the server, as the row it stands in.
    buffer.put_i32(i32::try_from(bytes).unwrap_or(i32::MAX));
}

/// A time as PostgreSQL keeps it: microseconds since the year 2000.
fn microseconds(time: OffsetDateTime) -> i64 {
    const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);
    let seconds = time.unix_timestamp() - EPOCH.unix_timestamp();
    seconds * 1_000_000 + i64::from(time.microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::types::{ToSql, Type};

    #[test]
    fn times_are_written_as_the_driver_writes_them() {
        let times = [
            OffsetDateTime::UNIX_EPOCH,
            datetime!(2000-01-01 00:00 UTC),
            datetime!(1999-12-31 23:59:59.999999 UTC),
            datetime!(2026-11-24 15:00:00.123456 +02:00),
            datetime!(9999-01-01 00:00 UTC),
        ];
        for time in times {
            let mut expected = BytesMut::new();
            time.to_sql(&Type::TIMESTAMPTZ, &mut expected).unwrap();
            assert_eq!(microseconds(time).to_be_bytes(), expected[..], "{time}");
        }
    }
}
