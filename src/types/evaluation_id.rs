//! Ids of evaluations, which an answer and its line in the decision log share.

use super::random_u128;
use serde::{Serialize, Serializer};
use std::cell::Cell;
use std::fmt;

/// The id of an evaluation: 32 hex digits.
///
/// Unique among all processes, but not secret: every thread has a random prefix of 64 bits and permutes a counter, so that an id
/// does not disclose how many decisions were made before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EvaluationId(u64, u64);

/// The state of a thread: its prefix, the offset of its counter, and the counter.
type Generator = (u64, u64, u64);

impl EvaluationId {
    /// Returns an id that no other call, thread or process gets.
    pub fn generate() -> Self {
        thread_local! {
            static GENERATOR: Cell<Option<Generator>> = const { Cell::new(None) };
        }
        let (prefix, offset, count) = GENERATOR.get().unwrap_or_else(|| {
            let [high, low] = halves(random_u128());
            (high, low, 0)
        });
        GENERATOR.set(Some((prefix, offset, count.wrapping_add(1))));
        Self(prefix, permute(offset.wrapping_add(count)))
    }

    /// Calls `use_text` with the 32 hex digits.
    pub fn with_str<T>(self, use_text: impl FnOnce(&str) -> T) -> T {
        let bytes = ((u128::from(self.0) << 64) | u128::from(self.1)).to_be_bytes();
        let mut digits = [0; 32];
        // The buffer has the right length, and hex digits are ASCII.
        let _ = hex::encode_to_slice(bytes, &mut digits);
        use_text(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

/// The two halves of a number.
fn halves(number: u128) -> [u64; 2] {
    let bytes = number.to_ne_bytes();
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| half.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

/// A permutation of all 64-bit numbers (the finalizer of SplitMix64).
fn permute(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl fmt::Display for EvaluationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

impl Serialize for EvaluationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_str(|text| serializer.serialize_str(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_across_threads() {
        let ids = || (0..1_000).map(|_| EvaluationId::generate().to_string()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(ids)).collect();
        let all: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4_000);
        assert!(all.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
