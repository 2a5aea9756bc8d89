//! Masking: the values of attributes that the settings name stay out of the log.

use super::record::Record;
use serde::Serialize;
use serde_json::Value;
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
    pub(super) fn write<I: Serialize>(
        &self,
        record: &Record<'_, I>,
        line: &mut Vec<u8>,
    ) -> serde_json::Result<()> {
        if self.0.is_empty() {
            record.write(line)
        } else {
            self.masked(record)?.as_record(record).write(line)
        }
    }

    fn masked<I: Serialize>(&self, record: &Record<'_, I>) -> serde_json::Result<Masked> {
        let mut inputs = serde_json::to_value(&record.inputs)?;
        let mut hidden = Vec::new();
        mask(&mut inputs, &self.0, &mut hidden);
        Ok(Masked { errors: errors(record.errors, &hidden), inputs })
    }
}

/// What of a record is masked.
struct Masked {
    errors: Vec<String>,
    inputs: Value,
}

impl Masked {
    fn as_record<'a, I>(&'a self, record: &Record<'a, I>) -> Record<'a, &'a Value> {
        Record {
            time: record.time,
            request: record.request,
            caller: record.caller,
            subject: record.subject,
            action: record.action,
            resource: record.resource,
            decision: record.decision,
            policies: record.policies,
            errors: &self.errors,
            policy_version: record.policy_version,
            latency: record.latency,
            inputs: &self.inputs,
        }
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
