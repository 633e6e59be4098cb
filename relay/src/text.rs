//! Numbers and tables as people read them.

use shared::terminal::width;

/// Bytes of a name that are shown.
const LONGEST_NAME: usize = 1_000;

/// A table with its columns in line, whatever styles the cells have; the last one ends ragged.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| -> String {
        let pad = |(cell, widest): (&String, &usize)| format!("{cell}{:1$}", "", widest - width(cell));
        let cells: Vec<String> = row.iter().zip(&widths).map(pad).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Text on one line, without control characters, cut to so many bytes.
pub fn one_line(text: &str, bytes: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shared::redact::cut(line.trim(), bytes).trim_end().to_owned()
}

/// An aggregate as people name it, on one line whatever its writer called it.
pub fn aggregate(aggregate_type: &str, aggregate_id: &str) -> String {
    one_line(&format!("{aggregate_type}/{aggregate_id}"), LONGEST_NAME)
}

/// An event's type, on one line likewise.
pub fn event_type(event_type: &str) -> String {
    one_line(event_type, LONGEST_NAME)
}

/// JSON to show; what only text can hold is shown as that.
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A time span in its two largest units.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "ever".to_owned();
    }
    let seconds = seconds.max(0.0);
    if seconds < 1.0 {
        return format!("{} ms", (seconds * 1_000.0).round());
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    // Far below what an integer holds: the bound keeps it so.
    let whole = seconds.min(1e15) as u64;
    match (whole / 86_400, whole % 86_400 / 3_600, whole % 3_600 / 60, whole % 60) {
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_in_line() {
        let rows = [vec!["kind", "jobs"], vec!["email", "3"], vec!["é", "1,000"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "kind   jobs\nemail  3\né      1,000\n");
    }

    #[test]
    fn spans_are_short() {
        let spans = [0.0004, 0.25, 12.34, 75.0, 7_260.0, 200_000.0, -5.0, f64::INFINITY].map(span);
        assert_eq!(spans, ["0 ms", "250 ms", "12.3 s", "1 min 15 s", "2 h 1 min", "2 d 7 h", "0 ms", "ever"]);
    }
}
