//! `relay events show`: one event's timeline.

use clap::Args as ClapArgs;
use shared::settings::Faults;
use shared::terminal::{bad, faint, strong, warning};

use crate::cli::answer::{Form, print, print_json};
use crate::cli::jobs::list::state;
use crate::cli::jobs::{connect, refuse};
use crate::cli::when::{ids, shown};
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::events::timeline::{self, Timeline};
use crate::operate::job::JobDetail;
use crate::text::{aggregate, event_type, json, span, table};

/// Which one.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    /// The event's id
    #[arg(value_name = "EVENT_ID")]
    event_id: String,
    /// Show its payload too, which holds addresses; with --json also its jobs' arguments
    #[arg(long)]
    payload: bool,
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
    let event_id = ids("event id", std::slice::from_ref(&args.event_id), &mut faults).unwrap_or_default();
    let (application, jobs) = (args.application.read(&mut faults), args.jobs.read(&mut faults));
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(application), Some(jobs), [event_id]) = (application, jobs, event_id.as_slice()) else {
        return crate::cli::EXIT_SETTINGS;
    };
    let (application, jobs) = match (super::application(form, &application).await, connect(form, &jobs).await) {
        (Ok(application), Ok(jobs)) => (application, jobs),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    match timeline::of(&application, &jobs, *event_id).await {
        Ok(timeline) if timeline.is_empty() => {
            form.refuse(&format!("nothing is known of event {event_id}; `relay events list` shows the newest"), 1)
        }
        Ok(timeline) if form == Form::Json => {
            print_json(&timeline.to_json(args.payload));
            0
        }
        Ok(timeline) => {
            print(&text(&timeline, args.payload));
            0
        }
        Err(error) => refuse(form, &error),
    }
}

fn text(timeline: &Timeline, with_payload: bool) -> String {
    let mut text = match &timeline.event {
        None => format!("{}\n", warning("the event is not in the outbox any more")),
        Some(event) => {
            let dispatched = match timeline.dispatched {
                Some(true) => "yes".to_owned(),
                _ => warning("not yet"),
            };
            let mut rows = vec![
                ("event", event.event_id.to_string()),
                ("type", format!("{}, version {}", event_type(&event.event_type), event.event_version)),
                ("aggregate", aggregate(&event.aggregate_type, &event.aggregate_id)),
                ("happened", shown(Some(event.occurred_at))),
                ("outbox", format!("lane {}, position {}", event.lane, event.position)),
                ("metadata", json(&event.metadata).to_string()),
                ("dispatched", dispatched),
            ];
            if with_payload {
                rows.push((
                    "payload",
                    timeline.payload.as_deref().map(|payload| json(payload).to_string()).unwrap_or_default(),
                ));
            }
            table(&rows.into_iter().map(|(name, value)| vec![strong(name), value]).collect::<Vec<_>>())
        }
    };
    for failure in &timeline.failures {
        let state = match failure.resolved_at {
            Some(at) => format!("resolved {}", shown(Some(at))),
            None => bad("open"),
        };
        text.push_str(&format!(
            "\n{} could not take it, {state}\n  {} times, last {}: {}\n",
            strong(&failure.handler),
            failure.attempts,
            shown(failure.last_failed_at),
            failure.error
        ));
    }
    timeline.jobs.iter().for_each(|of| text.push_str(&job(of)));
    if timeline.jobs.is_empty() && timeline.failures.is_empty() && timeline.dispatched == Some(true) {
        text.push_str("\nno handler made a job of it\n");
    }
    text
}

fn job(of: &JobDetail) -> String {
    let row = &of.row;
    let generation = if row.generation > 0 { format!(", generation {}", row.generation) } else { String::new() };
    let mut text = format!(
        "\n{} {}{generation}: {} {}  {}\n  stored {}, {} of {} tries, {} {}\n",
        strong(&row.handler),
        row.name,
        row.kind,
        state(row),
        faint(&row.job_id.to_string()),
        shown(row.created_at),
        row.attempt,
        row.max_attempts,
        if row.finished_at.is_some() { "ended" } else { "due" },
        shown(row.finished_at.or(row.run_at)),
    );
    for attempt in &of.attempts {
        text.push_str(&format!(
            "  try {}, {}, after {}: {} {}\n",
            attempt.attempt,
            shown(attempt.started_at),
            span(attempt.duration),
            attempt.outcome,
            faint(&attempt.error)
        ));
    }
    text
}
