//! `relay jobs list`.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;
use shared::telemetry::complain;
use shared::terminal::{bad, faint, good, strong, warning};

use super::args::{FilterArgs, unknown_handlers};
use crate::cli::answer::{Form, print, print_json};
use crate::cli::when::{ids, shown};
use crate::config::JobsDatabaseArgs;
use crate::jobs::JobState;
use crate::operate::Slice;
use crate::operate::jobs::{self, JobRow};
use crate::text::{one_line, table};

/// Bytes of an error in a line of a table; `show` has all of it.
const ERROR_BYTES: usize = 60;

/// Which, and how many.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Rows at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Go on behind this job, the last of the page before
    #[arg(long, value_name = "UUID")]
    after: Option<String>,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = args.filter.read(&[], &mut faults);
    let after = ids("--after", args.after.as_slice(), &mut faults).and_then(|ids| ids.first().copied());
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return crate::cli::EXIT_SETTINGS };
    let client = match super::connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    // One more than shown, to know whether there is more.
    let slice = Slice { after, limit: args.limit + 1 };
    let mut rows = match jobs::list(&client, &filter, slice).await {
        Ok(rows) => rows,
        Err(error) => return super::failed(form, error),
    };
    let more = rows.len() as i64 > args.limit;
    rows.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    let next = rows.last().filter(|_| more).map(|job| job.job_id);
    if form == Form::Json {
        let rows: Vec<_> = rows.iter().map(JobRow::to_json).collect();
        print_json(&json!({"jobs": rows, "next": next}));
        return 0;
    }
    if rows.is_empty() {
        complain(&unknown_handlers(&filter).unwrap_or_else(|| "no job matches".to_owned()));
        return 0;
    }
    let head = ["job", "kind", "state", "tries", "due or ended", "handler", "error"].map(strong).to_vec();
    print(&table(&std::iter::once(head).chain(rows.iter().map(line)).collect::<Vec<_>>()));
    if let Some(next) = next {
        complain(&format!("there are more: --after {next}"));
    }
    0
}

fn line(job: &JobRow) -> Vec<String> {
    vec![
        job.job_id.to_string(),
        job.kind.clone(),
        state(job),
        format!("{} of {}", job.attempt, job.max_attempts),
        shown(job.finished_at.or(job.run_at)),
        job.handler.clone(),
        faint(&one_line(job.last_error.as_deref().unwrap_or_default(), ERROR_BYTES)),
    ]
}

/// The state, by word and by colour.
pub(in crate::cli) fn state(job: &JobRow) -> String {
    let name = job.state_name();
    let name = match job.state {
        Some(JobState::Succeeded) => good(name),
        Some(JobState::Dead) => bad(name),
        Some(JobState::Retrying | JobState::Expired) => warning(name),
        Some(JobState::Cancelled) => faint(name),
        _ => name.to_owned(),
    };
    if job.in_doubt { format!("{name} {}", warning("in doubt")) } else { name }
}
