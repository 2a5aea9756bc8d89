//! Records of decisions, and their JSON lines. A record borrows its fields and is serialized immediately.

use crate::types::{EvaluationId, Id, Timestamp, to_raw_json};
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::Write as _;
use std::time::Duration;

/// A decision with its inputs. Parts that many decisions share are passed as JSON.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// The time of the decision.
    pub time: Timestamp,
    /// The request id, if there is one.
    pub request: Option<&'a str>,
    /// The id of the evaluation, which the answer contains, too.
    pub evaluation_id: EvaluationId,
    /// Why the decision was made.
    pub purpose: Purpose,
    /// Who made the request: a [`Caller`] as JSON.
    pub caller: &'a RawValue,
    /// Who performs the action: a [`Subject`] as JSON.
    pub subject: &'a RawValue,
    /// The name of the action as a JSON string.
    pub action: &'a RawValue,
    /// The resource: a [`ResourceUid`] as JSON.
    pub resource: &'a RawValue,
    /// Whether the decision is allow.
    pub decision: bool,
    /// The ids of the determining policies as a JSON array of strings.
    pub policies: &'a RawValue,
    /// Why the evaluation failed.
    pub errors: &'a [String],
    /// The version of the policies as a JSON string.
    pub policy_version: &'a RawValue,
    /// How long the decision took.
    pub latency: Duration,
    /// Whether the decision was made from cached data while the database was unavailable.
    pub is_stale: bool,
    /// Whether the decision is a denial in any case, since the resource does not exist or the principal must not know of it.
    pub is_missing: bool,
    /// Whether values of the inputs are masked, so that the decision cannot be replayed.
    pub is_masked: bool,
    /// The inputs of the evaluation; none if the question could not be evaluated.
    pub inputs: Option<Inputs<'a>>,
    /// The result of a search, which is recorded in the place of a decision. The entity that is searched for has no id.
    pub search: Option<SearchResult>,
}

/// The result of one page of a search.
#[derive(Debug, Clone, Copy)]
pub struct SearchResult {
    /// What is searched for: `subject`, `resource` or `action`.
    pub kind: &'static str,
    /// The number of results.
    pub results: usize,
    /// The number of candidates that were examined.
    pub examined: usize,
    /// Whether no candidates are left for a next page.
    pub is_complete: bool,
}

/// The inputs of an evaluation besides the request itself, in Cedar's JSON format.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The entities of principal and resource, with attributes and all of their ancestors as parents. None of an entity without
    /// data, and of a resource that is the principal: each entity is recorded once.
    pub entities: [Option<&'a RawValue>; 2],
    /// The request context.
    pub context: &'a RawValue,
    /// The resource that was evaluated, if it is not the one that the request names: a [`ResourceUid`] as JSON.
    pub resource: Option<&'a RawValue>,
    /// Whether the resource is being created.
    pub is_new: bool,
}

/// Why a decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The service or a proxy acts by it: it allows or denies the request of the caller.
    Enforcement,
    /// A client asked for it.
    Question,
    /// A client asked for the resources that are allowed, as a filter. The line has no inputs and cannot be replayed.
    Filter,
    /// Another decision or a list requires it, such as whether the caller may ask about that subject.
    Prerequisite,
}

impl Purpose {
    /// Its name in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforcement => "enforcement",
            Self::Question => "question",
            Self::Filter => "filter",
            Self::Prerequisite => "prerequisite",
        }
    }
}

impl Record<'_> {
    /// Appends the line of the record.
    pub(super) fn write(&self, line: &mut Vec<u8>) {
        write_text_field(line, "{\"time\":", &self.time.to_string());
        match self.request {
            Some(id) => write_text_field(line, ",\"requestId\":", id),
            None => write_field(line, ",\"requestId\":", RawValue::NULL),
        }
        self.evaluation_id.with_str(|id| write_text_field(line, ",\"evaluation_id\":", id));
        write_text_field(line, ",\"purpose\":", self.purpose.as_str());
        write_field(line, ",\"caller\":", self.caller);
        write_field(line, ",\"subject\":", self.subject);
        write_field(line, ",\"action\":", self.action);
        write_field(line, ",\"resource\":", self.resource);
        match self.search {
            Some(search) => search.write(line),
            None => self.write_decision(line),
        }
        write_field(line, ",\"policyVersion\":", self.policy_version);
        // Writing to a Vec cannot fail.
        let nanos = self.latency.as_nanos();
        let _ = write!(line, ",\"latencyMicros\":{}.{:03}", nanos / 1_000, nanos % 1_000);
        if self.is_stale {
            line.extend_from_slice(b",\"stale\":true");
        }
        if self.is_missing {
            line.extend_from_slice(b",\"missing\":true");
        }
        if self.is_masked {
            line.extend_from_slice(b",\"masked\":true");
        }
        match &self.inputs {
            Some(inputs) => inputs.write(line),
            None => line.extend_from_slice(b",\"inputs\":null"),
        }
        line.extend_from_slice(b"}\n");
    }

    fn write_decision(&self, line: &mut Vec<u8>) {
        write_field(line, ",\"decision\":", if self.decision { RawValue::TRUE } else { RawValue::FALSE });
        write_field(line, ",\"policies\":", self.policies);
        match self.errors {
            [] => line.extend_from_slice(b",\"errors\":[]"),
            errors => write_field(line, ",\"errors\":", &to_raw_json(&errors)),
        }
    }
}

impl SearchResult {
    fn write(&self, line: &mut Vec<u8>) {
        let Self { kind, results, examined, is_complete } = self;
        // Writing to a Vec cannot fail.
        let _ = write!(
            line,
            ",\"kind\":\"search\",\"search\":\"{kind}\",\"results\":{results},\"examined\":{examined},\"complete\":{is_complete}"
        );
    }
}

impl Inputs<'_> {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b",\"inputs\":{\"entities\":[");
        let mut separator = "";
        for entity in self.entities.into_iter().flatten() {
            write_field(line, separator, entity);
            separator = ",";
        }
        write_field(line, "],\"context\":", self.context);
        if let Some(resource) = self.resource {
            write_field(line, ",\"resource\":", resource);
        }
        if self.is_new {
            line.extend_from_slice(b",\"new\":true");
        }
        line.push(b'}');
    }
}

/// Appends a field: `prefix` (separators and name), then the value.
fn write_field(line: &mut Vec<u8>, prefix: &str, value: &RawValue) {
    line.extend_from_slice(prefix.as_bytes());
    line.extend_from_slice(value.get().as_bytes());
}

/// Appends a field with a string value.
fn write_text_field(line: &mut Vec<u8>, prefix: &str, text: &str) {
    if !is_plain(text) {
        return write_field(line, prefix, &to_raw_json(&text));
    }
    line.extend_from_slice(prefix.as_bytes());
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

/// Whether a string needs no escaping in JSON. Checks all bytes without an early exit, which vectorizes.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

/// Who made a request, and with which credential. Contains only the id of the credential.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The id of the user.
    pub user: Id,
    /// The kind of the credential, as policies see it.
    pub credential: &'static str,
    /// The id of the session or API key.
    pub credential_id: Option<Id>,
}

/// The principal of a decision and its scopes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Subject<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its effective scopes.
    pub scopes: &'a [&'static str],
    /// The scopes of its credential, from which the effective ones follow by its role and the cascade; empty if it has none.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub claimed: &'a [&'static str],
}

/// A subject or resource of a search.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SearchedEntity<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id; none if it is searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

/// The resource of a decision.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ResourceUid<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
}
