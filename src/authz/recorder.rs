//! What is left behind of a decision: a record of it in the decision log, with what is needed to decide it again.

use super::AuthzDecision;
use super::decision_context::DecisionContext;
use super::entities::{Principal, ResourceEntity};
use crate::decision_log::{BatchRecorder, DecisionLog, Inputs, Record, ResourceUid, Subject};
use crate::telemetry;
use crate::types::{Timestamp, to_raw_json};
use serde_json::value::RawValue;
use std::time::Duration;

/// On whose behalf decisions are made, and where they are recorded.
#[derive(Debug, Clone, Copy)]
pub struct DecisionRecorder<'a> {
    /// The log.
    pub log: &'a DecisionLog,
    /// Where the records of this request gather, if it asks for many decisions.
    pub batch: Option<&'a BatchRecorder>,
    /// The id of the request, if there is one.
    pub request: Option<&'a str>,
    /// Who asks: a [`crate::decision_log::Caller`] in words.
    pub caller: &'a RawValue,
    /// When.
    pub time: Timestamp,
    /// Whether these decisions are steps on the way to another one, which are recorded only where they deny.
    pub is_prerequisite: bool,
    /// Whether they are made while the database is away, with what was read before.
    pub is_stale: bool,
}

/// A decision, and what it was made of.
pub(super) struct DecisionDetails<'a> {
    pub(super) subject: &'a Principal,
    pub(super) action: &'a RawValue,
    /// What the thing is called.
    pub(super) resource_uid: &'a RawValue,
    pub(super) resource: &'a ResourceEntity,
    pub(super) context: &'a DecisionContext,
    pub(super) decision: &'a AuthzDecision,
    pub(super) version: &'a RawValue,
    pub(super) latency: Duration,
}

impl DecisionRecorder<'_> {
    /// Whether this decision is to be recorded.
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

    /// Records a decision. Its circumstances have nothing that is said of a call and read by nobody: callers say what they
    /// have, and that may be a token.
    pub(super) fn record(&self, details: &DecisionDetails<'_>) {
        let DecisionDetails { decision, latency, .. } = *details;
        let subject = details.subject.json();
        let entities = [&*subject.entity, details.resource.json()];
        details.context.with_json(|context| {
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
                inputs: Some(Inputs { entities, context }),
            });
        });
    }

    /// Records a no to a question that nobody could decide: who or what it names, each by type and id, is not there or
    /// cannot be understood. Why is a code: a message may cite what the caller said.
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
