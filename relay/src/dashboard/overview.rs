//! The front page: what is wrong, then how much and how fast, then who does it.

use minijinja::{Value, context};
use time::OffsetDateTime;

use super::App;
use super::chart::Series;
use super::pages::Problem;
use super::sample::Sample;
use super::view::Page;
use crate::dispatch::lanes::LANES;
use crate::jobs::JobState;
use crate::status::{Application, Jobs};
use crate::text::span;

/// An event that waits longer than this is a problem: dispatch takes milliseconds.
const LATE_DISPATCH: f64 = 30.0;
/// A job that is due for longer than this is a problem.
const LATE_DELIVERY: f64 = 60.0;

/// The page.
///
/// # Errors
/// None: what is not known is said.
pub async fn page(app: &App) -> Result<Page, Problem> {
    let sample = app.samples.now(app).await;
    let jobs = sample.status.jobs.as_ref().ok();
    let application = sample.status.application.as_ref().ok();
    Ok(Page {
        title: "Overview".to_owned(),
        section: "/",
        template: "overview.html",
        values: context! {
            problems => problems(app, &sample),
            figures => figures(app, application, jobs),
            charts => charts(app),
            states => jobs.map(states),
            kinds => jobs.map(kinds),
            relays => jobs.map(relays),
            lanes => jobs.map(|jobs| lanes(jobs, application)),
        },
    })
}

/// What somebody should look at, the worst first.
fn problems(app: &App, sample: &Sample) -> Vec<Value> {
    let problem = |level: &str, text: String, link: &str, action: &str| context! { level, text, link, action };
    let mut problems = Vec::new();
    for error in sample.status.errors() {
        problems.push(problem("bad", error.to_string(), "", ""));
    }
    for (part, trouble) in app.health.report().parts {
        if let Some(trouble) = trouble {
            problems.push(problem("bad", format!("This relay, {part}: {}", trouble.reason), "", ""));
        }
    }
    if let Ok(application) = &sample.status.application {
        for (lane, of) in application.lanes.iter().flatten() {
            if let Some(trouble) = &of.trouble {
                problems.push(problem("bad", format!("Lane {lane}: {trouble}"), "", ""));
            }
        }
        if let Some((lane, event_id, age)) = application.oldest().filter(|(.., age)| *age > LATE_DISPATCH) {
            let text = format!("An event waits for dispatch since {} (lane {lane})", span(age));
            problems.push(problem("bad", text, &format!("/events/{event_id}"), "See the event"));
        }
    }
    if let Ok(jobs) = &sample.status.jobs {
        problems.extend(of_jobs(jobs, problem));
    }
    for pause in &sample.pauses {
        problems.push(problem("note", format!("{}.", capital(&pause.to_string())), "/pause", "Resume"));
    }
    if let Some(moves) = &sample.moves {
        let ghosts = match moves.ghosts_delivered {
            0 => String::new(),
            ghosts => format!(" Of lost events, {ghosts} jobs were done already."),
        };
        let text = format!(
            "The application database's history moved in the last day ({} lanes): {}.{ghosts}",
            moves.lanes, moves.reason
        );
        problems.push(problem("note", text, "", ""));
    }
    problems
}

fn of_jobs(jobs: &Jobs, problem: impl Fn(&str, String, &str, &str) -> Value) -> Vec<Value> {
    let mut problems = Vec::new();
    let held = jobs.holders.len();
    if held < usize::from(LANES.unsigned_abs()) {
        let text = match held {
            0 => "No relay dispatches: nobody holds a lane".to_owned(),
            held => format!("{held} of {LANES} lanes are held; the others wait for a relay"),
        };
        problems.push(problem("bad", text, "", ""));
    }
    let dead = jobs.jobs.of(JobState::Dead);
    if dead.number > 0 {
        let text = format!("{dead} dead {}", if dead.number == 1 { "job" } else { "jobs" });
        problems.push(problem("bad", text, "/jobs?state=dead", "See why, retry or cancel"));
    }
    let failed = jobs.failures.total();
    if failed.number > 0 {
        let text = format!("{failed} failed {}", if failed.number == 1 { "dispatch" } else { "dispatches" });
        problems.push(problem("bad", text, "/failures", "See why"));
    }
    if let Some(due) = jobs.jobs.due().filter(|due| due.oldest > LATE_DELIVERY) {
        let text = format!("{} jobs are due, the oldest for {}", due.count, span(due.oldest));
        problems.push(problem("bad", text, "/jobs?state=available&state=retrying", "See them"));
    }
    problems
}

fn figures(app: &App, application: Option<&Application>, jobs: Option<&Jobs>) -> Vec<Value> {
    let unknown = || "unknown".to_owned();
    let waiting = application.filter(|application| application.lanes.is_some());
    let lag = waiting
        .map_or_else(unknown, |application| application.oldest().map_or_else(|| span(0.0), |(.., age)| span(age)));
    let backlog = waiting.and_then(Application::backlog).map_or_else(unknown, |count| count.to_string());
    let last = app.history.latest();
    let rate = |of: fn(&crate::metrics::history::Point) -> f64| {
        last.as_ref().map_or_else(unknown, |point| per_second(of(point)))
    };
    let due = jobs.map_or_else(unknown, |jobs| jobs.jobs.due().map_or("0".to_owned(), |due| due.count.to_string()));
    let report = app.health.report();
    let breakers: Vec<&String> = report
        .parts
        .iter()
        .filter(|(_, trouble)| trouble.as_ref().is_some_and(|trouble| trouble.about == crate::health::About::Breaker))
        .map(|(part, _)| part)
        .collect();
    let figure = |name: &str, value: String, note: &str, bad: bool| context! { name, value, note, bad };
    vec![
        figure(
            "Dispatch lag",
            lag,
            "age of the oldest event that waits",
            waiting.is_some_and(|a| a.oldest().is_some_and(|(.., age)| age > LATE_DISPATCH)),
        ),
        figure("Backlog", backlog, "events that wait for dispatch", false),
        figure("Due jobs", due, "could be delivered now", false),
        figure("Events", rate(|point| point.events_per_second), "dispatched by this relay", false),
        figure("Deliveries", rate(|point| point.deliveries_per_second), "done by this relay", false),
        figure("Failures", rate(|point| point.failures_per_second), "handlers and tries of this relay", false),
        match breakers.as_slice() {
            [] => figure("Breaker", "closed".to_owned(), "what deliveries need is there", false),
            _ => figure("Breaker", "open".to_owned(), "deliveries pause: what they need is away", true),
        },
    ]
}

fn per_second(rate: f64) -> String {
    match rate {
        rate if rate < 10.0 => format!("{rate:.1}/s"),
        rate => format!("{rate:.0}/s"),
    }
}

fn charts(app: &App) -> Vec<Value> {
    let now = OffsetDateTime::now_utc();
    let points = app.history.points();
    let of = |value: fn(&crate::metrics::history::Point) -> Option<f64>| -> Vec<_> {
        points.iter().map(|point| (point.at, value(point))).collect()
    };
    let whole = |value: f64| format!("{value:.0}");
    [
        ("Dispatch lag", of(|point| point.lag_seconds), span as fn(f64) -> String),
        // Far below what a float holds exactly.
        ("Backlog", of(|point| point.backlog.map(|count| count.number as f64)), whole),
        ("Events dispatched", of(|point| Some(point.events_per_second)), per_second),
        ("Deliveries", of(|point| Some(point.deliveries_per_second)), per_second),
        ("Failures", of(|point| Some(point.failures_per_second)), per_second),
    ]
    .into_iter()
    .map(|(title, points, say)| Series { title, points: &points, say }.draw(now))
    .collect()
}

fn states(jobs: &Jobs) -> Vec<Value> {
    JobState::ALL
        .into_iter()
        .map(|state| context! { state => state.as_str(), count => jobs.jobs.of(state).to_string() })
        .collect()
}

fn kinds(jobs: &Jobs) -> Vec<Value> {
    let kind = |(kind, counts): (&String, &std::collections::BTreeMap<&'static str, crate::status::count::Count>)| {
        let counts: Vec<String> = JobState::ALL
            .into_iter()
            .map(|state| match (counts.get(state.as_str()), state) {
                (Some(count), _) => count.to_string(),
                (None, JobState::Succeeded) if jobs.jobs.succeeded_in_all.is_some() => "?".to_owned(),
                (None, _) => "0".to_owned(),
            })
            .collect();
        context! { kind, counts }
    };
    jobs.jobs.by_kind.iter().map(kind).collect()
}

fn relays(jobs: &Jobs) -> Vec<Value> {
    let relay = |relay: &crate::status::dispatch::Relay| {
        let holds =
            |holder: &&crate::status::dispatch::Holder| holder.name == relay.name && holder.address == relay.address;
        let lanes: Vec<String> =
            jobs.holders.iter().filter(|(_, holder)| holds(holder)).map(|(lane, _)| lane.to_string()).collect();
        context! {
            name => relay.name.as_str(),
            address => relay.address.as_deref().unwrap_or("local"),
            lanes => lanes.join(" "),
            lane_count => lanes.len(),
            connected_for => span(relay.connected_for),
        }
    };
    jobs.relays.iter().map(relay).collect()
}

fn lanes(jobs: &Jobs, application: Option<&Application>) -> Vec<Value> {
    let backlog = application.and_then(|application| application.lanes.as_ref());
    let lane = |cursor: &crate::dispatch::cursor::Cursor| {
        let of = backlog.and_then(|lanes| lanes.get(&cursor.lane));
        context! {
            lane => cursor.lane,
            waiting => of.map_or("?".to_owned(), |of| of.waiting.to_string()),
            oldest => of.and_then(|of| of.oldest).map(|(_, age)| span(age)),
            position => cursor.witness.map(|witness| witness.position),
            holder => jobs.holders.get(&cursor.lane).map(|holder| holder.name.clone()),
        }
    };
    jobs.cursors.iter().map(lane).collect()
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
