//! Records searches in the decision log: what was asked and how many results there are, not the decisions on the candidates.

use super::Engine;
use super::context_json::LoggedContext;
use super::decision_context::DecisionContext;
use super::recorder::{DecisionRecorder, logged_context};
use crate::decision_log::{Inputs, Record, SearchResult, SearchedEntity};
use crate::types::{EvaluationId, to_raw_json};
use serde_json::Map;
use serde_json::value::RawValue;
use std::time::Duration;

/// A search and its result.
#[derive(Debug, Clone, Copy)]
pub struct SearchDetails<'a> {
    /// The subject; without an id if subjects are searched for.
    pub subject: SearchedEntity<'a>,
    /// The name of the action; none if actions are searched for.
    pub action: Option<&'a str>,
    /// The resource; without an id if resources are searched for.
    pub resource: SearchedEntity<'a>,
    /// The context of the evaluations.
    pub context: &'a DecisionContext,
    /// What was found.
    pub result: SearchResult,
    /// How long the search took.
    pub latency: Duration,
}

impl Engine {
    /// Records a search. Its context must not contain undeclared fields of the client, which may be secrets such as tokens.
    pub fn record_search(&self, recorder: &DecisionRecorder<'_>, search: &SearchDetails<'_>) {
        if !recorder.should_record(true) {
            return;
        }
        let action = match search.action {
            Some(action) => to_raw_json(&action),
            None => RawValue::NULL.to_owned(),
        };
        recorder.submit(&Record {
            time: recorder.time,
            request: recorder.request,
            evaluation_id: recorder.evaluation_id.unwrap_or_else(EvaluationId::generate),
            purpose: recorder.purpose,
            caller: recorder.caller,
            subject: &to_raw_json(&search.subject),
            action: &action,
            resource: &to_raw_json(&search.resource),
            is_missing: false,
            is_masked: false,
            decision: true,
            policies: &to_raw_json(&[(); 0]),
            errors: &[],
            policy_version: self.version_json(),
            latency: search.latency,
            is_stale: recorder.is_stale,
            inputs: Some(Inputs {
                entities: [None, None],
                context: &self.searched_context(search),
                resource: None,
                is_new: false,
            }),
            search: Some(search.result),
        });
    }

    /// The fields of the context that the action declares; of a search for actions, those that an applicable action declares.
    fn searched_context(&self, search: &SearchDetails<'_>) -> Box<RawValue> {
        if let Some(action) = search.action {
            let action = self.action_policies(action);
            let context = logged_context(action, search.context);
            return to_raw_json(&LoggedContext { context: &context, action });
        }
        let applicable = self.applicable_actions(search.subject.kind, search.resource.kind);
        let mut fields = Map::new();
        for action in applicable.into_iter().filter_map(|action| self.action_policies(action)) {
            let context = logged_context(Some(action), search.context);
            let json = to_raw_json(&LoggedContext { context: &context, action: Some(action) });
            fields.extend(
                serde_json::from_str::<Map<String, serde_json::Value>>(json.get()).unwrap_or_default(),
            );
        }
        to_raw_json(&fields)
    }
}
