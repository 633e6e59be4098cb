//! Sending spans to a collector by OTLP (protobuf over HTTP), beside the work and never in its way.
//!
//! Spans wait in a bounded queue of the library's and are sent by a thread of its own; what does not fit, or what an
//! unreachable collector can't take, is dropped. The standard's variables for the sampler, the queue, headers and the
//! resource (`OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`) are the
//! library's to read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use url::Url;

use super::ON;
use super::client::Client;
use crate::settings::{self, Faults};

/// How long the last spans may take when a process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where a collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector's base URL. Absent, nothing is recorded.
    pub fn parse(value: Option<String>, faults: &mut Faults) -> Option<Self> {
        let text = settings::text(value)?;
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        // Whoever writes a password into it would find it in logs: there are headers for that.
        let plain = url.filter(|url| url.username().is_empty() && url.password().is_none() && url.query().is_none());
        let Some(mut url) = plain else {
            let problem = "is no plain http or https URL of a collector";
            let remedy = "Give one such as http://127.0.0.1:4318; what authorises goes into OTEL_EXPORTER_OTLP_HEADERS";
            faults.push("OTEL_EXPORTER_OTLP_ENDPOINT", problem, remedy);
            return None;
        };
        url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
        Some(Self(url))
    }
}

/// The running export.
#[derive(Debug)]
pub struct Export(Option<SdkTracerProvider>);

/// Starts to record spans and to send them, if there is somewhere to send them. To be called within the runtime.
///
/// # Errors
/// When one of the standard's variables has a value that can't be.
pub fn start(service: &'static str, version: &'static str, endpoint: Option<&Endpoint>) -> anyhow::Result<Export> {
    let Some(Endpoint(url)) = endpoint else { return Ok(Export(None)) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(url)?)
        .with_endpoint(url.as_str())
        .with_retry_policy(RetryPolicy::disabled())
        .build()?;
    let attributes = [KeyValue::new("service.namespace", "aftercommit"), KeyValue::new("service.version", version)];
    let resource = Resource::builder().with_service_name(service).with_attributes(attributes).build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    global::set_tracer_provider(provider.clone());
    ON.store(true, Ordering::Relaxed);
    tracing::info!(collector = url.as_str(), "traces are exported");
    Ok(Export(Some(provider)))
}

impl Export {
    /// Sends what is left, within two seconds.
    pub async fn stop(self) {
        let Some(provider) = self.0 else { return };
        ON.store(false, Ordering::Relaxed);
        let stopping = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WORDS));
        // What could not be sent is lost, and it was said why.
        let _ = tokio::time::timeout(LAST_WORDS, stopping).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_are_taken_and_no_fault_shows_one() {
        let parse = |text: &str| {
            let mut faults = Faults::new();
            let endpoint = Endpoint::parse(Some(text.to_owned()), &mut faults);
            (endpoint.map(|Endpoint(url)| url.to_string()), faults.finish().err().map(|faults| faults.to_string()))
        };
        assert_eq!(parse("http://127.0.0.1:4318").0.as_deref(), Some("http://127.0.0.1:4318/v1/traces"));
        assert_eq!(parse("https://otel.example/a/").0.as_deref(), Some("https://otel.example/a/v1/traces"));
        assert_eq!(parse(""), (None, None));
        for bad in ["127.0.0.1:4318", "http://me:canary@otel.example", "grpc://otel.example", "http://x?key=canary"] {
            let (endpoint, fault) = parse(bad);
            let fault = fault.expect("a fault");
            assert!(endpoint.is_none() && !fault.contains("canary"), "{bad}: {fault}");
        }
    }
}
