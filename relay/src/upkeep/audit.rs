//! The periodic audit: `relay verify` over the last while, by index alone, and loud when something is missing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::handlers::Registry;
use crate::metrics::record;
use crate::outbox::page::Filter;
use crate::replay::Error;
use crate::verify::{self, Findings, Reach};

/// Events that are younger than this may be on their way.
const YOUNG: time::Duration = time::Duration::seconds(10);

/// One audit.
#[derive(Clone, Debug)]
pub struct Audit {
    /// When it ended.
    pub at: OffsetDateTime,
    /// What it found.
    pub findings: Arc<Findings>,
}

/// Where the last audit of this process is read.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Option<Audit>>>);

impl Board {
    /// The last audit, if this relay has done one.
    pub fn last(&self) -> Option<Audit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, audit: Audit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(audit);
    }
}

/// Audits the events of a span of time up to now, and says what is wrong.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn audit(
    application: &Client,
    jobs: &Client,
    registry: &Registry,
    span: Duration,
    board: &Board,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let now = OffsetDateTime::now_utc();
    let from = now.checked_sub(span.try_into().unwrap_or(time::Duration::MAX));
    let filter = Filter { from, to: now.checked_sub(YOUNG), ..Filter::default() };
    let findings = verify::check(application, jobs, registry, filter, Reach::Recent, stop, |_| {}).await?;
    if findings.interrupted {
        return Ok(());
    }
    // Ghosts were told of when history moved.
    let gone = findings.phantom_count - findings.ghosts;
    record::audited(findings.missing_count, gone);
    if findings.missing_count > 0 || gone > 0 {
        let sample: Vec<_> = findings.missing.iter().take(5).map(|missing| missing.event_id.to_string()).collect();
        tracing::error!(
            events = findings.events,
            missing_jobs = findings.missing_count,
            events_gone = gone,
            sample = sample.join(","),
            "the audit of the last {span:?} found events without their jobs, or jobs without their events; \
             `relay verify` names them, `relay replay` stores what is missing"
        );
    } else {
        tracing::debug!(events = findings.events, "the audit found everything in its place");
    }
    board.put(Audit { at: OffsetDateTime::now_utc(), findings: Arc::new(findings) });
    Ok(())
}
