//! Records decisions in the decision log, with everything that is needed to replay them.

use super::AuthzDecision;
use super::action_policies::ActionPolicies;
use super::context_json::LoggedContext;
use super::decision_context::DecisionContext;
use super::entities::{EntityData, Principal, ResourceEntity};
use crate::decision_log::{BatchRecorder, DecisionLog, Inputs, Purpose, Record, ResourceUid, Subject};
use crate::telemetry;
use crate::types::{EvaluationId, Timestamp, to_raw_json};
use serde_json::value::RawValue;
use std::borrow::Cow;
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
    /// Why the decisions are made. Prerequisites that allow are recorded in the full log only.
    pub purpose: Purpose,
    /// The id of the evaluation of a single decision; none if each decision gets its own.
    pub evaluation_id: Option<EvaluationId>,
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
    pub(super) context: LoggedContext<'a>,
    pub(super) decision: &'a AuthzDecision,
    pub(super) version: &'a RawValue,
    pub(super) latency: Duration,
    /// Whether the decision is a denial in any case, since the resource does not exist or the principal must not know of it.
    pub(super) is_missing: bool,
}

impl DecisionRecorder<'_> {
    /// Whether a decision with this outcome is recorded.
    pub(super) fn should_record(&self, allowed: bool) -> bool {
        self.log.should_record(allowed, self.purpose)
    }

    /// The recorder of one decision, with the id of its evaluation. The answer to a request that is denied has that id.
    pub(super) fn for_decision(&self, allowed: bool) -> Self {
        let evaluation_id = self.evaluation_id.unwrap_or_else(EvaluationId::generate);
        if !allowed && self.purpose != Purpose::Question {
            telemetry::set_denied_evaluation(evaluation_id);
        }
        Self { evaluation_id: Some(evaluation_id), ..*self }
    }

    pub(super) fn submit(&self, record: &Record<'_>) {
        match self.batch {
            Some(batch) => batch.record(record),
            None if self.log.record(record) => {}
            None => telemetry::mark_unrecorded(),
        }
    }

    /// Records a decision. Its context must not contain undeclared fields of the client, which may be secrets such as tokens.
    pub(super) fn record(&self, details: &DecisionDetails<'_>) {
        let DecisionDetails { decision, latency, is_missing, resource, .. } = *details;
        let subject = details.subject.json();
        let is_self = resource.data().uid_parts() == (&*subject.kind, &*subject.id);
        let self_json = is_self.then(|| resource.json_with_scopes(details.subject));
        let has_data = |entity: &&RawValue| entity.get() != "null";
        let entities = match &self_json {
            Some(both) => [Some(&**both).filter(has_data), None],
            None => [&*subject.entity, resource.json()].map(|entity| Some(entity).filter(has_data)),
        };
        let evaluated =
            (resource.uid_json().get() != details.resource_uid.get()).then(|| resource.uid_json());
        let is_new = matches!(resource.data(), EntityData::Local(local) if local.is_new);
        self.submit(&Record {
            time: self.time,
            request: self.request,
            evaluation_id: self.evaluation_id.unwrap_or_else(EvaluationId::generate),
            purpose: self.purpose,
            caller: self.caller,
            subject: &subject.subject,
            action: details.action,
            resource: details.resource_uid,
            is_missing,
            is_masked: false,
            decision: decision.allowed,
            policies: decision.ids(),
            errors: &decision.errors,
            policy_version: details.version,
            latency,
            is_stale: self.is_stale,
            inputs: Some(Inputs {
                entities,
                context: &to_raw_json(&details.context),
                resource: evaluated,
                is_new,
            }),
            search: None,
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
            evaluation_id: self.evaluation_id.unwrap_or_else(EvaluationId::generate),
            purpose: self.purpose,
            is_missing: false,
            is_masked: false,
            caller: self.caller,
            subject: &to_raw_json(&Subject { kind: subject.0, id: subject.1, scopes: &[], claimed: &[] }),
            action: &to_raw_json(&action),
            resource: &to_raw_json(&ResourceUid { kind: resource.0, id: resource.1 }),
            decision: false,
            policies: &to_raw_json(&[(); 0]),
            errors: &[code.to_owned()],
            policy_version: version,
            latency: Duration::ZERO,
            is_stale: self.is_stale,
            inputs: None,
            search: None,
        });
    }
}

impl DecisionRecorder<'_> {
    /// Records a filter. It is a denial if it permits no resource.
    pub fn record_filter(
        &self,
        subject: (&str, &str),
        action: &str,
        (resource_type, kind): (&str, &str),
        version: &RawValue,
        latency: Duration,
    ) {
        let decision = kind != "never";
        if !self.should_record(decision) {
            return;
        }
        self.submit(&Record {
            time: self.time,
            request: self.request,
            evaluation_id: self.evaluation_id.unwrap_or_else(EvaluationId::generate),
            purpose: Purpose::Filter,
            is_missing: false,
            is_masked: false,
            caller: self.caller,
            subject: &to_raw_json(&Subject { kind: subject.0, id: subject.1, scopes: &[], claimed: &[] }),
            action: &to_raw_json(&action),
            resource: &to_raw_json(&ResourceUid { kind: resource_type, id: "" }),
            decision,
            policies: &to_raw_json(&[(); 0]),
            errors: &[],
            policy_version: version,
            latency,
            is_stale: self.is_stale,
            inputs: None,
            search: None,
        });
    }
}

/// The context of a request for the decision log, without undeclared fields of the client.
pub(super) fn logged_context<'a>(
    action_policies: Option<&ActionPolicies>,
    context: &'a DecisionContext,
) -> Cow<'a, DecisionContext> {
    if context.client_context.is_empty() {
        return Cow::Borrowed(context);
    }
    let client_context = action_policies
        .map(|action_policies| action_policies.project_declared(&context.client_context))
        .unwrap_or_default();
    Cow::Owned(DecisionContext { client_context, ..context.clone() })
}
