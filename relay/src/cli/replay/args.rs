//! What can be asked of a replay, and what is refused, all faults at once.

use std::collections::BTreeSet;

use clap::Args as ClapArgs;
use shared::database_url::DatabaseUrl;
use shared::settings::Faults;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cli::when;
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::handlers::Registry;
use crate::outbox::page::Filter;
use crate::replay::{Events, Plan};

/// Which events, which handlers, and how.
#[derive(ClapArgs, Clone, Debug)]
#[command(
    after_help = "By default nothing is sent twice: a job that is there already is left alone, so that a replay \
    repairs what was lost and changes nothing else.\n\n\
    Exit codes: 0 done, 1 failed or incomplete (also when a handler failed), 2 wrong usage or settings, 3 refused by \
    the state of a database."
)]
pub struct Args {
    #[command(flatten)]
    events: EventArgs,
    /// Run only this handler; may be given several times [default: all]
    #[arg(long, value_name = "NAME", help_heading = "Handlers")]
    handler: Vec<String>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Events (all that match every filter given)")]
struct EventArgs {
    /// The event with this id; may be given several times
    #[arg(long, value_name = "UUID")]
    event_id: Vec<String>,
    /// The events of one aggregate, such as user/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<String>,
    /// The events of this type, such as user.registered; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Events that happened at or after this time (RFC 3339), or this long ago (such as 24h)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Events that happened before this time, or this long ago
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Events that a handler could not take, with that handler (the open dispatch failures)
    #[arg(long)]
    failed: bool,
    /// Every event in the outbox
    #[arg(long)]
    all: bool,
}

#[derive(ClapArgs, Clone, Debug)]
struct HowArgs {
    /// Store nothing; print what would be stored and what is there already
    #[arg(long)]
    dry_run: bool,
    /// Make the jobs anew although they were made before: emails are really sent again
    #[arg(long)]
    again: bool,
    /// Do not ask before --again
    #[arg(long)]
    yes: bool,
    /// Answer in JSON, errors too
    #[arg(long)]
    json: bool,
}

/// The same, read.
pub(super) struct Settings {
    pub application: DatabaseUrl,
    pub jobs: DatabaseUrl,
    pub plan: Plan,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.how.json
    }

    pub(super) fn yes(&self) -> bool {
        self.how.yes
    }

    pub(super) fn read(self, registry: &Registry, faults: &mut Faults) -> Option<Settings> {
        let plan = plan(self.events, self.handler, &self.how, registry, OffsetDateTime::now_utc(), faults);
        let application = self.application.read(faults);
        let jobs = self.jobs.read(faults);
        Some(Settings { application: application?, jobs: jobs?, plan })
    }
}

fn plan(
    args: EventArgs,
    handlers: Vec<String>,
    how: &HowArgs,
    registry: &Registry,
    now: OffsetDateTime,
    faults: &mut Faults,
) -> Plan {
    let filtered = !args.event_id.is_empty()
        || args.aggregate.is_some()
        || !args.types.is_empty()
        || args.from.is_some()
        || args.to.is_some()
        || args.failed;
    match (filtered, args.all) {
        (false, false) => faults.push("relay replay", "no events are chosen", "Give a filter, or --all"),
        (true, true) => faults.push("--all", "is given together with a filter", "Give one of the two"),
        (false, true) if how.again => {
            faults.push("--again", "would send everything anew", "Give a filter instead of --all");
        }
        _ => {}
    }
    let event_ids = when::ids("--event-id", &args.event_id, faults);
    let event_ids: BTreeSet<Uuid> = event_ids.into_iter().flatten().collect();
    let events = match (args.failed, event_ids.is_empty()) {
        (true, true) => Events::Failed(None),
        (true, false) => Events::Failed(Some(event_ids)),
        (false, false) => Events::Named(event_ids),
        (false, true) => Events::All,
    };
    when::aggregate(args.aggregate.as_deref(), faults);
    let (from, mut to) = when::range(args.from, args.to, now, faults);
    if how.again && events == Events::All && to.is_none() {
        // What happens while this runs is sent for the first time, by dispatch, and not meant.
        to = Some(now);
    }
    let known = registry.names();
    for name in handlers.iter().filter(|name| !known.contains(&name.as_str())) {
        let remedy = format!("The handlers are {}", known.join(", "));
        faults.push("--handler", format!("{name:?} is not registered"), remedy);
    }
    Plan {
        events,
        filter: Filter {
            aggregate: args.aggregate,
            types: Some(args.types).filter(|types| !types.is_empty()),
            from,
            to,
        },
        handlers: Some(handlers.into_iter().collect::<BTreeSet<_>>()).filter(|handlers| !handlers.is_empty()),
        again: how.again,
        dry_run: how.dry_run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &[&str]) -> (Plan, String) {
        let Args { events, handler, how, .. } = Line::parse_from([&["replay"], line].concat()).args;
        let mut faults = Faults::new();
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let plan = plan(events, handler, &how, &handlers::register_all().unwrap(), now, &mut faults);
        (plan, faults.finish().err().map(|faults| faults.to_string()).unwrap_or_default())
    }

    #[test]
    fn something_has_to_be_chosen() {
        for (line, fault) in [
            (&[][..], "no events are chosen"),
            (&["--handler", "send_welcome_email"], "no events are chosen"),
            (&["--all", "--type", "x"], "together with a filter"),
            (&["--all", "--again", "--yes"], "would send everything anew"),
        ] {
            assert!(read(line).1.contains(fault), "{line:?}: {}", read(line).1);
        }
        for line in [&["--all"][..], &["--failed"], &["--type", "x", "--again"]] {
            assert_eq!(read(line).1, "", "{line:?}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let line = ["--event-id", "7", "--aggregate", "user", "--from", "soon", "--to", "1", "--handler", "send"];
        let (_, faults) = read(&line);
        assert_eq!(faults.lines().count(), 5, "{faults}");
        assert!(faults.contains("The handlers are send_verification_email, resend_verification_email"), "{faults}");
        assert!(read(&["--from", "1h", "--to", "2h"]).1.contains("not after --from"));
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let (plan, faults) = read(&["--from", "24h", "--to", "2027-01-15T00:00:00+01:00"]);
        assert_eq!(faults, "");
        assert_eq!(plan.filter.from.unwrap().unix_timestamp(), 1_800_000_000 - 86_400);
        assert_eq!(plan.filter.to.unwrap().unix_timestamp(), 1_799_967_600);
    }

    #[test]
    fn sending_anew_stops_at_what_had_happened_when_it_was_asked_for() {
        assert!(read(&["--type", "x", "--again"]).0.filter.to.is_some());
        assert!(read(&["--type", "x"]).0.filter.to.is_none());
        let event = Uuid::from_u128(7).to_string();
        assert!(read(&["--event-id", &event, "--again"]).0.filter.to.is_none());
    }

    #[test]
    fn filters_combine() {
        let event = Uuid::from_u128(7);
        let (plan, faults) = read(&["--failed", "--event-id", &event.to_string(), "--aggregate", "a/b/c"]);
        assert_eq!(faults, "");
        assert_eq!(plan.events, Events::Failed(Some([event].into())));
        assert_eq!(plan.filter.aggregate.as_deref(), Some("a/b/c"));
    }
}
