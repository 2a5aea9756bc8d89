//! The decision log: one line of JSON a decision, with what is needed to decide it again. A request makes the line
//! of its [`Record`] and hands it over; a thread of its own writes the lines. Knows nothing of requests, policies or Cedar.

mod batch;
mod lines;
mod mask;
mod queue;
mod record;

pub use crate::config::{Decisions, Overflow};
pub use record::{Caller, Inputs, Record, Subject, Thing};

use crate::config::Config;
use batch::Batch;
use lines::Lines;
use mask::Mask;
use queue::{Pushed, Queue, Taken};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much room a thread keeps for its next line: 8 KiB.
const USUAL: usize = 8 * 1024;

/// Which decisions are logged, where, and what gives way when there are too many.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which decisions are logged.
    pub decisions: Decisions,
    /// Where the lines go.
    pub to: Target,
    /// How many bytes a file may have: before a line that would make it longer, the next one is begun.
    pub max_bytes: u64,
    /// How many full files are kept beside the one that is written: `file.1` is the youngest.
    pub keep: u32,
    /// How many records may wait for the writer. As many again may be in its hands, and 32 KiB of them with each request that
    /// asks for many decisions.
    pub queue: usize,
    /// What happens when that many wait.
    pub overflow: Overflow,
    /// How long a request waits for room, where it waits.
    pub wait: Duration,
    /// The names of attributes of which `***` is written instead of the value.
    pub mask: Vec<String>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The standard output.
    Stdout,
    /// A file, to which they are appended.
    File(PathBuf),
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            decisions: config.decision_log,
            to: match config.decision_log_to.as_str() {
                "stdout" => Target::Stdout,
                path => Target::File(path.into()),
            },
            max_bytes: config.decision_log_max_bytes,
            keep: config.decision_log_keep,
            queue: config.decision_log_queue,
            overflow: config.decision_log_overflow,
            wait: Duration::from_secs(config.decision_log_wait),
            mask: config.decision_log_mask.clone(),
        }
    }
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the decision log cannot be written to {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no thread to be had.
    #[error("the decision log has no thread to write it: {0}")]
    Thread(std::io::Error),
}

/// The decision log. Its copies are one log. What was recorded is written at the latest when it is closed, or when the
/// last copy is gone.
#[derive(Debug, Clone, Default)]
pub struct DecisionLog(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    decisions: Decisions,
    mask: Mask,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What became of the records.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl DecisionLog {
    /// No log: it wants nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and starts its writer.
    pub fn open(settings: &Settings) -> Result<Self, LogError> {
        if settings.decisions == Decisions::Off {
            return Ok(Self::off());
        }
        let counts = Arc::<Counts>::default();
        let lines = Lines::open(settings, Arc::clone(&counts))?;
        Self::start(settings, lines, counts)
    }

    fn start(settings: &Settings, lines: Lines, counts: Arc<Counts>) -> Result<Self, LogError> {
        let queue = Arc::new(Queue::new(settings.queue, settings.overflow, settings.wait));
        let taken = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("decision-log".into())
            .spawn(move || write(&taken, lines))
            .map_err(LogError::Thread)?;
        let writer = Mutex::new(Some(writer));
        let (decisions, mask) = (settings.decisions, Mask::new(&settings.mask));
        Ok(Self(Some(Arc::new(Open { decisions, mask, queue, counts, writer }))))
    }

    /// Whether a decision is to be recorded; ask before making the record of it.
    #[inline]
    pub fn wants(&self, decision: bool) -> bool {
        match &self.0 {
            None => false,
            Some(open) => open.decisions == Decisions::All || !decision,
        }
    }

    /// Whether a request has to [wait for room](Self::wait_for_room) before its decisions are made.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.queue.is_full())
    }

    /// Waits until there is room, without blocking the thread. Gives whether there is: not if there has been none for as long
    /// as the settings allow a request to wait.
    pub async fn wait_for_room(&self) -> bool {
        match &self.0 {
            Some(open) => open.queue.wait_for_room().await,
            None => true,
        }
    }

    /// Hands the line of a record to the writer, if it is wanted. Gives whether the decision may take effect: not where the
    /// settings require its record and too many wait.
    #[must_use = "a decision whose record is required and refused must not take effect"]
    pub fn record(&self, record: &Record<'_>) -> bool {
        let Some(open) = self.0.as_ref().filter(|_| self.wants(record.decision)) else { return true };
        // Each thread makes its lines in the same place.
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            line.shrink_to(USUAL);
            open.mask.write(record, line);
            let pushed = open.queue.push(line, record.time);
            if pushed != Pushed::Taken {
                open.counts.lose(1);
            }
            pushed != Pushed::Refused
        })
    }

    /// Records of one request that asks for many decisions. Calls `refused` where one of them is required and too many wait.
    pub fn gather(&self, refused: fn()) -> Gathered {
        Gathered { log: self.clone(), lines: Mutex::default(), refused }
    }

    /// Opens the file again, which another program has renamed or deleted.
    pub fn reopen(&self) {
        if let Some(open) = &self.0 {
            open.queue.reopen();
        }
    }

    /// How many records are not in the log: there was no room, they could not be written, or the log was closed.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |open| open.counts.dropped.load(Ordering::Relaxed))
    }

    /// How many records are in the log.
    pub fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, |open| open.counts.written.load(Ordering::Relaxed))
    }

    /// Writes what was recorded, and ends the writer. What is recorded afterwards is dropped.
    pub fn close(&self) {
        if let Some(open) = &self.0 {
            open.close();
        }
    }
}

/// Records that are handed to the writer many at a time, and the last ones when this is dropped: threads that hand over each
/// line for itself wait for one another.
#[derive(Debug)]
pub struct Gathered {
    log: DecisionLog,
    lines: Mutex<Batch>,
    refused: fn(),
}

impl Gathered {
    /// As [`DecisionLog::record`].
    pub fn record(&self, record: &Record<'_>) {
        let Some(open) = self.log.0.as_ref().filter(|_| self.log.wants(record.decision)) else { return };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.make(record.time, |line| open.mask.write(record, line));
        if lines.is_full() {
            hand_over(open, &mut lines, self.refused);
        }
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        if let Some(open) = &self.log.0 {
            hand_over(open, self.lines.get_mut().unwrap_or_else(PoisonError::into_inner), self.refused);
        }
    }
}

fn hand_over(open: &Open, lines: &mut Batch, refused: fn()) {
    if lines.count() > 0 {
        let (lost, is_refused) = open.queue.push_all(lines);
        open.counts.lose(lost);
        if is_refused {
            refused();
        }
    }
}

impl Counts {
    fn keep(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    fn lose(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }
}

impl Open {
    fn close(&self) {
        self.queue.close();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the decision log has failed");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer: it lasts until the queue is closed and empty.
fn write(queue: &Queue, mut lines: Lines) {
    let mut batches = Vec::new();
    while let Some(Taken { missed, reopen }) = queue.take(&mut batches) {
        if reopen {
            lines.reopen();
        }
        batches.iter().for_each(|batch| lines.write(batch));
        // They came when the queue was full of those above.
        lines.miss(missed);
    }
    lines.end();
}

#[cfg(test)]
mod tests;
