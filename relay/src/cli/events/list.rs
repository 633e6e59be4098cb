//! `relay events list`.

use clap::Args as ClapArgs;
use serde_json::json;
use shared::settings::Faults;
use shared::telemetry::complain;
use shared::terminal::strong;
use time::OffsetDateTime;

use super::args::FilterArgs;
use crate::cli::answer::{Form, print, print_json};
use crate::cli::jobs::refuse;
use crate::cli::when::{ids, range, shown};
use crate::config::ApplicationDatabaseArgs;
use crate::databases;
use crate::events;
use crate::outbox::listing::EventRow;
use crate::outbox::page::Filter;
use crate::text::{aggregate, event_type, table};

/// Which, and how many.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// The event with this id; may be given several times
    #[arg(long, value_name = "UUID")]
    event_id: Vec<String>,
    /// That happened at or after this time (RFC 3339), or this long ago (such as 24h)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// That happened before this time, or this long ago
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Rows at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
    limit: i64,
    /// Go on behind this event, as the page before said
    #[arg(long, value_name = "UUID")]
    after: Option<String>,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let (from, to) = range(args.from, args.to, OffsetDateTime::now_utc(), &mut faults);
    let filter = Filter { from, to, ..args.filter.read(&mut faults) };
    let event_ids = ids("--event-id", &args.event_id, &mut faults);
    let after = ids("--after", args.after.as_slice(), &mut faults).and_then(|ids| ids.first().copied());
    let application = args.application.read(&mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(application) = application else { return crate::cli::EXIT_SETTINGS };
    let client = match super::application(form, &application).await {
        Ok(client) => client,
        Err(code) => return code,
    };
    let page = match events::list(&client, &filter, event_ids.as_deref(), after, args.limit).await {
        Ok(page) => page,
        Err(error) => return refuse(form, &databases::Error::from(error)),
    };
    let next = page.next.filter(|_| page.rows.len() as i64 == args.limit);
    if form == Form::Json {
        let rows: Vec<_> = page.rows.iter().map(EventRow::to_json).collect();
        print_json(&json!({"events": rows, "next": next}));
        return 0;
    }
    if page.rows.is_empty() {
        complain("no event matches");
        return 0;
    }
    let head = ["event", "happened", "type", "aggregate", "lane", "position"].map(strong).to_vec();
    print(&table(&std::iter::once(head).chain(page.rows.iter().map(line)).collect::<Vec<_>>()));
    if let Some(next) = next {
        complain(&format!("there may be more: --after {next}"));
    }
    0
}

fn line(row: &EventRow) -> Vec<String> {
    vec![
        row.event_id.to_string(),
        shown(Some(row.occurred_at)),
        format!("{} v{}", event_type(&row.event_type), row.event_version),
        aggregate(&row.aggregate_type, &row.aggregate_id),
        row.lane.to_string(),
        row.position.to_string(),
    ]
}
