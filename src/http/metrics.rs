//! How many requests were answered, by action and outcome. Threads count apart from each other.

use super::Routes;
use crate::values::thread_number;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many parts there are; more threads than that share them.
const PARTS: usize = 16;

/// The classes of outcomes, by the first digit of the status from 1 on.
const OUTCOMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What requests count as that ask about no action.
const PUBLIC: &str = "public";

/// Counts requests.
#[derive(Debug)]
pub struct Metrics {
    places: HashMap<&'static str, usize>,
    parts: Vec<Box<[AtomicU64]>>,
    /// Requests for decisions that were answered while the database was away.
    pub stale_decisions: AtomicU64,
}

impl Metrics {
    /// For these routes.
    pub fn new(routes: &[Routes]) -> Self {
        let actions = routes.iter().flat_map(Routes::routes).filter_map(|route| route.action);
        let names: BTreeSet<&'static str> = actions.chain([PUBLIC]).collect();
        let places: HashMap<&'static str, usize> =
            names.into_iter().enumerate().map(|(at, name)| (name, at * OUTCOMES.len())).collect();
        let counts = places.len() * OUTCOMES.len();
        let part = || std::iter::repeat_with(AtomicU64::default).take(counts).collect();
        let parts = std::iter::repeat_with(part).take(PARTS).collect();
        Self { parts, places, stale_decisions: AtomicU64::new(0) }
    }

    /// Counts a request about this action, or about none, that was answered with this status.
    pub fn count(&self, action: Option<&str>, status: u16) {
        let place = self.places.get(action.unwrap_or(PUBLIC)).or_else(|| self.places.get(PUBLIC));
        let class = usize::from(status / 100).clamp(1, OUTCOMES.len()) - 1;
        let part = self.parts.get(thread_number() % PARTS);
        if let Some(count) = place.zip(part).and_then(|(place, part)| part.get(place + class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were answered: action, outcome, number. What never happened is left out.
    pub fn sum(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut names: Vec<_> = self.places.iter().collect();
        names.sort_unstable();
        let of = |at: usize| {
            let counts = self.parts.iter().filter_map(|part| part.get(at));
            counts.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        let all = names.into_iter().flat_map(|(name, place)| {
            OUTCOMES.iter().enumerate().map(move |(class, outcome)| (*name, *outcome, place + class))
        });
        all.map(|(name, outcome, at)| (name, outcome, of(at))).filter(|(.., count)| *count > 0).collect()
    }
}
