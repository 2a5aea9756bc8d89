//! Values that stand for others in a cache.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// What stands for a value in a cache: two hashes with keys that nobody outside this process
/// knows. Where they are the same, so is what they stand for. Not to be kept beyond the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64, u64);

impl Fingerprint {
    /// Of this value.
    pub fn of(value: &impl Hash) -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        let (one, two) = &*KEYS;
        Self(one.hash_one(value), two.hash_one(value))
    }

    /// One of so many shares, from 0 on: which one, nobody outside this process can tell.
    pub fn share_of(self, shares: usize) -> usize {
        usize::try_from(self.0).unwrap_or_default().checked_rem(shares).unwrap_or_default()
    }
}
