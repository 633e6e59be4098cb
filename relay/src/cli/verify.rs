//! `relay verify`: does each event have its jobs, and each job its event?

use clap::Args as ClapArgs;
use shared::progress::Progress;
use shared::settings::{Faults, parse_duration};
use shared::shutdown;
use time::OffsetDateTime;

use super::answer::{Form, print, print_json};
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::outbox::page::Filter;
use crate::{handlers, verify};

/// The span, and how to answer.
#[derive(ClapArgs, Clone, Debug)]
#[command(
    after_help = "Nothing is changed. What is missing is stored by `relay replay --from` with the same span.\n\n\
    Exit codes: 0 sound, 1 something is missing or a database is away, 2 wrong usage or settings, 3 refused by the \
    state of a database."
)]
pub struct Args {
    /// How far to look back, such as 24h
    #[arg(long, value_name = "SPAN", default_value = "24h")]
    since: String,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let (application, jobs) = (args.application.read(&mut faults), args.jobs.read(&mut faults));
    let since = parse_duration(&args.since);
    if since.is_none() {
        faults.push("--since", format!("{:?} is not a time span", args.since), "Give one such as 90m, 24h or 7d");
    }
    let registry = handlers::registry(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(application), Some(jobs), Some(since), Some(registry)) = (application, jobs, since, registry) else {
        return super::EXIT_SETTINGS;
    };
    let stop = match shutdown::on_signals() {
        Ok(stop) => stop,
        Err(error) => return form.refuse(&format!("{error:#}"), 1),
    };
    let filter = Filter {
        from: OffsetDateTime::now_utc().checked_sub(since.try_into().unwrap_or_default()),
        ..Filter::default()
    };
    let name = format!("aftercommit verify {}", std::process::id());
    let progress = Progress::new("events verified", None);
    let told = |events| progress.at(events);
    let verified = verify::run(&application, &jobs, &name, &registry, filter, &stop, told).await;
    drop(progress);
    match verified {
        Ok(findings) => {
            match form {
                Form::Text => print(&findings.to_text()),
                Form::Json => print_json(&findings.to_json()),
            }
            u8::from(!findings.is_sound())
        }
        Err(error) => form.refuse(&error.to_string(), if error.is_refusal() { super::EXIT_REFUSED } else { 1 }),
    }
}
