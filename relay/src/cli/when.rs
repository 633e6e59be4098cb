//! Times and ids as people give them on the command line, and as they are shown.

use shared::settings::{Faults, parse_duration};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// A time, or a span before now.
pub(super) fn moment(name: &str, text: &str, now: OffsetDateTime, faults: &mut Faults) -> Option<OffsetDateTime> {
    let ago = || now.checked_sub(parse_duration(text.trim())?.try_into().ok()?);
    let moment = OffsetDateTime::parse(text.trim(), &Rfc3339).ok().or_else(ago);
    if moment.is_none() {
        let remedy = "Give it as 2026-01-31T09:00:00Z, or as a span before now such as 90m, 24h or 7d";
        faults.push(name, format!("{text:?} is neither a time nor a span"), remedy);
    }
    moment
}

/// Two times, the second of which is later.
pub(super) fn range(
    from: Option<String>,
    to: Option<String>,
    now: OffsetDateTime,
    faults: &mut Faults,
) -> (Option<OffsetDateTime>, Option<OffsetDateTime>) {
    let from = from.and_then(|text| moment("--from", &text, now, faults));
    let to = to.and_then(|text| moment("--to", &text, now, faults));
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        faults.push("--to", "is not after --from", "Give a later time");
    }
    (from, to)
}

/// Ids; none when none were given.
pub(super) fn ids(name: &str, texts: &[String], faults: &mut Faults) -> Option<Vec<Uuid>> {
    let mut id = |text: &String| {
        let parsed = text.trim().parse();
        parsed
            .map_err(|_| faults.push(name, format!("{text:?} is no UUID"), "Copy it from a listing or a log line"))
            .ok()
    };
    let ids: Vec<Uuid> = texts.iter().filter_map(&mut id).collect();
    (!texts.is_empty()).then_some(ids)
}

/// An aggregate's type and id.
pub(super) fn aggregate(text: Option<&str>, faults: &mut Faults) -> Option<(String, String)> {
    let text = text?;
    let pair = text.split_once('/').filter(|(of, id)| !of.is_empty() && !id.is_empty());
    if pair.is_none() {
        faults.push("--aggregate", format!("{text:?} is no type and id"), "Give both, such as user/42");
    }
    pair.map(|(of, id)| (of.to_owned(), id.to_owned()))
}

/// A time for people: to the second, in UTC; a dash for none.
pub(super) fn shown(time: Option<OffsetDateTime>) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    time.and_then(|time| time.to_offset(time::UtcOffset::UTC).format(format).ok()).unwrap_or_else(|| "-".to_owned())
}
