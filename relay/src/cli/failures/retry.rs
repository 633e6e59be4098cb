//! `relay failures retry`.

use clap::Args as ClapArgs;
use shared::progress::Progress;
use shared::settings::Faults;
use shared::shutdown;

use super::args::{FilterArgs, check_chosen};
use crate::cli::answer::{Form, print, print_json};
use crate::cli::replay::text;
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::handlers;
use crate::operate::{By, Operator, failures};
use crate::postgres;
use crate::replay::tally::Tally;
use crate::replay::{Error, Session};

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
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = args.filter.read(&mut faults);
    check_chosen("relay failures retry", &filter, args.all, &mut faults);
    let (application, jobs) = (args.application.read(&mut faults), args.jobs.read(&mut faults));
    let registry = handlers::registry(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(application), Some(jobs), Some(registry)) = (application, jobs, registry) else {
        return crate::cli::EXIT_SETTINGS;
    };
    let name = format!("aftercommit operator {}", std::process::id());
    let stop = match shutdown::on_signals() {
        Ok(stop) => stop,
        Err(error) => return form.refuse(&format!("{error:#}"), 1),
    };
    let mut tally = Tally::default();
    let outcome: Result<(), Error> = async {
        let mut session = Session::open(&application, &jobs, &name).await?;
        let expected = failures::count(session.jobs(), &filter).await.map_err(postgres_error)?;
        let progress = Progress::new("failures", Some(expected.number));
        let operator = Operator::of_this_process();
        let by = By { operator: &operator, reason: args.reason.as_deref() };
        let shown = |tally: &Tally| progress.at(tally.resolved() + tally.failed());
        failures::retry(&mut session, &registry, &filter, by, &mut tally, &stop, shown).await
    }
    .await;
    match (form, &outcome) {
        (Form::Text, _) if outcome.is_ok() || tally.events > 0 => print(&text::of(&tally, false)),
        (Form::Json, Ok(())) => print_json(&tally.to_json(false)),
        _ => {}
    }
    match outcome {
        Ok(()) => u8::from(!tally.is_complete()),
        Err(error) => {
            let code = if error.is_refusal() { crate::cli::EXIT_REFUSED } else { 1 };
            form.refuse(&format!("{error}; {} failures were resolved before", tally.resolved()), code)
        }
    }
}

fn postgres_error(error: postgres::Error) -> Error {
    error.into()
}
