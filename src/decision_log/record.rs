//! What is recorded of a decision. A record owns nothing: its line is made at once, from what the decision was made of.

use crate::values::{Id, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// A decision, with all that it was made of. Those that many decisions are about are in words already.
#[derive(Debug, Clone)]
pub struct Record<'a, I> {
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
    /// What else was read: attributes, parents, the context.
    pub inputs: I,
}

impl<I: Serialize> Record<'_, I> {
    /// Appends its line.
    pub(super) fn write(&self, line: &mut Vec<u8>) -> serde_json::Result<()> {
        #[expect(clippy::cast_precision_loss, reason = "a latency has fewer digits")]
        let micros = self.latency.as_nanos() as f64 / 1_000.0;
        self.time.as_text(|time| put_plain(line, "{\"time\":", time));
        match self.request.filter(|id| is_plain(id)) {
            Some(id) => put_plain(line, ",\"requestId\":", id),
            None => put(line, ",\"requestId\":", &self.request)?,
        }
        put_raw(line, ",\"caller\":", self.caller);
        put_raw(line, ",\"subject\":", self.subject);
        put_raw(line, ",\"action\":", self.action);
        put_raw(line, ",\"resource\":", self.resource);
        put(line, ",\"decision\":", &self.decision)?;
        put_raw(line, ",\"policies\":", self.policies);
        put(line, ",\"errors\":", self.errors)?;
        put_raw(line, ",\"policyVersion\":", self.policy_version);
        put(line, ",\"latencyMicros\":", &micros)?;
        put(line, ",\"inputs\":", &self.inputs)?;
        line.extend_from_slice(b"}\n");
        Ok(())
    }
}

/// Appends a field of an object, with all that stands before its value.
fn put<T: Serialize + ?Sized>(line: &mut Vec<u8>, before: &str, value: &T) -> serde_json::Result<()> {
    line.extend_from_slice(before.as_bytes());
    serde_json::to_writer(line, value)
}

/// The same of a text that needs no escapes.
fn put_plain(line: &mut Vec<u8>, before: &str, text: &str) {
    line.extend_from_slice(before.as_bytes());
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

/// Whether a text stands in JSON as it is. To look at all of it is quicker than to stop where it is not.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

fn put_raw(line: &mut Vec<u8>, before: &str, value: &RawValue) {
    line.extend_from_slice(before.as_bytes());
    line.extend_from_slice(value.get().as_bytes());
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
pub struct Thing<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
}
