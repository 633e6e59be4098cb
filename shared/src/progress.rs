//! A progress bar on standard error, for work that takes long, where a person looks on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str = "{msg} {wide_bar} {human_pos} of {human_len}, {per_sec}, {eta} left";
const COUNT: &str = "{spinner} {msg} {human_pos}, {per_sec}";

/// How far some work is. It takes itself away at its end, so that only the answer stays.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar towards a total, if that is known; else a count. Nothing is drawn where standard error is no terminal.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5)).with_message(what);
        let template = if total.is_some() { BAR } else { COUNT };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// So many are done.
    pub fn at(&self, done: u64) {
        // More than was counted at first: others add to it meanwhile.
        if self.0.length().is_some_and(|total| done > total) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_that_was_too_low_grows() {
        let progress = Progress::new("jobs", Some(10));
        progress.at(12);
        assert_eq!((progress.0.position(), progress.0.length()), (12, Some(12)));
        assert!([BAR, COUNT].into_iter().all(|template| ProgressStyle::with_template(template).is_ok()));
    }
}
