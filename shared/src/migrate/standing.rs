//! Whether a service can work with the schema it finds, and the words for when it can't.
//!
//! A service never exits over this: it waits, unready, and goes on by itself once the schema is there. The decision
//! is pure; both binaries ask with their own driver ([`STANDING`]).

use super::Schema;

/// Where it is recorded which migrations are in.
pub const TABLE: &str = "aftercommit.migrations";

/// Purpose: which migrations are in.
pub const APPLIED: &str = "SELECT version FROM aftercommit.migrations WHERE success ORDER BY version";

/// Purpose: which migrations are in, and the one that a build must know, as one row.
pub const STANDING: &str = "
SELECT ARRAY(SELECT version FROM aftercommit.migrations WHERE success ORDER BY version),
       (SELECT migration FROM aftercommit.min_binary)";

/// Whether this build and a database fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Every migration that this build knows is in.
    Fits,
    /// Migrations are missing.
    SchemaTooOld {
        /// Which.
        missing: Vec<i64>,
        /// The command that applies them.
        command: &'static str,
    },
    /// The schema has moved on to where this build can't follow.
    BinaryTooOld {
        /// The migration that a build must know.
        needed: i64,
    },
}

impl Standing {
    /// Compares what is in with what this build knows.
    pub fn of(schema: &Schema, applied: &[i64], min_binary: i64) -> Self {
        if newest_known(schema) < min_binary {
            return Self::BinaryTooOld { needed: min_binary };
        }
        let known = schema.migrations.iter().map(|migration| migration.version);
        let missing: Vec<i64> = known.filter(|version| !applied.contains(version)).collect();
        if missing.is_empty() { Self::Fits } else { Self::SchemaTooOld { missing, command: schema.command } }
    }

    /// What an error with this SQLSTATE to [`STANDING`] means, if it means that nothing has been migrated yet: the
    /// table or schema is not there, or not yet granted.
    pub fn of_error(schema: &Schema, sqlstate: &str) -> Option<Self> {
        // undefined_table, invalid_schema_name, insufficient_privilege
        matches!(sqlstate, "42P01" | "3F000" | "42501").then(|| Self::of(schema, &[], 0))
    }

    /// Asks over sqlx.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ask(schema: &Schema, executor: impl sqlx::PgExecutor<'_>) -> Result<Self, sqlx::Error> {
        match sqlx::query_as(STANDING).fetch_one(executor).await {
            Ok((applied, min_binary)) => {
                let applied: Vec<i64> = applied;
                let min_binary: Option<i64> = min_binary;
                Ok(Self::of(schema, &applied, min_binary.unwrap_or_default()))
            }
            Err(error) => sqlstate(&error).and_then(|code| Self::of_error(schema, &code)).ok_or(error),
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fits => f.write_str("the schema is up to date"),
            Self::SchemaTooOld { missing, command } => {
                let (count, them) = (missing.len(), if missing.len() == 1 { "migration is" } else { "migrations are" });
                write!(f, "{count} {them} missing; run `{command}`")
            }
            Self::BinaryTooOld { needed } => {
                write!(f, "the database needs a build that knows migration {needed}; this one is older: upgrade it")
            }
        }
    }
}

pub(super) fn newest_known(schema: &Schema) -> i64 {
    schema.migrations.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The server's error code, where the error is the server's.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::SqlSafeStr;
    use sqlx::migrate::{Migration, MigrationType, Migrator};
    use std::sync::LazyLock;

    static TWO: LazyLock<Migrator> = LazyLock::new(|| {
        let migration =
            |version| Migration::new(version, "x".into(), MigrationType::Simple, "SELECT 1".into_sql_str(), false);
        Migrator::with_migrations(vec![migration(1), migration(2)])
    });

    fn schema() -> Schema {
        Schema { migrations: &TWO, command: "api migrate", setting: "DATABASE_URL", roles: &[], readers: &[] }
    }

    #[test]
    fn a_newer_schema_fits_until_it_says_otherwise() {
        assert_eq!(Standing::of(&schema(), &[1, 2], 0), Standing::Fits);
        assert_eq!(Standing::of(&schema(), &[1, 2, 3], 2), Standing::Fits);
        assert_eq!(Standing::of(&schema(), &[1, 2, 3], 3), Standing::BinaryTooOld { needed: 3 });
    }

    #[test]
    fn an_older_schema_names_the_command() {
        let standing = Standing::of(&schema(), &[1], 0);
        assert_eq!(standing.to_string(), "1 migration is missing; run `api migrate`");
        let nothing = Standing::of_error(&schema(), "42P01").expect("not migrated");
        assert_eq!(nothing.to_string(), "2 migrations are missing; run `api migrate`");
        assert_eq!(Standing::of_error(&schema(), "57P01"), None);
    }
}
