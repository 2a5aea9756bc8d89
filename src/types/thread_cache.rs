//! A cache for one thread, in front of one that all share.

use super::Fingerprint;

/// What a thread has met of late: values, each found without a lock and without a count that other threads change,
/// since to write what another core has just written takes longer than all the rest of a look into a cache. Of two values
/// that fall on the same place the later one stays. Whether what is found is good still is for its user to tell.
#[derive(Debug)]
pub struct ThreadCache<V>(Vec<Option<(Fingerprint, V)>>);

impl<V> ThreadCache<V> {
    /// One with nothing in it.
    pub const EMPTY: Self = Self(Vec::new());

    /// The value with this key.
    pub fn get(&self, key: Fingerprint) -> Option<&V> {
        let (stored_key, value) = self.0.get(key.bucket_index(self.0.len()))?.as_ref()?;
        (*stored_key == key).then_some(value)
    }

    /// Keeps a value, one of `most` at most.
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
