//! Bringing a database's schema up to date, safely from several processes at once.
//!
//! Each migration is one transaction together with the row that records it, so a process that is killed half-way
//! leaves nothing half done, and the next run goes on where it stopped. One session lock lets a single process work.
//!
//! Neither that lock nor a table's is ever queued for: a migration that waits behind somebody's long transaction makes
//! every writer queue behind the migration. So `lock_timeout` is short, and what could not be had is tried again until
//! the caller's patience ends.
//!
//! What this does not do: undo migrations, create databases or roles, or run at the start of a service. Services ask
//! [`standing::Standing`] whether they can work, and say which command to run.

pub mod standing;

use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError as SqlxError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};

use crate::database_url::DatabaseUrl;

/// The oldest PostgreSQL that has what we need (`in_hot_standby`, `idle_session_timeout`).
pub const OLDEST_POSTGRES: i32 = 15;

/// How long a migration may wait for a lock before it gives way to the writers behind it.
const LOCK_TIMEOUT: &str = "2s";
const PAUSE: Duration = Duration::from_millis(500);
/// "aftercm" as a number: one migrating process per database.
const MIGRATING: i64 = 0x0061_6674_6572_636d;

/// The schema that a database should have: which migrations, for whom, and how they are run.
pub struct Schema {
    /// The migrations that this build knows.
    pub migrations: &'static Migrator,
    /// The command that runs them, for messages.
    pub command: &'static str,
    /// The setting that names the database, for messages.
    pub setting: &'static str,
    /// The roles that the migrations grant rights to.
    pub roles: &'static [&'static str],
    /// Those of the roles that may read which migrations are in.
    pub readers: &'static [&'static str],
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The migrations applied by this run.
    pub applied: Vec<i64>,
    /// The newest migration that is in now.
    pub newest: i64,
}

/// Why a run did not bring the schema up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server is older than [`OLDEST_POSTGRES`].
    #[error("the server is PostgreSQL {0}, and {OLDEST_POSTGRES} is the oldest that works; upgrade it")]
    PostgresTooOld(String),
    /// The server is a standby.
    #[error("{0} is a standby and can't be changed; point {1} at the primary")]
    Standby(String, &'static str),
    /// The cluster lacks roles.
    #[error("the roles {0} do not exist; run `psql -d postgres -f migrations/roles.sql` once as a superuser")]
    MissingRoles(String),
    /// The role may not do what migrations need.
    #[error(
        "the role {role} lacks rights in the database {dbname} ({found}). Run as the database's owner \
         (aftercommit_owner), or: ALTER DATABASE {dbname} OWNER TO {role}; and, where it exists already, \
         ALTER SCHEMA aftercommit OWNER TO {role};"
    )]
    MissingRights {
        /// Who tried.
        role: String,
        /// Where.
        dbname: String,
        /// What was missing.
        found: String,
    },
    /// A migration in the database is not the one of that number in this build.
    #[error(
        "migration {0} in the database is not the one that this build knows: either {1} points at another database, \
         or the migration was changed after it ran"
    )]
    Mismatch(i64, &'static str),
    /// The database asks for a newer build.
    #[error("the database needs a build that knows migration {0}; this one is older: upgrade it")]
    BinaryTooOld(i64),
    /// A lock could not be had in time.
    #[error(
        "gave up after {0:?} without a lock on {1}; nothing is half done. Look for long transactions in \
         pg_stat_activity, then run again"
    )]
    Impatient(Duration, &'static str),
    /// Anything else that the server or the connection reported.
    #[error("{context}: {source}")]
    Database {
        /// What was being done.
        context: String,
        /// What was reported. Its `Display` holds no DETAIL, which may quote data.
        source: sqlx::Error,
    },
}

impl MigrateError {
    /// The exit code of a command that ends with this error: 3 when the state refuses it, 1 when work failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Impatient(..) | Self::Database { .. } => 1,
            _ => 3,
        }
    }
}

/// Applies the migrations that are missing. `patience` bounds the time spent on waiting for locks.
///
/// # Errors
/// As [`MigrateError`] says; migrations that were applied before the error stay applied.
pub async fn run(url: &DatabaseUrl, schema: &Schema, patience: Duration) -> Result<Report, MigrateError> {
    let options = url.connect_options("aftercommit migrate");
    let mut connection = connect(options, url).await?;
    let result = run_on(&mut connection, url, schema, patience).await;
    // Also releases the lock. A connection that is already broken can't be closed any better.
    let _ = connection.close().await;
    result
}

async fn connect(options: PgConnectOptions, url: &DatabaseUrl) -> Result<PgConnection, MigrateError> {
    PgConnection::connect_with(&options)
        .await
        .map_err(|source| MigrateError::Database { context: format!("can't connect to {url}"), source })
}

async fn run_on(
    connection: &mut PgConnection,
    url: &DatabaseUrl,
    schema: &Schema,
    patience: Duration,
) -> Result<Report, MigrateError> {
    let started = Instant::now();
    let fault = |source| classify(source, url);

    check_server(connection, url, schema).await?;
    connection.execute(sqlx::AssertSqlSafe(session_settings())).await.map_err(fault)?;
    take_turn(connection, url, started, patience).await?;
    check_rights(connection, url, schema).await?;

    let before = loop {
        match prepare_bookkeeping(connection, schema).await {
            Err(error) if is_lock_timeout(&error) => wait(started, patience, "the schema").await?,
            other => break other.map_err(fault)?,
        }
    };
    let known = standing::newest_known(schema);
    let oldest: i64 = sqlx::query_scalar(OLDEST_BINARY).fetch_one(&mut *connection).await.map_err(fault)?;
    if known < oldest {
        return Err(MigrateError::BinaryTooOld(oldest));
    }

    let mut migrator = Migrator::with_migrations(schema.migrations.iter().cloned().collect());
    migrator.dangerous_set_table_name(standing::TABLE);
    // An older build must run on a newer schema; whether it may is decided above. The lock is held already.
    migrator.set_ignore_missing(true).set_locking(false);
    loop {
        match migrator.run_direct(None, connection, false).await {
            Ok(()) => break,
            Err(SqlxError::Execute(error) | SqlxError::ExecuteMigration(error, _)) if is_lock_timeout(&error) => {
                wait(started, patience, "a table").await?;
            }
            Err(SqlxError::Execute(error)) => return Err(fault(error)),
            Err(SqlxError::ExecuteMigration(error, version)) => {
                return Err(match classify(error, url) {
                    MigrateError::Database { source, .. } => {
                        MigrateError::Database { context: format!("migration {version} failed"), source }
                    }
                    other => other,
                });
            }
            Err(SqlxError::VersionMismatch(version)) => return Err(MigrateError::Mismatch(version, schema.setting)),
            Err(other) => {
                let source = sqlx::Error::Migrate(Box::new(other));
                return Err(MigrateError::Database { context: "can't migrate".into(), source });
            }
        }
    }

    let after: Vec<i64> = sqlx::query_scalar(standing::APPLIED).fetch_all(&mut *connection).await.map_err(fault)?;
    let newest = after.iter().copied().max().unwrap_or_default();
    Ok(Report { applied: after.into_iter().filter(|version| !before.contains(version)).collect(), newest })
}

/// Purpose: the settings of the migrating session. It is never idle for a minute, so the server may end it then:
/// a process whose machine vanished must not keep the lock. A migration itself may take its time.
fn session_settings() -> String {
    format!(
        "SET search_path = aftercommit;
         SET synchronous_commit = 'on';
         SET client_min_messages = 'warning';
         SET lock_timeout = '{LOCK_TIMEOUT}';
         SET statement_timeout = 0;
         SET idle_session_timeout = '60s';
         SET idle_in_transaction_session_timeout = '60s';
         SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
    )
}

/// Purpose: who and where we are. `in_hot_standby` is asked apart, because older servers do not know it.
const SERVER: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_version')";

/// Purpose: one migrating process at a time, without queueing: a waiting statement would hold a snapshot.
const TRY_TURN: &str = "SELECT pg_try_advisory_lock($1)";

/// Purpose: the roles that are missing, whether the database is ours, and its owner's name.
const ROLES: &str = "
SELECT (SELECT coalesce(string_agg(name, ', '), '')
          FROM unnest($1::text[]) AS name
         WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)),
       pg_has_role(datdba, 'USAGE'),
       pg_get_userbyid(datdba)
  FROM pg_database
 WHERE datname = current_database()";

/// Purpose: which of the readers may not yet read the bookkeeping. A grant that is there already is not repeated,
/// because it would write to the catalogue.
const READERS_TO_GRANT: &str = "
SELECT name
  FROM unnest($1::text[]) AS name
 WHERE NOT has_table_privilege(name, 'aftercommit.migrations', 'SELECT')
    OR NOT has_table_privilege(name, 'aftercommit.min_binary', 'SELECT')";

/// Purpose: the migration that a build must know to work with this schema. A migration that older builds can't live
/// with raises it: UPDATE aftercommit.min_binary SET migration = its own number.
const OLDEST_BINARY: &str = "SELECT migration FROM aftercommit.min_binary";

/// Purpose: the tables of the bookkeeping, before the first migration.
const BOOKKEEPING: &str = "
CREATE SCHEMA IF NOT EXISTS aftercommit;
CREATE TABLE IF NOT EXISTS aftercommit.migrations (
    version        bigint      NOT NULL PRIMARY KEY,
    description    text        NOT NULL,
    installed_on   timestamptz NOT NULL DEFAULT now(),
    success        boolean     NOT NULL,
    checksum       bytea       NOT NULL,
    execution_time bigint      NOT NULL
);
CREATE TABLE IF NOT EXISTS aftercommit.min_binary (
    only_row  boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row),
    migration bigint  NOT NULL
);
INSERT INTO aftercommit.min_binary (migration) VALUES (0) ON CONFLICT DO NOTHING";

async fn check_server(connection: &mut PgConnection, url: &DatabaseUrl, schema: &Schema) -> Result<(), MigrateError> {
    let fault = |source| classify(source, url);
    let (number, version): (i32, String) = sqlx::query_as(SERVER).fetch_one(&mut *connection).await.map_err(fault)?;
    if number < OLDEST_POSTGRES * 10_000 {
        return Err(MigrateError::PostgresTooOld(version));
    }
    let standby: String = sqlx::query_scalar("SHOW in_hot_standby").fetch_one(connection).await.map_err(fault)?;
    if standby == "on" {
        return Err(MigrateError::Standby(url.redacted(), schema.setting));
    }
    Ok(())
}

async fn take_turn(
    connection: &mut PgConnection,
    url: &DatabaseUrl,
    started: Instant,
    patience: Duration,
) -> Result<(), MigrateError> {
    loop {
        let turn = sqlx::query_scalar(TRY_TURN).bind(MIGRATING).fetch_one(&mut *connection).await;
        if turn.map_err(|source| classify(source, url))? {
            return Ok(());
        }
        wait(started, patience, "the turn of another migrating process").await?;
    }
}

async fn check_rights(connection: &mut PgConnection, url: &DatabaseUrl, schema: &Schema) -> Result<(), MigrateError> {
    let answer = sqlx::query_as(ROLES).bind(schema.roles).fetch_one(connection).await;
    let (missing, is_owner, owner): (String, bool, String) = answer.map_err(|source| classify(source, url))?;
    if !missing.is_empty() {
        return Err(MigrateError::MissingRoles(missing));
    }
    if !is_owner {
        return Err(missing_rights(url, format!("its owner is {owner}")));
    }
    Ok(())
}

/// Returns the migrations that are in already.
async fn prepare_bookkeeping(connection: &mut PgConnection, schema: &Schema) -> Result<Vec<i64>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    transaction.execute(BOOKKEEPING).await?;
    let readers: Vec<String> =
        sqlx::query_scalar(READERS_TO_GRANT).bind(schema.readers).fetch_all(&mut *transaction).await?;
    for reader in readers {
        // Role names are constants of ours.
        let grant = format!("GRANT SELECT ON aftercommit.migrations, aftercommit.min_binary TO {reader}");
        transaction.execute(sqlx::AssertSqlSafe(grant)).await?;
    }
    let applied = sqlx::query_scalar(standing::APPLIED).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(applied)
}

async fn wait(started: Instant, patience: Duration, what: &'static str) -> Result<(), MigrateError> {
    if started.elapsed() + PAUSE > patience {
        return Err(MigrateError::Impatient(patience, what));
    }
    tracing::info!("waiting for {what}");
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    // lock_not_available and deadlock_detected
    matches!(standing::sqlstate(error).as_deref(), Some("55P03" | "40P01"))
}

fn classify(source: sqlx::Error, url: &DatabaseUrl) -> MigrateError {
    match source.as_database_error() {
        // insufficient_privilege
        Some(error) if error.code().as_deref() == Some("42501") => missing_rights(url, error.message().to_owned()),
        _ => MigrateError::Database { context: format!("the database {url}"), source },
    }
}

fn missing_rights(url: &DatabaseUrl, found: String) -> MigrateError {
    MigrateError::MissingRights { role: url.user.clone(), dbname: url.dbname.clone(), found }
}
