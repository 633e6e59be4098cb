//! What the relay counts and measures: every metric in one table, and nothing measured elsewhere under a name of its own.
//!
//! Counters and histograms are of this process. Gauges under `sampled` are of the whole system, asked of both databases
//! every few seconds by every relay: aggregate them by `max`, not `sum`. Labels are bounded: types and handlers are those
//! of the registry, kinds those this process knows, everything else is `other`; no id and no address is ever a label.

pub mod record;
pub mod sampled;
pub mod history;

use shared::metrics::{Metric, SECONDS, SIZES};

use crate::handlers::Registry;

pub(crate) const BUILD: Metric = Metric::gauge("aftercommit_relay_build_info", "Always 1; the label is the version.");
pub(crate) const ENABLED: Metric =
    Metric::gauge("aftercommit_relay_enabled", "1 when this relay works, 0 when JOB_QUEUE_ENABLED is false.");

pub(crate) const EVENTS: Metric = Metric::counter(
    "aftercommit_dispatch_events_total",
    "Events handed over, by type; `other` are types that no handler is for.",
);
pub(crate) const UNKNOWN_EVENTS: Metric = Metric::counter(
    "aftercommit_dispatch_unknown_events_total",
    "Events passed by because no handler is for their type.",
);
pub(crate) const HANDLED: Metric = Metric::counter(
    "aftercommit_dispatch_handled_total",
    "Runs of handlers by type of event, handler and outcome (succeeded, failed); a failed one sets the event aside.",
);
pub(crate) const NEW_JOBS: Metric = Metric::counter("aftercommit_dispatch_jobs_total", "Jobs stored that were new.");
pub(crate) const BATCH_EVENTS: Metric =
    Metric::histogram("aftercommit_dispatch_batch_events", SIZES, "Events in a batch that was committed.");
pub(crate) const BATCH_READ: Metric = Metric::histogram(
    "aftercommit_dispatch_batch_read_duration_seconds",
    SECONDS,
    "Time to read a batch and run its handlers, in seconds.",
);
pub(crate) const BATCH_COMMIT: Metric = Metric::histogram(
    "aftercommit_dispatch_batch_commit_duration_seconds",
    SECONDS,
    "Time to store a batch's jobs and cursors in one transaction, in seconds.",
);
pub(crate) const LANES: Metric =
    Metric::gauge("aftercommit_dispatch_lanes_held", "Lanes of the sixteen that this relay holds, by its worker.");
pub(crate) const INTERRUPTIONS: Metric = Metric::counter(
    "aftercommit_dispatch_interruptions_total",
    "Times that a dispatching worker could not go on, such as without a database, and began anew.",
);
pub(crate) const REBASES: Metric = Metric::counter(
    "aftercommit_history_rebased_lanes_total",
    "Cursors put back because the application database's history had moved.",
);
pub(crate) const GHOSTS: Metric = Metric::counter(
    "aftercommit_history_ghost_jobs_total",
    "Jobs of events that were lost with a history, by fate: cancelled in time, or delivered.",
);

pub(crate) const ATTEMPTS: Metric = Metric::counter(
    "aftercommit_delivery_attempts_total",
    "Ended tries by kind and outcome: succeeded, retry, dead, in_doubt, cancelled; and, with no attempt spent, expired, \
     away and handed_back.",
);
pub(crate) const ATTEMPT_SECONDS: Metric =
    Metric::histogram("aftercommit_delivery_attempt_duration_seconds", SECONDS, "Time of one try by kind, in seconds.");
pub(crate) const DELIVERY_SECONDS: Metric = Metric::histogram(
    "aftercommit_delivery_latency_seconds",
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 21_600.0, 86_400.0],
    "Time from the event to the success of its job by kind, in seconds.",
);
pub(crate) const IN_FLIGHT: Metric =
    Metric::gauge("aftercommit_delivery_in_flight", "Tries under way in this relay, by kind.");
pub(crate) const QUEUED: Metric =
    Metric::gauge("aftercommit_delivery_queued", "Jobs claimed by this relay and not begun, by kind.");
pub(crate) const BREAKER: Metric = Metric::gauge(
    "aftercommit_delivery_breaker_open",
    "1 while deliveries of a kind pause in this relay because what they need is away.",
);
pub(crate) const RESCUED: Metric = Metric::counter(
    "aftercommit_delivery_rescued_jobs_total",
    "Claims that this relay took over from a relay that went away.",
);
pub(crate) const LEASES_LOST: Metric = Metric::counter(
    "aftercommit_delivery_leases_lost_total",
    "Times that this relay was taken for dead and its claims were given to others.",
);
pub(crate) const FENCED: Metric = Metric::counter(
    "aftercommit_delivery_fenced_settlements_total",
    "Ends of tries that came after the claim was taken over: such a job may be done twice.",
);
pub(crate) const SMTP_REPLIES: Metric =
    Metric::counter("aftercommit_smtp_replies_total", "Replies of the mail server by class of code: 2xx to 5xx.");
pub(crate) const SMTP_CONNECTIONS: Metric =
    Metric::counter("aftercommit_smtp_connections_total", "Connections to the mail server by outcome: opened, failed.");
pub(crate) const SMTP_IDLE: Metric =
    Metric::gauge("aftercommit_smtp_idle_connections", "Open connections to the mail server that wait for a mail.");

pub(crate) const LAG: Metric = Metric::gauge(
    "aftercommit_dispatch_lag_seconds",
    "Age of the oldest committed event that is not dispatched, in seconds; 0 when none waits, NaN when unknown. Events \
     of transactions that still run are invisible and count from their commit on, with the age that their writer gave.",
);
pub(crate) const BACKLOG: Metric = Metric::gauge(
    "aftercommit_dispatch_backlog_events",
    "Committed events that wait for dispatch, counted to 10,000 in each of 16 lanes; NaN when unknown.",
);
pub(crate) const UNHELD: Metric =
    Metric::gauge("aftercommit_dispatch_lanes_unheld", "Lanes that no relay holds; NaN when unknown.");
pub(crate) const FAILURES_OPEN: Metric = Metric::gauge(
    "aftercommit_dispatch_failures_open",
    "Events that a handler could not take and that wait for new code, by handler.",
);
pub(crate) const JOBS: Metric = Metric::gauge(
    "aftercommit_jobs",
    "Jobs by kind and state, each counted to 10,000; in a large table those that succeeded are PostgreSQL's estimate, \
     for all kinds together as kind `all`.",
);
pub(crate) const JOBS_DUE: Metric =
    Metric::gauge("aftercommit_jobs_due", "Jobs that could be claimed now by kind, counted to 10,000.");
pub(crate) const JOBS_DUE_OLDEST: Metric =
    Metric::gauge("aftercommit_jobs_due_oldest_seconds", "Since when the oldest due job waits by kind, in seconds.");
pub(crate) const RELAYS: Metric =
    Metric::gauge("aftercommit_relays_connected", "Relays with a session in the jobs database; NaN when unknown.");
pub(crate) const DATABASE_UP: Metric = Metric::gauge(
    "aftercommit_database_up",
    "1 when the last look into a database (application, jobs) succeeded, else 0.",
);

pub(crate) const AUDIT_MISSING: Metric = Metric::gauge(
    "aftercommit_audit_missing_jobs",
    "Jobs that the last audit of this relay missed; one relay at a time audits.",
);
pub(crate) const AUDIT_GONE: Metric = Metric::gauge(
    "aftercommit_audit_events_gone",
    "Events that the last audit of this relay found jobs of and that are not in the outbox.",
);
pub(crate) const AUDIT_TIME: Metric =
    Metric::gauge("aftercommit_audit_timestamp_seconds", "When this relay last did an audit, in seconds since 1970.");

/// Every metric of the relay.
pub const TABLE: &[Metric] = &[
    BUILD,
    ENABLED,
    EVENTS,
    UNKNOWN_EVENTS,
    HANDLED,
    NEW_JOBS,
    BATCH_EVENTS,
    BATCH_READ,
    BATCH_COMMIT,
    LANES,
    INTERRUPTIONS,
    REBASES,
    GHOSTS,
    ATTEMPTS,
    ATTEMPT_SECONDS,
    DELIVERY_SECONDS,
    IN_FLIGHT,
    QUEUED,
    BREAKER,
    RESCUED,
    LEASES_LOST,
    FENCED,
    SMTP_REPLIES,
    SMTP_CONNECTIONS,
    SMTP_IDLE,
    LAG,
    BACKLOG,
    UNHELD,
    FAILURES_OPEN,
    JOBS,
    JOBS_DUE,
    JOBS_DUE_OLDEST,
    RELAYS,
    DATABASE_UP,
    AUDIT_MISSING,
    AUDIT_GONE,
    AUDIT_TIME,
];

/// Starts recording, and shows every counter at zero, so that the first increase is seen as one.
///
/// # Errors
/// As [`shared::metrics::install`].
pub fn install(registry: &Registry, kinds: &[&'static str], enabled: bool) -> anyhow::Result<()> {
    shared::metrics::install(TABLE)?;
    BUILD.set(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    ENABLED.set(&[], f64::from(u8::from(enabled)));
    for (event_type, handler) in registry.table() {
        EVENTS.add(&[("event_type", event_type)], 0);
        for outcome in ["succeeded", "failed"] {
            HANDLED.add(&[("event_type", event_type), ("handler", handler), ("outcome", outcome)], 0);
        }
    }
    for counter in [UNKNOWN_EVENTS, NEW_JOBS, INTERRUPTIONS, REBASES, RESCUED, LEASES_LOST, FENCED] {
        counter.add(&[], 0);
    }
    ["cancelled", "delivered"].iter().for_each(|fate| GHOSTS.add(&[("fate", fate)], 0));
    ["opened", "failed"].iter().for_each(|outcome| SMTP_CONNECTIONS.add(&[("outcome", outcome)], 0));
    ["2xx", "3xx", "4xx", "5xx"].iter().for_each(|class| SMTP_REPLIES.add(&[("class", class)], 0));
    SMTP_IDLE.set(&[], 0.0);
    for kind in kinds {
        record::OUTCOMES.iter().for_each(|outcome| ATTEMPTS.add(&[("kind", kind), ("outcome", outcome)], 0));
        record::line(kind, 0, 0, false);
    }
    Ok(())
}
