//! The decision log: one line of JSON a decision, with what is needed to decide it again. A request makes the line
//! of its [`Record`] and hands it over; a thread of its own writes the lines. Knows nothing of requests, policies or Cedar.

mod batch;
mod line_writer;
mod mask;
mod queue;
mod record;

pub use crate::config::{DecisionLogFilter, Overflow};
pub use record::{Caller, Inputs, Record, ResourceUid, Subject};

use crate::config::Config;
use batch::Batch;
use line_writer::LineWriter;
use mask::Mask;
use queue::{PushOutcome, Queue, QueueDrain};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much room a thread keeps for its next line: 8 KiB.
const LINE_CAPACITY: usize = 8 * 1024;

/// Which decisions are logged, where, and what gives way when there are too many.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which decisions are logged.
    pub decisions: DecisionLogFilter,
    /// Where the lines go.
    pub target: LogTarget,
    /// How many bytes a file may have: before a line that would make it longer, the next one is begun.
    pub max_bytes: u64,
    /// How many full files are kept beside the one that is written: `file.1` is the youngest.
    pub max_files: u32,
    /// How many records may wait for the writer. As many again may be in its hands, and 32 KiB of them with each request that
    /// asks for many decisions.
    pub queue_length: usize,
    /// What happens when that many wait.
    pub overflow: Overflow,
    /// How long a request waits for room, where it waits.
    pub max_wait: Duration,
    /// The names of attributes of which `***` is written instead of the value.
    pub mask: Vec<String>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The standard output.
    Stdout,
    /// A file, to which they are appended.
    File(PathBuf),
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            decisions: config.decision_log,
            target: match config.decision_log_to.as_str() {
                "stdout" => LogTarget::Stdout,
                path => LogTarget::File(path.into()),
            },
            max_bytes: config.decision_log_max_bytes,
            max_files: config.decision_log_keep,
            queue_length: config.decision_log_queue,
            overflow: config.decision_log_overflow,
            max_wait: Duration::from_secs(config.decision_log_wait),
            mask: config.decision_log_mask.clone(),
        }
    }
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DecisionLogError {
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
pub struct DecisionLog(Option<Arc<OpenLog>>);

#[derive(Debug)]
struct OpenLog {
    filter: DecisionLogFilter,
    mask: Mask,
    queue: Arc<Queue>,
    counts: Arc<LogCounters>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What became of the records.
#[derive(Debug, Default)]
struct LogCounters {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl DecisionLog {
    /// No log: it wants nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and starts its writer.
    pub fn open(settings: &Settings) -> Result<Self, DecisionLogError> {
        if settings.decisions == DecisionLogFilter::Off {
            return Ok(Self::off());
        }
        let counts = Arc::<LogCounters>::default();
        let line_writer = LineWriter::open(settings, Arc::clone(&counts))?;
        Self::start(settings, line_writer, counts)
    }

    fn start(
        settings: &Settings,
        line_writer: LineWriter,
        counts: Arc<LogCounters>,
    ) -> Result<Self, DecisionLogError> {
        let queue = Arc::new(Queue::new(settings.queue_length, settings.overflow, settings.max_wait));
        let writer_queue = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("decision-log".into())
            .spawn(move || run_writer(&writer_queue, line_writer))
            .map_err(DecisionLogError::Thread)?;
        let writer = Mutex::new(Some(writer));
        let (decisions, mask) = (settings.decisions, Mask::new(&settings.mask));
        Ok(Self(Some(Arc::new(OpenLog { filter: decisions, mask, queue, counts, writer }))))
    }

    /// Whether a decision is to be recorded; ask before making the record of it.
    #[inline]
    pub fn should_record(&self, decision: bool) -> bool {
        match &self.0 {
            None => false,
            Some(open) => open.filter == DecisionLogFilter::All || !decision,
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
            Some(open) => open.queue.wait_for_space().await,
            None => true,
        }
    }

    /// Hands the line of a record to the writer, if it is wanted. Gives whether the decision may take effect: not where the
    /// settings require its record and too many wait.
    #[must_use = "a decision whose record is required and refused must not take effect"]
    pub fn record(&self, record: &Record<'_>) -> bool {
        let Some(open) = self.0.as_ref().filter(|_| self.should_record(record.decision)) else { return true };
        // Each thread makes its lines in the same place.
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            line.shrink_to(LINE_CAPACITY);
            open.mask.write(record, line);
            let outcome = open.queue.push(line, record.time);
            if outcome != PushOutcome::Accepted {
                open.counts.add_dropped(1);
            }
            outcome != PushOutcome::Refused
        })
    }

    /// Records of one request that asks for many decisions. Calls `refused` where one of them is required and too many wait.
    pub fn batch_recorder(&self, on_refused: fn()) -> BatchRecorder {
        BatchRecorder { log: self.clone(), batch: Mutex::default(), on_refused }
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
pub struct BatchRecorder {
    log: DecisionLog,
    batch: Mutex<Batch>,
    on_refused: fn(),
}

impl BatchRecorder {
    /// As [`DecisionLog::record`].
    pub fn record(&self, record: &Record<'_>) {
        let Some(open) = self.log.0.as_ref().filter(|_| self.log.should_record(record.decision)) else {
            return;
        };
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.push_with(record.time, |line| open.mask.write(record, line));
        if batch.is_full() {
            flush_batch(open, &mut batch, self.on_refused);
        }
    }
}

impl Drop for BatchRecorder {
    fn drop(&mut self) {
        if let Some(open) = &self.log.0 {
            flush_batch(open, self.batch.get_mut().unwrap_or_else(PoisonError::into_inner), self.on_refused);
        }
    }
}

fn flush_batch(open: &OpenLog, batch: &mut Batch, on_refused: fn()) {
    if batch.count() > 0 {
        let (dropped, is_refused) = open.queue.push_all(batch);
        open.counts.add_dropped(dropped);
        if is_refused {
            on_refused();
        }
    }
}

impl LogCounters {
    fn add_written(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    fn add_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }
}

impl OpenLog {
    fn close(&self) {
        self.queue.close();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the decision log has failed");
        }
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer: it lasts until the queue is closed and empty.
fn run_writer(queue: &Queue, mut line_writer: LineWriter) {
    let mut batches = Vec::new();
    while let Some(QueueDrain { dropped, reopen }) = queue.take(&mut batches) {
        if reopen {
            line_writer.reopen();
        }
        batches.iter().for_each(|batch| line_writer.write(batch));
        // They came when the queue was full of those above.
        line_writer.report_dropped(dropped);
    }
    line_writer.finish();
}

#[cfg(test)]
mod tests;
