//! How many requests were answered, by action and outcome. Threads count apart from each other.

use super::RouteGroup;
use crate::types::thread_index;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many parts there are; more threads than that share them.
const SHARDS: usize = 16;

/// The classes of outcomes, by the first digit of the status from 1 on.
const OUTCOMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What requests count as that ask about no action.
const PUBLIC: &str = "public";

/// Counts requests.
#[derive(Debug)]
pub struct Metrics {
    offsets: HashMap<&'static str, usize>,
    shards: Vec<Box<[AtomicU64]>>,
    /// Requests for decisions that were answered while the database was away.
    pub stale_decisions: AtomicU64,
}

impl Metrics {
    /// For these routes.
    pub fn new(routes: &[RouteGroup]) -> Self {
        let actions = routes.iter().flat_map(RouteGroup::routes).filter_map(|route| route.action);
        let names: BTreeSet<&'static str> = actions.chain([PUBLIC]).collect();
        let offsets: HashMap<&'static str, usize> =
            names.into_iter().enumerate().map(|(index, name)| (name, index * OUTCOMES.len())).collect();
        let counts = offsets.len() * OUTCOMES.len();
        let shard = || std::iter::repeat_with(AtomicU64::default).take(counts).collect();
        let shards = std::iter::repeat_with(shard).take(SHARDS).collect();
        Self { shards, offsets, stale_decisions: AtomicU64::new(0) }
    }

    /// Counts a request about this action, or about none, that was answered with this status.
    pub fn count(&self, action: Option<&str>, status: u16) {
        let offset = self.offsets.get(action.unwrap_or(PUBLIC)).or_else(|| self.offsets.get(PUBLIC));
        let class = usize::from(status / 100).clamp(1, OUTCOMES.len()) - 1;
        let shard = self.shards.get(thread_index() % SHARDS);
        if let Some(count) = offset.zip(shard).and_then(|(offset, shard)| shard.get(offset + class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were answered: action, outcome, number. What never happened is left out.
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
