//! `relay jobs retry` and `relay jobs cancel`: the count first, then a yes, then batch by batch.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::progress::Progress;
use shared::settings::Faults;
use shared::shutdown;
use shared::telemetry::complain;
use tokio_postgres::Client;

use super::args::{FilterArgs, unknown_handlers};
use crate::cli::answer::{Form, print, print_json};
use crate::config::JobsDatabaseArgs;
use crate::jobs::JobState;
use crate::operate::change::{Change, Changed, change};
use crate::operate::jobs::{self, StateCounts};
use crate::operate::{By, JobFilter, Operator};
use crate::status::count::Count;

/// Which, and why.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    /// The jobs with these ids
    #[arg(value_name = "JOB_ID")]
    job_ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every job that it can be done to
    #[arg(long)]
    all: bool,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say how many jobs it would change
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(what: Change, args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = args.filter.read(&args.job_ids, &mut faults);
    match (filter.is_everything(), args.all) {
        (true, false) => {
            let command = format!("relay jobs {}", what.verb());
            faults.push(command, "no jobs are chosen", "Give ids, a filter, or --all");
        }
        (false, true) => faults.push("--all", "is given together with a filter", "Give one of the two"),
        _ => {}
    }
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return crate::cli::EXIT_SETTINGS };
    let mut client = match super::connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let counts = match jobs::count(&client, &filter).await {
        Ok(counts) => counts,
        Err(error) => return super::failed(form, error),
    };
    let (takes, left) = sort(what, &counts);
    if takes.number == 0 || args.dry_run {
        return answer(form, what, &filter, None, takes, &left);
    }
    let question = format!("{} {takes} jobs?", capital(what.verb()));
    let refusal = format!("this would {} {takes} jobs", what.verb());
    if let Err(code) = form.confirm(args.yes, &question, &refusal).await {
        return code;
    }
    match work(&mut client, what, &filter, args.reason.as_deref(), takes).await {
        Ok(changed) => answer(form, what, &filter, Some(changed), takes, &left),
        Err(code) => code(form),
    }
}

type Ended = Box<dyn FnOnce(Form) -> u8>;

async fn work(
    client: &mut Client,
    what: Change,
    filter: &JobFilter,
    reason: Option<&str>,
    expected: Count,
) -> Result<Changed, Ended> {
    let stop = shutdown::on_signals()
        .map_err(|error| -> Ended { Box::new(move |form| form.refuse(&format!("{error:#}"), 1)) })?;
    let operator = Operator::of_this_process();
    let by = By { operator: &operator, reason };
    let progress = Progress::new("jobs", Some(expected.number));
    let mut done = 0;
    let changed = change(client, what, filter, by, &stop, |jobs| {
        done = jobs;
        progress.at(jobs);
    })
    .await;
    drop(progress);
    changed.map_err(|error| -> Ended {
        let verb = past(what);
        Box::new(move |form| form.refuse(&format!("jobs database: {error}; {done} jobs were {verb} before"), 1))
    })
}

/// How many can be changed, and how many of which states can't.
fn sort(what: Change, counts: &StateCounts) -> (Count, Vec<(JobState, Count)>) {
    let of = |state: JobState| (state, counts.of(state));
    let left = JobState::ALL.into_iter().filter(|state| what.refusal(*state).is_some()).map(of);
    let left = left.filter(|(_, count)| count.number > 0).collect();
    (what.takes().into_iter().map(|state| counts.of(state)).sum(), left)
}

fn answer(
    form: Form,
    what: Change,
    filter: &JobFilter,
    changed: Option<Changed>,
    takes: Count,
    left: &[(JobState, Count)],
) -> u8 {
    let Changed { jobs, interrupted } = changed.unwrap_or_default();
    let dry = changed.is_none();
    // Named jobs of which not one could be changed: that is a no.
    let refused = dry && takes.number == 0 && filter.job_ids.is_some();
    let code = if refused { crate::cli::EXIT_REFUSED } else { u8::from(interrupted) };
    if form == Form::Json {
        let left: serde_json::Map<_, _> =
            left.iter().map(|(state, count)| (state.as_str().to_owned(), count.to_json())).collect();
        print_json(&json!({
            "changed": jobs, "interrupted": interrupted, "matched": takes.to_json(), "left_alone": left,
            "exit_code": code,
        }));
        return code;
    }
    for (state, count) in left {
        let why = what.refusal(*state).unwrap_or_default();
        complain(&format!("{count} {} left alone: {why}", state.as_str()));
    }
    let verb = past(what);
    match (dry, interrupted, takes.number) {
        (true, _, 0) if left.is_empty() => {
            complain(&unknown_handlers(filter).unwrap_or_else(|| "no job matches".to_owned()));
        }
        (true, _, 0) => complain(&format!("no job was {verb}")),
        (true, ..) => print(&format!("{takes} jobs would be {verb}\n")),
        (false, true, _) => print(&format!("interrupted after {jobs} jobs were {verb}\n")),
        (false, false, _) => print(&format!("{jobs} jobs {verb}\n")),
    }
    code
}

fn past(what: Change) -> &'static str {
    match what {
        Change::Retry => "retried",
        Change::Cancel => "cancelled",
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}
