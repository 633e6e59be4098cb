//! `relay doctor`: whether everything around the relay is as it must be.

use clap::Args as ClapArgs;
use shared::settings::{self, Faults};

use super::answer::{Form, print, print_json};
use super::run;
use crate::doctor::{self, Level, Limits, Patient};

/// How to look, and how to answer.
#[derive(ClapArgs, Clone, Debug)]
#[group(skip)]
#[command(after_help = "It looks with the relay's own settings and roles, changes nothing and sends no mail.\n\n\
    Examples:\n  \
    relay doctor\n  \
    relay doctor --json | jq '.findings[] | select(.level == \"problem\")'\n\n\
    Exit codes: 0 no problem (there may be warnings), 1 a problem, or with --strict a warning, 2 wrong usage.")]
pub struct Args {
    /// Only what is not in order
    #[arg(long, short)]
    quiet: bool,
    /// A warning is as bad as a problem
    #[arg(long)]
    strict: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// A transaction that is open for this long is worth a word [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    transaction: Option<String>,
    /// An event or a job that waits for this long is worth a word [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    lag: Option<String>,
    /// An event in the outbox that is this old is worth a word [default: 31d]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    retention: Option<String>,
    /// A clock that differs by this much is worth a word [default: 2s]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    clock: Option<String>,
    #[command(flatten)]
    service: run::Args,
}

pub(super) async fn run(args: Args, logging: Faults) -> u8 {
    let form = Form::of(args.json);
    let mut usage = Faults::new();
    let usual = Limits::default();
    let limits = Limits {
        transaction: settings::duration("--transaction", args.transaction, usual.transaction, &mut usage),
        lag: settings::duration("--lag", args.lag, usual.lag, &mut usage),
        retention: settings::duration("--retention", args.retention, usual.retention, &mut usage),
        clock: settings::duration("--clock", args.clock, usual.clock, &mut usage),
    };
    if let Err(code) = form.check(usage) {
        return code;
    }
    let mut faults = logging;
    let (application, jobs, email) = args.service.parts(&mut faults);
    let report = doctor::examine(Patient { application, jobs, email, faults, limits }).await;
    match form {
        Form::Text => print(&report.to_text(!args.quiet)),
        Form::Json => print_json(&report.to_json()),
    }
    let limit = if args.strict { Level::Warning } else { Level::Problem };
    u8::from(report.worst() >= limit)
}
