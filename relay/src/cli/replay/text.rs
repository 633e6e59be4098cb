//! A replay's tally for people.

use crate::replay::tally::Tally;
use crate::text::table;

/// Examples shown of each sort.
const SHOWN: usize = 10;

/// The tally as text.
pub(in crate::cli) fn of(tally: &Tally, dry_run: bool) -> String {
    let sections = [handlers(tally, dry_run), jobs(tally, dry_run), failures(tally), missing(tally), unhandled(tally)];
    let mut text: String = sections.into_iter().collect();
    let verb = if dry_run { "would be stored" } else { "stored" };
    let interrupted = if tally.interrupted { "interrupted after " } else { "" };
    let passed_by = if tally.passed_by > 0 { format!(" ({} of no handler)", tally.passed_by) } else { String::new() };
    text.push_str(&format!("{interrupted}{} events{passed_by}, {} jobs {verb}\n", tally.events, tally.stored()));
    text
}

fn handlers(tally: &Tally, dry_run: bool) -> String {
    if tally.handlers.is_empty() {
        return String::new();
    }
    let (stored, resolved) = if dry_run { ("would store", "would resolve") } else { ("stored", "resolved") };
    let mut rows = vec![["handler", "events", stored, "already there", "failed", resolved].map(str::to_owned).to_vec()];
    for (name, of) in &tally.handlers {
        let existing = Some(of.existing_text()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
        let [events, new, failed, resolved] =
            [of.taken + of.failed, of.stored, of.failed, of.resolved].map(|number| number.to_string());
        rows.push(vec![name.clone(), events, new, existing, failed, resolved]);
    }
    format!("{}\n", table(&rows))
}

fn jobs(tally: &Tally, dry_run: bool) -> String {
    if !dry_run {
        return String::new();
    }
    let jobs = tally.jobs.iter().map(|job| {
        let generation = if job.generation > 0 { format!(" (generation {})", job.generation) } else { String::new() };
        format!("{} of event {} by {}{generation}", job.name, job.event_id, job.handler)
    });
    list("jobs that would be stored:", jobs, tally.stored())
}

fn failures(tally: &Tally) -> String {
    let failures = tally.failures.iter().map(|f| format!("event {}, {}: {}", f.event_id, f.handler, f.error));
    list("failures:", failures, tally.failed())
}

fn missing(tally: &Tally) -> String {
    list("not in the outbox:", tally.missing_events.iter().map(|event| format!("event {event}")), tally.missing)
}

fn unhandled(tally: &Tally) -> String {
    let unhandled = tally.handlers.iter().filter(|(_, of)| of.unhandled > 0);
    unhandled
        .map(|(name, of)| format!("{} open failures of {name}, which no handler of this build takes\n", of.unhandled))
        .collect()
}

/// The first few, and how many more there are.
fn list(title: &str, lines: impl Iterator<Item = String>, total: u64) -> String {
    if total == 0 {
        return String::new();
    }
    let shown: String = lines.take(SHOWN).map(|line| format!("  {line}\n")).collect();
    let more = total.saturating_sub(SHOWN as u64);
    let more = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    format!("{title}\n{shown}{more}")
}
