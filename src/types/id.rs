//! Resource ids: 24 hex digits, like an ObjectId (see "Resource ids" in docs/decisions.md).

use super::{Clock, FieldErrorCode, InvalidValue, quoted, random_u128, string_schema, text_serde};
use std::fmt;
use std::str::FromStr;

/// The id of a resource: 12 bytes, written as 24 lower-case hex digits.
///
/// The first 4 bytes are the second of its creation; the other 8 are random, so that ids cannot be guessed from one
/// another. Ids of the same second are in no particular order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 12]);

impl Id {
    /// Returns a new unique id.
    pub fn new(clock: &Clock) -> Self {
        let [s0, s1, s2, s3] = u32::try_from(clock.now().seconds()).unwrap_or(u32::MAX).to_be_bytes();
        let [r0, r1, r2, r3, r4, r5, r6, r7, ..] = random_u128().to_ne_bytes();
        Self([s0, s1, s2, s3, r0, r1, r2, r3, r4, r5, r6, r7])
    }

    /// Returns `count` new ids in ascending order, for resources that are created together and listed in that order.
    pub fn new_ascending(clock: &Clock, count: usize) -> Vec<Self> {
        let mut ids: Vec<Self> = (0..count).map(|_| Self::new(clock)).collect();
        ids.sort_unstable();
        ids
    }

    /// The regular expression of an id, for the OpenAPI document.
    pub const PATTERN: &str = "^[0-9a-fA-F]{24}$";

    /// The id of a hypothetical resource; no stored resource has it.
    pub const NIL: Self = Self([0; 12]);

    /// The id in the examples of the specification.
    pub const EXAMPLE: Self = Self([0x59, 0x9e, 0x1f, 0xcd, 0x9d, 0xa1, 0xc7, 0x26, 0x45, 0xc9, 0x58, 0x86]);

    /// The random part of the id.
    pub(crate) fn random_bits(self) -> u64 {
        let [_, _, _, _, rest @ ..] = self.0;
        u64::from_be_bytes(rest)
    }

    /// The second of creation, counted from 1970.
    pub(crate) fn created_second(self) -> u32 {
        let [s0, s1, s2, s3, ..] = self.0;
        u32::from_be_bytes([s0, s1, s2, s3])
    }

    /// Calls `f` with the text form, without allocating.
    pub fn with_str<T>(self, f: impl FnOnce(&str) -> T) -> T {
        let mut digits = [0; 24];
        // Cannot fail: the digits have twice the length of the bytes.
        let _ = hex::encode_to_slice(self.0, &mut digits);
        f(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl FromStr for Id {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut bytes = [0; 12];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(InvalidValue::new(
                FieldErrorCode::InvalidFormat,
                format!("{} is not an id: an id has 24 hex digits", quoted(text)),
            )),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_serde!(Id);

impl utoipa::PartialSchema for Id {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema("An id: 24 hex digits. The first 8 are the second of creation, the others are random.")
            .pattern(Some(Self::PATTERN))
            .examples(["599e1fcd9da1c72645c95886"])
            .into()
    }
}

impl utoipa::ToSchema for Id {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_ordered_by_the_second_of_creation() {
        let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        let first = Id::new(&clock);
        clock.advance(1_000);
        let second = Id::new(&clock);
        assert!(first < second && first.to_string() < second.to_string());
    }

    #[test]
    fn all_64_bits_after_the_second_differ_from_id_to_id() {
        let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        let ids: std::collections::HashSet<Id> = (0..10_000).map(|_| Id::new(&clock)).collect();
        assert_eq!(ids.len(), 10_000);
        // Of each bit, about half are set: a deviation of 500 is ten standard deviations.
        for bit in 0..64 {
            let set = ids.iter().filter(|id| id.random_bits() >> bit & 1 == 1).count();
            assert!((4_500..5_500).contains(&set), "bit {bit} is set in {set} of 10,000");
        }
        // Consecutive ids are no nearer to each other than others.
        let (one, other) = (Id::new(&clock), Id::new(&clock));
        assert!(one.random_bits().abs_diff(other.random_bits()) > 1 << 32);
        assert_eq!(one.created_second(), other.created_second());
    }

    #[test]
    fn ids_created_together_are_in_ascending_order() {
        let ids = Id::new_ascending(&Clock::system(), 1_000);
        assert!(ids.len() == 1_000 && ids.is_sorted());
    }

    proptest! {
        #[test]
        fn an_id_parses_from_its_own_text(bytes: [u8; 12]) {
            let id = Id(bytes);
            prop_assert_eq!(id.to_string().parse::<Id>(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse::<Id>(), Ok(id));
        }

        #[test]
        fn only_24_hex_digits_parse_as_an_id(text in "\\PC{0,30}") {
            let hex = text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(text.parse::<Id>().is_ok(), hex);
        }
    }
}
