//! Status for people.

use super::{Application, Jobs, Status};
use crate::dispatch::lanes::LANES;
use crate::jobs::JobState;
use crate::text::{span, table};

pub(super) fn of(status: &Status) -> String {
    let mut text = table(&summary(status));
    if let Ok(jobs) = &status.jobs {
        text.push_str(&section("Jobs", &job_rows(jobs)));
        text.push_str(&section("Open dispatch failures", &failure_rows(jobs)));
        text.push_str(&section("Relays", &relay_rows(jobs)));
        text.push_str(&section("Lanes", &lane_rows(status, jobs)));
    }
    text
}

fn section(title: &str, rows: &[Vec<String>]) -> String {
    // The first row is the heading.
    if rows.len() < 2 { String::new() } else { format!("\n{title}\n{}", table(rows)) }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn summary(status: &Status) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    match &status.application {
        Ok(application) => {
            let backlog = application.backlog();
            rows.push(row(["lag", &lag(application)]));
            let waiting =
                backlog.map_or("unknown without the jobs database".to_owned(), |count| format!("{count} events"));
            rows.push(row(["backlog", &waiting]));
        }
        Err(error) => rows.push(row(["lag, backlog", &format!("unknown: {error}")])),
    }
    match &status.jobs {
        Ok(jobs) => {
            let held = jobs.holders.len();
            let (relays, dispatching, delivering) = (jobs.relays.len(), jobs.dispatching, jobs.delivering);
            rows.push(row(["lanes", &format!("{held} of {LANES} held")]));
            rows.push(row([
                "relays",
                &format!("{relays} connected: {dispatching} dispatching sessions, {delivering} delivering processes"),
            ]));
            let due = jobs
                .jobs
                .due()
                .map_or("0".to_owned(), |due| format!("{}, the oldest for {}", due.count, span(due.oldest)));
            rows.push(row(["due jobs", &due]));
            rows.push(row(["dead jobs", &jobs.jobs.of(JobState::Dead).to_string()]));
            rows.push(row(["failed dispatches", &jobs.failures.total().to_string()]));
            jobs.pauses.iter().for_each(|pause| rows.push(row(["paused", &pause.to_string()])));
        }
        Err(error) => rows.push(row(["lanes, relays, jobs", &format!("unknown: {error}")])),
    }
    rows
}

fn lag(application: &Application) -> String {
    match (application.lanes.as_ref(), application.oldest()) {
        (None, _) => "unknown without the jobs database".to_owned(),
        (Some(_), None) => "none".to_owned(),
        (Some(_), Some((lane, event_id, age))) => format!("{} (event {event_id} in lane {lane})", span(age)),
    }
}

fn job_rows(jobs: &Jobs) -> Vec<Vec<String>> {
    let mut rows = vec![row(["kind", "state", "jobs", "due"])];
    for (kind, states) in &jobs.jobs.by_kind {
        for state in JobState::ALL {
            let Some(count) = states.get(state.as_str()) else { continue };
            rows.push(row([kind, state.as_str(), &count.to_string(), ""]));
        }
        if let Some(due) = jobs.jobs.due.get(kind) {
            rows.push(row([kind, "due now", &due.count.to_string(), &format!("the oldest for {}", span(due.oldest))]));
        }
    }
    if let Some(count) = jobs.jobs.succeeded_in_all {
        rows.push(row(["(all kinds)", JobState::Succeeded.as_str(), &count.to_string(), ""]));
    }
    rows
}

fn failure_rows(jobs: &Jobs) -> Vec<Vec<String>> {
    let failures = jobs.failures.by_handler.iter().map(|(handler, count)| row([handler, &count.to_string()]));
    std::iter::once(row(["handler", "events"])).chain(failures).collect()
}

fn relay_rows(jobs: &Jobs) -> Vec<Vec<String>> {
    let relays = jobs.relays.iter().map(|relay| {
        let lanes = jobs.holders.values().filter(|h| h.name == relay.name && h.address == relay.address).count();
        let address = relay.address.as_deref().unwrap_or("local");
        row([&relay.name, address, &lanes.to_string(), &span(relay.connected_for)])
    });
    std::iter::once(row(["name", "address", "lanes", "connected for"])).chain(relays).collect()
}

fn lane_rows(status: &Status, jobs: &Jobs) -> Vec<Vec<String>> {
    let backlog = status.application.as_ref().ok().and_then(|application| application.lanes.as_ref());
    let lanes = jobs.cursors.iter().map(|cursor| {
        let lane = backlog.and_then(|lanes| lanes.get(&cursor.lane));
        let waiting = lane.map_or("?".to_owned(), |lane| lane.waiting.to_string());
        let oldest = lane.and_then(|lane| lane.oldest).map_or("-".to_owned(), |(_, age)| span(age));
        let position = cursor.witness.map_or("-".to_owned(), |witness| witness.position.to_string());
        let holder = jobs.holders.get(&cursor.lane).map_or("nobody".to_owned(), |holder| {
            format!("{} at {}", holder.name, holder.address.as_deref().unwrap_or("local"))
        });
        let trouble = lane.and_then(|lane| lane.trouble).map(|trouble| trouble.to_string()).unwrap_or_default();
        row([&cursor.lane.to_string(), &waiting, &oldest, &position, &holder, &trouble])
    });
    std::iter::once(row(["lane", "waiting", "oldest", "position", "held by", ""])).chain(lanes).collect()
}
