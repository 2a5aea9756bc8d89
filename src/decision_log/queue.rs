//! The queue between the requests and the writer. The writer takes all that waits at once. While there is traffic it
//! looks again every millisecond, so that no request pays for waking it; only a record after a pause does.
//!
//! No thread is ever blocked by it. With [`Overflow::Block`] a request waits for room, asynchronously, before its decisions are
//! made; the records of the requests that were admitted are taken beyond the length, up to [`MAX_BYTES`].

use super::Overflow;
use super::batch::Batch;
use crate::types::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the writer lets records gather: what has gathered by then still lies in the cache of the core that made it.
const FLUSH_INTERVAL: Duration = Duration::from_millis(1);

/// How many empty batches are kept for later lines.
const MAX_SPARE_BATCHES: usize = 32;

/// How many bytes of lines may wait, however long the queue is: 64 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Lines that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// To the writer: there is something to do.
    has_work: Condvar,
    /// Whether there are as many lines as the queue is long, and requests have to wait.
    is_full: AtomicBool,
    /// To the requests that wait: there is room.
    space_available: Notify,
    capacity: usize,
    overflow: Overflow,
    /// How long a request waits for room.
    max_wait: Duration,
}

#[derive(Debug)]
struct QueueState {
    batches: Vec<Batch>,
    /// How many lines they have.
    lines: usize,
    /// How many bytes these have.
    bytes: usize,
    spare: Vec<Batch>,
    dropped: DroppedRecords,
    writer: WriterState,
    /// Since when there has been no room.
    full_since: Option<Instant>,
    /// Whether the writer is to open its file again.
    reopen: bool,
    is_closed: bool,
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// It writes, or is about to look.
    Busy,
    /// It looks again soon, and at once if the queue fills.
    WaitingForBatch,
    /// It waits to be woken.
    Idle,
}

/// Records that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedRecords {
    /// How many.
    pub(super) records: u64,
    /// The time of the last one.
    pub(super) last: Timestamp,
}

impl DroppedRecords {
    /// Nothing is missed.
    pub(super) const NONE: Self = Self { records: 0, last: Timestamp::from_millis(0) };

    /// Adds others, which came later.
    pub(super) fn add(&mut self, later: Self) {
        if later.records > 0 {
            *self = Self { records: self.records + later.records, last: later.last };
        }
    }
}

/// What the writer has to do besides writing the lines that it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueDrain {
    /// How many records were dropped after them.
    pub(super) dropped: DroppedRecords,
    /// Whether to open the file again before writing them.
    pub(super) reopen: bool,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// It will be written.
    Accepted,
    /// It is gone, as the settings allow.
    Dropped,
    /// It is gone, though the settings require it.
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

    /// Whether there is room for so many lines with so many bytes, from a request that was admitted.
    fn has_space(&self, state: &QueueState, lines: usize, bytes: usize) -> bool {
        match self.overflow {
            Overflow::Drop => state.lines + lines <= self.capacity,
            Overflow::Block => state.bytes + bytes <= MAX_BYTES,
        }
    }

    /// Adds the line of a record at the end.
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

    /// Adds the lines of a batch at the end, and leaves it empty. Gives how many of them are gone, and whether the settings
    /// require them.
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

    /// Notes that requests have to wait from now on, if they have.
    fn update_full(&self, state: &mut QueueState) {
        if state.lines >= self.capacity && self.overflow == Overflow::Block && state.full_since.is_none() {
            state.full_since = Some(Instant::now());
            self.is_full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request has to wait for room.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Waits until there is room. Gives whether there is: not if there has been none for as long as a request may wait.
    pub(super) async fn wait_for_space(&self) -> bool {
        let deadline = match self.state().full_since {
            Some(since) => since + self.max_wait,
            None => return true,
        };
        // Others may take the room first.
        let until_space = async {
            loop {
                let notified = self.space_available.notified();
                if !self.is_full() {
                    return;
                }
                notified.await;
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, until_space).await.is_ok()
    }

    /// Wakes the writer, where there is something for it to do.
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

    /// Exchanges all that waits for what was `taken` before. Waits until there is something; none when the queue is closed and
    /// nothing more comes.
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

    /// Has the writer open its file again.
    pub(super) fn reopen(&self) {
        let mut state = self.state();
        state.reopen = true;
        state.writer = WriterState::Busy;
        drop(state);
        self.has_work.notify_one();
    }

    /// Takes no more records.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.writer = WriterState::Busy;
        drop(state);
        self.has_work.notify_one();
    }
}

impl QueueState {
    /// Adds a line at the end.
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

    /// Whether there is nothing to do.
    fn is_empty(&self) -> bool {
        self.lines == 0 && self.dropped.records == 0 && !self.reopen
    }
}
