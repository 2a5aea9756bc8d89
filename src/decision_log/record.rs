//! What is recorded of a decision. A record owns nothing: its line is made at once, from what the decision was made of.

use crate::values::{Id, Timestamp};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// A decision, with all that it was made of, as it stands in the log.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a, I> {
    /// When it was made.
    pub time: Timestamp,
    /// The id of the request that it was made for, if there is one.
    #[serde(rename = "requestId")]
    pub request: Option<&'a str>,
    /// Who asked for it.
    pub caller: Caller,
    /// Whom it is about.
    pub subject: Subject<'a>,
    /// What was to be done.
    pub action: &'a str,
    /// To what.
    pub resource: Thing<'a>,
    /// Whether it was permitted.
    pub decision: bool,
    /// The ids of the policies that decided.
    pub policies: Vec<&'a str>,
    /// What went wrong in deciding.
    pub errors: &'a [String],
    /// The version of the policies.
    pub policy_version: &'a str,
    /// How long it took.
    #[serde(rename = "latencyMicros", serialize_with = "micros")]
    pub latency: Duration,
    /// What else was read: attributes, parents, the context.
    pub inputs: I,
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

fn micros<S: Serializer>(latency: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    #[expect(clippy::cast_precision_loss, reason = "a latency has fewer digits")]
    let micros = latency.as_nanos() as f64 / 1_000.0;
    serializer.serialize_f64(micros)
}
