//! Which jobs: the filter as flags.

use clap::Args as ClapArgs;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use shared::settings::Faults;
use time::OffsetDateTime;

use crate::cli::when;
use crate::handlers;
use crate::jobs::JobState;
use crate::operate::JobFilter;

/// Which jobs: those that match every filter given, and any of the values of one.
#[derive(ClapArgs, Clone, Debug, Default)]
#[command(next_help_heading = "Which jobs")]
pub(super) struct FilterArgs {
    /// In this state
    #[arg(long, value_name = "STATE", value_parser = states(), ignore_case = true)]
    state: Vec<String>,
    /// Of this kind, such as email
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Asked for by this handler
    #[arg(long, value_name = "NAME")]
    handler: Vec<String>,
    /// Made of this event
    #[arg(long, value_name = "UUID")]
    event_id: Vec<String>,
    /// Emails made of this template
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Whose last error holds this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// That ended, or were stored and have not ended, at or after this time (RFC 3339), or this long ago (such as 24h)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// The same, before this time, or this long ago
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(JobState::ALL.map(JobState::as_str))
}

impl FilterArgs {
    /// Reads it. A handler may be one that this build no longer has, but not one that it nearly has.
    pub(super) fn read(self, job_ids: &[String], faults: &mut Faults) -> JobFilter {
        let (from, to) = when::range(self.from, self.to, OffsetDateTime::now_utc(), faults);
        let some = |values: Vec<String>| Some(values).filter(|values| !values.is_empty());
        let states: Vec<JobState> =
            self.state.iter().filter_map(|state| JobState::named(&state.to_ascii_lowercase())).collect();
        JobFilter {
            job_ids: when::ids("job id", job_ids, faults),
            states: Some(states).filter(|states| !states.is_empty()),
            kinds: some(self.kind),
            handlers: some(self.handler),
            event_ids: when::ids("--event-id", &self.event_id, faults),
            args: self.template.map(|template| json!({"template": template})),
            error: self.error,
            from,
            to,
        }
    }
}

/// What to say when a filter by handler found nothing: the handlers that this build has.
pub(super) fn unknown_handlers(filter: &JobFilter) -> Option<String> {
    let registry = handlers::register_all().ok()?;
    let asked = filter.handlers.iter().flatten();
    let unknown: Vec<&str> = asked.map(String::as_str).filter(|name| !registry.names().contains(name)).collect();
    let known = registry.names().join(", ");
    (!unknown.is_empty()).then(|| format!("no handler is called {}; the handlers are {known}", unknown.join(", ")))
}
