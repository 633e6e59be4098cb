//! The settings of upkeep: the audit, and how long finished jobs are kept.

use std::time::Duration;

use clap::Args;
use shared::settings::{self, Faults};

use crate::upkeep::Settings;

/// Upkeep, which one relay at a time does for all.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Upkeep")]
pub struct UpkeepArgs {
    /// How often to audit and to delete finished jobs [default: 10m]
    #[arg(long, env = "UPKEEP_INTERVAL", value_name = "TIME")]
    upkeep_interval: Option<String>,
    /// How far an audit looks back for events without their jobs and jobs without their events, or off [default: 1h]
    #[arg(long, env = "AUDIT_SPAN", value_name = "TIME")]
    audit_span: Option<String>,
    /// How long a finished job is kept, at least: until `api prune` has deleted its event, and then this long since it was
    /// finished; or off [default: 7d]
    #[arg(long, env = "JOBS_RETENTION", value_name = "TIME")]
    jobs_retention: Option<String>,
}

impl UpkeepArgs {
    /// Reads them.
    pub fn read(self, faults: &mut Faults) -> Settings {
        let default = Settings::default();
        Settings {
            interval: settings::duration("UPKEEP_INTERVAL", self.upkeep_interval, default.interval, faults),
            audit: time_or_off("AUDIT_SPAN", self.audit_span, default.audit, faults),
            jobs: time_or_off("JOBS_RETENTION", self.jobs_retention, default.jobs, faults),
        }
    }
}

fn time_or_off(name: &str, value: Option<String>, default: Option<Duration>, faults: &mut Faults) -> Option<Duration> {
    match settings::text(value) {
        None => default,
        Some(off) if off == "off" => None,
        given => Some(settings::duration(name, given, Duration::ZERO, faults)),
    }
}
