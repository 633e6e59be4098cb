//! `relay audit`: what people did.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;
use shared::telemetry::complain;
use shared::terminal::{strong, warning};

use super::answer::{Form, print, print_json};
use super::jobs::{connect, failed};
use super::when::shown;
use crate::config::JobsDatabaseArgs;
use crate::operate::Slice;
use crate::operate::audit::{self, ActionRow};
use crate::text::table;

/// How many.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Every change made by hand leaves a line, from the command line as from the dashboard, in the \
    transaction of the change.\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the state of the database.")]
pub struct Args {
    /// Rows at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Go on behind this action, the last of the page before
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return super::EXIT_SETTINGS };
    let client = match connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let rows = match audit::list(&client, Slice { after: args.after, limit: args.limit }).await {
        Ok(rows) => rows,
        Err(error) => return failed(form, error),
    };
    if form == Form::Json {
        let next = rows.last().filter(|_| rows.len() as i64 == args.limit).map(|row| row.action_id);
        print_json(&json!({"actions": rows.iter().map(ActionRow::to_json).collect::<Vec<_>>(), "next": next}));
        return 0;
    }
    if rows.is_empty() {
        complain("nobody has changed anything by hand yet");
        return 0;
    }
    let head = ["", "when", "who", "via", "what", "how many", "on what", "why"].map(strong).to_vec();
    print(&table(&std::iter::once(head).chain(rows.iter().map(line)).collect::<Vec<_>>()));
    0
}

fn line(row: &ActionRow) -> Vec<String> {
    let unfinished = if row.finished_at.is_none() { warning(" so far") } else { String::new() };
    vec![
        row.action_id.to_string(),
        shown(row.started_at),
        row.operator.clone(),
        row.via.clone(),
        row.action.clone(),
        format!("{}{unfinished}", row.affected),
        row.filter.to_string(),
        row.reason.clone().unwrap_or_default(),
    ]
}
