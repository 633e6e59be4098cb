//! Status for programs. What is unknown is null; a half that is missing holds only its error.

use serde_json::{Map, Value, json};

use super::{Application, Jobs, Status};

pub(super) fn of(status: &Status) -> Value {
    let application = status.application.as_ref().map_or_else(|error| error_of(&error.to_string()), application);
    let jobs = status.jobs.as_ref().map_or_else(|error| error_of(&error.to_string()), jobs);
    let lag = status.application.as_ref().ok().and_then(Application::lag);
    let backlog = status.application.as_ref().ok().and_then(Application::backlog).map(super::Count::to_json);
    json!({
        "lag_seconds": lag,
        "backlog": backlog,
        "lanes": lanes(status),
        "application_database": application,
        "jobs_database": jobs,
    })
}

fn error_of(error: &str) -> Value {
    json!({"error": error})
}

fn application(application: &Application) -> Value {
    let oldest = application
        .oldest()
        .map(|(lane, event_id, age)| json!({"event_id": event_id, "lane": lane, "age_seconds": age}));
    json!({
        // As text: not every reader of JSON keeps 64 bits.
        "system_identifier": application.identity.system_identifier.to_string(),
        "timeline": application.identity.timeline,
        "oldest_waiting": oldest,
    })
}

fn jobs(jobs: &Jobs) -> Value {
    let relays: Vec<Value> = jobs
        .relays
        .iter()
        .map(|relay| {
            json!({
                "name": relay.name, "address": relay.address,
                "sessions": relay.sessions, "connected_seconds": relay.connected_for,
            })
        })
        .collect();
    let kinds: Map<String, Value> = jobs
        .jobs
        .by_kind
        .iter()
        .map(|(kind, states)| {
            let states: Map<_, _> =
                states.iter().map(|(state, count)| ((*state).to_owned(), count.to_json())).collect();
            (kind.clone(), states.into())
        })
        .collect();
    let states: Map<String, Value> = crate::jobs::JobState::ALL
        .iter()
        .map(|state| (state.as_str().to_owned(), jobs.jobs.of(*state).to_json()))
        .collect();
    let due: Map<String, Value> = jobs
        .jobs
        .due
        .iter()
        .map(|(kind, due)| (kind.clone(), json!({"count": due.count.to_json(), "oldest_seconds": finite(due.oldest)})))
        .collect();
    let failures: Map<_, _> =
        jobs.failures.by_handler.iter().map(|(handler, count)| (handler.clone(), count.to_json())).collect();
    json!({
        "relays": relays,
        "dispatching_sessions": jobs.dispatching,
        "delivering_processes": jobs.delivering,
        "jobs": {"by_state": states, "by_kind": kinds, "due": due},
        "paused": jobs.pauses.iter().map(crate::operate::pauses::Pause::to_json).collect::<Vec<_>>(),
        "dispatch_failures": {"open": jobs.failures.total().to_json(), "by_handler": failures},
    })
}

fn lanes(status: &Status) -> Vec<Value> {
    let Ok(jobs) = &status.jobs else { return Vec::new() };
    let backlog = status.application.as_ref().ok().and_then(|application| application.lanes.as_ref());
    jobs.cursors
        .iter()
        .map(|cursor| {
            let lane = backlog.and_then(|lanes| lanes.get(&cursor.lane));
            let holder = jobs.holders.get(&cursor.lane);
            json!({
                "lane": cursor.lane,
                "version": cursor.version,
                "seen": cursor.seen.to_string(),
                "position": cursor.witness.map(|witness| witness.position),
                "window_open": cursor.window.is_some(),
                "held_by": holder.map(|holder| {
                    json!({"name": holder.name, "address": holder.address, "backend_pid": holder.pid})
                }),
                "waiting": lane.map(|lane| lane.waiting.to_json()),
                "oldest_seconds": lane.and_then(|lane| lane.oldest).map(|(_, age)| age),
                "trouble": lane.and_then(|lane| lane.trouble).map(|trouble| trouble.to_string()),
            })
        })
        .collect()
}

/// A `run_at` of minus infinity is as old as can be, which JSON has no number for.
fn finite(seconds: f64) -> Option<f64> {
    Some(seconds).filter(|seconds| seconds.is_finite())
}
