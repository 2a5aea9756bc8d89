//! Strict checks of JSON texts: a text is well formed, and no object has the same key twice.
//!
//! RFC 8259, section 4, leaves the meaning of a repeated key open, so two readers of a body could see different values.
//! Keys are compared after unescaping.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Objects with at most this many keys are searched linearly; the keys beyond are hashed.
const LINEAR_SEARCH_MAX: usize = 16;

/// The maximum number of characters of a path in an error message.
const MAX_PATH_CHARS: usize = 200;

/// Why a JSON text is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// The text is not well formed.
    #[error("{0}")]
    Malformed(serde_json::Error),
    /// An object has the same key twice. The path names the key, as in `context.amount`.
    #[error("the key {0:?} occurs twice in its object")]
    DuplicateKey(String),
}

/// Checks that a text is one well-formed JSON value without repeated keys at any depth.
///
/// # Errors
///
/// If the text is not well formed, or a key occurs twice in an object.
pub(crate) fn check(text: &[u8]) -> Result<(), JsonError> {
    let mut duplicate = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let checked = DuplicateKeyCheck(&mut duplicate).deserialize(&mut reader).and_then(|()| reader.end());
    checked.map_err(|error| to_json_error(error, duplicate))
}

/// Returns the members of a JSON object, with the texts of their values. The values themselves are not checked.
///
/// # Errors
///
/// If the text is not a well-formed object, or one of its own keys occurs twice.
pub(crate) fn members(text: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>, JsonError> {
    let mut duplicate = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let members = reader.deserialize_map(MembersVisitor(&mut duplicate));
    let members = members.and_then(|members| reader.end().map(|()| members));
    members.map_err(|error| to_json_error(error, duplicate))
}

/// Returns the error of a text. `duplicate` holds the path of a repeated key, innermost segment first; empty if none.
fn to_json_error(error: serde_json::Error, duplicate: Vec<String>) -> JsonError {
    if duplicate.is_empty() {
        return JsonError::Malformed(error);
    }
    let path = duplicate.into_iter().rev().collect::<Vec<_>>().join(".");
    JsonError::DuplicateKey(path.chars().take(MAX_PATH_CHARS).collect())
}

/// Reads a value and keeps only the path of a repeated key.
struct DuplicateKeyCheck<'a>(&'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for DuplicateKeyCheck<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DuplicateKeyCheck<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        loop {
            match items.next_element_seed(DuplicateKeyCheck(self.0)) {
                Ok(Some(())) => index += 1,
                Ok(None) => return Ok(()),
                Err(error) => return Err(prepend_path_segment(self.0, error, || index.to_string())),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut keys = SeenKeys::default();
        while let Some(Key(key)) = members.next_key()? {
            if keys.contains(&key) {
                self.0.push(key.into_owned());
                return Err(A::Error::custom("a key occurs twice"));
            }
            if let Err(error) = members.next_value_seed(DuplicateKeyCheck(self.0)) {
                return Err(prepend_path_segment(self.0, error, || key.into_owned()));
            }
            keys.insert(key);
        }
        Ok(())
    }
}

/// Extends the path of a repeated key by a segment, if one has been found.
fn prepend_path_segment<E>(duplicate: &mut Vec<String>, error: E, segment: impl FnOnce() -> String) -> E {
    if !duplicate.is_empty() {
        duplicate.push(segment());
    }
    error
}

/// Collects the members of an object, and the path of a repeated key.
struct MembersVisitor<'a>(&'a mut Vec<String>);

impl<'de> Visitor<'de> for MembersVisitor<'_> {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut members, mut keys) = (Vec::new(), SeenKeys::default());
        while let Some(Key(key)) = map.next_key()? {
            if keys.contains(&key) {
                self.0.push(key.into_owned());
                return Err(A::Error::custom("a key occurs twice"));
            }
            keys.insert(key.clone());
            members.push((key, map.next_value()?));
        }
        Ok(members)
    }
}

/// The keys of an object so far: the first ones in a list, the others in a hash set.
#[derive(Default)]
struct SeenKeys<'de> {
    linear: Vec<Cow<'de, str>>,
    hashed: HashSet<Cow<'de, str>>,
}

impl<'de> SeenKeys<'de> {
    fn contains(&self, key: &str) -> bool {
        self.linear.iter().any(|seen| seen == key) || (!self.hashed.is_empty() && self.hashed.contains(key))
    }

    fn insert(&mut self, key: Cow<'de, str>) {
        if self.linear.len() < LINEAR_SEARCH_MAX {
            self.linear.push(key);
        } else {
            self.hashed.insert(key);
        }
    }
}

/// A key of an object, borrowed from the text if it contains no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn duplicate(text: &str) -> Option<String> {
        match check(text.as_bytes()) {
            Ok(()) => None,
            Err(JsonError::DuplicateKey(path)) => Some(path),
            Err(JsonError::Malformed(error)) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn a_repeated_key_is_found_at_every_depth() {
        for (text, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"b":2,"a":null}"#, "a"),
            (r#"{"context":{"amount":99,"amount":1}}"#, "context.amount"),
            (r#"[{"a":[0,{"b":{"c":1,"d":2,"c":3}}]}]"#, "0.a.1.b.c"),
            // The same key in two notations.
            (r#"{"amount":99,"\u0061mount":1}"#, "amount"),
            (r#"{"":1,"":2}"#, ""),
        ] {
            assert_eq!(duplicate(text).as_deref(), Some(path), "{text}");
        }
        let many: Vec<String> = (0..1000).map(|index| format!("\"k{index}\":{index}")).collect();
        assert_eq!(duplicate(&format!("{{{}}}", many.join(","))), None);
        for repeated in [0, 15, 16, 17, 999] {
            let text = format!("{{{},\"k{repeated}\":0}}", many.join(","));
            assert_eq!(duplicate(&text), Some(format!("k{repeated}")));
        }
    }

    #[test]
    fn the_same_key_in_different_objects_is_not_a_duplicate() {
        for text in [r#"{"a":{"a":{"a":1}},"b":{"a":2}}"#, r#"[{"a":1},{"a":1}]"#, "1.5e3", "null", "\"a\""] {
            assert_eq!(duplicate(text), None, "{text}");
        }
    }

    #[test]
    fn malformed_json_is_not_reported_as_a_duplicate_key() {
        for text in ["", "{", r#"{"a":1,}"#, "1 2", "1e999", r#"{"a":"\ud800"}"#, "nul", &"[".repeat(5_000)] {
            assert!(matches!(check(text.as_bytes()), Err(JsonError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn members_are_read_without_their_values() {
        let text = br#"{"a": {"b":1,"b":2}, "\u0062": [1]}"#;
        let members = members(text).unwrap();
        let texts: Vec<(&str, &str)> = members.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(texts, [("a", r#"{"b":1,"b":2}"#), ("b", "[1]")]);
        assert!(
            matches!(super::members(br#"{"a":1,"a":2}"#), Err(JsonError::DuplicateKey(key)) if key == "a")
        );
        assert!(matches!(super::members(b"[1]"), Err(JsonError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn json_written_by_serde_json_is_accepted(text in "\\PC{0,60}", number: f64, list: Vec<i64>) {
            let value = serde_json::json!({ "text": text, &text: [number, list], "x": { &text: null, "y": true } });
            prop_assert!(check(value.to_string().as_bytes()).is_ok());
        }

        #[test]
        fn accepted_json_parses_as_a_value(text in "[\\[\\]{},:\"a0 1]{0,24}") {
            if check(text.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            }
        }
    }
}
