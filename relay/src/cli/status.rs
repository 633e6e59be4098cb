//! `relay status`: where things stand. Told also when a database is away; the exit code then says so.

use clap::Args as ClapArgs;
use shared::settings::Faults;
use shared::telemetry::complain;

use super::answer::{Form, print, print_json};
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::databases::Error;
use crate::status;

/// What to ask, and how to answer.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Numbers are counted up to a bound (10,000+), so that asking costs little.\n\n\
    Exit codes: 0 done, 1 a database is away, 2 wrong usage or settings, 3 refused by the state of a database.")]
pub struct Args {
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
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(application), Some(jobs)) = (application, jobs) else { return super::EXIT_SETTINGS };
    let name = format!("aftercommit status {}", std::process::id());
    let status = status::ask(&application, &jobs, &name).await;
    match form {
        Form::Json => print_json(&status.to_json()),
        Form::Text => {
            print(&status.to_text());
            status.errors().for_each(|error| complain(&error.to_string()));
        }
    }
    exit_code(status.errors())
}

/// Something that is away may come back; a state that refuses needs a person.
fn exit_code<'a>(errors: impl Iterator<Item = &'a Error>) -> u8 {
    errors.map(|error| if error.is_refusal() { super::EXIT_REFUSED } else { 1 }).max().unwrap_or(0)
}
