//! Progress bars on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A command that takes no longer shows no bar.
const DELAY: Duration = Duration::from_secs(1);

/// A progress bar on standard error, from the second second on. Nothing is written if standard error is no terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins a task. `title` says what is done, such as `proving`.
    pub(super) fn new(title: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(title);
        Self(bar)
    }

    /// Records that `done` of `total` steps are done.
    pub(super) fn set(&self, done: usize, total: usize) {
        let count = |steps: usize| u64::try_from(steps).unwrap_or(u64::MAX);
        if self.0.is_hidden() && self.0.elapsed() >= DELAY {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.0.set_length(count(total));
        self.0.set_position(count(done));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
