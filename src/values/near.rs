//! A cache for one thread, in front of one that all share.

use super::Fingerprint;

/// What a thread has met of late: values, each found without a lock and without a count that other threads change,
/// since to write what another core has just written takes longer than all the rest of a look into a cache. Of two values
/// that fall on the same place the later one stays. Whether what is found is good still is for its user to tell.
#[derive(Debug)]
pub struct Near<V>(Vec<Option<(Fingerprint, V)>>);

impl<V> Near<V> {
    /// One with nothing in it.
    pub const EMPTY: Self = Self(Vec::new());

    /// The value with this key.
    pub fn get(&self, key: Fingerprint) -> Option<&V> {
        let (known, value) = self.0.get(key.share_of(self.0.len()))?.as_ref()?;
        (*known == key).then_some(value)
    }

    /// Keeps a value, one of `most` at most.
    pub fn keep(&mut self, most: usize, key: Fingerprint, value: V) {
        if self.0.len() != most {
            self.0.clear();
            self.0.resize_with(most, || None);
        }
        if let Some(place) = self.0.get_mut(key.share_of(most)) {
            *place = Some((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_on_one_place_the_later_one_is_found_and_the_other_is_not() {
        let (one, other) = (Fingerprint::of(&1), Fingerprint::of(&2));
        let mut near = Near::EMPTY;
        assert!(near.get(one).is_none());
        near.keep(1, one, "one");
        assert_eq!((near.get(one), near.get(other)), (Some(&"one"), None));
        near.keep(1, other, "other");
        assert_eq!((near.get(one), near.get(other)), (None, Some(&"other")));
    }
}
