//! What both PostgreSQL servers are asked: their version, their role, their clock, what they do with a commit, and who
//! holds transactions open.

use time::OffsetDateTime;
use tokio_postgres::{Client, Row};

use super::{Limits, Notes};
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};
use crate::text::span;

/// The oldest version that the two schemas work on.
const OLDEST_VERSION: i32 = 150_000;

/// `server`: what the server is and how it is set.
const SERVER: &str = "
    SELECT current_setting('server_version'), current_setting('server_version_num')::integer,
           pg_is_in_recovery(),
           extract(epoch FROM clock_timestamp())::float8,
           current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
           current_setting('autovacuum') = 'on', current_setting('data_checksums') = 'on',
           age(datfrozenxid)::bigint,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
           current_setting('max_connections')::bigint
      FROM pg_database
     WHERE datname = current_database()";

/// `lax_commits`: where synchronous_commit is off: by the configuration, a database or a role.
const LAX_COMMITS: &str = "
    SELECT 'the configuration'
     WHERE (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit' AND source NOT IN ('user', 'database user', 'database', 'client')) = 'off'
     UNION ALL
    SELECT concat_ws(' in ', 'role ' || pg_get_userbyid(nullif(setrole, 0)), 'database ' || datname)
      FROM pg_db_role_setting
      LEFT JOIN pg_database ON pg_database.oid = setdatabase
     WHERE 'synchronous_commit=off' = ANY (setconfig)
       AND (setdatabase = 0 OR datname = current_database())";

/// `prepared`: prepared transactions of this database, with their age in seconds.
const PREPARED: &str = "
    SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8
      FROM pg_prepared_xacts
     WHERE database = current_database()
     ORDER BY prepared";

/// `transactions`: the oldest transactions that this role may see, with their age in seconds.
const TRANSACTIONS: &str = "
    SELECT pid, usename, coalesce(application_name, ''), extract(epoch FROM clock_timestamp() - xact_start)::float8
      FROM pg_stat_activity
     WHERE datname = current_database()
       AND xact_start IS NOT NULL
       AND pid <> pg_backend_pid()
     ORDER BY xact_start
     LIMIT 5";

/// Asks a server.
pub(super) async fn examine(client: &Client, limits: &Limits, notes: &mut Notes) {
    let sent = OffsetDateTime::now_utc();
    let server = within(PATIENCE, client.query_one(SERVER, &[])).await;
    let answered = OffsetDateTime::now_utc();
    if let Some(row) = notes.keep("server", server) {
        let read = server_findings(&row, sent, answered, limits, notes);
        notes.keep("server", read);
    }
    let lax = within(PATIENCE, client.query(LAX_COMMITS, &[])).await;
    if let Some(rows) = notes.keep("synchronous_commit", lax) {
        let places: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
        match places.is_empty() {
            true => notes.ok("synchronous_commit", "commits are on disk before they are answered"),
            false => notes.warning(
                "synchronous_commit",
                format!("synchronous_commit is off for {}", places.join(", ")),
                "A commit that was answered may be lost by a crash: set it to on there, unless that is wanted",
            ),
        }
    }
    let transactions = transactions(client, limits, notes).await;
    notes.keep("transactions", transactions);
}

fn server_findings(
    row: &Row,
    sent: OffsetDateTime,
    answered: OffsetDateTime,
    limits: &Limits,
    notes: &mut Notes,
) -> Result<(), tokio_postgres::Error> {
    let (version, number): (&str, i32) = (row.try_get(0)?, row.try_get(1)?);
    match number >= OLDEST_VERSION {
        true => notes.ok("version", format!("PostgreSQL {version}")),
        false => notes.problem("version", format!("PostgreSQL {version} is too old"), "Upgrade to 15 or newer"),
    }
    match row.try_get::<_, bool>(2)? {
        false => notes.ok("recovery", "a primary"),
        true => notes.problem(
            "recovery",
            "a standby, where nothing is written and running transactions are invisible",
            "Point the URL at the primary; if this server is promoted, relays go on by themselves",
        ),
    }
    clock(row.try_get(3)?, sent, answered, limits, notes);
    let switches = [
        ("fsync", 4, "a crash of the server can destroy the database", "Set fsync = on"),
        (
            "full_page_writes",
            5,
            "a crash of the server can tear pages",
            "Set full_page_writes = on, unless the file system writes pages whole",
        ),
        ("autovacuum", 6, "finished jobs and dead rows are never cleaned up", "Set autovacuum = on"),
    ];
    for (name, column, what, remedy) in switches {
        match row.try_get::<_, bool>(column)? {
            true => notes.ok(name, format!("{name} is on")),
            false => notes.problem(name, format!("{name} is off: {what}"), remedy),
        }
    }
    if !row.try_get::<_, bool>(7)? {
        notes.note("checksums", "data checksums are off", "Damage on disk goes unnoticed: see pg_checksums");
    }
    let age: i64 = row.try_get(8)?;
    if age > 1_500_000_000 {
        notes.problem(
            "wraparound",
            format!("the oldest transaction id is {age} transactions old"),
            "Find what keeps vacuum from freezing rows: an old transaction, a slot, a prepared transaction",
        );
    }
    let (connections, most): (i64, i64) = (row.try_get(9)?, row.try_get(10)?);
    if connections * 10 > most * 9 {
        notes.warning(
            "connections",
            format!("{connections} of {most} connections are taken"),
            "Raise max_connections, or put a pooler before the application database",
        );
    }
    Ok(())
}

fn clock(server: f64, sent: OffsetDateTime, answered: OffsetDateTime, limits: &Limits, notes: &mut Notes) {
    let seconds = |time: OffsetDateTime| time.unix_timestamp_nanos() as f64 / 1e9;
    let between = f64::midpoint(seconds(sent), seconds(answered));
    // The answer was written somewhere between the two.
    let unsure = (seconds(answered) - seconds(sent)) / 2.0;
    let difference = server - between;
    if difference.abs() > limits.clock.as_secs_f64() + unsure {
        let way = if difference > 0.0 { "ahead of" } else { "behind" };
        notes.warning(
            "clock",
            format!("its clock is {} {way} this machine's", span(difference.abs())),
            "Synchronise both by NTP. Leases and order don't hang on clocks; times in mails, expiry and lag do",
        );
    } else {
        notes.ok("clock", format!("its clock agrees with this machine's to {}", span(difference.abs().max(unsure))));
    }
}

async fn transactions(client: &Client, limits: &Limits, notes: &mut Notes) -> Result<(), Error> {
    let limit = limits.transaction.as_secs_f64();
    let mut any = false;
    for row in within(PATIENCE, client.query(PREPARED, &[])).await? {
        let (gid, age): (&str, f64) = (row.try_get(0)?, row.try_get(1)?);
        if age > limit {
            any = true;
            let gid = crate::text::one_line(gid, 60);
            notes.warning(
                "prepared",
                format!("the prepared transaction {gid:?} has waited for {}", span(age)),
                "COMMIT PREPARED or ROLLBACK PREPARED it: its events wait, and vacuum with them",
            );
        }
    }
    for row in within(PATIENCE, client.query(TRANSACTIONS, &[])).await? {
        let (pid, user): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
        let (name, age): (&str, f64) = (row.try_get(2)?, row.try_get(3)?);
        if age > limit {
            any = true;
            let name = crate::text::one_line(name, 60);
            notes.warning(
                "transactions",
                format!("session {pid} of {user} ({name}) has a transaction open for {}", span(age)),
                "Let it end, or end it with pg_terminate_backend: its own events wait, and vacuum with them",
            );
        }
    }
    if !any {
        notes.ok("transactions", format!("none that this role sees is open for longer than {}", span(limit)));
    }
    Ok(())
}
