//! The queue between the requests and the writer. The writer takes all that waits at once. While there is traffic it
//! looks again every millisecond, so that no request pays for waking it; only a record after a pause does.
//!
//! No thread is ever blocked by it. With [`Overflow::Block`] a request waits for room, asynchronously, before its decisions are
//! made; the records of the requests that were admitted are taken beyond the length, up to [`MAX_BYTES`].

use super::Overflow;
use super::batch::Batch;
use crate::values::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the writer lets records gather: what has gathered by then still lies in the cache of the core that made it.
const NAP: Duration = Duration::from_millis(1);

/// How many empty batches are kept for later lines.
const SPARE: usize = 32;

/// How many bytes of lines may wait, however long the queue is: 64 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Lines that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// To the writer: there is something to do.
    work: Condvar,
    /// Whether there are as many lines as the queue is long, and requests have to wait.
    is_full: AtomicBool,
    /// To the requests that wait: there is room.
    room: Notify,
    length: usize,
    overflow: Overflow,
    /// How long a request waits for room.
    wait: Duration,
}

#[derive(Debug)]
struct State {
    waiting: Vec<Batch>,
    /// How many lines they have.
    lines: usize,
    /// How many bytes these have.
    bytes: usize,
    spare: Vec<Batch>,
    missed: Missed,
    writer: Writer,
    /// Since when there has been no room.
    full_since: Option<Instant>,
    /// Whether the writer is to open its file again.
    reopen: bool,
    is_closed: bool,
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// It writes, or is about to look.
    Busy,
    /// It looks again soon, and at once if the queue fills.
    Naps,
    /// It waits to be woken.
    Sleeps,
}

/// Records that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missed {
    /// How many.
    pub(super) records: u64,
    /// The time of the last one.
    pub(super) last: Timestamp,
}

impl Missed {
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
pub(super) struct Taken {
    /// How many records were dropped after them.
    pub(super) missed: Missed,
    /// Whether to open the file again before writing them.
    pub(super) reopen: bool,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It will be written.
    Taken,
    /// It is gone, as the settings allow.
    Dropped,
    /// It is gone, though the settings require it.
    Refused,
}

impl Queue {
    pub(super) fn new(length: usize, overflow: Overflow, wait: Duration) -> Self {
        let state = State {
            waiting: Vec::new(),
            lines: 0,
            bytes: 0,
            spare: Vec::new(),
            missed: Missed::NONE,
            writer: Writer::Busy,
            full_since: None,
            reopen: false,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            is_full: AtomicBool::new(false),
            room: Notify::new(),
            length: length.max(1),
            overflow,
            wait,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for so many lines with so many bytes, from a request that was admitted.
    fn has_room(&self, state: &State, lines: usize, bytes: usize) -> bool {
        match self.overflow {
            Overflow::Drop => state.lines + lines <= self.length,
            Overflow::Block => state.bytes + bytes <= MAX_BYTES,
        }
    }

    /// Adds the line of a record at the end.
    pub(super) fn push(&self, line: &[u8], time: Timestamp) -> Pushed {
        let mut state = self.state();
        if state.is_closed {
            return Pushed::Dropped;
        }
        if !self.has_room(&state, 1, line.len()) {
            state.missed.add(Missed { records: 1, last: time });
            return match self.overflow {
                Overflow::Drop => Pushed::Dropped,
                Overflow::Block => Pushed::Refused,
            };
        }
        state.add(line, time);
        self.note_length(&mut state);
        self.wake(state);
        Pushed::Taken
    }

    /// Adds the lines of a batch at the end, and leaves it empty. Gives how many of them are gone, and whether the settings
    /// require them.
    pub(super) fn push_all(&self, batch: &mut Batch) -> (u64, bool) {
        let mut state = self.state();
        if !state.is_closed && self.has_room(&state, batch.count(), batch.bytes()) {
            let spare = state.spare.pop().unwrap_or_default();
            state.lines += batch.count();
            state.bytes += batch.bytes();
            state.waiting.push(std::mem::replace(batch, spare));
            self.note_length(&mut state);
            self.wake(state);
            return (0, false);
        }
        drop(state);
        let (mut lost, mut is_refused) = (0, false);
        for (line, time) in batch.lines() {
            let pushed = self.push(line, time);
            lost += u64::from(pushed != Pushed::Taken);
            is_refused |= pushed == Pushed::Refused;
        }
        batch.clear();
        (lost, is_refused)
    }

    /// Notes that requests have to wait from now on, if they have.
    fn note_length(&self, state: &mut State) {
        if state.lines >= self.length && self.overflow == Overflow::Block && state.full_since.is_none() {
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
    pub(super) async fn wait_for_room(&self) -> bool {
        let deadline = match self.state().full_since {
            Some(since) => since + self.wait,
            None => return true,
        };
        // Others may take the room first.
        let waiting = async {
            loop {
                let room = self.room.notified();
                if !self.is_full() {
                    return;
                }
                room.await;
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, waiting).await.is_ok()
    }

    /// Wakes the writer, where there is something for it to do.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let must_look = match state.writer {
            Writer::Busy => false,
            Writer::Naps => state.lines >= self.length.div_ceil(2),
            Writer::Sleeps => true,
        };
        if must_look {
            state.writer = Writer::Busy;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Exchanges all that waits for what was `taken` before. Waits until there is something; none when the queue is closed and
    /// nothing more comes.
    pub(super) fn take(&self, taken: &mut Vec<Batch>) -> Option<Taken> {
        taken.truncate(SPARE);
        taken.iter_mut().for_each(Batch::clear);
        let mut state = self.state();
        let room = SPARE.saturating_sub(state.spare.len()).min(taken.len());
        state.spare.extend(taken.drain(..room));
        if !state.is_closed && !state.reopen && state.lines < self.length.div_ceil(2) {
            state.writer = Writer::Naps;
            let napping = |state: &mut State| state.writer == Writer::Naps;
            let woken = self.work.wait_timeout_while(state, NAP, napping);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        while state.is_idle() && !state.is_closed {
            state.writer = Writer::Sleeps;
            let sleeping = |state: &mut State| state.writer == Writer::Sleeps;
            state = self.work.wait_while(state, sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        state.writer = Writer::Busy;
        if state.is_idle() {
            return None;
        }
        taken.clear();
        std::mem::swap(&mut state.waiting, taken);
        (state.lines, state.bytes) = (0, 0);
        if state.full_since.take().is_some() {
            self.is_full.store(false, Ordering::Relaxed);
            self.room.notify_waiters();
        }
        let missed = std::mem::replace(&mut state.missed, Missed::NONE);
        Some(Taken { missed, reopen: std::mem::take(&mut state.reopen) })
    }

    /// Has the writer open its file again.
    pub(super) fn reopen(&self) {
        let mut state = self.state();
        state.reopen = true;
        state.writer = Writer::Busy;
        drop(state);
        self.work.notify_one();
    }

    /// Takes no more records.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.writer = Writer::Busy;
        drop(state);
        self.work.notify_one();
    }
}

impl State {
    /// Adds a line at the end.
    fn add(&mut self, line: &[u8], time: Timestamp) {
        if self.waiting.last().is_none_or(Batch::is_full) {
            self.waiting.push(self.spare.pop().unwrap_or_default());
        }
        if let Some(last) = self.waiting.last_mut() {
            last.push(line, time);
            self.lines += 1;
            self.bytes += line.len();
        }
    }

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool {
        self.lines == 0 && self.missed.records == 0 && !self.reopen
    }
}
