//! What is recorded of a decision. A record owns nothing: its line is made at once, from what the decision was made of.

use crate::types::{Id, Timestamp, to_raw_json};
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::Write as _;
use std::time::Duration;

/// A decision, with all that it was made of. What many decisions are about is in words already.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When it was made.
    pub time: Timestamp,
    /// The id of the request that it was made for, if there is one.
    pub request: Option<&'a str>,
    /// Who asked for it: a [`Caller`].
    pub caller: &'a RawValue,
    /// Whom it is about: a [`Subject`].
    pub subject: &'a RawValue,
    /// What was to be done: a text.
    pub action: &'a RawValue,
    /// To what: a [`Thing`].
    pub resource: &'a RawValue,
    /// Whether it was permitted.
    pub decision: bool,
    /// The ids of the policies that decided: a list of texts.
    pub policies: &'a RawValue,
    /// What went wrong in deciding.
    pub errors: &'a [String],
    /// The version of the policies: a text.
    pub policy_version: &'a RawValue,
    /// How long it took.
    pub latency: Duration,
    /// Whether it was made while the database was away, with what was read before.
    pub is_stale: bool,
    /// What else was read; none where nobody could decide.
    pub inputs: Option<Inputs<'a>>,
}

/// What a decision reads besides what its record names, in the words of the policies.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The attributes and parents of the two that it is about.
    pub entities: [&'a RawValue; 2],
    /// The context.
    pub context: &'a RawValue,
}

impl Record<'_> {
    /// Appends its line.
    pub(super) fn write(&self, line: &mut Vec<u8>) {
        self.time.with_str(|time| write_text_field(line, "{\"time\":", time));
        match self.request {
            Some(id) => write_text_field(line, ",\"requestId\":", id),
            None => write_field(line, ",\"requestId\":", RawValue::NULL),
        }
        write_field(line, ",\"caller\":", self.caller);
        write_field(line, ",\"subject\":", self.subject);
        write_field(line, ",\"action\":", self.action);
        write_field(line, ",\"resource\":", self.resource);
        write_field(line, ",\"decision\":", if self.decision { RawValue::TRUE } else { RawValue::FALSE });
        write_field(line, ",\"policies\":", self.policies);
        match self.errors {
            [] => line.extend_from_slice(b",\"errors\":[]"),
            errors => write_field(line, ",\"errors\":", &to_raw_json(&errors)),
        }
        write_field(line, ",\"policyVersion\":", self.policy_version);
        // Nothing goes wrong where it is written to memory.
        let nanos = self.latency.as_nanos();
        let _ = write!(line, ",\"latencyMicros\":{}.{:03}", nanos / 1_000, nanos % 1_000);
        if self.is_stale {
            line.extend_from_slice(b",\"stale\":true");
        }
        match &self.inputs {
            Some(Inputs { entities: [one, other], context }) => {
                write_field(line, ",\"inputs\":{\"entities\":[", one);
                write_field(line, ",", other);
                write_field(line, "],\"context\":", context);
                line.extend_from_slice(b"}}\n");
            }
            None => line.extend_from_slice(b",\"inputs\":null}\n"),
        }
    }
}

/// Appends a field of an object, with all that stands before its value.
fn write_field(line: &mut Vec<u8>, prefix: &str, value: &RawValue) {
    line.extend_from_slice(prefix.as_bytes());
    line.extend_from_slice(value.get().as_bytes());
}

/// The same of a text.
fn write_text_field(line: &mut Vec<u8>, prefix: &str, text: &str) {
    if !is_plain(text) {
        return write_field(line, prefix, &to_raw_json(&text));
    }
    line.extend_from_slice(prefix.as_bytes());
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

/// Whether a text stands in JSON as it is. To look at all of it is quicker than to stop where it is not.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

/// Who asked, and with which credential. Of the credential there is no more here than its id.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The user.
    pub user: Id,
    /// The kind of its credential, by the word that policies know it by.
    pub credential: &'static str,
    /// The id of the session or API key, if it is one.
    pub credential_id: Option<Id>,
}

/// Whom a decision is about, and with which scopes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Subject<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// The scopes that it had.
    pub scopes: &'a [&'static str],
}

/// What a decision is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ResourceUid<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
}
