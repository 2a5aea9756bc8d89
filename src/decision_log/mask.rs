//! Masks the values of configured attributes, wherever they occur in a line.

use super::record::{Inputs, Record};
use crate::types::to_raw_json;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The replacement of a masked value.
const MASKED: &str = "***";

/// The minimum length in characters of a value that is masked within longer strings. Shorter values are masked only where they
/// are the whole string, since a value such as `a` occurs in almost every string.
const MIN_REPLACED_CHARS: usize = 4;

/// The names of the attributes whose values are masked.
#[derive(Debug)]
pub(super) struct Mask(HashSet<String>);

impl Mask {
    /// A mask for the attributes with these names.
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().cloned().collect())
    }

    /// Appends the masked line of a record.
    pub(super) fn write(&self, record: &Record<'_>, line: &mut Vec<u8>) {
        let Some(Inputs { entities, context }) = record.inputs.filter(|_| !self.0.is_empty()) else {
            return record.write(line);
        };
        let mut masked_values = Vec::new();
        let mut entities = entities.map(|entity| self.mask_named("entities", entity, &mut masked_values));
        let mut context = self.mask_named("context", context, &mut masked_values);
        if masked_values.is_empty() {
            let entities = entities.each_ref().map(|entity| &**entity);
            return Record { inputs: Some(Inputs { entities, context: &context }), ..record.clone() }
                .write(line);
        }
        // Masked values may also occur elsewhere: as an entity id, under another name, or in an error message.
        let [subject, resource, caller] =
            [record.subject, record.resource, record.caller].map(|value| redact(value, &masked_values));
        entities = entities.map(|entity| redact(&entity, &masked_values));
        context = redact(&context, &masked_values);
        let request = record.request.map(|request| redact_text(request, &masked_values));
        let errors: Vec<String> = record.errors.iter().map(|error| redact_error(error)).collect();
        Record {
            request: request.as_deref(),
            caller: &caller,
            subject: &subject,
            resource: &resource,
            errors: &errors,
            inputs: Some(Inputs { entities: entities.each_ref().map(|entity| &**entity), context: &context }),
            ..record.clone()
        }
        .write(line);
    }

    /// Masks the value of a field, and adds what was masked to `masked_values`. Invalid JSON is masked as a whole.
    fn mask_named(&self, name: &str, json: &RawValue, masked_values: &mut Vec<String>) -> Box<RawValue> {
        let value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| MASKED.into());
        let mut named = json!({ name: value });
        mask_fields(&mut named, &self.0, masked_values);
        to_raw_json(&named.get(name))
    }
}

/// Masks the attributes with these names at any depth, and adds the scalars in their values to `masked_values`.
fn mask_fields(value: &mut Value, names: &HashSet<String>, masked_values: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if names.contains(name) {
                    collect_scalars(&std::mem::replace(value, MASKED.into()), masked_values);
                } else {
                    mask_fields(value, names, masked_values);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask_fields(item, names, masked_values)),
        _ => {}
    }
}

/// Adds the strings in a value, and its numbers as strings, to `scalars`.
fn collect_scalars(value: &Value, scalars: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => scalars.push(text.clone()),
        Value::Number(number) => scalars.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| collect_scalars(item, scalars)),
        Value::Object(fields) => fields.values().for_each(|value| collect_scalars(value, scalars)),
        _ => {}
    }
}

/// Masks these values wherever they occur. Invalid JSON is masked as a whole.
fn redact(json: &RawValue, masked_values: &[String]) -> Box<RawValue> {
    let mut value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| MASKED.into());
    redact_value(&mut value, masked_values);
    to_raw_json(&value)
}

fn redact_value(value: &mut Value, masked_values: &[String]) {
    match value {
        Value::String(text) => *text = redact_text(text, masked_values),
        Value::Array(items) => items.iter_mut().for_each(|item| redact_value(item, masked_values)),
        Value::Object(fields) => fields.values_mut().for_each(|value| redact_value(value, masked_values)),
        _ => {}
    }
}

fn redact_text(text: &str, masked_values: &[String]) -> String {
    if masked_values.iter().any(|masked| masked == text) {
        return MASKED.to_owned();
    }
    let long = masked_values.iter().filter(|masked| masked.chars().count() >= MIN_REPLACED_CHARS);
    long.fold(text.to_owned(), |text, masked| text.replace(masked.as_str(), MASKED))
}

/// An error up to the id of its policy. The rest may contain values in any form (escaped, normalized, computed).
fn redact_error(error: &str) -> String {
    const START: &str = "error while evaluating policy `";
    match error.strip_prefix(START).and_then(|rest| rest.split_once('`')) {
        Some((policy, _)) => format!("{START}{policy}`: {MASKED}"),
        None => MASKED.to_owned(),
    }
}
