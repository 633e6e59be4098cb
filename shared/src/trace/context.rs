//! The W3C trace context as it travels: in headers, and in the metadata of events and jobs.
//!
//! It comes from whoever calls or writes, so anything odd counts as absent.

use std::str::FromStr as _;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Reads `traceparent` (`00-` trace id `-` parent id `-` flags; later versions may go on after that) and `tracestate`.
pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = traceparent.splitn(5, '-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    let well_formed = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && (version != "00" || traceparent.len() == 55)
        && traceparent.len() <= 128
        && traceparent.is_ascii();
    if !well_formed {
        return None;
    }
    let state = tracestate.filter(|state| state.len() <= 512).and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(parent).ok()?,
        // The other bits are not ours to hand on.
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    );
    // Zeros are no ids.
    context.is_valid().then_some(context)
}

/// As `traceparent` has it.
pub fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// As `tracestate` has it; none when it is empty.
pub fn tracestate(context: &SpanContext) -> Option<String> {
    Some(context.trace_state().header()).filter(|state| !state.is_empty())
}

/// The context in an event's or a job's metadata.
pub fn of_metadata(metadata: &str) -> Option<SpanContext> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        traceparent: std::borrow::Cow<'a, str>,
        #[serde(borrow, default)]
        tracestate: Option<std::borrow::Cow<'a, str>>,
    }
    let found: Metadata<'_> = serde_json::from_str(metadata).ok()?;
    parse(&found.traceparent, found.tracestate.as_deref())
}

/// The same metadata with this context in it.
pub fn into_metadata(metadata: &RawValue, context: &SpanContext) -> Option<Box<RawValue>> {
    let mut fields: Map<String, Value> = serde_json::from_str(metadata.get()).ok()?;
    fields.insert("traceparent".to_owned(), traceparent(context).into());
    match tracestate(context) {
        Some(state) => fields.insert("tracestate".to_owned(), state.into()),
        None => fields.remove("tracestate"),
    };
    serde_json::value::to_raw_value(&fields).ok()
}

/// The trace's id for a log line, empty when the metadata hold none.
pub fn trace_id_of(metadata: &str) -> String {
    of_metadata(metadata).map(|context| context.trace_id().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_context_comes_back_as_it_was() {
        let context = parse(GIVEN, Some("vendor=1")).expect("good");
        assert_eq!((traceparent(&context).as_str(), tracestate(&context).as_deref()), (GIVEN, Some("vendor=1")));
        assert!(parse(&format!("01{}-more", &GIVEN[2..]), None).is_some(), "later versions may go on");
        let metadata = format!(r#"{{"traceparent": "{GIVEN}", "tracestate": "vendor=1", "correlation_id": "x"}}"#);
        assert_eq!(of_metadata(&metadata), Some(context));
        assert_eq!(trace_id_of(&metadata), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn anything_odd_counts_as_absent() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(bad, None), None, "{bad}");
        }
        for odd in ["{}", "null", "[]", "x", r#"{"traceparent": 7}"#, r#"{"traceparent": "x"}"#] {
            assert_eq!(of_metadata(odd), None, "{odd}");
        }
        let odd_state = parse(GIVEN, Some("a b\r\n")).expect("the parent is good");
        assert_eq!(tracestate(&odd_state), None);
    }

    #[test]
    fn metadata_keep_what_else_they_hold() {
        let before = RawValue::from_string(format!(r#"{{"traceparent":"{GIVEN}","correlation_id":"c"}}"#)).unwrap();
        let other = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01", None).expect("good");
        let after = into_metadata(&before, &other).expect("an object");
        assert_eq!(of_metadata(after.get()), Some(other));
        assert!(after.get().contains(r#""correlation_id":"c""#));
    }
}
