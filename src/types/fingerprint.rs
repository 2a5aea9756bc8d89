//! Fingerprints: 128-bit cache keys.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hash;
use std::sync::LazyLock;

/// A cache key of 128 bits: equal fingerprints stand for equal values.
///
/// It is a hash with a key that only this process knows, so that no client can construct a collision. Valid within the
/// process only; never store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64, u64);

impl Fingerprint {
    /// Returns the keyed hash of a value.
    pub fn of(value: &impl Hash) -> Self {
        static KEYED: LazyLock<SipHasher13> =
            LazyLock::new(|| SipHasher13::new_with_key(&random_u128().to_ne_bytes()));
        let mut hasher = *KEYED;
        value.hash(&mut hasher);
        let hash = hasher.finish128();
        Self(hash.h1, hash.h2)
    }

    /// Returns the index of the bucket for this fingerprint, from 0 to `buckets - 1`; 0 if there are no buckets.
    pub fn bucket_index(self, buckets: usize) -> usize {
        usize::try_from(self.0).unwrap_or_default().checked_rem(buckets).unwrap_or_default()
    }
}

/// Returns an unpredictable number that no other call, thread or process gets.
///
/// Aborts the process if the system provides no random bytes, since cache keys and ids would be predictable.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    u128::from_ne_bytes(bytes)
}
