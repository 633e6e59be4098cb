//! The jobs database: the schema, the rights, what is paused, and what died.

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::Standing;
use tokio_postgres::Client;

use super::rights::Rights;
use super::{Limits, Notes, server, session_name};
use crate::databases::PATIENCE;
use crate::operate::pauses;
use crate::postgres::{self, Error, within};
use crate::schema;

/// What the relay does to the tables at its heart. Others are asked for by what they are for.
const NEEDED: &[(&str, &[&str])] = &[
    ("aftercommit.jobs", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("aftercommit.job_attempts", &["SELECT", "INSERT", "DELETE"]),
    ("aftercommit.processes", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("aftercommit.lane_cursors", &["SELECT", "UPDATE"]),
    ("aftercommit.lane_checkpoints", &["SELECT", "INSERT", "DELETE"]),
    ("aftercommit.history_moves", &["SELECT", "INSERT"]),
    ("aftercommit.handlers", &["SELECT", "INSERT"]),
    ("aftercommit.dispatch_failures", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("aftercommit.operator_actions", &["SELECT", "INSERT", "UPDATE"]),
    ("aftercommit.pauses", &["SELECT", "INSERT", "DELETE"]),
];

/// `gone`: processes on record as delivering that have no session here, and what they hold. They are told apart by their
/// name, which relays on two machines may share.
const GONE: &str = "
    SELECT process.name, process.lease,
           (SELECT count(*) FROM jobs WHERE state = 'running' AND claimed_by = process.process_id)
      FROM processes AS process
     WHERE NOT EXISTS (SELECT
                         FROM pg_stat_activity AS session
                        WHERE session.datname = current_database()
                          AND session.application_name = process.name)
     ORDER BY process.started_at
     LIMIT 20";

/// `bloat`: dead rows among the jobs.
const BLOAT: &str = "
    SELECT n_live_tup, n_dead_tup
      FROM pg_stat_user_tables
     WHERE relid = 'aftercommit.jobs'::regclass";

/// `moves`: how often the application database's history moved within a week, and the last reason.
const MOVES: &str = "
    SELECT count(*), max(moved_at)::text, (array_agg(reason ORDER BY moved_at DESC))[1]
      FROM history_moves
     WHERE moved_at > now() - interval '7 days'";

pub(super) async fn examine(url: &DatabaseUrl, limits: &Limits) -> Notes {
    let mut notes = Notes::new("jobs database");
    let client = match postgres::jobs_listener(url, &session_name(), |_| {}).await {
        Ok(client) => client,
        Err(Error::TransactionPooler) => {
            notes.problem(
                "pooler",
                "a transaction pooler stands before it: lanes and LISTEN need a session of their own",
                "Point JOBS_DATABASE_URL at PostgreSQL itself, or at a pool in session mode",
            );
            return notes;
        }
        Err(error) => {
            notes.problem(
                "connection",
                format!("{}: {error}", url.redacted()),
                "Check JOBS_DATABASE_URL, that the server runs, and that pg_hba.conf lets the role in",
            );
            return notes;
        }
    };
    notes.ok("connection", url.redacted());
    notes.ok("pooler", "no transaction pooler stands before it");
    server::examine(&client, limits, &mut notes).await;
    match within(PATIENCE, schema::standing(&client)).await {
        Ok(Standing::Fits) => notes.ok("schema", "every migration that this build knows is in"),
        Ok(Standing::BinaryTooOld { needed }) => {
            notes.problem(
                "schema",
                format!("this build is too old: the schema needs migration {needed}"),
                "Upgrade the relay",
            );
            return notes;
        }
        Ok(other) => {
            notes.problem("schema", other.to_string(), "Run `relay migrate` as the owner");
            return notes;
        }
        Err(error) => {
            notes.problem("schema", format!("can't be looked at: {error}"), "Run `relay migrate` as the owner");
            return notes;
        }
    }
    let asked = rights(&client, &mut notes).await;
    notes.keep("rights", asked);
    let asked = state(&client, &mut notes).await;
    notes.keep("state", asked);
    notes
}

async fn rights(client: &Client, notes: &mut Notes) -> Result<(), Error> {
    let rights = Rights::ask(client).await?;
    for (table, needed) in NEEDED {
        let missing = rights.missing(table, needed);
        if !missing.is_empty() {
            notes.problem(
                "rights",
                format!("{} lacks {} on {table}", rights.name, missing.join(", ")),
                "Run `relay migrate` as the owner, which grants it to aftercommit_jobs, and connect as that role",
            );
        }
    }
    if rights.read_only {
        notes.problem(
            "read_only",
            format!("{} may only read", rights.name),
            format!("ALTER ROLE {} RESET default_transaction_read_only", rights.name),
        );
    }
    // Within its own schema the grants are the migrations' affair, but for those that would undo the trail of audit.
    let needs = |table: &str, privilege: &str| {
        table.starts_with("aftercommit.")
            && !matches!(privilege, "TRUNCATE" | "TRIGGER")
            && !(table == "aftercommit.operator_actions" && privilege == "DELETE")
    };
    rights.judge_excess(
        needs,
        "Connect as aftercommit_jobs, made by migrations/roles.sql, and revoke the rest; the owner is for migrations only",
        notes,
    );
    Ok(())
}

async fn state(client: &Client, notes: &mut Notes) -> Result<(), Error> {
    within(PATIENCE, client.batch_execute("SET search_path = aftercommit")).await?;
    for pause in pauses::list(client).await? {
        let remedy = format!(
            "`relay jobs resume{}` when that is over",
            match &pause.part {
                pauses::Part::Dispatch => " --dispatch".to_owned(),
                pauses::Part::Delivery(None) => String::new(),
                pauses::Part::Delivery(Some(kind)) => format!(" --kind {kind}"),
            }
        );
        notes.note("paused", pause.to_string(), remedy);
    }
    for row in within(PATIENCE, client.query(GONE, &[])).await? {
        let (name, lease, held): (&str, f64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        notes.warning(
            "dead relays",
            format!("{name:?} is on record as delivering and not connected; it holds {held} jobs"),
            format!("A relay that runs takes them over after {lease} s; start one, if none does"),
        );
    }
    let row = within(PATIENCE, client.query_one(BLOAT, &[])).await?;
    let (live, dead): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    match dead > 100_000 && dead > live {
        true => notes.warning(
            "bloat",
            format!("{dead} dead rows beside {live} live ones in the table of jobs"),
            "Find what keeps vacuum from cleaning up: an old transaction, a slot, or autovacuum that is too slow",
        ),
        false => notes.ok("bloat", format!("{dead} dead rows beside {live} live ones in the table of jobs")),
    }
    let row = within(PATIENCE, client.query_one(MOVES, &[])).await?;
    let (moves, last, reason): (i64, Option<&str>, Option<&str>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if moves > 0 {
        let (last, reason) = (last.unwrap_or_default(), reason.unwrap_or_default());
        notes.note(
            "history",
            format!("the application database's history moved within a week, last at {last}: {reason}"),
            "Run `relay verify` over that time; table history_moves names what was called off",
        );
    }
    Ok(())
}
