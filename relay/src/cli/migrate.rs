//! `relay migrate`: the jobs database's schema, up to date. Safe to run from several processes at once.

use std::time::Duration;

use shared::migrate;
use shared::settings::Faults;
use shared::telemetry::complain;

use crate::config::JobsDatabaseArgs;
use crate::schema::JOBS;

/// How long to try for locks that others hold.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(args: JobsDatabaseArgs, mut faults: Faults) -> u8 {
    let url = args.read(&mut faults);
    if let Err(code) = super::check(faults) {
        return code;
    }
    let Some(url) = url else { return super::EXIT_SETTINGS };
    match migrate::run(&url, &JOBS, PATIENCE).await {
        Ok(report) => {
            tracing::info!(applied = ?report.applied, newest = report.newest, "the jobs database is up to date");
            0
        }
        Err(error) => {
            complain(&error.to_string());
            error.exit_code()
        }
    }
}
