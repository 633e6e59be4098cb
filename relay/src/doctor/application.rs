//! The application database: is the outbox there, whole, readable and read from the right place?

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::TABLE;
use tokio_postgres::Client;

use super::rights::Rights;
use super::{Limits, Notes, server, session_name};
use crate::databases::PATIENCE;
use crate::outbox::{self, Error as OutboxError};
use crate::postgres::{self, Error, within};
use crate::text::span;

const OUTBOX: &str = "aftercommit.outbox";

/// `columns`: every column that the relay reads. Asked for no row.
const COLUMNS: &str = "
    SELECT event_id, position, transaction_id, aftercommit.lane(aggregate_id), aggregate_type, aggregate_id, event_type,
           event_version, payload, metadata, occurred_at, durable_at_commit
      FROM aftercommit.outbox
     LIMIT 0";

/// `outbox`: its row security, the index that windows are read by, its size.
const TABLE_STATE: &str = "
    SELECT class.relrowsecurity,
           coalesce((SELECT bool_or(index.indisvalid)
                       FROM pg_index AS index
                      WHERE index.indrelid = class.oid
                        AND pg_get_indexdef(index.indexrelid)
                            LIKE '%lane(%aggregate_id%), transaction_id, \"position\") INCLUDE (aggregate_id)%'), false),
           greatest(class.reltuples, 0)::float8,
           pg_total_relation_size(class.oid)
      FROM pg_class AS class
     WHERE class.oid = 'aftercommit.outbox'::regclass";

/// `oldest`: the age of the event with the lowest id, which is the oldest where ids are time-ordered.
const OLDEST: &str = "
    SELECT (extract(epoch FROM clock_timestamp()) - extract(epoch FROM occurred_at))::float8
      FROM aftercommit.outbox
     ORDER BY event_id
     LIMIT 1";

pub(super) async fn examine(url: &DatabaseUrl, limits: &Limits) -> Notes {
    let mut notes = Notes::new("application database");
    let client = match postgres::application(url, &session_name()).await {
        Ok(client) => client,
        Err(error) => {
            notes.problem(
                "connection",
                format!("{}: {error}", url.redacted()),
                "Check DATABASE_URL, that the server runs, and that pg_hba.conf lets the role in",
            );
            return notes;
        }
    };
    notes.ok("connection", url.redacted());
    pooler(url, &mut notes).await;
    server::examine(&client, limits, &mut notes).await;
    if !readable(&client, &mut notes).await {
        return notes;
    }
    let asked = rights(&client, &mut notes).await;
    notes.keep("rights", asked);
    let asked = outbox(&client, limits, &mut notes).await;
    notes.keep("outbox", asked);
    notes
}

/// A transaction pooler does not keep what a session is given at its start: then LISTEN is deaf as well.
async fn pooler(url: &DatabaseUrl, notes: &mut Notes) {
    match postgres::application_session(url, &session_name(), &[]).await {
        Ok((_, false)) => notes.note(
            "pooler",
            "a transaction pooler stands before it: dispatch works, but plans anew each time, and notifications are not heard",
            "Events are found by polling, within a second; connect to PostgreSQL itself to hear of them at once",
        ),
        Ok(_) => notes.ok("pooler", "no transaction pooler stands before it"),
        Err(error) => drop(notes.keep::<(), _>("pooler", Err(error))),
    }
}

async fn readable(client: &Client, notes: &mut Notes) -> bool {
    let Err(error) = within(PATIENCE, client.query(COLUMNS, &[])).await else {
        notes.ok("schema", "the outbox is there, with every column that the relay reads");
        return true;
    };
    let code = match &error {
        Error::Postgres(error) => error.code().map(|code| code.code().to_owned()).unwrap_or_default(),
        _ => String::new(),
    };
    match code.as_str() {
        "42P01" | "3F000" => notes.problem("schema", "there is no outbox", "Run `api migrate` as the owner"),
        "42703" => notes.problem(
            "schema",
            format!("the outbox is of another version: {error}"),
            "Run `api migrate` as the owner",
        ),
        "42501" => notes.problem(
            "rights",
            format!("this role may not read the outbox: {error}"),
            "Run `api migrate` as the owner, which grants it to aftercommit_relay, and connect as that role",
        ),
        _ => notes.problem("schema", format!("the outbox can't be read: {error}"), "Look at the error"),
    }
    false
}

async fn rights(client: &Client, notes: &mut Notes) -> Result<(), Error> {
    let rights = Rights::ask(client).await?;
    let needs =
        |table: &str, privilege: &str| privilege == "SELECT" && (table == OUTBOX || table.starts_with(TABLE_PREFIX));
    rights.judge_excess(
        needs,
        "The relay needs SELECT on the outbox and nothing else: connect as aftercommit_relay, made by migrations/roles.sql, \
         and revoke the rest",
        notes,
    );
    if !rights.read_only {
        notes.note(
            "read_only",
            format!("{} may begin transactions that write", rights.name),
            format!(
                "ALTER ROLE {} SET default_transaction_read_only = 'on', as migrations/roles.sql does",
                rights.name
            ),
        );
    }
    Ok(())
}

/// The tables that say which migrations are in are for everybody who waits for them.
const TABLE_PREFIX: &str = "aftercommit.mi";

async fn outbox(client: &Client, limits: &Limits, notes: &mut Notes) -> Result<(), Error> {
    match outbox::glance(client, &[]).await {
        Ok(_) => notes.ok("subscription", "the outbox is no target of a subscription"),
        Err(OutboxError::Subscribed) => notes.problem(
            "subscription",
            "the outbox is filled by logical replication, in another order than it was written in",
            "Read from the database that applications write to; after an upgrade by replication, drop the subscription",
        ),
        // Told as the server's.
        Err(OutboxError::Standby) => {}
        Err(error) => drop(notes.keep::<(), _>("subscription", Err(error))),
    }
    let row = within(PATIENCE, client.query_one(TABLE_STATE, &[])).await?;
    match row.try_get::<_, bool>(0)? {
        false => notes.ok("row security", "the outbox has no row security"),
        true => notes.problem(
            "row security",
            "row security is on for the outbox: events could be hidden, so reading is refused",
            "ALTER TABLE aftercommit.outbox DISABLE ROW LEVEL SECURITY",
        ),
    }
    match row.try_get::<_, bool>(1)? {
        true => notes.ok("index", "the index that windows are read by is there"),
        false => notes.problem(
            "index",
            "there is no valid index on the lane, transaction_id and position: every look reads the whole outbox",
            "CREATE INDEX CONCURRENTLY outbox_window ON aftercommit.outbox \
             (aftercommit.lane(aggregate_id), transaction_id, position) INCLUDE (aggregate_id), or REINDEX it",
        ),
    }
    let (rows, bytes): (f64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let size = format!("about {rows:.0} events, {} MB", bytes / 1_048_576);
    let oldest = within(PATIENCE, client.query(OLDEST, &[])).await?;
    let oldest: Option<f64> = oldest.first().map(|row| row.try_get(0)).transpose()?;
    match oldest.filter(|age| *age > limits.retention.as_secs_f64()) {
        Some(age) => notes.warning(
            "growth",
            format!("{size}; the oldest is {} old", span(age)),
            "Run `api prune` regularly, from a timer",
        ),
        None => notes.ok(
            "growth",
            format!("{size}{}", oldest.map(|age| format!(", the oldest {} old", span(age))).unwrap_or_default()),
        ),
    }
    debug_assert!(TABLE.starts_with(TABLE_PREFIX));
    Ok(())
}
