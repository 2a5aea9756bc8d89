//! The answers of searches, and their lines in the decision log.

use super::evaluation::{DecisionError, ResolvedResource, loggable_name, not_accessible};
use crate::application::Authorizer;
use crate::authz::{DecisionContext, QuestionWarning, SearchDetails};
use crate::decision_log::{SearchResult, SearchedEntity};
use crate::types::EvaluationId;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;
use utoipa::ToSchema;

/// A page of results.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SearchResults {
    /// Entities with `type` and `id`, or actions with `name`.
    #[schema(value_type = Vec<Object>)]
    pub(super) results: Vec<Value>,
    pub(super) page: ResultPage,
    /// The id of the search, and why a name or a field of it has no effect.
    pub(super) context: SearchContext,
}

/// Information about a page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultPage {
    /// The token of the next page; empty if there is none.
    pub(super) next_token: String,
    /// The number of results of this page.
    pub(super) count: usize,
}

/// Information about a search.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SearchContext {
    /// The id of the search, as in the decision log.
    #[schema(value_type = String)]
    pub(super) evaluation_id: EvaluationId,
    /// Names of the question that the schema or the data do not have, and properties that were ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) warnings: Vec<QuestionWarning>,
    /// Why the subject or the resource could not be evaluated, so that nothing is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) error: Option<DecisionError>,
}

/// What the answer of a search says about its question.
#[derive(Debug, Default)]
pub(super) struct SearchRemarks {
    /// Names of the question that the schema or the data do not have, and properties that were ignored.
    pub(super) warnings: Vec<QuestionWarning>,
    /// Why the subject or the resource could not be evaluated.
    pub(super) error: Option<DecisionError>,
}

impl SearchRemarks {
    /// Adds why nothing can be permitted on the resource that the search names, as an evaluation says it.
    pub(super) fn add_target(&mut self, target: &ResolvedResource, kind: &str) {
        match target {
            ResolvedResource::Found(_) => {}
            ResolvedResource::NotFound => self.warnings.push(not_accessible(kind)),
            ResolvedResource::Invalid(error) => self.error = Some(error.clone()),
        }
    }
}

/// What a search asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedSearch<'a> {
    /// The type of the subject, and its id unless subjects are searched for.
    pub(super) subject: (&'a str, Option<&'a str>),
    /// The name of the action; none if actions are searched for.
    pub(super) action: Option<&'a str>,
    /// The type of the resource, and its id unless resources are searched for.
    pub(super) resource: (&'a str, Option<&'a str>),
    /// The context of the evaluations.
    pub(super) context: &'a DecisionContext,
}

impl AskedSearch<'_> {
    /// Records the search in the decision log, and returns the id of its evaluation.
    pub(super) fn record(
        &self,
        authorizer: &Authorizer,
        result: SearchResult,
        latency: Duration,
    ) -> EvaluationId {
        let evaluation_id = EvaluationId::generate();
        let details = SearchDetails {
            subject: loggable(authorizer, self.subject),
            action: self.action,
            resource: loggable(authorizer, self.resource),
            context: self.context,
            result,
            latency,
        };
        authorizer.engine().record_search(&authorizer.question_recorder(evaluation_id), &details);
        evaluation_id
    }
}

/// A subject or resource for the decision log, without a malformed id.
fn loggable<'a>(authorizer: &Authorizer, (kind, id): (&'a str, Option<&'a str>)) -> SearchedEntity<'a> {
    SearchedEntity { kind, id: id.map(|id| loggable_name(authorizer, (kind, id)).1) }
}
