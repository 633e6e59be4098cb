//! What pruning came to.

use std::fmt::Write as _;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// All lanes that have a cursor.
#[derive(Debug)]
pub struct Report {
    /// Nothing was deleted: the numbers say what would be.
    pub dry_run: bool,
    /// Events from before this time are old.
    pub before: OffsetDateTime,
    /// Lane by lane.
    pub lanes: Vec<Lane>,
}

/// One lane.
#[derive(Debug, Default)]
pub struct Lane {
    /// The lane.
    pub lane: i16,
    /// Events that are old enough, and seen.
    pub old: u64,
    /// Those that were deleted, or would be.
    pub pruned: u64,
    /// Those that vouch for a cursor or a checkpoint.
    pub kept_as_witness: u64,
    /// Those with an open failure or an unfinished job.
    pub kept_as_open: u64,
}

impl Report {
    fn sum(&self, of: impl Fn(&Lane) -> u64) -> u64 {
        self.lanes.iter().map(of).sum()
    }

    /// Lanes that keep everything, because no cursor says what was seen of them.
    fn without_cursor(&self) -> Vec<i16> {
        (0..16).filter(|lane| self.lanes.iter().all(|of| of.lane != *lane)).collect()
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let lane = |of: &Lane| {
            json!({
                "lane": of.lane, "old": of.old, "pruned": of.pruned,
                "kept_as_witness": of.kept_as_witness, "kept_as_open": of.kept_as_open,
            })
        };
        json!({
            "dry_run": self.dry_run,
            "before": self.before.format(&Rfc3339).unwrap_or_default(),
            "old": self.sum(|of| of.old),
            "pruned": self.sum(|of| of.pruned),
            "kept_as_witness": self.sum(|of| of.kept_as_witness),
            "kept_as_open": self.sum(|of| of.kept_as_open),
            "lanes": self.lanes.iter().map(lane).collect::<Vec<_>>(),
            "lanes_without_cursor": self.without_cursor(),
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{} events from before {} {}; kept: {} as witnesses, {} with an open failure or an unfinished job\n",
            self.sum(|of| of.pruned),
            self.before.format(&Rfc3339).unwrap_or_default(),
            if self.dry_run { "would be deleted" } else { "deleted" },
            self.sum(|of| of.kept_as_witness),
            self.sum(|of| of.kept_as_open),
        );
        let without = self.without_cursor();
        if !without.is_empty() {
            let _ = writeln!(text, "lanes that keep everything, having no cursor yet: {without:?}");
        }
        text
    }
}
