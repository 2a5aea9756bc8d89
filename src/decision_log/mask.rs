//! Masking: the values of attributes that the settings name stay out of the log, wherever in the line they would stand.

use super::record::{Inputs, Record};
use crate::values::raw;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What is written instead of a value that is masked.
const MASKED: &str = "***";

/// How many characters a text must have to be masked where it is a part of another text. A shorter one is masked where it is the
/// whole text: `a` is a part of almost everything.
const MIN_PART: usize = 4;

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
        let mut hidden = Vec::new();
        let mut entities = entities.map(|entity| self.masked("entities", entity, &mut hidden));
        let mut context = self.masked("context", context, &mut hidden);
        if hidden.is_empty() {
            let entities = entities.each_ref().map(|entity| &**entity);
            return Record { inputs: Some(Inputs { entities, context: &context }), ..record.clone() }
                .write(line);
        }
        // The same values may stand elsewhere: as the id of an entity, under another name, or in what an error cites.
        let [subject, resource, caller] =
            [record.subject, record.resource, record.caller].map(|value| without(value, &hidden));
        entities = entities.map(|entity| without(&entity, &hidden));
        context = without(&context, &hidden);
        let request = record.request.map(|request| masked_text(request, &hidden));
        let errors: Vec<String> = record.errors.iter().map(|error| without_values(error)).collect();
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
    fn masked(&self, name: &str, json: &RawValue, hidden: &mut Vec<String>) -> Box<RawValue> {
        let value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| MASKED.into());
        let mut named = json!({ name: value });
        mask(&mut named, &self.0, hidden);
        raw(&named.get(name))
    }
}

/// Masks the values of the attributes with these names, and keeps the texts of what was hidden.
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

/// The texts in a value, and its numbers as text.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => found.push(text.clone()),
        Value::Number(number) => found.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// The JSON without the texts that are hidden; nothing of what cannot be read.
fn without(json: &RawValue, hidden: &[String]) -> Box<RawValue> {
    let mut value: Value = serde_json::from_str(json.get()).unwrap_or_else(|_| MASKED.into());
    hide(&mut value, hidden);
    raw(&value)
}

fn hide(value: &mut Value, hidden: &[String]) {
    match value {
        Value::String(text) => *text = masked_text(text, hidden),
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, hidden)),
        Value::Object(fields) => fields.values_mut().for_each(|value| hide(value, hidden)),
        _ => {}
    }
}

fn masked_text(text: &str, hidden: &[String]) -> String {
    if hidden.iter().any(|hidden| hidden == text) {
        return MASKED.to_owned();
    }
    let long = hidden.iter().filter(|hidden| hidden.chars().count() >= MIN_PART);
    long.fold(text.to_owned(), |text, hidden| text.replace(hidden.as_str(), MASKED))
}

/// An error without what it cites: up to the policy that it names. In which form an error cites a value (escaped, normalized,
/// computed), nobody can tell.
fn without_values(error: &str) -> String {
    const START: &str = "error while evaluating policy `";
    match error.strip_prefix(START).and_then(|rest| rest.split_once('`')) {
        Some((policy, _)) => format!("{START}{policy}`: {MASKED}"),
        None => MASKED.to_owned(),
    }
}
