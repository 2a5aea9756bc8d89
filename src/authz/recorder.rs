//! Records decisions in the decision log, with everything that is needed to replay them.

use super::AuthzDecision;
use super::decision_context::DecisionContext;
use super::entities::{Principal, ResourceEntity};
use crate::decision_log::{BatchRecorder, DecisionLog, Inputs, Record, ResourceUid, Subject};
use crate::telemetry;
use crate::types::{Timestamp, to_raw_json};
use serde_json::value::RawValue;
use std::time::Duration;

/// Where the decisions of a request are recorded, and on whose behalf they are made.
#[derive(Debug, Clone, Copy)]
pub struct DecisionRecorder<'a> {
    /// The decision log.
    pub log: &'a DecisionLog,
    /// Collects the records of a request with many decisions.
    pub batch: Option<&'a BatchRecorder>,
    /// The request id, if there is one.
    pub request: Option<&'a str>,
    /// The caller: a [`crate::decision_log::Caller`] as JSON.
    pub caller: &'a RawValue,
    /// The time of the decisions.
    pub time: Timestamp,
    /// Whether the decisions are prerequisites of another one. These are recorded only if they deny.
    pub is_prerequisite: bool,
    /// Whether the decisions are made from cached data while the database is unavailable.
    pub is_stale: bool,
}

/// A decision with its inputs.
pub(super) struct DecisionDetails<'a> {
    pub(super) subject: &'a Principal,
    pub(super) action: &'a RawValue,
    /// Type and id of the resource, as the request names it.
    pub(super) resource_uid: &'a RawValue,
    pub(super) resource: &'a ResourceEntity,
    pub(super) context: &'a DecisionContext,
    pub(super) decision: &'a AuthzDecision,
    pub(super) version: &'a RawValue,
    pub(super) latency: Duration,
}

impl DecisionRecorder<'_> {
    /// Whether a decision with this outcome is recorded.
    pub(super) fn should_record(&self, allowed: bool) -> bool {
        self.log.should_record(allowed) && !(self.is_prerequisite && allowed)
    }

    fn submit(&self, record: &Record<'_>) {
        match self.batch {
            Some(batch) => batch.record(record),
            None if self.log.record(record) => {}
            None => telemetry::mark_unrecorded(),
        }
    }

    /// Records a decision. Its context must not contain undeclared fields of the client, which may be secrets such as tokens.
    pub(super) fn record(&self, details: &DecisionDetails<'_>) {
        let DecisionDetails { decision, latency, .. } = *details;
        let subject = details.subject.json();
        let entities = [&*subject.entity, details.resource.json()];
        self.submit(&Record {
            time: self.time,
            request: self.request,
            caller: self.caller,
            subject: &subject.subject,
            action: details.action,
            resource: details.resource_uid,
            decision: decision.allowed,
            policies: decision.ids(),
            errors: &decision.errors,
            policy_version: details.version,
            latency,
            is_stale: self.is_stale,
            inputs: Some(Inputs { entities, context: &to_raw_json(details.context) }),
        });
    }

    /// Records the denial of a question that could not be evaluated, such as one about an unknown subject. `subject` and
    /// `resource` are type and id. The reason is a code, because a message may contain client input.
    pub fn record_error(
        &self,
        subject: (&str, &str),
        action: &str,
        resource: (&str, &str),
        code: &'static str,
        version: &RawValue,
    ) {
        if !self.should_record(false) {
            return;
        }
        self.submit(&Record {
            time: self.time,
            request: self.request,
            caller: self.caller,
            subject: &to_raw_json(&Subject { kind: subject.0, id: subject.1, scopes: &[] }),
            action: &to_raw_json(&action),
            resource: &to_raw_json(&ResourceUid { kind: resource.0, id: resource.1 }),
            decision: false,
            policies: &to_raw_json(&[(); 0]),
            errors: &[code.to_owned()],
            policy_version: version,
            latency: Duration::ZERO,
            is_stale: self.is_stale,
            inputs: None,
        });
    }
}
