//! The queue between request threads and the writer.
//!
//! The writer takes all queued lines at once. Under load it polls every millisecond, so that requests need not wake it; only a
//! record after a pause does.
//!
//! The queue never blocks a thread. With [`Overflow::Block`], a request waits for space asynchronously before its decisions are
//! made. Records of admitted requests are accepted beyond the capacity, up to [`MAX_BYTES`].

use super::Overflow;
use super::batch::Batch;
use crate::types::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the writer waits for more records. Short, so that their lines are still in the CPU cache when they are written.
const FLUSH_INTERVAL: Duration = Duration::from_millis(1);

/// The maximum number of empty batches that are kept for reuse.
const MAX_SPARE_BATCHES: usize = 32;

/// The maximum total size of queued lines with [`Overflow::Block`]: 64 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A queue of lines for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Wakes the writer.
    has_work: Condvar,
    /// Whether the queue has reached its capacity and requests have to wait.
    is_full: AtomicBool,
    /// Wakes requests that wait for space.
    space_available: Notify,
    /// The maximum number of lines.
    capacity: usize,
    overflow: Overflow,
    /// How long a request waits for space.
    max_wait: Duration,
}

#[derive(Debug)]
struct QueueState {
    batches: Vec<Batch>,
    /// The number of lines in the batches.
    lines: usize,
    /// The total size of these lines in bytes.
    bytes: usize,
    /// Empty batches for reuse.
    spare: Vec<Batch>,
    /// Records that were dropped since the writer last took the batches.
    dropped: DroppedRecords,
    writer: WriterState,
    /// Since when the queue has been full.
    full_since: Option<Instant>,
    /// Whether the writer has to reopen its file.
    reopen: bool,
    is_closed: bool,
}

/// The state of the writer thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// It is writing, or about to check the queue.
    Busy,
    /// It waits for [`FLUSH_INTERVAL`], less if the queue becomes half full.
    WaitingForBatch,
    /// It waits until it is woken.
    Idle,
}

/// A number of dropped records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedRecords {
    /// The number of records.
    pub(super) records: u64,
    /// The time of the last one.
    pub(super) last: Timestamp,
}

impl DroppedRecords {
    /// No dropped records.
    pub(super) const NONE: Self = Self { records: 0, last: Timestamp::from_millis(0) };

    /// Adds records that were dropped later.
    pub(super) fn add(&mut self, later: Self) {
        if later.records > 0 {
            *self = Self { records: self.records + later.records, last: later.last };
        }
    }
}

/// What the writer has to do besides writing the batches that it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueDrain {
    /// Records that were dropped after those in the batches.
    pub(super) dropped: DroppedRecords,
    /// Whether to reopen the file before writing.
    pub(super) reopen: bool,
}

/// The outcome of queueing a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// The record is queued.
    Accepted,
    /// The record is dropped, as the settings allow.
    Dropped,
    /// The record is dropped, although the settings require it.
    Refused,
}

impl Queue {
    pub(super) fn new(capacity: usize, overflow: Overflow, max_wait: Duration) -> Self {
        let state = QueueState {
            batches: Vec::new(),
            lines: 0,
            bytes: 0,
            spare: Vec::new(),
            dropped: DroppedRecords::NONE,
            writer: WriterState::Busy,
            full_since: None,
            reopen: false,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            has_work: Condvar::new(),
            is_full: AtomicBool::new(false),
            space_available: Notify::new(),
            capacity: capacity.max(1),
            overflow,
            max_wait,
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether lines of an admitted request fit into the queue.
    fn has_space(&self, state: &QueueState, lines: usize, bytes: usize) -> bool {
        match self.overflow {
            Overflow::Drop => state.lines + lines <= self.capacity,
            Overflow::Block => state.bytes + bytes <= MAX_BYTES,
        }
    }

    /// Queues the line of a record.
    pub(super) fn push(&self, line: &[u8], time: Timestamp) -> PushOutcome {
        let mut state = self.state();
        if state.is_closed {
            return PushOutcome::Dropped;
        }
        if !self.has_space(&state, 1, line.len()) {
            state.dropped.add(DroppedRecords { records: 1, last: time });
            return match self.overflow {
                Overflow::Drop => PushOutcome::Dropped,
                Overflow::Block => PushOutcome::Refused,
            };
        }
        state.add(line, time);
        self.update_full(&mut state);
        self.wake_writer(state);
        PushOutcome::Accepted
    }

    /// Queues the lines of a batch, and leaves it empty. Returns how many of them are dropped, and whether any of these was
    /// required.
    pub(super) fn push_all(&self, batch: &mut Batch) -> (u64, bool) {
        let mut state = self.state();
        if !state.is_closed && self.has_space(&state, batch.count(), batch.bytes()) {
            let spare = state.spare.pop().unwrap_or_default();
            state.lines += batch.count();
            state.bytes += batch.bytes();
            state.batches.push(std::mem::replace(batch, spare));
            self.update_full(&mut state);
            self.wake_writer(state);
            return (0, false);
        }
        drop(state);
        let (mut dropped, mut is_refused) = (0, false);
        for (line, time) in batch.lines() {
            let pushed = self.push(line, time);
            dropped += u64::from(pushed != PushOutcome::Accepted);
            is_refused |= pushed == PushOutcome::Refused;
        }
        batch.clear();
        (dropped, is_refused)
    }

    /// Marks the queue as full if it is, so that requests wait from now on.
    fn update_full(&self, state: &mut QueueState) {
        if state.lines >= self.capacity && self.overflow == Overflow::Block && state.full_since.is_none() {
            state.full_since = Some(Instant::now());
            self.is_full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether requests have to wait for space.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Waits until the queue has space. False if it has been full for longer than a request may wait.
    pub(super) async fn wait_for_space(&self) -> bool {
        let deadline = match self.state().full_since {
            Some(since) => since + self.max_wait,
            None => return true,
        };
        // The flag is checked again after each wake-up, since other requests may have filled the queue.
        let until_space = async {
            loop {
                let notified = self.space_available.notified();
                if !self.is_full() {
                    return;
                }
                notified.await;
            }
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(remaining, until_space).await.is_ok()
    }

    /// Wakes the writer if it is idle, or if it waits for more records and the queue is half full.
    fn wake_writer(&self, mut state: MutexGuard<'_, QueueState>) {
        let must_wake = match state.writer {
            WriterState::Busy => false,
            WriterState::WaitingForBatch => state.lines >= self.capacity.div_ceil(2),
            WriterState::Idle => true,
        };
        if must_wake {
            state.writer = WriterState::Busy;
            drop(state);
            self.has_work.notify_one();
        }
    }

    /// Takes all queued batches, and returns the written ones in `batches` for reuse. Waits until there is work; none if the
    /// queue is closed and empty.
    pub(super) fn take(&self, batches: &mut Vec<Batch>) -> Option<QueueDrain> {
        batches.truncate(MAX_SPARE_BATCHES);
        batches.iter_mut().for_each(Batch::clear);
        let mut state = self.state();
        let reusable = MAX_SPARE_BATCHES.saturating_sub(state.spare.len()).min(batches.len());
        state.spare.extend(batches.drain(..reusable));
        if !state.is_closed && !state.reopen && state.lines < self.capacity.div_ceil(2) {
            state.writer = WriterState::WaitingForBatch;
            let still_waiting = |state: &mut QueueState| state.writer == WriterState::WaitingForBatch;
            let woken = self.has_work.wait_timeout_while(state, FLUSH_INTERVAL, still_waiting);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        while state.is_empty() && !state.is_closed {
            state.writer = WriterState::Idle;
            let still_idle = |state: &mut QueueState| state.writer == WriterState::Idle;
            state = self.has_work.wait_while(state, still_idle).unwrap_or_else(PoisonError::into_inner);
        }
        state.writer = WriterState::Busy;
        if state.is_empty() {
            return None;
        }
        batches.clear();
        std::mem::swap(&mut state.batches, batches);
        (state.lines, state.bytes) = (0, 0);
        if state.full_since.take().is_some() {
            self.is_full.store(false, Ordering::Relaxed);
            self.space_available.notify_waiters();
        }
        let dropped = std::mem::replace(&mut state.dropped, DroppedRecords::NONE);
        Some(QueueDrain { dropped, reopen: std::mem::take(&mut state.reopen) })
    }

    /// Asks the writer to reopen its file.
    pub(super) fn reopen(&self) {
        let mut state = self.state();
        state.reopen = true;
        state.writer = WriterState::Busy;
        drop(state);
        self.has_work.notify_one();
    }

    /// Closes the queue: later records are dropped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.writer = WriterState::Busy;
        drop(state);
        self.has_work.notify_one();
    }
}

impl QueueState {
    /// Adds a line to the last batch.
    fn add(&mut self, line: &[u8], time: Timestamp) {
        if self.batches.last().is_none_or(Batch::is_full) {
            self.batches.push(self.spare.pop().unwrap_or_default());
        }
        if let Some(last) = self.batches.last_mut() {
            last.push(line, time);
            self.lines += 1;
            self.bytes += line.len();
        }
    }

    /// Whether the writer has nothing to do.
    fn is_empty(&self) -> bool {
        self.lines == 0 && self.dropped.records == 0 && !self.reopen
    }
}
