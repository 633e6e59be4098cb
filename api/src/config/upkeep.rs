//! What the commands that keep the outbox in shape are told: they alone are given both databases.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shared::database_url::{self, DatabaseUrl};
use shared::settings::{self, Faults, Secret};
use shared::telemetry::Logging;

use super::{Settings, seconds};

/// How to prune.
#[derive(Args, Clone, Copy)]
pub struct PruneArgs {
    /// Count what would be deleted, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Whom to erase.
#[derive(Args, Clone)]
pub struct EraseArgs {
    /// The aggregate, such as user/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11
    #[arg(long, value_name = "TYPE/ID")]
    pub aggregate: String,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Both databases, for the commands that need them.
pub struct Databases {
    pub application: DatabaseUrl,
    pub jobs: DatabaseUrl,
}

/// What `api prune` needs.
pub struct Prune {
    pub databases: Databases,
    pub retention: Duration,
    pub dry_run: bool,
    pub json: bool,
    pub logging: Logging,
}

/// What `api erase` needs.
pub struct Erase {
    pub databases: Databases,
    pub aggregate: String,
    pub json: bool,
    pub logging: Logging,
}

impl Databases {
    fn read(
        application: (Option<Secret>, Option<PathBuf>),
        jobs: (Option<Secret>, Option<PathBuf>),
        faults: &mut Faults,
    ) -> Option<Self> {
        let application = super::database_url(application.0, application.1, faults);
        let name = "JOBS_DATABASE_URL";
        let jobs = settings::required_secret(name, jobs.0, jobs.1.as_deref(), database_url::EXAMPLE, faults)
            .and_then(|text| DatabaseUrl::parse(&text, name, faults));
        Some(Self { application: application?, jobs: jobs? })
    }
}

impl Prune {
    /// Checks the settings that pruning needs.
    pub fn read(args: PruneArgs, given: Settings) -> Result<Self, Faults> {
        let mut faults = Faults::new();
        let application = (given.database_url, given.database_url_file);
        let jobs = (given.jobs_database_url, given.jobs_database_url_file);
        let databases = Databases::read(application, jobs, &mut faults);
        let retention = seconds("OUTBOX_RETENTION", given.outbox_retention, 30 * 24 * 3600, &mut faults);
        let logging = Logging::parse(given.log_format, given.log_level, &mut faults);
        match (databases, faults.is_empty()) {
            (Some(databases), true) => {
                Ok(Self { databases, retention, dry_run: args.dry_run, json: args.json, logging })
            }
            _ => Err(faults),
        }
    }
}

impl Erase {
    /// Checks the settings that erasing needs.
    pub fn read(args: EraseArgs, given: Settings) -> Result<Self, Faults> {
        let mut faults = Faults::new();
        let application = (given.database_url, given.database_url_file);
        let jobs = (given.jobs_database_url, given.jobs_database_url_file);
        let databases = Databases::read(application, jobs, &mut faults);
        if args.aggregate.split_once('/').is_none_or(|(kind, id)| kind.is_empty() || id.is_empty()) {
            faults.push(
                "--aggregate",
                "is not a type and an id",
                "Give one such as user/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11",
            );
        }
        let logging = Logging::parse(given.log_format, given.log_level, &mut faults);
        match (databases, faults.is_empty()) {
            (Some(databases), true) => Ok(Self { databases, aggregate: args.aggregate, json: args.json, logging }),
            _ => Err(faults),
        }
    }
}
