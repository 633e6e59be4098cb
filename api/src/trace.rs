//! Where a request comes from, in words that other systems share: the W3C trace context, and an id to find it by.
//!
//! They go into the events' metadata, so that what a handler or a delivery does can be traced to the request. Both
//! come from whoever calls, so anything odd is replaced and nothing else of a request's headers is kept.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use serde_json::{Value, json};
use shared::trace::{Span, context};
use uuid::Uuid;

/// The origin of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    context: SpanContext,
    correlation_id: String,
}

impl Trace {
    /// Takes what the request brought, its place in a trace and `X-Request-Id`, and makes what is missing.
    pub fn of(given: Option<SpanContext>, request_id: Option<&str>) -> Self {
        Self {
            context: given.unwrap_or_else(made),
            correlation_id: request_id
                .filter(|value| is_request_id(value))
                .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned),
        }
    }

    /// The same, for what happens within a span.
    pub fn within(&self, span: &Span) -> Self {
        let context = span.context().unwrap_or_else(|| self.context.clone());
        Self { context, correlation_id: self.correlation_id.clone() }
    }

    /// The id to find the request by, in logs and events.
    pub fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    /// The trace's id.
    pub fn trace_id(&self) -> TraceId {
        self.context.trace_id()
    }

    /// What events keep of it.
    pub fn metadata(&self) -> Value {
        let mut metadata =
            json!({ "traceparent": context::traceparent(&self.context), "correlation_id": self.correlation_id });
        if let Some(tracestate) = context::tracestate(&self.context) {
            metadata["tracestate"] = json!(tracestate);
        }
        metadata
    }
}

/// The beginning of a trace. Where nothing is recorded here, others may still record what follows.
fn made() -> SpanContext {
    let (trace, span) = (Uuid::new_v4(), Uuid::new_v4().as_u64_pair().1);
    SpanContext::new(
        TraceId::from_bytes(trace.into_bytes()),
        SpanId::from_bytes(span.to_be_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

fn is_request_id(value: &str) -> bool {
    (1..=128).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_trace_is_kept() {
        let trace = Trace::of(context::parse(GIVEN, Some("vendor=1")), Some("req-1"));
        let expected = json!({ "traceparent": GIVEN, "tracestate": "vendor=1", "correlation_id": "req-1" });
        assert_eq!(trace.metadata(), expected);
    }

    #[test]
    fn what_is_missing_or_odd_is_made() {
        let trace = Trace::of(None, Some("a b\r\n"));
        assert!(is_request_id(trace.correlation_id()));
        let metadata = trace.metadata();
        let made = context::of_metadata(&metadata.to_string()).expect("a context");
        assert!(made.is_sampled() && metadata.get("tracestate").is_none(), "{metadata}");
    }
}
