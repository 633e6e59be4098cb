//! The traces of a batch: a span for each handler's run on an event whose trace is recorded, and one for the batch that
//! names them. An event without a recorded trace costs a look at a flag, or at most at its metadata.

use std::time::SystemTime;

use opentelemetry::trace::SpanContext;
use shared::envelope::Envelope;
use shared::trace::{Span, SpanKind, context};

use crate::handlers::Handled;
use crate::jobs::store::NewJob;

/// Spans that end with the batch. A batch that is dropped before it was committed has failed.
#[derive(Debug)]
pub struct Traced {
    began: SystemTime,
    spans: Vec<Span>,
}

impl Default for Traced {
    fn default() -> Self {
        Self { began: SystemTime::now(), spans: Vec::new() }
    }
}

/// An event whose trace is recorded.
#[derive(Debug)]
pub struct Event {
    parent: SpanContext,
    began: SystemTime,
}

impl Event {
    /// The event, if its trace is recorded. To be asked before its handlers run.
    pub fn of(envelope: &Envelope) -> Option<Self> {
        if !shared::trace::is_on() {
            return None;
        }
        let parent = context::of_metadata(envelope.metadata.get()).filter(SpanContext::is_sampled)?;
        Some(Self { parent, began: SystemTime::now() })
    }
}

impl Traced {
    /// The span of a handler's run.
    pub fn run(&mut self, event: &Event, envelope: &Envelope, handled: &Handled) -> Span {
        let name = format!("dispatch {}", handled.handler);
        let span = Span::below_since(&event.parent, name, SpanKind::Consumer, event.began);
        span.set("aftercommit.event_id", envelope.event_id.to_string());
        span.set("aftercommit.event_type", envelope.event_type.clone());
        span.set("aftercommit.handler", handled.handler);
        span.set("aftercommit.lane", i64::from(envelope.lane));
        match &handled.outcome {
            Ok(jobs) => span.set("aftercommit.jobs", i64::try_from(jobs.len()).unwrap_or(i64::MAX)),
            Err(_) => span.failed("the handler could not take the event"),
        }
        self.spans.push(span.clone());
        span
    }

    /// The batch was committed, with so many events and new jobs.
    pub fn committed(&mut self, events: usize, jobs: u64) {
        if self.spans.is_empty() {
            return;
        }
        let batch = Span::about(&self.spans, "dispatch batch", self.began);
        batch.set("aftercommit.events", i64::try_from(events).unwrap_or(i64::MAX));
        batch.set("aftercommit.jobs", i64::try_from(jobs).unwrap_or(i64::MAX));
        self.spans.clear();
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.spans.iter().for_each(|span| span.failed("the batch was not committed here"));
    }
}

/// Lets what becomes of a job follow from the span.
pub fn carry(job: &mut NewJob, span: &Span) {
    let carried = span.context().and_then(|context| context::into_metadata(job.metadata(), &context));
    job.carried = carried.or(job.carried.take());
}
