//! Counts requests by action and status class, in shards to avoid contention between threads.

use super::RouteGroup;
use crate::types::thread_index;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of shards. With more threads, some share one.
const SHARDS: usize = 16;

/// The status classes.
const OUTCOMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The action label of requests without an action.
const PUBLIC: &str = "public";

/// Counters of requests.
#[derive(Debug)]
pub struct Metrics {
    offsets: HashMap<&'static str, usize>,
    shards: Vec<Box<[AtomicU64]>>,
    /// The number of decisions made while the database was unavailable.
    pub stale_decisions: AtomicU64,
    /// The number of answers that were repeated for an idempotency key.
    pub idempotent_repetitions: AtomicU64,
}

impl Metrics {
    /// Creates the counters of the actions of these routes.
    pub fn new(routes: &[RouteGroup]) -> Self {
        let actions = routes.iter().flat_map(RouteGroup::routes).filter_map(|route| route.action);
        let names: BTreeSet<&'static str> = actions.chain([PUBLIC]).collect();
        let offsets: HashMap<&'static str, usize> =
            names.into_iter().enumerate().map(|(index, name)| (name, index * OUTCOMES.len())).collect();
        let counts = offsets.len() * OUTCOMES.len();
        let shard = || std::iter::repeat_with(AtomicU64::default).take(counts).collect();
        let shards = std::iter::repeat_with(shard).take(SHARDS).collect();
        Self {
            shards,
            offsets,
            stale_decisions: AtomicU64::new(0),
            idempotent_repetitions: AtomicU64::new(0),
        }
    }

    /// Counts a request by its action, if it has one, and its status.
    pub fn count(&self, action: Option<&str>, status: u16) {
        let offset = self.offsets.get(action.unwrap_or(PUBLIC)).or_else(|| self.offsets.get(PUBLIC));
        let class = usize::from(status / 100).clamp(1, OUTCOMES.len()) - 1;
        let shard = self.shards.get(thread_index() % SHARDS);
        if let Some(count) = offset.zip(shard).and_then(|(offset, shard)| shard.get(offset + class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the counts that are not zero: action, status class, number.
    pub fn totals(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut names: Vec<_> = self.offsets.iter().collect();
        names.sort_unstable();
        let total = |index: usize| {
            let counts = self.shards.iter().filter_map(|shard| shard.get(index));
            counts.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        let all = names.into_iter().flat_map(|(name, offset)| {
            OUTCOMES.iter().enumerate().map(move |(class, outcome)| (*name, *outcome, offset + class))
        });
        all.map(|(name, outcome, index)| (name, outcome, total(index)))
            .filter(|(.., count)| *count > 0)
            .collect()
    }
}
