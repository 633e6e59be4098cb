//! Tests that want a tool which not every machine has.
//!
//! Such a test is skipped by name, in a line that the test runner does not swallow, with the count so far. Where CI
//! runs everything is installed, so a skip there is a failure.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that a test is skipped and why; panics where `CI=true`.
///
/// # Panics
///
/// Where `CI=true`, because everything that tests need is installed there.
pub fn skip(test: &str, reason: &str) {
    let ci = std::env::var("CI");
    assert!(may_skip(ci.as_deref().ok()), "{test} may not be skipped where CI runs: {reason}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not eprintln!, whose output the runner keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason} ({count} skipped in this program)");
}

fn may_skip(ci: Option<&str>) -> bool {
    ci != Some("true")
}

#[cfg(test)]
mod tests {
    use super::may_skip;

    #[test]
    fn only_ci_insists_on_every_test() {
        assert!(may_skip(None) && may_skip(Some("")) && may_skip(Some("false")));
        assert!(!may_skip(Some("true")));
    }
}
