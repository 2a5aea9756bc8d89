//! What the decision endpoints share: who is asked about and whether the caller may ask, which thing is meant, and how an
//! answer looks.

use crate::application::{Authorizer, Caller, UserAtFullRole};
use crate::authz::{
    AuthzDecision, AuthzRequest, DecisionContext, DenialReason, Engine, ExternalError, PolicyMetadata,
};
use crate::authz::{InvalidAttribute, Principal, ResourceEntity};
use crate::http::Problem;
pub use crate::http::forward_auth::POLICY_VERSION;
use crate::types::Id;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// What stood in the way of a decision.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionError {
    /// A word for programs to go by: `undecidable`, `invalid_attribute`, `missing_attribute`, `unknown_subject`,
    /// `invalid`, `blocked`, `forbidden`, `token_expired`, `invalid_token`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The attribute that does not fit its declaration, as in `resource.properties.amount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attribute: Option<String>,
}

impl DecisionError {
    /// Says what stands in the way.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), attribute: None }
    }

    /// An attribute does not fit its declaration.
    fn from_invalid_attribute(unfit: &InvalidAttribute) -> Self {
        Self { attribute: Some(unfit.path.clone()), ..Self::new(unfit.code, unfit.to_string()) }
    }

    /// A question about the external entity `part` (`subject` or `resource`) cannot be evaluated.
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

/// Somebody or something that a question names.
#[derive(Debug, Clone, Copy)]
pub struct EntityRef<'a> {
    /// The entity type.
    pub kind: &'a str,
    /// The id.
    pub id: &'a str,
    /// What whoever asks says of it.
    pub properties: &'a Map<String, Value>,
}

/// For which scopes of a user a question is answered (decision 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// For those of the credential in hand: the default of a question about the caller itself, and never of another user.
    Credential,
    /// For those of the user's whole role: the default, and the only choice, of a question about another user.
    Role,
}

/// Who is asked about: a principal and what is known of its call, or what stands in the way.
pub enum ResolvedSubject {
    /// Somebody.
    Principal(Arc<Principal>, DecisionContext),
    /// Nobody to ask about.
    Error(DecisionError),
    /// The caller may not ask about it.
    Forbidden,
}

/// Who a question names, if the caller may ask about it: `evaluateAccess` on a user, and `evaluateForeignAccess` for every
/// external subject. The caller itself is answered for with the credential in hand, unless `basis` is its role; other users
/// with their whole role.
pub async fn resolve_subject(
    authorizer: &Authorizer,
    entity_ref: EntityRef<'_>,
    basis: Option<Basis>,
) -> Result<ResolvedSubject, Problem> {
    if entity_ref.kind != "User" {
        return Ok(resolve_external_subject(authorizer, entity_ref, basis));
    }
    let evaluation_authorizer = authorizer.for_prerequisite("evaluateAccess");
    let id = evaluation_authorizer.resolve_id(entity_ref.id);
    let user = match id {
        Some(id) => Caller::load_user_at_full_role(authorizer.state(), authorizer.engine(), id).await?,
        None => None,
    };
    let is_own = id == Some(authorizer.caller().id);
    Ok(match user {
        Some(user) if evaluation_authorizer.is_permitted_on(&user.resource) => match basis {
            Some(Basis::Credential) if !is_own => {
                ResolvedSubject::Error(DecisionError::new("invalid", CREDENTIAL_BASIS_IS_FOR_CALLER))
            }
            None | Some(Basis::Credential) if is_own => caller_as_subject(authorizer),
            _ => subject_at_full_role(authorizer, Some(&user)),
        },
        // As with a path (decision 16).
        _ if evaluation_authorizer.could_in_home_org("User") => ResolvedSubject::Error(DecisionError::new(
            "unknown_subject",
            "User does not exist or is not accessible",
        )),
        _ => ResolvedSubject::Forbidden,
    })
}

/// What is wrong with a question that asks for the credential of another subject than the caller.
const CREDENTIAL_BASIS_IS_FOR_CALLER: &str =
    "basis: \"credential\" is for questions about the caller itself; leave it out";

fn resolve_external_subject(
    authorizer: &Authorizer,
    entity_ref: EntityRef<'_>,
    basis: Option<Basis>,
) -> ResolvedSubject {
    if authorizer.state().resource_types.contains(entity_ref.kind) {
        let message = format!(
            "{:?} is not a valid subject type; expected \"User\" or an external type",
            entity_ref.kind
        );
        return ResolvedSubject::Error(DecisionError::new("unknown_subject", message));
    }
    if !authorizer
        .for_prerequisite("evaluateForeignAccess")
        .is_permitted_in(&authorizer.caller().organization)
    {
        return ResolvedSubject::Forbidden;
    }
    if basis == Some(Basis::Credential) {
        return ResolvedSubject::Error(DecisionError::new("invalid", CREDENTIAL_BASIS_IS_FOR_CALLER));
    }
    match authorizer.engine().external_entities().resolve(
        entity_ref.kind,
        entity_ref.id,
        entity_ref.properties,
    ) {
        Ok(foreign) => {
            ResolvedSubject::Principal(Arc::new(Principal::external(foreign)), authorizer.bare_context())
        }
        Err(error) => {
            ResolvedSubject::Error(DecisionError::from_external(error, "subject", "unknown_subject"))
        }
    }
}

/// The caller itself, with the credential in hand.
pub fn caller_as_subject(authorizer: &Authorizer) -> ResolvedSubject {
    ResolvedSubject::Principal(Arc::clone(&authorizer.caller().principal), authorizer.request_context())
}

/// A user that the caller may ask about, as it would be with a credential that carries its whole role.
pub async fn resolve_user_at_full_role(
    authorizer: &Authorizer,
    user: Id,
) -> Result<ResolvedSubject, Problem> {
    Ok(subject_at_full_role(
        authorizer,
        Caller::load_user_at_full_role(authorizer.state(), authorizer.engine(), user).await?.as_deref(),
    ))
}

fn subject_at_full_role(authorizer: &Authorizer, user: Option<&UserAtFullRole>) -> ResolvedSubject {
    match user.and_then(|user| user.principal.as_ref()) {
        Some(principal) => ResolvedSubject::Principal(Arc::clone(principal), authorizer.bare_context()),
        None => ResolvedSubject::Error(DecisionError::new(
            "blocked",
            "the user is blocked, or its organization is inactive",
        )),
    }
}

/// A thing that a question names.
pub enum ResolvedResource {
    /// It is there.
    Found(Arc<ResourceEntity>),
    /// It is not, or the caller could not name it.
    NotFound,
    /// It cannot be understood.
    Invalid(DecisionError),
}

/// The thing that a question names: one of the service's own from the store, any other from the data.
pub async fn resolve_resource(
    authorizer: &Authorizer,
    entity_ref: EntityRef<'_>,
) -> Result<ResolvedResource, Problem> {
    if authorizer.state().resource_types.contains(entity_ref.kind) {
        let found = match entity_ref.id.parse() {
            Ok(id) => authorizer.load_referenceable_cached(entity_ref.kind, id).await?,
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
            Ok(foreign) => ResolvedResource::Found(Arc::new(ResourceEntity::external(foreign))),
            Err(error) => {
                ResolvedResource::Invalid(DecisionError::from_external(error, "resource", "undecidable"))
            }
        },
    )
}

/// An answer with what is missing, where that was wanted.
#[derive(Debug, Clone, Default)]
pub struct EvaluationResult {
    /// What Cedar says.
    pub answer: Arc<AuthzDecision>,
    /// What stood in the way.
    pub error: Option<DecisionError>,
    /// What is missing for a yes.
    pub denial_reason: Option<DenialReason>,
}

impl EvaluationResult {
    /// No, because of this.
    pub fn from_error(error: DecisionError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// The caller may not ask.
    pub fn subject_forbidden() -> Self {
        Self::from_error(DecisionError::new(
            "forbidden",
            "the policies do not permit you to ask about this subject",
        ))
    }
}

/// What is said of the call: the properties of the action, and before them the context.
pub fn merge_client_context(
    circumstances: DecisionContext,
    properties: &Map<String, Value>,
    context: &Map<String, Value>,
) -> DecisionContext {
    let mut said = properties.clone();
    if !context.is_empty() {
        said.extend(context.clone());
    }
    DecisionContext { client_context: said, ..circumstances }
}

/// No, because nobody can decide it. Subject and thing are named by type and id.
pub fn record_failed_evaluation(
    authorizer: &Authorizer,
    subject: (&str, &str),
    action: &str,
    resource: (&str, &str),
    error: DecisionError,
) -> EvaluationResult {
    let version = authorizer.engine().version_json();
    let (subject, resource) = (loggable_name(authorizer, subject), loggable_name(authorizer, resource));
    authorizer.decision_recorder().record_error(subject, action, resource, error.code, version);
    EvaluationResult::from_error(error)
}

/// A type and an id, which is not written where it can be the id of nothing: it may be a secret in the wrong place.
fn loggable_name<'a>(authorizer: &Authorizer, (kind, id): (&'a str, &'a str)) -> (&'a str, &'a str) {
    let is_id = match authorizer.state().resource_types.contains(kind) {
        true => id.parse::<Id>().is_ok(),
        false => authorizer.engine().external_entities().has_type(kind),
    };
    (kind, if is_id { id } else { "" })
}

/// Decides, and where it is wanted finds out what is missing.
pub fn decide(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    target: &ResolvedResource,
    entity_ref: EntityRef<'_>,
    explain: bool,
) -> EvaluationResult {
    match target {
        ResolvedResource::Found(resource) => decide_found(engine, ask, resource, explain),
        ResolvedResource::NotFound => {
            // Only a thing of this service is missing, and what is no id may be a secret in the wrong place.
            let id = if entity_ref.id.parse::<Id>().is_ok() { entity_ref.id } else { "" };
            let answer = engine.deny_missing(ask, entity_ref.kind, id);
            evaluation_result(engine, ask, &ResourceEntity::detached(entity_ref.kind, id), answer, explain)
        }
        ResolvedResource::Invalid(error) => {
            if let Some(trail) = &ask.recorder {
                let (subject, version) = (ask.principal.uid_parts(), engine.version_json());
                let id =
                    if engine.external_entities().has_type(entity_ref.kind) { entity_ref.id } else { "" };
                trail.record_error(subject, ask.action, (entity_ref.kind, id), error.code, version);
            }
            EvaluationResult::from_error(error.clone())
        }
    }
}

/// The same of a thing that is there.
pub fn decide_found(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    resource: &ResourceEntity,
    explain: bool,
) -> EvaluationResult {
    evaluation_result(engine, ask, resource, engine.decide(ask, resource), explain)
}

fn evaluation_result(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    resource: &ResourceEntity,
    answer: Arc<AuthzDecision>,
    explain: bool,
) -> EvaluationResult {
    let error = match &answer.invalid_attribute {
        Some(unfit) => Some(DecisionError::from_invalid_attribute(unfit)),
        None if answer.errors.is_empty() => None,
        None => Some(DecisionError::new("undecidable", answer.errors.join("; "))),
    };
    let missing =
        if explain && error.is_none() { engine.denial_reason(ask, resource, &answer) } else { None };
    EvaluationResult { answer, error, denial_reason: missing }
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decision {
    /// Whether it is permitted. Where it cannot be decided, it is not.
    pub decision: bool,
    /// Why, where that was wanted, or what stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub context: Option<Reasons>,
}

/// Why it was decided so.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Reasons {
    /// The policies that permitted, or those that forbade; none where none permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub policies: Option<Vec<PolicyView>>,
    /// The version of the policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<String>,
    /// What went wrong in the evaluation of policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errors: Option<Vec<String>>,
    /// What is missing for a yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub missing: Option<DenialReasonView>,
    /// What stood in the way of a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<DecisionError>,
}

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// Its id.
    pub id: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub doc: Option<String>,
    /// `permit` or `forbid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub effect: Option<&'static str>,
    /// The file that it stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub file: Option<String>,
    /// The line of its id, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<usize>,
    /// Its other annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(nullable = false)]
    pub annotations: BTreeMap<String, String>,
}

impl PolicyView {
    /// By its id and what it is for.
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

    /// With where it stands, too.
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

/// What is missing for a yes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DenialReasonView {
    /// A credential with this scope.
    Scope {
        /// The lowest one that would do.
        scope: crate::authz::Scope,
    },
    /// These forbid it.
    Forbidden {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// These would permit it, but for their conditions, or permit it to others or of others.
    Conditions {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// No policy permits it to anybody.
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
    /// The bare decision, with what stood in its way if anything did; with reasons where they are wanted.
    pub fn new(result: &EvaluationResult, engine: &Engine, explain: bool) -> Self {
        let context = (explain || result.error.is_some()).then(|| Reasons {
            policies: explain
                .then(|| result.answer.policies.iter().map(|policy| PolicyView::detailed(policy)).collect()),
            version: explain.then(|| engine.bundle().version().to_owned()),
            errors: explain.then(|| result.answer.errors.clone()),
            missing: result.denial_reason.as_ref().map(DenialReasonView::from),
            error: result.error.clone(),
        });
        Self { decision: result.answer.allowed, context }
    }
}
