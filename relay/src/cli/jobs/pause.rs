//! `relay jobs pause` and `relay jobs resume`.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;

use crate::cli::answer::{Form, print, print_json};
use crate::config::JobsDatabaseArgs;
use crate::operate::pauses::{self, Part, Pause};
use crate::operate::{By, Operator};

/// What, and why.
#[derive(ClapArgs, Clone, Debug)]
#[command(
    after_help = "Without --kind or --dispatch it is delivery as a whole. Relays heed it at once: tries that are \
    under way end, and nothing new is begun. Nothing is lost: events wait in the outbox, jobs in their table."
)]
pub(super) struct Args {
    /// Delivery of this kind of jobs only, such as email; may be given several times
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Dispatch, instead of delivery
    #[arg(long, conflicts_with = "kind")]
    dispatch: bool,
    /// Why, for the audit trail and for whoever looks at a relay's health
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(pause: bool, args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    if args.kind.iter().any(|kind| kind.is_empty() || kind.len() > 100) {
        faults.push("--kind", "is empty or longer than 100 bytes", "Give the name of a kind, such as email");
    }
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return crate::cli::EXIT_SETTINGS };
    let parts: Vec<Part> = match (args.dispatch, args.kind.is_empty()) {
        (true, _) => vec![Part::Dispatch],
        (false, true) => vec![Part::Delivery(None)],
        (false, false) => args.kind.into_iter().map(|kind| Part::Delivery(Some(kind))).collect(),
    };
    let mut client = match super::connect(form, &jobs).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let operator = Operator::of_this_process();
    let by = By { operator: &operator, reason: args.reason.as_deref() };
    let mut changed = Vec::new();
    for part in &parts {
        let done = match pause {
            true => pauses::pause(&mut client, part, by).await,
            false => pauses::resume(&mut client, part, by).await,
        };
        match done {
            Ok(done) => changed.push((part, done)),
            Err(error) => return super::failed(form, error),
        }
    }
    match pauses::list(&client).await {
        Ok(now) => answer(form, pause, &changed, &now),
        Err(error) => return super::failed(form, error),
    }
    0
}

fn answer(form: Form, pause: bool, changed: &[(&Part, bool)], now: &[Pause]) {
    if form == Form::Json {
        let paused: Vec<_> = now.iter().map(Pause::to_json).collect();
        print_json(&json!({"changed": changed.iter().filter(|(_, done)| *done).count(), "paused": paused}));
        return;
    }
    let word = match pause {
        true => ["is paused", "was paused already"],
        false => ["was resumed", "was not paused"],
    };
    for (part, done) in changed {
        print(&format!("{part} {}\n", if *done { word[0] } else { word[1] }));
    }
    let asked = |pause: &&Pause| !changed.iter().any(|(part, _)| **part == pause.part);
    for pause in now.iter().filter(asked) {
        print(&format!("still: {pause}\n"));
    }
}
