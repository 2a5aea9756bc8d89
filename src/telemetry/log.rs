//! Writes the application log without ever blocking the thread that logs: lines wait in a bounded queue for a thread of their
//! own, and those that find no room are dropped and counted.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// How many lines may wait.
const MAX_BUFFERED_LINES: usize = 10_000;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes the lines that wait when it is dropped, for at most two seconds.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct LogGuard(Option<WorkerGuard>);

/// Begins to write to standard error.
///
/// # Errors
/// There is no standard error.
pub fn start_log() -> io::Result<(NonBlocking, LogGuard)> {
    // Not by the handle of the library: its lock would be held while a line waits for a reader.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .thread_name("log")
        .finish(stderr);
    let _ = DROPPED.set(writer.error_counter());
    Ok((writer, LogGuard(Some(guard))))
}

/// How many lines of the log were dropped.
pub fn dropped_log_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| u64::try_from(counter.dropped_lines()).unwrap_or(u64::MAX))
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let guard = self.0.take();
        // By a thread of its own: without a reader it does not end.
        let flush = std::thread::Builder::new().name("log-end".into()).spawn(move || drop(guard));
        let started = Instant::now();
        while flush.as_ref().is_ok_and(|flush| !flush.is_finished()) && started.elapsed() < FLUSH_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
