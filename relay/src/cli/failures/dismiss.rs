//! `relay failures dismiss`.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;

use super::args::{FilterArgs, check_chosen};
use crate::cli::answer::{Form, print, print_json};
use crate::cli::jobs::{connect, failed};
use crate::config::JobsDatabaseArgs;
use crate::operate::{By, Operator, failures};

/// Which, and why.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Every open failure
    #[arg(long)]
    all: bool,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = args.filter.read(&mut faults);
    check_chosen("relay failures dismiss", &filter, args.all, &mut faults);
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return crate::cli::EXIT_SETTINGS };
    let mut client = match connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let count = match failures::count(&client, &filter).await {
        Ok(count) => count,
        Err(error) => return failed(form, error),
    };
    if count.number > 0 {
        let question = format!("Give up {count} failed dispatches?");
        if let Err(code) = form.confirm(args.yes, &question, &format!("this would give up {count} failures")).await {
            return code;
        }
    }
    let operator = Operator::of_this_process();
    let by = By { operator: &operator, reason: args.reason.as_deref() };
    match failures::dismiss(&mut client, &filter, by).await {
        Ok(dismissed) if form == Form::Json => print_json(&json!({"changed": dismissed})),
        Ok(dismissed) => print(&format!("{dismissed} failed dispatches given up\n")),
        Err(error) => return failed(form, error),
    }
    0
}
