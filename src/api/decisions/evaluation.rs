//! Shared parts of the decision endpoints: resolving subject and resource, evaluation, and the response.

use crate::application::Authorizer;
use crate::application::authorizer::EVALUATE_ACTION;
use crate::application::subjects::{EntityRef, SubjectError};
use crate::authz::{
    AuthzDecision, AuthzRequest, DecisionContext, DenialReason, Engine, ExplainOptions, Explanation,
    ExternalError, PolicyMetadata, Principal, QuestionWarning, Visibility,
};
use crate::authz::{InvalidAttribute, ResourceEntity};
pub use crate::http::forward_auth::POLICY_VERSION;
use crate::http::{FieldError, Problem};
use crate::telemetry;
use crate::types::{EvaluationId, Id};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Why a question could not be decided.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionError {
    /// A stable code: `undecidable`, `invalid_attribute`, `missing_attribute`, `unknown_subject`,
    /// `invalid`, `blocked`, `forbidden`, `token_expired`, `invalid_token`.
    pub code: &'static str,
    /// The explanation, for people.
    pub message: String,
    /// The attribute that does not match its declaration, such as `resource.properties.amount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attribute: Option<String>,
    /// The invalid fields of a question that could not be parsed (`invalid`), with the codes of a 400.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

impl DecisionError {
    /// Creates an error with this code and message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), attribute: None, errors: Vec::new() }
    }

    /// The error of a question that could not be parsed.
    pub fn invalid(problem: Problem) -> Self {
        Self { errors: problem.errors, ..Self::new("invalid", problem.detail) }
    }

    /// The error of an attribute that does not match its declaration.
    fn from_invalid_attribute(unfit: &InvalidAttribute) -> Self {
        Self { attribute: Some(unfit.path.clone()), ..Self::new(unfit.code, unfit.to_string()) }
    }

    /// The error of a subject that cannot be evaluated.
    ///
    /// # Errors
    /// The request fails: the caller may not evaluate the subject, or it could not be loaded.
    pub fn from_subject(authorizer: &Authorizer, error: SubjectError) -> Result<Self, Problem> {
        let code = match error {
            SubjectError::Forbidden => return Err(subject_forbidden(authorizer)),
            SubjectError::Failed(error) => return Err(error.into()),
            SubjectError::InvalidToken(error) => return Ok(Self::new(error.code, error.message)),
            SubjectError::External(error) => {
                return Ok(Self::from_external(error, "subject", "unknown_subject"));
            }
            SubjectError::UnknownUser | SubjectError::InvalidType(_) => "unknown_subject",
            SubjectError::CredentialBasisNotAvailable => "invalid",
            SubjectError::Blocked => "blocked",
        };
        Ok(Self::new(code, error.to_string()))
    }

    /// The error of an external entity; `part` is `subject` or `resource`.
    fn from_external(error: ExternalError, part: &str, unknown_code: &'static str) -> Self {
        match error {
            ExternalError::Attribute(unfit) => Self::from_invalid_attribute(&InvalidAttribute {
                path: format!("{part}.properties.{}", unfit.path),
                ..unfit
            }),
            ExternalError::UnknownType(_) => Self::new(unknown_code, error.to_string()),
            ExternalError::Failed(message) => Self::new("undecidable", message),
        }
    }
}

/// 403: the caller may not evaluate users of its own organization.
pub fn subject_forbidden(authorizer: &Authorizer) -> Problem {
    authorizer.with_action(EVALUATE_ACTION).forbidden_in_home_org("User").into()
}

/// The result of resolving a resource.
pub enum ResolvedResource {
    /// The resource exists.
    Found(Arc<ResourceEntity>),
    /// The resource does not exist, or the caller may not refer to it.
    NotFound,
    /// The resource cannot be evaluated.
    Invalid(DecisionError),
}

/// Resolves the resource of a question: the service's own types from the store, others from the entity data.
///
/// # Errors
/// 503 if the database is unavailable.
pub async fn resolve_resource(
    authorizer: &Authorizer,
    entity_ref: EntityRef<'_>,
) -> Result<ResolvedResource, Problem> {
    if authorizer.state().resource_types.contains(entity_ref.kind) {
        let found = match entity_ref.id.parse() {
            Ok(id) => authorizer.lookups().load_referenceable_cached(entity_ref.kind, id).await?,
            Err(_) => None,
        };
        return Ok(found.map_or(ResolvedResource::NotFound, ResolvedResource::Found));
    }
    Ok(
        match authorizer.engine().external_entities().resolve(
            entity_ref.kind,
            entity_ref.id,
            entity_ref.properties,
        ) {
            Ok(entity) => ResolvedResource::Found(Arc::new(ResourceEntity::external(entity))),
            Err(error) => {
                ResolvedResource::Invalid(DecisionError::from_external(error, "resource", "undecidable"))
            }
        },
    )
}

/// A decision, with its error or denial reason.
#[derive(Debug, Clone, Default)]
pub struct EvaluationResult {
    /// The decision.
    pub answer: Arc<AuthzDecision>,
    /// Why it could not be decided.
    pub error: Option<DecisionError>,
    /// What is missing for an allow.
    pub denial_reason: Option<DenialReason>,
    /// Why it is allowed or denied, if an explanation is requested.
    pub explanation: Option<Explanation>,
    /// Names that the schema or the data do not have, if an explanation is requested.
    pub warnings: Vec<QuestionWarning>,
    /// The id of the evaluation, as in the decision log.
    pub evaluation_id: Option<EvaluationId>,
}

impl EvaluationResult {
    /// A denial because of an error.
    pub fn from_error(error: DecisionError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// Adds warnings about names of the question.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<QuestionWarning>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// A denial because the caller may not evaluate the subject.
    pub fn subject_forbidden() -> Self {
        let error = DecisionError::new("forbidden", SubjectError::Forbidden.to_string());
        Self { evaluation_id: telemetry::denied_evaluation(), ..Self::from_error(error) }
    }
}

/// Adds the properties of the action and the context of the question to the request context. The context takes precedence.
pub fn merge_client_context(
    request_context: DecisionContext,
    properties: &Map<String, Value>,
    context: &Map<String, Value>,
) -> DecisionContext {
    let mut client_context = properties.clone();
    if !context.is_empty() {
        client_context.extend(context.clone());
    }
    DecisionContext { client_context, ..request_context }
}

/// Records a question that could not be decided, and returns the denial. Subject and resource are given as type and id.
pub fn record_failed_evaluation(
    authorizer: &Authorizer,
    subject: (&str, &str),
    action: &str,
    resource: (&str, &str),
    error: DecisionError,
) -> EvaluationResult {
    let version = authorizer.engine().version_json();
    let (subject, resource) = (loggable_name(authorizer, subject), loggable_name(authorizer, resource));
    let evaluation_id = EvaluationId::generate();
    let recorder = authorizer.question_recorder(evaluation_id);
    recorder.record_error(subject, action, resource, error.code, version);
    EvaluationResult { evaluation_id: Some(evaluation_id), ..EvaluationResult::from_error(error) }
}

/// A type and an id for the decision log. A malformed id is omitted: it may be a secret in the wrong field.
pub(super) fn loggable_name<'a>(
    authorizer: &Authorizer,
    (kind, id): (&'a str, &'a str),
) -> (&'a str, &'a str) {
    let is_id = match authorizer.state().resource_types.contains(kind) {
        true => id.parse::<Id>().is_ok(),
        false => authorizer.engine().external_entities().has_type(kind),
    };
    (kind, if is_id { id } else { "" })
}

/// Returns what an explanation for the caller may show: of a user, and of a resource of this service, only what the caller
/// may fetch.
pub fn visibility(authorizer: &Authorizer, principal: &Principal, target: &ResolvedResource) -> Visibility {
    let resource = match target {
        ResolvedResource::Found(resource) => authorizer.may_fetch(resource),
        ResolvedResource::NotFound | ResolvedResource::Invalid(_) => false,
    };
    let user = principal.as_resource();
    let principal = user.is_none_or(|user| authorizer.may_fetch(&user));
    // In a question, the client sends the changes.
    Visibility { principal, resource, changes: true }
}

/// Evaluates a question. With `explain`, which says what the explanation may show, the result is explained.
pub fn decide(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    target: &ResolvedResource,
    entity_ref: EntityRef<'_>,
    explain: Option<Visibility>,
) -> EvaluationResult {
    let options = |is_missing| explain.map(|visibility| ExplainOptions { visibility, is_missing });
    match target {
        ResolvedResource::Found(resource) => {
            let answer = engine.decide(ask, resource);
            evaluation_result(engine, ask, resource, answer, options(false))
        }
        ResolvedResource::NotFound => {
            // Only the service's own resources can be missing. A malformed id may be a secret in the wrong field.
            let id = if entity_ref.id.parse::<Id>().is_ok() { entity_ref.id } else { "" };
            let answer = engine.deny_missing(ask, entity_ref.kind, id);
            let resource = engine.missing_resource(entity_ref.kind, id);
            let mut result = evaluation_result(engine, ask, &resource, answer, options(true));
            result.warnings.extend(explain.map(|_| not_accessible(entity_ref.kind)));
            result
        }
        ResolvedResource::Invalid(error) => {
            if let Some(recorder) = &ask.recorder {
                let (subject, version) = (ask.principal.uid_parts(), engine.version_json());
                let id =
                    if engine.external_entities().has_type(entity_ref.kind) { entity_ref.id } else { "" };
                recorder.record_error(subject, ask.action, (entity_ref.kind, id), error.code, version);
            }
            EvaluationResult {
                evaluation_id: evaluation_id(ask),
                ..EvaluationResult::from_error(error.clone())
            }
        }
    }
}

/// The id of the evaluation of a question; none if it is not recorded.
fn evaluation_id(ask: &AuthzRequest<'_>) -> Option<EvaluationId> {
    ask.recorder.and_then(|recorder| recorder.evaluation_id)
}

/// The warning that a resource does not exist, or is not accessible: the caller must not learn which.
pub(super) fn not_accessible(kind: &str) -> QuestionWarning {
    let message = format!("this {kind} does not exist, or you may not refer to it; the decision is a deny");
    QuestionWarning::new("not_accessible", "resource.id", message, None)
}

fn evaluation_result(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    resource: &ResourceEntity,
    answer: Arc<AuthzDecision>,
    explain: Option<ExplainOptions>,
) -> EvaluationResult {
    let error = match &answer.invalid_attribute {
        Some(unfit) => Some(DecisionError::from_invalid_attribute(unfit)),
        None if answer.errors.is_empty() => None,
        None => Some(DecisionError::new("undecidable", answer.errors.join("; "))),
    };
    let explain = explain.filter(|_| error.is_none());
    let explanation = explain.and_then(|options| engine.explain(ask, resource, &answer, options));
    let denial_reason =
        explain.and_then(|options| engine.denial_reason(ask, resource, &answer, options.visibility));
    EvaluationResult {
        answer,
        error,
        denial_reason,
        explanation,
        evaluation_id: evaluation_id(ask),
        warnings: Vec::new(),
    }
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decision {
    /// Whether it is permitted. False if it cannot be decided.
    pub decision: bool,
    /// The id of the evaluation; the reasons, if requested, or why it could not be decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub context: Option<Reasons>,
}

/// The reasons of a decision.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Reasons {
    /// The determining policies: those that permitted, or those that forbade; empty if none matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub policies: Option<Vec<PolicyView>>,
    /// The policy version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<String>,
    /// Errors of the policy evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errors: Option<Vec<String>>,
    /// What is missing for an allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub missing: Option<DenialReasonView>,
    /// Why it is allowed or denied: the policies that decided, the parts of their conditions with the values that these read,
    /// and the least changes that give an allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reasons: Option<Explanation>,
    /// Names of the question that the schema or the data do not have, and properties that were ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<QuestionWarning>,
    /// Why a question could not be decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<DecisionError>,
    /// The id of the evaluation, as in its line of the decision log: 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, examples("7d0f8a3e5b2c4d6e91a0b3c4d5e6f708"))]
    pub evaluation_id: Option<EvaluationId>,
}

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// The id.
    pub id: String,
    /// The description (`@doc`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub doc: Option<String>,
    /// `permit` or `forbid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub effect: Option<&'static str>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub file: Option<String>,
    /// The line of its id, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<usize>,
    /// The other annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(nullable = false)]
    pub annotations: BTreeMap<String, String>,
}

impl PolicyView {
    /// A policy with its id and description.
    pub fn summary(policy: &PolicyMetadata) -> Self {
        Self {
            id: policy.id.clone(),
            doc: policy.doc.clone(),
            effect: None,
            file: None,
            line: None,
            annotations: BTreeMap::new(),
        }
    }

    /// A policy with all details, file and line included.
    pub fn detailed(policy: &PolicyMetadata) -> Self {
        Self {
            effect: Some(if policy.permits { "permit" } else { "forbid" }),
            file: Some(policy.file.rsplit('/').next().unwrap_or_default().to_owned()),
            line: Some(policy.line),
            annotations: policy
                .annotations
                .iter()
                .filter(|(name, _)| !["id", "doc"].contains(&name.as_str()))
                .map(|(name, text)| (name.clone(), text.clone()))
                .collect(),
            ..Self::summary(policy)
        }
    }
}

/// What is missing for an allow.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DenialReasonView {
    /// A credential with this scope would be permitted.
    Scope {
        /// The lowest sufficient scope.
        scope: crate::authz::Scope,
    },
    /// Policies that forbid it.
    Forbidden {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// Policies that match except for their conditions, principal or resource.
    Conditions {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// No policy permits the action.
    Nothing,
}

impl From<&DenialReason> for DenialReasonView {
    fn from(missing: &DenialReason) -> Self {
        let views =
            |all: &[Arc<PolicyMetadata>]| all.iter().map(|policy| PolicyView::detailed(policy)).collect();
        match missing {
            DenialReason::MissingScope(scope) => Self::Scope { scope: *scope },
            DenialReason::ForbiddenBy(policies) => Self::Forbidden { policies: views(policies) },
            DenialReason::UnmetConditions(policies) => Self::Conditions { policies: views(policies) },
            DenialReason::NoPermit => Self::Nothing,
        }
    }
}

impl Decision {
    /// The decision with its error, if any, and with reasons if `explain` is set.
    pub fn new(result: &EvaluationResult, engine: &Engine, explain: bool) -> Self {
        let has_context = explain || result.error.is_some() || result.evaluation_id.is_some();
        let context = has_context.then(|| Reasons {
            evaluation_id: result.evaluation_id,
            policies: explain
                .then(|| result.answer.policies.iter().map(|policy| PolicyView::detailed(policy)).collect()),
            version: explain.then(|| engine.bundle().version().to_owned()),
            errors: explain.then(|| result.answer.errors.clone()),
            missing: result.denial_reason.as_ref().map(DenialReasonView::from),
            reasons: result.explanation.clone(),
            warnings: result.warnings.clone(),
            error: result.error.clone(),
        });
        Self { decision: result.answer.allowed, context }
    }
}
