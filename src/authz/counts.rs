//! How many decisions an engine has made. Threads count apart from each other, so that none waits for another's cache.

use super::Answer;
use crate::values::thread_number;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many parts there are; more threads than that share them.
const PARTS: usize = 16;

/// Up to which nanoseconds each of the classes of latency goes; what is slower is in none.
pub const LATENCIES: [u64; 9] = [250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

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
    /// How many took up to so many nanoseconds, and no more than that is less.
    pub latencies: [u64; LATENCIES.len()],
    /// How many were timed.
    pub timed: u64,
    /// How many nanoseconds these took together.
    pub nanos: u64,
}

/// What some threads have counted, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    allowed: AtomicU64,
    denied: AtomicU64,
    undecidable: AtomicU64,
    remembered: AtomicU64,
    latencies: [AtomicU64; LATENCIES.len()],
    timed: AtomicU64,
    nanos: AtomicU64,
}

/// Counts decisions.
#[derive(Debug, Default)]
pub(super) struct Counts([Part; PARTS]);

impl Counts {
    /// Counts a decision.
    pub(super) fn add(&self, answer: &Answer, is_remembered: bool) {
        let Some(part) = self.0.get(thread_number() % PARTS) else { return };
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

    /// Counts how long a decision took.
    pub(super) fn time(&self, latency: Duration) {
        let Some(part) = self.0.get(thread_number() % PARTS) else { return };
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let class = LATENCIES.iter().position(|most| nanos <= *most);
        if let Some(count) = class.and_then(|class| part.latencies.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        part.timed.fetch_add(1, Ordering::Relaxed);
        part.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What all have counted.
    pub(super) fn sum(&self) -> Decisions {
        let mut sum = Decisions::default();
        for part in &self.0 {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            sum.allowed += read(&part.allowed);
            sum.denied += read(&part.denied);
            sum.undecidable += read(&part.undecidable);
            sum.remembered += read(&part.remembered);
            sum.timed += read(&part.timed);
            sum.nanos += read(&part.nanos);
            sum.latencies.iter_mut().zip(&part.latencies).for_each(|(sum, count)| *sum += read(count));
        }
        sum
    }
}
