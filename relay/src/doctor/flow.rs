//! What flows between the two databases: lag, lanes, relays, and what came to grief.

use std::collections::BTreeSet;

use shared::database_url::DatabaseUrl;

use super::{Limits, Notes, session_name};
use crate::databases::{self, Error, PATIENCE};
use crate::dispatch::lanes::LANES;
use crate::jobs::JobState;
use crate::jobs::claim::UNKNOWN_KINDS;
use crate::outbox;
use crate::outbox::window::{Snapshot, TransactionId};
use crate::postgres::within;
use crate::status::{self, Application, Jobs};
use crate::text::span;

/// `awaited`: how long each lane has stood where it stands, in seconds, and what was in progress then.
const AWAITED: &str = "
    SELECT seen, extract(epoch FROM clock_timestamp() - moved_at)::float8
      FROM lane_cursors";

pub(super) async fn examine(application: &DatabaseUrl, jobs: &DatabaseUrl, limits: &Limits) -> Notes {
    let mut notes = Notes::new("flow");
    let status = status::ask(application, jobs, &session_name()).await;
    // What is wrong with a database is said of the database.
    if let Ok(jobs) = &status.jobs {
        relays(jobs, &mut notes);
        ended(jobs, limits, &mut notes);
    }
    if let Ok(application) = &status.application {
        lanes(application, limits, &mut notes);
    }
    if status.jobs.is_ok() {
        let asked = more(application, jobs, limits, &mut notes).await;
        notes.keep("transactions", asked);
    }
    notes
}

fn relays(jobs: &Jobs, notes: &mut Notes) {
    let held = jobs.holders.len();
    match jobs.relays.len() {
        0 => notes.warning(
            "relays",
            "no relay is connected: nothing is dispatched and nothing delivered",
            "Start `relay run`",
        ),
        count => notes.ok("relays", format!("{count} connected")),
    }
    if jobs.dispatching > 0 {
        match held == usize::try_from(LANES).unwrap_or_default() {
            true => notes.ok("lanes held", format!("{held} of {LANES}")),
            false => notes.note(
                "lanes held",
                format!("{held} of {LANES}"),
                "Relays share lanes within seconds of a change; look again, and at /readyz of each if it stays so",
            ),
        }
    }
}

fn ended(jobs: &Jobs, limits: &Limits, notes: &mut Notes) {
    let dead = jobs.jobs.of(JobState::Dead);
    match dead.number {
        0 => notes.ok("dead jobs", "none"),
        _ => notes.warning(
            "dead jobs",
            format!("{dead} jobs are dead"),
            "`relay jobs list --state dead` shows them and why; `relay jobs retry --state dead` tries them again",
        ),
    }
    let failures = jobs.failures.total();
    match failures.number {
        0 => notes.ok("failed dispatches", "none is open"),
        _ => notes.warning(
            "failed dispatches",
            format!("{failures} events were set aside by a handler"),
            "`relay failures list` shows them; once the handler is mended, `relay failures retry --all`",
        ),
    }
    match jobs.jobs.due() {
        Some(due) if due.oldest > limits.lag.as_secs_f64() => notes.warning(
            "due jobs",
            format!("{} jobs are due, the oldest for {}", due.count, span(due.oldest)),
            "Is a relay running, is delivery paused, does the mail server answer? See /readyz of the relays",
        ),
        _ => notes.ok("due jobs", "none waits for long"),
    }
}

fn lanes(application: &Application, limits: &Limits, notes: &mut Notes) {
    let Some(lanes) = &application.lanes else { return };
    let troubles: BTreeSet<String> = lanes
        .iter()
        .filter_map(|(lane, of)| of.trouble.map(|trouble| (lane, trouble)))
        .map(|(lane, trouble)| format!("lane {lane}: {trouble}"))
        .collect();
    for trouble in &troubles {
        notes.problem(
            "lanes",
            trouble.as_str(),
            "A relay that runs goes back to a checkpoint by itself, unless an old server answers: see the message",
        );
    }
    if troubles.is_empty() {
        notes.ok("lanes", "every cursor points into this database's history");
    }
    match application.oldest() {
        Some((lane, event_id, age)) if age > limits.lag.as_secs_f64() => notes.warning(
            "lag",
            format!("event {event_id} in lane {lane} has waited for {}", span(age)),
            "Is a relay running, is dispatch paused? `relay status` shows who holds the lane",
        ),
        Some((.., age)) => notes.ok("lag", span(age)),
        None => notes.ok("lag", "nothing waits"),
    }
}

/// Transactions that events wait for: in progress when a lane's cursor last moved, and still so. No privilege is needed
/// to know them; how long at least, the cursor tells.
async fn more(application: &DatabaseUrl, jobs: &DatabaseUrl, limits: &Limits, notes: &mut Notes) -> Result<(), Error> {
    let jobs = databases::jobs(jobs, &session_name()).await?;
    let kinds: &[&str] = &[crate::mail::KIND];
    let unknown = within(PATIENCE, jobs.query(UNKNOWN_KINDS, &[&kinds])).await?;
    let unknown: Vec<String> = unknown.iter().map(|row| shared::redact::redact(&row.get::<_, String>(0))).collect();
    if !unknown.is_empty() {
        notes.warning(
            "unknown kinds",
            format!("jobs wait whose kind this build does not know: {}", unknown.join(", ")),
            "A newer relay's jobs wait for one; others were written by mistake: `relay jobs cancel --kind`",
        );
    }
    let rows = within(PATIENCE, jobs.query(AWAITED, &[])).await?;
    let application = databases::application(application, &session_name()).await?;
    let look = outbox::glance(&application, &[]).await?;
    let mut oldest: Option<(TransactionId, f64)> = None;
    for row in rows {
        let (seen, age): (Snapshot, f64) = (row.get(0), row.get(1));
        let still = seen.xip().iter().filter(|id| look.next.xip().contains(id)).min();
        oldest = match (oldest, still) {
            (Some(known), Some(id)) if known.1 < age => Some((*id, age)),
            (None, Some(id)) => Some((*id, age)),
            (known, _) => known,
        };
    }
    if let Some((TransactionId(id), age)) = oldest.filter(|(_, age)| *age > limits.transaction.as_secs_f64()) {
        notes.warning("awaited transactions",
            format!("transaction {id} of the application database has been open for more than {}", span(age)),
            "Its own events wait for it, and vacuum: `SELECT * FROM pg_stat_activity WHERE backend_xid IS NOT NULL` as a \
             superuser names the session");
    }
    Ok(())
}
