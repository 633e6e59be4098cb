//! What is said of a try: its span, and its lines in the log with every id that leads to it. How far it came, never what
//! the other side said.

use std::time::Duration;

use opentelemetry::trace::SpanContext;
use shared::trace::context::{of_metadata, trace_id_of};
use shared::trace::{Span, SpanKind};

use super::{ClaimedJob, Failure, Outcome};
use crate::jobs::transition::{Decision, after_failure};

/// The span of a try, below whatever asked for the job, if that is recorded.
pub(super) fn span(job: &ClaimedJob) -> Span {
    if !shared::trace::is_on() {
        return Span::NONE;
    }
    let Some(parent) = of_metadata(&job.metadata).filter(SpanContext::is_sampled) else { return Span::NONE };
    let span = Span::below(Some(&parent), format!("deliver {}", job.kind), SpanKind::Consumer);
    span.set("aftercommit.job_id", job.job_id.to_string());
    span.set("aftercommit.event_id", job.event_id.to_string());
    span.set("aftercommit.handler", job.handler.clone());
    span.set("aftercommit.attempt", i64::from(job.attempt));
    span
}

/// How the try ended, in its span.
pub(super) fn end(span: &Span, outcome: &Outcome) {
    let word = match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Away(_) => "away",
        Outcome::CalledOff(_) => "cancelled",
        Outcome::LeaseLost => "lease lost",
    };
    span.set("aftercommit.outcome", word);
    if let Outcome::Failed(Failure { phase, code, .. }) = outcome {
        if let Some(phase) = phase {
            span.set("aftercommit.phase", *phase);
        }
        if let Some(code) = code {
            span.set("aftercommit.code", i64::from(*code));
        }
    }
    if matches!(outcome, Outcome::Failed(_) | Outcome::Away(_)) {
        span.failed(word);
    }
}

/// A job is done.
pub(super) fn done(job: &ClaimedJob, duration: Duration) {
    let ClaimedJob { job_id, event_id, kind, attempt, .. } = job;
    let trace_id = || trace_id_of(&job.metadata);
    tracing::debug!(%job_id, %event_id, trace_id = trace_id(), kind, attempt, ?duration, "job done");
}

/// A job is not to be done.
pub(super) fn called_off(job: &ClaimedJob, reason: &str) {
    let ClaimedJob { job_id, event_id, kind, .. } = job;
    tracing::info!(%job_id, %event_id, trace_id = trace_id_of(&job.metadata), kind, reason, "job is called off");
}

/// What a failed try leads to, and its line.
pub(super) fn failed(job: &ClaimedJob, failure: Failure, marked: bool) -> Decision {
    let ClaimedJob { job_id, event_id, kind, attempt, .. } = job;
    let trace_id = trace_id_of(&job.metadata);
    let (phase, code) = (failure.phase, failure.code);
    let decision = after_failure(*attempt, &job.retry, job.retry_interval, failure, marked);
    let outcome = decision.attempt_outcome();
    match &decision {
        Decision::Retry { delay, .. } => tracing::info!(
            %job_id, %event_id, trace_id, kind, attempt, phase, code, outcome, ?delay,
            "job failed; it is tried again"
        ),
        _ => tracing::warn!(%job_id, %event_id, trace_id, kind, attempt, phase, code, outcome, "job is dead"),
    }
    decision
}
