//! Traces: one trace follows a change from the HTTP request through the outbox, the handler and the job to its delivery.
//!
//! The W3C trace context travels in the event's and the job's metadata, always. Spans are made only where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` is set: elsewhere a [`Span`] is nothing, and costs one look at a flag. Which traces are
//! recorded is decided where each begins (`OTEL_TRACES_SAMPLER`) and kept to by everybody after.

pub mod context;
pub mod export;
mod client;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::{FutureExt as _, Link, SpanBuilder, SpanContext, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, Value, global};

pub use opentelemetry::trace::SpanKind;

static ON: AtomicBool = AtomicBool::new(false);

/// Whether spans are recorded in this process.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// A span under way, which ends when it is dropped; or nothing.
#[derive(Clone, Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// No span.
    pub const NONE: Self = Self(None);

    /// A span below one of another process, or the first of a trace.
    pub fn below(parent: Option<&SpanContext>, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        if !is_on() {
            return Self::NONE;
        }
        let parent = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent.clone()));
        Self::start(SpanBuilder::from_name(name).with_kind(kind), &parent)
    }

    /// A span below one of another process, that began earlier.
    pub fn below_since(parent: &SpanContext, name: String, kind: SpanKind, began: SystemTime) -> Self {
        if !is_on() {
            return Self::NONE;
        }
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(began);
        Self::start(builder, &Context::new().with_remote_span_context(parent.clone()))
    }

    /// A span below the current one; nothing where there is none.
    pub fn within(name: impl Into<Cow<'static, str>>) -> Self {
        if !is_on() {
            return Self::NONE;
        }
        let parent = Context::current();
        if !parent.span().is_recording() {
            return Self::NONE;
        }
        Self::start(SpanBuilder::from_name(name).with_kind(SpanKind::Client), &parent)
    }

    /// A span of its own trace that began earlier and is about work for others, at most a hundred of which are named.
    pub fn about(others: &[Span], name: &'static str, began: SystemTime) -> Self {
        let links = others.iter().filter_map(Self::context).take(100).map(|span| Link::new(span, vec![], 0));
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer).with_start_time(began);
        if is_on() { Self::start(builder.with_links(links.collect()), &Context::new()) } else { Self::NONE }
    }

    fn start(builder: SpanBuilder, parent: &Context) -> Self {
        let span = global::tracer("aftercommit").build_with_context(builder, parent);
        Self(Some(parent.with_span(span)))
    }

    /// Its place in the trace; also when it is not recorded, so that others can keep to that.
    pub fn context(&self) -> Option<SpanContext> {
        self.0.as_ref().map(|context| context.span().span_context().clone())
    }

    /// Whether anybody will see it.
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.span().is_recording())
    }

    /// Says more of it. Never an address, and nothing of what a server quotes.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Gives it a better name, known later.
    pub fn rename(&self, name: String) {
        if let Some(context) = &self.0 {
            context.span().update_name(name);
        }
    }

    /// It is about something that failed.
    pub fn failed(&self, why: &'static str) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(why));
        }
    }

    /// Runs something within it: spans that begin there are below it.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(context) => future.with_context(context.clone()).await,
            None => future.await,
        }
    }
}

/// Does one step within the current span, as a span of its own.
///
/// # Errors
/// The step's.
pub async fn step<T, E>(name: &'static str, step: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let span = Span::within(name);
    let result = step.await;
    if result.is_err() {
        span.failed("failed");
    }
    result
}
