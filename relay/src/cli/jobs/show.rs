//! `relay jobs show`.

use clap::Args as ClapArgs;
use shared::settings::Faults;
use shared::terminal::strong;

use super::list::state;
use crate::cli::answer::{Form, print, print_json};
use crate::cli::when::{ids, shown};
use crate::config::JobsDatabaseArgs;
use crate::operate::job::{self, AttemptRow, JobDetail};
use crate::text::{span, table};

/// Which one.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    /// The job's id
    #[arg(value_name = "JOB_ID")]
    job_id: String,
    /// Show its arguments too, which hold addresses
    #[arg(long)]
    args: bool,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let job_id = ids("job id", std::slice::from_ref(&args.job_id), &mut faults).unwrap_or_default();
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(jobs), [job_id]) = (jobs, job_id.as_slice()) else { return crate::cli::EXIT_SETTINGS };
    let client = match super::connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    match job::show(&client, *job_id).await {
        Ok(Some(job)) if form == Form::Json => print_json(&job.to_json(args.args)),
        Ok(Some(job)) => print(&text(&job, args.args)),
        Ok(None) => {
            return form.refuse(&format!("there is no job {job_id}; `relay jobs list` shows which there are"), 1);
        }
        Err(error) => return super::failed(form, error),
    }
    0
}

fn text(job: &JobDetail, with_args: bool) -> String {
    let row = &job.row;
    let retry = &job.retry;
    let policy = format!(
        "{} tries, first after {}, times {}, at most {}, jitter {} %",
        retry.max_attempts,
        span(retry.initial),
        retry.multiplier,
        span(retry.max_interval),
        (retry.jitter * 100.0).round()
    );
    let mut rows: Vec<Vec<String>> = [
        ("job", row.job_id.to_string()),
        ("event", row.event_id.to_string()),
        ("kind", row.kind.clone()),
        ("handler", format!("{}, {}", row.handler, row.name)),
        ("generation", row.generation.to_string()),
        ("state", state(row)),
        ("tries", format!("{} of {}", row.attempt, row.max_attempts)),
        ("crashes", row.crash_count.to_string()),
        ("policy", policy),
        ("happened", shown(job.occurred_at)),
        ("stored", shown(row.created_at)),
        ("due", shown(row.run_at)),
        ("expires", shown(row.expires_at)),
        ("ended", shown(row.finished_at)),
        ("held by", job.held_by.clone().unwrap_or_else(|| "-".to_owned())),
        ("error", row.last_error.clone().unwrap_or_else(|| "-".to_owned())),
        ("metadata", job.metadata.clone()),
    ]
    .map(|(name, value)| vec![strong(name), value])
    .to_vec();
    if with_args {
        rows.push(vec![strong("args"), job.args.clone()]);
    }
    let mut text = table(&rows);
    if !job.attempts.is_empty() {
        let head = ["try", "at", "took", "outcome", "phase", "code", "error"].map(strong).to_vec();
        let attempts = std::iter::once(head).chain(job.attempts.iter().map(attempt));
        text.push_str(&format!("\n{}", table(&attempts.collect::<Vec<_>>())));
    }
    text
}

fn attempt(of: &AttemptRow) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        of.attempt.to_string(),
        shown(of.started_at),
        span(of.duration),
        of.outcome.clone(),
        or_dash(of.phase.clone()),
        or_dash(of.code.map(|code| code.to_string())),
        of.error.clone(),
    ]
}
