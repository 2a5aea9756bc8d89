//! The decision log: one JSON line per decision, with everything that is needed to replay it.
//!
//! Request threads serialize a [`Record`] and put its line into a bounded queue; a writer thread writes the lines. If the queue
//! is full, either records are dropped and counted, or requests wait before their decisions are made ([`Overflow`]).

mod batch;
mod line_writer;
mod mask;
mod queue;
mod record;

pub use crate::config::{DecisionLogFilter, Overflow};
pub use record::{Caller, Inputs, Purpose, Record, ResourceUid, SearchResult, SearchedEntity, Subject};

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

/// The buffer capacity that a thread keeps for its next line: 8 KiB.
const LINE_CAPACITY: usize = 8 * 1024;

/// The settings of the decision log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which decisions are logged.
    pub decisions: DecisionLogFilter,
    /// Where the lines are written.
    pub target: LogTarget,
    /// The maximum size of a file in bytes. A line that would exceed it goes into the next file.
    pub max_bytes: u64,
    /// How many full files are kept besides the current one. `file.1` is the newest.
    pub max_files: u32,
    /// How many records may wait for the writer. In addition, the writer holds as many at most, and each request with many
    /// decisions holds up to 32 KiB of records.
    pub queue_length: usize,
    /// What happens when the queue is full.
    pub overflow: Overflow,
    /// How long a request waits for space with [`Overflow::Block`].
    pub max_wait: Duration,
    /// The names of the attributes whose values are replaced by `***`.
    pub mask: Vec<String>,
}

/// Where lines are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, to which lines are appended.
    File(PathBuf),
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            decisions: config.decision_log,
            target: match config.decision_log_path.as_str() {
                "stdout" => LogTarget::Stdout,
                path => LogTarget::File(path.into()),
            },
            max_bytes: config.decision_log_max_bytes,
            max_files: config.decision_log_max_files,
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
    #[error("cannot open the decision log {}: {error}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the decision log writer: {0}")]
    Thread(std::io::Error),
}

/// A handle of the decision log; clones share the log. Recorded lines are written at the latest when the log is closed or the
/// last handle is dropped.
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

/// The number of records by outcome.
#[derive(Debug, Default)]
struct LogCounters {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl DecisionLog {
    /// A disabled log.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened, or the writer thread cannot be started.
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

    /// Whether a decision with this outcome and purpose is recorded. Call it before creating a record.
    #[inline]
    pub fn should_record(&self, decision: bool, purpose: Purpose) -> bool {
        self.0.as_ref().is_some_and(|open| match open.filter {
            DecisionLogFilter::Off => false,
            DecisionLogFilter::Denials => !decision,
            DecisionLogFilter::All => !decision || purpose != Purpose::Prerequisite,
            DecisionLogFilter::Full => true,
        })
    }

    /// Whether a request has to [wait for space](Self::wait_for_room) before its decisions are made.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.queue.is_full())
    }

    /// Waits until the queue has space, without blocking the thread. False if the queue has been full for longer than a request
    /// may wait.
    pub async fn wait_for_room(&self) -> bool {
        match &self.0 {
            Some(open) => open.queue.wait_for_space().await,
            None => true,
        }
    }

    /// Queues the line of a record, if its decision is recorded. Returns whether the decision may take effect: false if its
    /// record is required and the queue is full.
    #[must_use = "a decision whose record is required and refused must not take effect"]
    pub fn record(&self, record: &Record<'_>) -> bool {
        let Some(open) = self.0.as_ref().filter(|_| self.should_record(record.decision, record.purpose))
        else {
            return true;
        };
        // The buffer is reused for every line of the thread.
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

    /// A recorder for a request with many decisions. Calls `on_refused` if a record is required and the queue is full.
    pub fn batch_recorder(&self, on_refused: fn()) -> BatchRecorder {
        BatchRecorder { log: self.clone(), batch: Mutex::default(), on_refused }
    }

    /// Reopens the file after another program has renamed or deleted it.
    pub fn reopen(&self) {
        if let Some(open) = &self.0 {
            open.queue.reopen();
        }
    }

    /// The number of dropped records: the queue was full, a write failed, or the log was closed.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |open| open.counts.dropped.load(Ordering::Relaxed))
    }

    /// The number of written records.
    pub fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, |open| open.counts.written.load(Ordering::Relaxed))
    }

    /// Writes all queued records and stops the writer. Later records are dropped.
    pub fn close(&self) {
        if let Some(open) = &self.0 {
            open.close();
        }
    }
}

/// Collects the records of one request and queues them in batches, which reduces contention for the queue. The last batch is
/// queued when the recorder is dropped.
#[derive(Debug)]
pub struct BatchRecorder {
    log: DecisionLog,
    batch: Mutex<Batch>,
    on_refused: fn(),
}

impl BatchRecorder {
    /// Records a decision, as [`DecisionLog::record`].
    pub fn record(&self, record: &Record<'_>) {
        let Some(open) =
            self.log.0.as_ref().filter(|_| self.log.should_record(record.decision, record.purpose))
        else {
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
            tracing::error!("the decision log writer panicked");
        }
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer thread. Runs until the queue is closed and empty.
fn run_writer(queue: &Queue, mut line_writer: LineWriter) {
    let mut batches = Vec::new();
    while let Some(QueueDrain { dropped, reopen }) = queue.take(&mut batches) {
        if reopen {
            line_writer.reopen();
        }
        batches.iter().for_each(|batch| line_writer.write(batch));
        // Records are dropped when the queue is full, so these came after the ones above.
        line_writer.report_dropped(dropped);
    }
    line_writer.finish();
}

#[cfg(test)]
mod tests;
