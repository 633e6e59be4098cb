//! `relay failures list`.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;
use shared::telemetry::complain;
use shared::terminal::{faint, strong};

use super::args::FilterArgs;
use crate::cli::answer::{Form, print, print_json};
use crate::cli::jobs::{connect, failed};
use crate::cli::when::{ids, shown};
use crate::config::JobsDatabaseArgs;
use crate::operate::failures::{self, FailureRow};
use crate::operate::{FailureFilter, Slice};
use crate::text::{aggregate, event_type, one_line, table};

/// Bytes of an error in a line of a table; `--json` has all of it.
const ERROR_BYTES: usize = 80;

/// Which, and how many.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Those too that were resolved or given up
    #[arg(long)]
    resolved: bool,
    /// Rows at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Go on behind this event and handler, the last of the page before
    #[arg(long, value_name = "UUID/NAME")]
    after: Option<String>,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = FailureFilter { resolved_too: args.resolved, ..args.filter.read(&mut faults) };
    let after = args.after.as_deref().and_then(|text| {
        let (event, handler) = text.split_once('/').unwrap_or((text, ""));
        let event = ids("--after", &[event.to_owned()], &mut faults)?;
        Some((*event.first()?, handler.to_owned()))
    });
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return crate::cli::EXIT_SETTINGS };
    let client = match connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let mut rows = match failures::list(&client, &filter, &Slice { after, limit: args.limit + 1 }).await {
        Ok(rows) => rows,
        Err(error) => return failed(form, error),
    };
    let more = rows.len() as i64 > args.limit;
    rows.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    let next = rows.last().filter(|_| more).map(|row| format!("{}/{}", row.event_id, row.handler));
    if form == Form::Json {
        let rows: Vec<_> = rows.iter().map(FailureRow::to_json).collect();
        print_json(&json!({"failures": rows, "next": next}));
        return 0;
    }
    if rows.is_empty() {
        complain("no failed dispatch matches");
        return 0;
    }
    let head = ["event", "type", "aggregate", "handler", "tries", "failed last", "error"].map(strong).to_vec();
    print(&table(&std::iter::once(head).chain(rows.iter().map(line)).collect::<Vec<_>>()));
    if let Some(next) = next {
        complain(&format!("there are more: --after {next}"));
    }
    0
}

fn line(row: &FailureRow) -> Vec<String> {
    let error = one_line(&row.error, ERROR_BYTES);
    let error = if row.resolved_at.is_some() { format!("resolved; {error}") } else { error };
    vec![
        row.event_id.to_string(),
        event_type(&row.event_type),
        aggregate(&row.aggregate_type, &row.aggregate_id),
        row.handler.clone(),
        row.attempts.to_string(),
        shown(row.last_failed_at),
        faint(&error),
    ]
}
