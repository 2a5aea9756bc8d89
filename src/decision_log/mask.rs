//! Masking: the values of attributes that the settings name stay out of the log, wherever in the line they would stand.

use super::record::{Inputs, Record};
use crate::types::to_raw_json;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What is written instead of a value that is masked.
const MASKED: &str = "***";

/// How many characters a text must have to be masked where it is a part of another text. A shorter one is masked where it is the
/// whole text: `a` is a part of almost everything.
const MIN_REPLACED_CHARS: usize = 4;

/// The names of the attributes whose values are masked.
#[derive(Debug)]
pub(super) struct Mask(HashSet<String>);

impl Mask {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().cloned().collect())
    }

    /// Appends the line of a record.
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
        // The same values may stand elsewhere: as the id of an entity, under another name, or in what an error cites.
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

    /// The JSON of what has this name, without the values that are masked, of which the texts are kept; nothing of what cannot
    /// be read.
    fn mask_named(&self, name: &str, json: &RawValue, masked_values: &mut Vec<String>) -> Box<RawValue> {
        let value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| MASKED.into());
        let mut named = json!({ name: value });
        mask_fields(&mut named, &self.0, masked_values);
        to_raw_json(&named.get(name))
    }
}

/// Masks the values of the attributes with these names, and keeps the texts of what was hidden.
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

/// The texts in a value, and its numbers as text.
fn collect_scalars(value: &Value, scalars: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => scalars.push(text.clone()),
        Value::Number(number) => scalars.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| collect_scalars(item, scalars)),
        Value::Object(fields) => fields.values().for_each(|value| collect_scalars(value, scalars)),
        _ => {}
    }
}

/// The JSON without the texts that are hidden; nothing of what cannot be read.
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
    if masked_values.iter().any(|masked_values| masked_values == text) {
        return MASKED.to_owned();
    }
    let long =
        masked_values.iter().filter(|masked_values| masked_values.chars().count() >= MIN_REPLACED_CHARS);
    long.fold(text.to_owned(), |text, masked_values| text.replace(masked_values.as_str(), MASKED))
}

/// An error without what it cites: up to the policy that it names. In which form an error cites a value (escaped, normalized,
/// computed), nobody can tell.
fn redact_error(error: &str) -> String {
    const START: &str = "error while evaluating policy `";
    match error.strip_prefix(START).and_then(|rest| rest.split_once('`')) {
        Some((policy, _)) => format!("{START}{policy}`: {MASKED}"),
        None => MASKED.to_owned(),
    }
}
