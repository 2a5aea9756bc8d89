//! Counters of an engine's decisions, sharded by thread to avoid contention for their cache lines.

use super::AuthzDecision;
use crate::types::thread_index;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of shards. With more threads, several share one.
const SHARDS: usize = 16;

/// The upper bounds of the latency buckets in nanoseconds. Slower decisions are in no bucket.
pub const LATENCY_BUCKETS_NANOS: [u64; 9] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

/// The number of decisions that an engine has made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecisionCounts {
    /// Decisions that allow.
    pub allowed: u64,
    /// Decisions that deny, without those that failed.
    pub denied: u64,
    /// Decisions that deny because the evaluation failed.
    pub errors: u64,
    /// Decisions that were answered from a cache.
    pub cache_hits: u64,
    /// Timed decisions per bucket of [`LATENCY_BUCKETS_NANOS`], not cumulative.
    pub latencies: [u64; LATENCY_BUCKETS_NANOS.len()],
    /// The number of timed decisions.
    pub latency_count: u64,
    /// The total time of the timed decisions in nanoseconds.
    pub latency_sum_nanos: u64,
}

/// The counters of some threads, aligned so that no two shards share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    allowed: AtomicU64,
    denied: AtomicU64,
    errors: AtomicU64,
    cache_hits: AtomicU64,
    latencies: [AtomicU64; LATENCY_BUCKETS_NANOS.len()],
    latency_count: AtomicU64,
    latency_sum_nanos: AtomicU64,
}

/// The counters of an engine.
#[derive(Debug, Default)]
pub(super) struct DecisionCounters([Shard; SHARDS]);

impl DecisionCounters {
    /// Counts a decision by its outcome. `is_cached`: it was answered from a cache.
    pub(super) fn record(&self, decision: &AuthzDecision, is_cached: bool) {
        let Some(shard) = self.0.get(thread_index() % SHARDS) else { return };
        let count = match (decision.allowed, decision.errors.is_empty()) {
            (true, _) => &shard.allowed,
            (false, true) => &shard.denied,
            (false, false) => &shard.errors,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if is_cached {
            shard.cache_hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the time that a decision took.
    pub(super) fn record_latency(&self, latency: Duration) {
        let Some(shard) = self.0.get(thread_index() % SHARDS) else { return };
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_NANOS.iter().position(|upper_bound| nanos <= *upper_bound);
        if let Some(count) = bucket.and_then(|bucket| shard.latencies.get(bucket)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        shard.latency_count.fetch_add(1, Ordering::Relaxed);
        shard.latency_sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The sum over all shards.
    pub(super) fn sum(&self) -> DecisionCounts {
        let mut sum = DecisionCounts::default();
        for shard in &self.0 {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            sum.allowed += read(&shard.allowed);
            sum.denied += read(&shard.denied);
            sum.errors += read(&shard.errors);
            sum.cache_hits += read(&shard.cache_hits);
            sum.latency_count += read(&shard.latency_count);
            sum.latency_sum_nanos += read(&shard.latency_sum_nanos);
            sum.latencies.iter_mut().zip(&shard.latencies).for_each(|(sum, count)| *sum += read(count));
        }
        sum
    }
}
