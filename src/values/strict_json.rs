//! Checks of JSON texts before they are read into values: a text is well formed, and no object has a key twice (RFC 8259,
//! section 4, leaves the meaning of a repeated key open). Keys are compared after unescaping.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Up to how many keys of an object are compared one by one.
const FEW: usize = 16;

/// How many characters of a path an error repeats at most.
const LONGEST_PATH: usize = 200;

/// Why a JSON text is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// It is not well formed.
    #[error("{0}")]
    Malformed(serde_json::Error),
    /// An object has a key twice. The path names the key, as in `context.amount`.
    #[error("the key {0:?} occurs twice in its object")]
    DuplicateKey(String),
}

/// Checks that a text is one well-formed JSON value in which no object has a key twice, at any depth.
///
/// # Errors
///
/// Where the text is not well formed, and where a key occurs twice.
pub(crate) fn check(text: &[u8]) -> Result<(), JsonError> {
    let mut duplicate = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let checked = Check(&mut duplicate).deserialize(&mut reader).and_then(|()| reader.end());
    checked.map_err(|error| failed(error, duplicate))
}

/// The members of a JSON object, with their values as texts. The values are not checked.
///
/// # Errors
///
/// Where the text is no well-formed object, and where one of its own keys occurs twice.
pub(crate) fn members(text: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>, JsonError> {
    let mut duplicate = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let members = reader.deserialize_map(Members(&mut duplicate));
    let members = members.and_then(|members| reader.end().map(|()| members));
    members.map_err(|error| failed(error, duplicate))
}

/// The error of a text, with the steps to a repeated key from the inside out where that is the cause.
fn failed(error: serde_json::Error, duplicate: Vec<String>) -> JsonError {
    if duplicate.is_empty() {
        return JsonError::Malformed(error);
    }
    let path = duplicate.into_iter().rev().collect::<Vec<_>>().join(".");
    JsonError::DuplicateKey(path.chars().take(LONGEST_PATH).collect())
}

/// Reads a value and keeps nothing of it but the path of a repeated key.
struct Check<'a>(&'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
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
        let mut at = 0_usize;
        loop {
            match items.next_element_seed(Check(self.0)) {
                Ok(Some(())) => at += 1,
                Ok(None) => return Ok(()),
                Err(error) => return Err(within(self.0, error, || at.to_string())),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(Key(key)) = members.next_key()? {
            if keys.has(&key) {
                self.0.push(key.into_owned());
                return Err(A::Error::custom("a key occurs twice"));
            }
            if let Err(error) = members.next_value_seed(Check(self.0)) {
                return Err(within(self.0, error, || key.into_owned()));
            }
            keys.add(key);
        }
        Ok(())
    }
}

/// Adds a step to the path of a repeated key, where that is the cause of the error.
fn within<E>(duplicate: &mut Vec<String>, error: E, step: impl FnOnce() -> String) -> E {
    if !duplicate.is_empty() {
        duplicate.push(step());
    }
    error
}

/// Collects the members of an object.
struct Members<'a>(&'a mut Vec<String>);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut members, mut keys) = (Vec::new(), Keys::default());
        while let Some(Key(key)) = map.next_key()? {
            if keys.has(&key) {
                self.0.push(key.into_owned());
                return Err(A::Error::custom("a key occurs twice"));
            }
            keys.add(key.clone());
            members.push((key, map.next_value()?));
        }
        Ok(members)
    }
}

/// The keys of an object so far: a list of the first few, a set of all further ones.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    more: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    fn has(&self, key: &str) -> bool {
        self.few.iter().any(|known| known == key) || (!self.more.is_empty() && self.more.contains(key))
    }

    fn add(&mut self, key: Cow<'de, str>) {
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.more.insert(key);
        }
    }
}

/// A key of an object, borrowed from the text where that has it without escapes.
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
            // Two ways to write one key.
            (r#"{"amount":99,"\u0061mount":1}"#, "amount"),
            (r#"{"":1,"":2}"#, ""),
        ] {
            assert_eq!(duplicate(text).as_deref(), Some(path), "{text}");
        }
        let many: Vec<String> = (0..1000).map(|at| format!("\"k{at}\":{at}")).collect();
        assert_eq!(duplicate(&format!("{{{}}}", many.join(","))), None);
        for again in [0, 15, 16, 17, 999] {
            let text = format!("{{{},\"k{again}\":0}}", many.join(","));
            assert_eq!(duplicate(&text), Some(format!("k{again}")));
        }
    }

    #[test]
    fn the_same_key_in_different_objects_is_no_repetition() {
        for text in [r#"{"a":{"a":{"a":1}},"b":{"a":2}}"#, r#"[{"a":1},{"a":1}]"#, "1.5e3", "null", "\"a\""] {
            assert_eq!(duplicate(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_repetition() {
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
        fn whatever_serde_json_writes_is_accepted(text in "\\PC{0,60}", number: f64, list: Vec<i64>) {
            let value = serde_json::json!({ "text": text, &text: [number, list], "x": { &text: null, "y": true } });
            prop_assert!(check(value.to_string().as_bytes()).is_ok());
        }

        #[test]
        fn what_is_accepted_is_read_as_a_value(text in "[\\[\\]{},:\"a0 1]{0,24}") {
            if check(text.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            }
        }
    }
}
