//! The cache: a bounded map whose values are valid until something that they depend on changes.
//!
//! All caches of the service are values of [`Cache`], and all state what they depend on as [`Validity`]. ARCHITECTURE.md lists
//! them with their keys, bounds and measured gains.

use super::Timestamp;
use quick_cache::sync::Cache as BoundedMap;
use quick_cache::{Equivalent, Weighter};
use std::hash::Hash;

/// The expected number of values of a new cache, which grows with its use.
const INITIAL_CAPACITY: usize = 1_000;

/// The state of the write counters of a row when the row was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowVersion {
    /// The index of the counters that the row shares with some others.
    pub(crate) slot: usize,
    /// The number of writes to an unknown set of rows.
    pub(crate) all: u64,
    /// The number of writes to the rows of the slot.
    pub(crate) written: u64,
    /// The number of rows that were created in the slot.
    pub(crate) created: u64,
}

/// The current write counters of the rows, and whether they can be relied on.
pub trait RowVersions {
    /// Returns whether a row that was present at this version has not been written since.
    fn is_unchanged(&self, version: &RowVersion) -> bool;

    /// Returns whether a row that was absent at this version is still absent.
    fn is_still_absent(&self, version: &RowVersion) -> bool;

    /// Returns whether the database is unavailable, and cached data may be used beyond its normal lifetime.
    fn is_stale(&self) -> bool;
}

/// The current versions of everything that cached values depend on. What is none fails every dependency on it.
#[derive(Clone, Copy, Default)]
pub struct Versions<'a> {
    /// The write counters of the rows.
    pub rows: Option<&'a dyn RowVersions>,
    /// The number of the engine with the policies of the request.
    pub policies: Option<u64>,
    /// The number of the key ring.
    pub keyring: Option<u64>,
    /// The time.
    pub now: Option<Timestamp>,
}

impl<'a> Versions<'a> {
    /// The versions for values that depend on rows only.
    pub fn of_rows(rows: &'a dyn RowVersions) -> Self {
        Self { rows: Some(rows), ..Self::default() }
    }
}

impl std::fmt::Debug for Versions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { policies, keyring, now, .. } = self;
        f.debug_struct("Versions")
            .field("policies", policies)
            .field("keyring", keyring)
            .field("now", now)
            .finish_non_exhaustive()
    }
}

/// Whether a row was present when it was read.
#[derive(Debug, Clone, Copy)]
enum RowDependency {
    Present(RowVersion),
    Absent(RowVersion),
}

/// When a value may be used.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    /// When the value was read. It is not used before that time: the clock was set back.
    pub start: Timestamp,
    /// Until when it is used.
    pub end: Timestamp,
    /// Until when it is used while the database is unavailable.
    pub stale_end: Timestamp,
}

/// What a cached value depends on. The default depends on nothing: the key contains everything that the value is derived from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validity {
    row: Option<RowDependency>,
    policies: Option<u64>,
    keyring: Option<u64>,
    lifetime: Option<Lifetime>,
}

impl Validity {
    /// Valid until the row is written.
    pub fn of_present_row(version: RowVersion) -> Self {
        Self { row: Some(RowDependency::Present(version)), ..Self::default() }
    }

    /// Valid until the row is created.
    pub fn of_absent_row(version: RowVersion) -> Self {
        Self { row: Some(RowDependency::Absent(version)), ..Self::default() }
    }

    /// Valid only with the policies of this engine.
    pub fn with_policies(self, engine: u64) -> Self {
        Self { policies: Some(engine), ..self }
    }

    /// Valid only with this key ring.
    pub fn with_keyring(self, number: u64) -> Self {
        Self { keyring: Some(number), ..self }
    }

    /// Valid only during this time.
    pub fn with_lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime: Some(lifetime), ..self }
    }

    /// Returns whether nothing that the value depends on has changed.
    fn holds(&self, current: &Versions<'_>) -> bool {
        let is_stale = || current.rows.is_some_and(RowVersions::is_stale);
        let row_holds = self.row.is_none_or(|row| {
            current.rows.is_some_and(|rows| match row {
                RowDependency::Present(version) => rows.is_unchanged(&version),
                RowDependency::Absent(version) => rows.is_still_absent(&version),
            })
        });
        let is_in_time = self.lifetime.is_none_or(|lifetime| {
            current.now.is_some_and(|now| {
                now >= lifetime.start && (now < lifetime.end || (now < lifetime.stale_end && is_stale()))
            })
        });
        row_holds
            && is_in_time
            && (self.policies.is_none() || self.policies == current.policies)
            && (self.keyring.is_none() || self.keyring == current.keyring)
    }
}

/// A value with what it depends on.
#[derive(Debug, Clone)]
struct Entry<V> {
    value: V,
    validity: Validity,
    weight: u64,
}

#[derive(Debug, Clone)]
struct EntryWeight;

impl<K, V> Weighter<K, Entry<V>> for EntryWeight {
    fn weight(&self, _: &K, entry: &Entry<V>) -> u64 {
        entry.weight
    }
}

/// A bounded map that all threads share. It evicts the values that were not used for the longest time.
pub struct Cache<K, V> {
    /// None if the cache is off.
    entries: Option<BoundedMap<K, Entry<V>, EntryWeight>>,
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("is_on", &self.entries.is_some()).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Creates a cache for values of this total weight. If it is not on, it stays empty.
    pub fn new(max_weight: u64, is_on: bool) -> Self {
        Self { entries: is_on.then(|| BoundedMap::with_weighter(INITIAL_CAPACITY, max_weight, EntryWeight)) }
    }

    /// Returns the value with this key if nothing that it depends on has changed.
    pub fn get<Q: Equivalent<K> + Hash + ?Sized>(&self, key: &Q, current: &Versions<'_>) -> Option<V> {
        let entry = self.entries.as_ref()?.get(key)?;
        entry.validity.holds(current).then_some(entry.value)
    }

    /// Stores a value of weight 1.
    pub fn insert(&self, key: K, value: V, validity: Validity) {
        self.insert_weighted(key, value, validity, 1);
    }

    /// Stores a value of this weight. A value that is heavier than the whole cache is not stored.
    pub fn insert_weighted(&self, key: K, value: V, validity: Validity, weight: u64) {
        if let Some(entries) = &self.entries {
            entries.insert(key, Entry { value, validity, weight });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Rows whose counters a test sets.
    #[derive(Default)]
    struct Rows {
        written: Cell<u64>,
        created: Cell<u64>,
        is_stale: Cell<bool>,
    }

    impl Rows {
        fn version(&self) -> RowVersion {
            RowVersion { slot: 0, all: 0, written: self.written.get(), created: self.created.get() }
        }
    }

    impl RowVersions for Rows {
        fn is_unchanged(&self, version: &RowVersion) -> bool {
            version.written == self.written.get()
        }

        fn is_still_absent(&self, version: &RowVersion) -> bool {
            version.created == self.created.get()
        }

        fn is_stale(&self) -> bool {
            self.is_stale.get()
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_value_is_valid_until_any_dependency_changes() {
        let rows = Rows::default();
        let current = Versions { rows: Some(&rows), policies: Some(1), keyring: Some(2), now: Some(at(10)) };
        let lifetime = Lifetime { start: at(10), end: at(20), stale_end: at(30) };
        let validity =
            Validity::of_present_row(rows.version()).with_policies(1).with_keyring(2).with_lifetime(lifetime);
        assert!(validity.holds(&current));
        for changed in [
            Versions { rows: None, ..current },
            Versions { policies: Some(2), ..current },
            Versions { policies: None, ..current },
            Versions { keyring: Some(1), ..current },
            Versions { keyring: None, ..current },
            Versions { now: Some(at(9)), ..current },
            Versions { now: Some(at(20)), ..current },
            Versions { now: None, ..current },
        ] {
            assert!(!validity.holds(&changed), "{changed:?}");
        }
        rows.created.set(1);
        assert!(validity.holds(&current));
        rows.written.set(1);
        assert!(!validity.holds(&current));
    }

    #[test]
    fn absence_ends_with_a_creation_only() {
        let rows = Rows::default();
        let validity = Validity::of_absent_row(rows.version());
        rows.written.set(1);
        assert!(validity.holds(&Versions::of_rows(&rows)));
        rows.created.set(1);
        assert!(!validity.holds(&Versions::of_rows(&rows)));
    }

    #[test]
    fn a_stale_value_lives_until_its_stale_end() {
        let rows = Rows::default();
        let lifetime = Lifetime { start: at(10), end: at(20), stale_end: at(30) };
        let validity = Validity::default().with_lifetime(lifetime);
        let is_valid_at =
            |millis| validity.holds(&Versions { now: Some(at(millis)), ..Versions::of_rows(&rows) });
        assert!(!is_valid_at(25));
        rows.is_stale.set(true);
        assert!(is_valid_at(25) && !is_valid_at(30) && !is_valid_at(9));
    }

    #[test]
    fn a_cache_that_is_off_stays_empty() {
        for is_on in [true, false] {
            let cache = Cache::new(10, is_on);
            cache.insert(1, "one", Validity::default());
            assert_eq!(cache.get(&1, &Versions::default()).is_some(), is_on);
        }
    }

    #[test]
    fn the_total_weight_is_bounded() {
        let cache = Cache::new(1_000, true);
        for key in 0..1_000 {
            cache.insert_weighted(key, key, Validity::default(), 100);
        }
        let kept = (0..1_000).filter(|key| cache.get(key, &Versions::default()).is_some()).count();
        assert!(kept <= 10, "{kept}");
        cache.insert_weighted(5_000, 0, Validity::default(), 2_000);
        assert!(cache.get(&5_000, &Versions::default()).is_none());
    }
}
