//! Where a request comes from, in words that other systems share: the W3C trace context, and an id to find it by.
//!
//! They go into the events' metadata, so that what a handler or a delivery does can be traced to the request. Both
//! come from whoever calls, so anything odd is replaced and nothing else of a request's headers is kept.

use serde_json::{Value, json};
use uuid::Uuid;

/// The origin of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    traceparent: String,
    tracestate: Option<String>,
    correlation_id: String,
}

impl Trace {
    /// Takes what the request brought (`traceparent`, `tracestate`, `X-Request-Id`), and makes what is missing.
    pub fn of(traceparent: Option<&str>, tracestate: Option<&str>, request_id: Option<&str>) -> Self {
        let given = traceparent.filter(|value| is_traceparent(value));
        let printable = |value: &&str| value.len() <= 512 && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        Self {
            // A tracestate without its traceparent means nothing.
            tracestate: given.and(tracestate).filter(printable).map(str::to_owned),
            traceparent: given.map_or_else(made_traceparent, str::to_owned),
            correlation_id: request_id
                .filter(|value| is_request_id(value))
                .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned),
        }
    }

    /// The id to find the request by, in logs and events.
    pub fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    /// What events keep of it.
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({ "traceparent": self.traceparent, "correlation_id": self.correlation_id });
        if let Some(tracestate) = &self.tracestate {
            metadata["tracestate"] = json!(tracestate);
        }
        metadata
    }
}

/// `00-` trace id `-` parent id `-` flags; later versions may go on after that.
fn is_traceparent(value: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |part: &str| part.bytes().any(|byte| byte != b'0');
    let mut parts = value.splitn(5, '-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && some(trace)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
        && (version != "00" || value.len() == 55)
        && value.len() <= 128
        && value.is_ascii()
}

fn made_traceparent() -> String {
    let (trace, parent) = (Uuid::new_v4().simple(), Uuid::new_v4().as_u64_pair().1);
    format!("00-{trace}-{parent:016x}-01")
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
        let trace = Trace::of(Some(GIVEN), Some("vendor=1"), Some("req-1"));
        let expected = json!({ "traceparent": GIVEN, "tracestate": "vendor=1", "correlation_id": "req-1" });
        assert_eq!(trace.metadata(), expected);
    }

    #[test]
    fn anything_else_is_replaced() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let trace = Trace::of(Some(bad), Some("vendor=1"), Some("a b\r\n"));
            assert!(is_traceparent(&trace.traceparent) && trace.traceparent != bad, "{bad}");
            assert_eq!(trace.tracestate, None);
            assert!(is_request_id(trace.correlation_id()));
        }
        assert!(is_traceparent(&format!("01{}-more", &GIVEN[2..])));
    }
}
