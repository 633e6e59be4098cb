//! Metrics as both binaries have them: each metric is a row of its binary's one table, with name, kind and help, and is
//! written and read by that row alone.
//!
//! The `metrics` crate and its Prometheus recorder are used rather than `prometheus-client`: the recorder writes the
//! plain text format, in which a counter's help and its samples bear one name, so that every checker and scraper reads
//! it; and where no recorder is installed (a command, a test) recording is a no-op. Of the recorder's features the HTTP
//! listener is left out: `/metrics` is a route like others. Nothing here is done per event; callers count first.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

/// Seconds from half a millisecond to two minutes: database round trips, requests, mails.
pub const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// How many at a time, from one to ten thousand.
pub const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0];

/// What a label says of whatever is not in the binary's own tables: sets of labels are bounded.
pub const OTHER: &str = "other";

/// A row of a binary's table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As it is scraped.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// What it says, and in which unit.
    pub help: &'static str,
}

/// What kind of metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spreads over these buckets.
    Histogram(&'static [f64]),
}

/// Labels with their values.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, buckets: &'static [f64], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram(buckets), help }
    }

    /// Counts so many more; 0 makes the counter visible, so that a rate over its first increase is one.
    pub fn add(&self, labels: Labels<'_>, count: u64) {
        metrics::counter!(self.name, owned(labels)).increment(count);
    }

    /// Sets a gauge. NaN says that the value is not known at the moment.
    pub fn set(&self, labels: Labels<'_>, value: f64) {
        metrics::gauge!(self.name, owned(labels)).set(value);
    }

    /// Puts a value into a histogram.
    pub fn observe(&self, labels: Labels<'_>, value: f64) {
        metrics::histogram!(self.name, owned(labels)).record(value);
    }
}

fn owned(labels: Labels<'_>) -> Vec<metrics::Label> {
    labels.iter().map(|(name, value)| metrics::Label::new(*name, (*value).to_owned())).collect()
}

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts recording what the table names. Call it once, when it is clear that this process is a service.
///
/// # Errors
/// When recording was started before, or a histogram has no buckets.
pub fn install(table: &[Metric]) -> anyhow::Result<()> {
    let mut builder = PrometheusBuilder::new();
    for metric in table {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    for metric in table {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    let _ = HANDLE.set(handle);
    Ok(())
}

/// The text of `/metrics`, in [`CONTENT_TYPE`]. Empty where nothing is recorded.
pub fn render() -> String {
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Empties the buffers of histograms, which else grow until the next scrape. To be called every few seconds.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}

/// Prometheus's text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
