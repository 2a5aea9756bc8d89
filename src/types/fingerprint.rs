//! Values that stand for others in a cache.

use super::Id;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// What stands for a value in a cache: a hash of 128 bits with a key that nobody outside this process knows, if it is no
/// shorter itself. Where they are the same, so is what they stand for. Not to be kept beyond the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64, u64);

impl Fingerprint {
    /// Of this value.
    pub fn of(value: &impl Hash) -> Self {
        static KEYED: LazyLock<SipHasher13> =
            LazyLock::new(|| SipHasher13::new_with_key(&random_u128().to_ne_bytes()));
        let mut hasher = *KEYED;
        value.hash(&mut hasher);
        let hash = hasher.finish128();
        Self(hash.h1, hash.h2)
    }

    /// Of a thing of this owner: of the two themselves, since there is room for both.
    pub fn of_id(owner: u32, id: Id) -> Self {
        // By the golden ratio, so that ids that follow one another, however far apart, fall on different shares.
        let spread = id.random_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(16);
        Self(spread, u64::from(owner) << 32 | u64::from(id.created_second()))
    }

    /// One of so many shares, from 0 on. Of a hash nobody outside this process can tell which one.
    pub fn bucket_index(self, buckets: usize) -> usize {
        usize::try_from(self.0).unwrap_or_default().checked_rem(buckets).unwrap_or_default()
    }
}

/// A number that no other call, thread or process is given, and that nobody can foresee: from what the hash tables of the
/// standard library are seeded with. Not for secrets that leave the process.
pub fn random_u128() -> u128 {
    let seed = RandomState::new();
    u128::from(seed.hash_one(0)) << 64 | u128::from(seed.hash_one(1))
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
