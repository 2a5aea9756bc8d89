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
        let Some(inputs) = record.inputs.filter(|_| !self.0.is_empty()) else {
            return record.write(line);
        };
        let mut masked = MaskedValues::default();
        let mut entities =
            inputs.entities.map(|entity| Some(self.mask_named("entities", entity?, &mut masked)));
        let mut context = self.mask_named("context", inputs.context, &mut masked);
        if masked.fields == 0 {
            return record.write(line);
        }
        let masked_values = masked.values;
        // Masked values may also occur elsewhere: as an entity id, under another name, or in an error message.
        let [subject, resource, caller] =
            [record.subject, record.resource, record.caller].map(|value| redact(value, &masked_values));
        entities = entities.map(|entity| Some(redact(&entity?, &masked_values)));
        let evaluated = inputs.resource.map(|resource| redact(resource, &masked_values));
        context = redact(&context, &masked_values);
        let request = record.request.map(|request| redact_text(request, &masked_values));
        let errors: Vec<String> = record.errors.iter().map(|error| redact_error(error)).collect();
        Record {
            request: request.as_deref(),
            caller: &caller,
            subject: &subject,
            resource: &resource,
            errors: &errors,
            is_masked: true,
            inputs: Some(Inputs {
                entities: entities.each_ref().map(Option::as_deref),
                context: &context,
                resource: evaluated.as_deref(),
                ..inputs
            }),
            ..record.clone()
        }
        .write(line);
    }

    /// Masks the value of a field, and adds what was masked to `masked`. Invalid JSON is masked as a whole.
    fn mask_named(&self, name: &str, json: &RawValue, masked: &mut MaskedValues) -> Box<RawValue> {
        let value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| {
            masked.fields += 1;
            MASKED.into()
        });
        let mut named = json!({ name: value });
        mask_fields(&mut named, &self.0, masked);
        to_raw_json(&named.get(name))
    }
}

/// What was masked in a record.
#[derive(Debug, Default)]
struct MaskedValues {
    /// The number of masked fields.
    fields: usize,
    /// The strings in their values, and the numbers as strings.
    values: Vec<String>,
}

/// Masks the attributes with these names at any depth, and adds the scalars in their values to `masked`.
fn mask_fields(value: &mut Value, names: &HashSet<String>, masked: &mut MaskedValues) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if names.contains(name) {
                    masked.fields += 1;
                    collect_scalars(&std::mem::replace(value, MASKED.into()), &mut masked.values);
                } else {
                    mask_fields(value, names, masked);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask_fields(item, names, masked)),
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
