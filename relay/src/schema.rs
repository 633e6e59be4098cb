//! The jobs database's migrations: applied by `relay migrate`, checked at start.

use shared::migrate::Schema;
use shared::migrate::standing::{STANDING, Standing};
use sqlx::migrate::Migrator;
use tokio_postgres::Client;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/jobs");

/// What the jobs database should look like.
pub static JOBS: Schema = Schema {
    migrations: &MIGRATIONS,
    command: "relay migrate",
    setting: "JOBS_DATABASE_URL",
    roles: &["aftercommit_owner", "aftercommit_jobs"],
    readers: &["aftercommit_jobs"],
};

/// Whether this build and the jobs database fit.
///
/// # Errors
/// When the database does not answer.
pub async fn standing(client: &Client) -> Result<Standing, tokio_postgres::Error> {
    match client.query_one(STANDING, &[]).await {
        Ok(row) => {
            let applied: Vec<i64> = row.try_get(0)?;
            let min_binary: Option<i64> = row.try_get(1)?;
            Ok(Standing::of(&JOBS, &applied, min_binary.unwrap_or_default()))
        }
        Err(error) => error.code().and_then(|code| Standing::of_error(&JOBS, code.code())).ok_or(error),
    }
}
