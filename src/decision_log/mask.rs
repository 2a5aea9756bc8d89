//! Masking: the values of attributes that the settings name stay out of the log.

use super::record::{Inputs, Record};
use crate::values::raw;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What is written instead of a value that is masked.
const MASKED: &str = "***";

/// The names of the attributes whose values are masked.
#[derive(Debug)]
pub(super) struct Mask(HashSet<String>);

impl Mask {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().cloned().collect())
    }

    /// Appends the line of a record.
    pub(super) fn write(&self, record: &Record<'_>, line: &mut Vec<u8>) {
        if self.0.is_empty() {
            return record.write(line);
        }
        let mut hidden = Vec::new();
        let masked = record.inputs.map(|Inputs { entities, context }| {
            let entities = entities.map(|words| self.masked("entities", words, &mut hidden));
            (entities, self.masked("context", context, &mut hidden))
        });
        let inputs = masked.as_ref().map(|(entities, context)| Inputs {
            entities: entities.each_ref().map(|words| &**words),
            context,
        });
        Record { errors: &errors(record.errors, &hidden), inputs, ..record.clone() }.write(line);
    }

    /// The words of what has this name, without the values that are masked, of which the texts are kept; nothing of what
    /// cannot be read.
    fn masked(&self, name: &str, words: &RawValue, hidden: &mut Vec<String>) -> Box<RawValue> {
        let value: Value = serde_json::from_str(words.get()).unwrap_or_else(|_| MASKED.into());
        let mut named = json!({ name: value });
        mask(&mut named, &self.0, hidden);
        raw(&named.get(name))
    }
}

/// Masks the values of the attributes with these names, and keeps the texts that were hidden.
fn mask(value: &mut Value, names: &HashSet<String>, hidden: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if names.contains(name) {
                    texts(&std::mem::replace(value, MASKED.into()), hidden);
                } else {
                    mask(value, names, hidden);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, names, hidden)),
        _ => {}
    }
}

/// The texts in a value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// What went wrong, without the texts that are hidden: an error may cite the value that it is about.
fn errors(errors: &[String], hidden: &[String]) -> Vec<String> {
    let without = |error: &String| {
        hidden.iter().fold(error.clone(), |error, text| {
            error.replace(text, MASKED).replace(&text.escape_debug().to_string(), MASKED)
        })
    };
    errors.iter().map(without).collect()
}
