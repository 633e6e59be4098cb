//! Alive, and ready, with the reasons when not: as JSON, or as text for people who ask for `text/plain`.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use poem::http::{StatusCode, header};
use poem::web::{Data, Json};
use poem::{IntoResponse, Request, Response, handler};
use serde_json::{Map, Value, json};

use crate::health::{Health, Report};

/// `GET /livez`: red only when a restart would help.
#[handler]
pub fn livez(request: &Request, health: Data<&Arc<Health>>) -> Response {
    let standing = health.standing(Instant::now());
    let seconds: Map<String, Value> =
        standing.iter().map(|(part, since)| (part.clone(), since.as_secs().into())).collect();
    let lines = standing.iter().map(|(part, since)| format!("{part}: stands still for {} s", since.as_secs()));
    let (status, word) = match standing.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "standing still"),
    };
    answer(request, status, word, lines, json!({ "status": word, "standing_still_seconds": seconds }))
}

/// `GET /readyz`: whether it does what it is to do, and what is in the way. A pause is no fault.
#[handler]
pub fn readyz(request: &Request, health: Data<&Arc<Health>>) -> Response {
    let report = health.report();
    let (status, word) = match report.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    answer(request, status, word, lines(&report).into_iter(), to_json(&report, word))
}

fn lines(report: &Report) -> Vec<String> {
    let parts = report.parts.iter().map(|(part, trouble)| match trouble {
        None => format!("{part}: ok"),
        Some(trouble) => format!("{part}: {}: {}", trouble.about, trouble.reason),
    });
    parts.chain(report.pauses.iter().map(|(part, why)| format!("{part}: paused: {why}"))).collect()
}

fn to_json(report: &Report, word: &str) -> Value {
    let troubles = report.parts.iter().filter_map(|(part, trouble)| Some((part, trouble.as_ref()?)));
    let reasons: Vec<Value> = troubles
        .map(|(part, trouble)| json!({ "part": part, "about": trouble.about.to_string(), "reason": trouble.reason }))
        .collect();
    let parts: Map<String, Value> = report
        .parts
        .iter()
        .map(|(part, trouble)| (part.clone(), trouble.as_ref().map_or("ok", |trouble| &trouble.reason).into()))
        .collect();
    json!({ "status": word, "parts": parts, "reasons": reasons, "paused": report.pauses })
}

fn answer(
    request: &Request,
    status: StatusCode,
    word: &str,
    lines: impl Iterator<Item = String>,
    json: Value,
) -> Response {
    let wants = |accept: &str| accept.split(',').any(|kind| kind.trim().starts_with("text/plain"));
    let text = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(wants);
    if !text {
        return Json(json).with_status(status).into_response();
    }
    let mut body = format!("{word}\n");
    for line in lines {
        let _ = writeln!(body, "{line}");
    }
    body.with_status(status).into_response()
}
