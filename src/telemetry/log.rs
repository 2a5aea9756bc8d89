//! Non-blocking writer of the application log. A dedicated thread writes the lines of a bounded queue; lines that do not fit are
//! dropped and counted.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The capacity of the queue in lines.
const MAX_BUFFERED_LINES: usize = 10_000;

/// The time limit for the last lines when the process exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes the remaining lines when it is dropped, within two seconds.
#[derive(Debug)]
#[must_use = "dropping it writes the remaining lines"]
pub struct LogGuard(Option<WorkerGuard>);

/// Starts a writer to standard error.
///
/// # Errors
/// Standard error is closed.
pub fn start_log() -> io::Result<(NonBlocking, LogGuard)> {
    // The handle of the standard library would hold its lock while a write blocks.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .thread_name("log")
        .finish(stderr);
    let _ = DROPPED.set(writer.error_counter());
    Ok((writer, LogGuard(Some(guard))))
}

/// Returns the number of lines that were dropped.
pub fn dropped_log_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| u64::try_from(counter.dropped_lines()).unwrap_or(u64::MAX))
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let guard = self.0.take();
        // In a thread, because dropping the guard blocks if nobody reads standard error.
        let flush = std::thread::Builder::new().name("log-end".into()).spawn(move || drop(guard));
        let started = Instant::now();
        while flush.as_ref().is_ok_and(|flush| !flush.is_finished()) && started.elapsed() < FLUSH_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
