//! How many decisions an engine has made. Threads count apart from each other, so that none waits for another's cache.

use super::Answer;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many parts there are; more threads than that share them.
const PARTS: usize = 16;

/// How many decisions an engine has made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// That permit.
    pub allowed: u64,
    /// That do not.
    pub denied: u64,
    /// That do not because something went wrong.
    pub undecidable: u64,
    /// How many of all these had been made before.
    pub remembered: u64,
}

/// What some threads have counted, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    allowed: AtomicU64,
    denied: AtomicU64,
    undecidable: AtomicU64,
    remembered: AtomicU64,
}

/// Counts decisions.
#[derive(Debug, Default)]
pub(super) struct Counts([Part; PARTS]);

impl Counts {
    /// Counts a decision.
    pub(super) fn add(&self, answer: &Answer, is_remembered: bool) {
        let Some(part) = self.0.get(own_part()) else { return };
        let count = match (answer.allowed, answer.errors.is_empty()) {
            (true, _) => &part.allowed,
            (false, true) => &part.denied,
            (false, false) => &part.undecidable,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if is_remembered {
            part.remembered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What all have counted.
    pub(super) fn sum(&self) -> Decisions {
        self.0.iter().fold(Decisions::default(), |sum, part| Decisions {
            allowed: sum.allowed + part.allowed.load(Ordering::Relaxed),
            denied: sum.denied + part.denied.load(Ordering::Relaxed),
            undecidable: sum.undecidable + part.undecidable.load(Ordering::Relaxed),
            remembered: sum.remembered + part.remembered.load(Ordering::Relaxed),
        })
    }
}

/// The part that this thread counts in.
fn own_part() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PART: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % PARTS);
    }
    PART.get()
}
