//! The schema of the application database, and the command that brings it up to date.

use std::process::ExitCode;

use shared::migrate::{self, Schema};
use shared::telemetry;

use crate::config;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/app");

/// What this build expects to find.
pub static SCHEMA: Schema = Schema {
    migrations: &MIGRATIONS,
    command: "api migrate",
    setting: "DATABASE_URL",
    roles: &["aftercommit_owner", "aftercommit_api", "aftercommit_relay"],
    readers: &["aftercommit_api"],
};

/// Applies what is missing.
pub async fn migrate(config: config::Migrate) -> ExitCode {
    match migrate::run(&config.database_url, &SCHEMA, config.patience).await {
        Ok(report) => {
            tracing::info!(applied = ?report.applied, newest = report.newest, "the application database is up to date");
            ExitCode::SUCCESS
        }
        Err(error) => {
            telemetry::complain(&format!("api migrate: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_one_transaction() {
        assert!(MIGRATIONS.iter().all(|migration| !migration.no_tx));
    }
}
