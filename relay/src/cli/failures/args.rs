//! Which failures: the filter as flags.

use clap::Args as ClapArgs;
use shared::settings::Faults;
use time::OffsetDateTime;

use crate::cli::when;
use crate::operate::FailureFilter;

/// Which failures: those that match every filter given, and any of the values of one.
#[derive(ClapArgs, Clone, Debug, Default)]
#[command(next_help_heading = "Which failures")]
pub(super) struct FilterArgs {
    /// Of this handler
    #[arg(long, value_name = "NAME")]
    handler: Vec<String>,
    /// Of this event
    #[arg(long, value_name = "UUID")]
    event_id: Vec<String>,
    /// Of one aggregate, such as user/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<String>,
    /// Of events of this type
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Whose error holds this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// That failed last at or after this time (RFC 3339), or this long ago (such as 24h)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// That failed last before this time, or this long ago
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl FilterArgs {
    /// Reads it. Whoever changes something has to choose, or to say `--all`.
    pub(super) fn read(self, faults: &mut Faults) -> FailureFilter {
        let (from, to) = when::range(self.from, self.to, OffsetDateTime::now_utc(), faults);
        let some = |values: Vec<String>| Some(values).filter(|values| !values.is_empty());
        FailureFilter {
            event_ids: when::ids("--event-id", &self.event_id, faults),
            handlers: some(self.handler),
            aggregate: when::aggregate(self.aggregate.as_deref(), faults),
            types: some(self.types),
            error: self.error,
            from,
            to,
            resolved_too: false,
        }
    }
}

/// A change wants something chosen: a filter, or `--all`, and not both.
pub(super) fn check_chosen(command: &str, filter: &FailureFilter, all: bool, faults: &mut Faults) {
    match (*filter == FailureFilter::default(), all) {
        (true, false) => faults.push(command, "no failures are chosen", "Give a filter, or --all"),
        (false, true) => faults.push("--all", "is given together with a filter", "Give one of the two"),
        _ => {}
    }
}
