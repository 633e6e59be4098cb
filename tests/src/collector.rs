//! A collector of traces: takes OTLP over HTTP as real ones do, decodes it, and keeps the spans for assertions.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wait::until;

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Span {
    /// Which service sent it.
    pub service: String,
    /// Its trace, in hexadecimal.
    pub trace_id: String,
    /// Itself.
    pub span_id: String,
    /// What it is below of; empty for the first of a trace.
    pub parent_id: String,
    /// Its name.
    pub name: String,
    /// Whether it says that something failed.
    pub failed: bool,
    /// When it began and ended, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// Its attributes as text.
    pub attributes: Vec<(String, String)>,
    /// The spans that it names beside its parent.
    pub links: Vec<String>,
}

impl Span {
    /// An attribute's value.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    bytes: Mutex<Vec<u8>>,
}

/// The collector; stopped when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts one on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let task = tokio::spawn(serve(listener, received.clone()));
        Ok(Self { address, received, task })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything received so far, as text with what is no text left out.
    pub fn everything(&self) -> String {
        let bytes = self.received.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a trace has a span whose name begins with each of these, and returns the trace's spans by their start.
    pub async fn trace_with(&self, names: &[&str]) -> Result<Vec<Span>> {
        until(&format!("a trace with {names:?}"), async || {
            let spans = self.spans();
            let complete = |trace: &str| {
                let there = |name: &&str| spans.iter().any(|s| s.trace_id == trace && s.name.starts_with(name));
                names.iter().all(there)
            };
            let Some(trace) = spans.iter().map(|span| &span.trace_id).find(|trace| complete(trace)) else {
                return Ok(None);
            };
            let mut found: Vec<Span> = spans.iter().filter(|span| span.trace_id == *trace).cloned().collect();
            found.sort_by_key(|span| span.time);
            Ok(Some(found))
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Spans as a tree, one a line: who, what, and how long in milliseconds.
pub fn tree(spans: &[Span]) -> String {
    fn below(spans: &[Span], parent: &str, depth: usize, text: &mut String) {
        for span in spans.iter().filter(|span| span.parent_id == parent) {
            let took = (span.time.1.saturating_sub(span.time.0)) as f64 / 1e6;
            let name = format!("{}{}", "  ".repeat(depth), span.name);
            text.push_str(&format!("{name:<50} {:<6} {took:8.2} ms\n", span.service));
            below(spans, &span.span_id, depth + 1, text);
        }
    }
    let mut text = String::new();
    let is_known = |id: &str| spans.iter().any(|span| span.span_id == id);
    let mut roots: Vec<&str> =
        spans.iter().map(|span| span.parent_id.as_str()).filter(|parent| !is_known(parent)).collect();
    roots.sort_unstable();
    roots.dedup();
    roots.iter().for_each(|root| below(spans, root, 0, &mut text));
    text
}

async fn serve(listener: TcpListener, received: Arc<Received>) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = received.clone();
        let answering = service_fn(move |request| take(request, received.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answering));
    }
}

async fn take(request: Request<Incoming>, received: Arc<Received>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status| {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = status;
        Ok(response)
    };
    if request.uri().path() != "/v1/traces" || request.headers()["content-type"] != "application/x-protobuf" {
        return answer(StatusCode::NOT_FOUND);
    }
    let Ok(body) = request.into_body().collect().await else { return answer(StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    let Ok(decoded) = ExportTraceServiceRequest::decode(body.clone()) else { return answer(StatusCode::BAD_REQUEST) };
    received.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&body);
    received.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_of(decoded));
    answer(StatusCode::OK)
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = attributes(&resource.resource.unwrap_or_default().attributes);
        let service = attributes.iter().find(|(key, _)| key == "service.name");
        let service = service.map(|(_, value)| value.clone()).unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                name: span.name,
                failed: span.status.is_some_and(|status| status.code == 2),
                time: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: self::attributes(&span.attributes),
                links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            });
        }
    }
    spans
}

fn attributes(pairs: &[KeyValue]) -> Vec<(String, String)> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
