//! The queue between the requests and the writer. The writer takes all that waits at once. While there is traffic it
//! looks again every millisecond, so that no request pays for waking it; only a record after a pause does.

use super::Overflow;
use super::batch::Batch;
use crate::values::Timestamp;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the writer lets records gather: what has gathered by then still lies in the cache of the core that made it.
const NAP: Duration = Duration::from_millis(1);

/// How many empty batches are kept for later lines.
const SPARE: usize = 32;

/// Lines that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// To the writer: there is something to do.
    work: Condvar,
    /// To those who are blocked: there is room.
    room: Condvar,
    length: usize,
    overflow: Overflow,
}

#[derive(Debug)]
struct State {
    waiting: Vec<Batch>,
    /// How many lines they have.
    lines: usize,
    spare: Vec<Batch>,
    missed: Missed,
    writer: Writer,
    /// How many have a record that there is no room for.
    blocked: usize,
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

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It will be written.
    Taken,
    /// It is gone.
    Dropped,
}

impl Queue {
    pub(super) fn new(length: usize, overflow: Overflow) -> Self {
        let state = State {
            waiting: Vec::new(),
            lines: 0,
            spare: Vec::new(),
            missed: Missed::NONE,
            writer: Writer::Busy,
            blocked: 0,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Condvar::new(),
            length: length.max(1),
            overflow,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the line of a record at the end.
    pub(super) fn push(&self, line: &[u8], time: Timestamp) -> Pushed {
        let mut state = self.state();
        if state.is_closed {
            return Pushed::Dropped;
        }
        if state.lines >= self.length {
            match self.overflow {
                Overflow::Drop => {
                    state.missed.add(Missed { records: 1, last: time });
                    return Pushed::Dropped;
                }
                Overflow::Block => {
                    state.blocked += 1;
                    let full = |state: &mut State| state.lines >= self.length;
                    state = self.room.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
                    state.blocked -= 1;
                }
            }
        }
        state.add(line, time);
        self.wake(state);
        Pushed::Taken
    }

    /// Adds the lines of a batch at the end, leaves it empty, and says how many of them were dropped.
    pub(super) fn push_all(&self, batch: &mut Batch) -> u64 {
        let mut state = self.state();
        if !state.is_closed && state.lines + batch.count() <= self.length {
            let spare = state.spare.pop().unwrap_or_default();
            state.lines += batch.count();
            state.waiting.push(std::mem::replace(batch, spare));
            self.wake(state);
            return 0;
        }
        drop(state);
        let dropped = |(line, time)| u64::from(self.push(line, time) == Pushed::Dropped);
        let dropped = batch.lines().map(dropped).sum();
        batch.clear();
        dropped
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

    /// Exchanges all that waits for what was `taken` before, and says how many were dropped after it. Waits until there is
    /// something; none when the queue is closed and nothing more comes.
    pub(super) fn take(&self, taken: &mut Vec<Batch>) -> Option<Missed> {
        taken.truncate(SPARE);
        taken.iter_mut().for_each(Batch::clear);
        let mut state = self.state();
        let room = SPARE.saturating_sub(state.spare.len()).min(taken.len());
        state.spare.extend(taken.drain(..room));
        if !state.is_closed && state.lines < self.length.div_ceil(2) {
            state.writer = Writer::Naps;
            let napping = |state: &mut State| state.writer == Writer::Naps;
            let woken = self.work.wait_timeout_while(state, NAP, napping);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        while state.is_idle() && !state.is_over() {
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
        state.lines = 0;
        if state.blocked > 0 {
            self.room.notify_all();
        }
        Some(std::mem::replace(&mut state.missed, Missed::NONE))
    }

    /// How many are blocked.
    #[cfg(test)]
    pub(super) fn blocked(&self) -> usize {
        self.state().blocked
    }

    /// Takes no more records, but those of whoever is blocked.
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
        }
    }

    /// Whether there is nothing to write.
    fn is_idle(&self) -> bool {
        self.lines == 0 && self.missed.records == 0
    }

    /// Whether nothing more comes.
    fn is_over(&self) -> bool {
        self.is_closed && self.blocked == 0
    }
}
