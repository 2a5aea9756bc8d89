//! A direct-mapped cache for one thread.

use super::Fingerprint;

/// A direct-mapped cache that one thread uses in front of a shared one.
///
/// A look-up takes no lock and touches no reference count that other threads change: cache-line contention would cost more
/// than the rest of the look-up. Of two keys with the same slot the later one stays. The caller checks whether a hit is
/// still valid.
#[derive(Debug)]
pub struct ThreadCache<V>(Vec<Option<(Fingerprint, V)>>);

impl<V> ThreadCache<V> {
    /// An empty cache.
    pub const EMPTY: Self = Self(Vec::new());

    /// Returns the value with this key.
    pub fn get(&self, key: Fingerprint) -> Option<&V> {
        let (stored_key, value) = self.0.get(key.bucket_index(self.0.len()))?.as_ref()?;
        (*stored_key == key).then_some(value)
    }

    /// Stores a value; the cache has `capacity` slots.
    pub fn insert(&mut self, capacity: usize, key: Fingerprint, value: V) {
        if self.0.len() != capacity {
            self.0.clear();
            self.0.resize_with(capacity, || None);
        }
        if let Some(slot) = self.0.get_mut(key.bucket_index(capacity)) {
            *slot = Some((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colliding_key_evicts_the_earlier_entry() {
        let (one, other) = (Fingerprint::of(&1), Fingerprint::of(&2));
        let mut cache = ThreadCache::EMPTY;
        assert!(cache.get(one).is_none());
        cache.insert(1, one, "one");
        assert_eq!((cache.get(one), cache.get(other)), (Some(&"one"), None));
        cache.insert(1, other, "other");
        assert_eq!((cache.get(one), cache.get(other)), (None, Some(&"other")));
    }
}
