//! Fingerprints: 128-bit cache keys.

use super::Id;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hash;
use std::sync::LazyLock;

/// A cache key of 128 bits: equal fingerprints stand for equal values.
///
/// It is a hash with a key that only this process knows, so that no client can construct a collision, or a pair of
/// numbers that fits into 128 bits unhashed. Valid within the process only; never store it.
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

    /// Returns the fingerprint of an id in the scope of an owner. It is exact, since both fit into 128 bits.
    pub fn of_id(owner: u32, id: Id) -> Self {
        // Multiplying by 2^64 divided by the golden ratio spreads consecutive ids over all buckets.
        let spread = id.random_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(16);
        Self(spread, u64::from(owner) << 32 | u64::from(id.created_second()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fingerprints_of_different_owners_or_ids_differ(
            one: (u32, [u8; 12]), other: (u32, [u8; 12]), byte in 0_usize..12, bit in 0..8_u8
        ) {
            let fingerprint = |(owner, id)| Fingerprint::of_id(owner, id_of(id));
            prop_assert_eq!(fingerprint(one) == fingerprint(other), one == other);
            prop_assert_ne!(fingerprint(one), fingerprint((one.0 ^ 1 << bit, one.1)));
            let mut other_id = one.1;
            other_id[byte] ^= 1 << bit;
            prop_assert_ne!(fingerprint(one), fingerprint((one.0, other_id)));
        }
    }

    fn id_of(bytes: [u8; 12]) -> Id {
        bytes.map(|byte| format!("{byte:02x}")).concat().parse().unwrap()
    }
}
