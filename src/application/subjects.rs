//! Subjects of decision questions: which principal a question is about, and whether the caller may ask about it.
//!
//! `/v2/authorize`, AuthZEN evaluations and searches, and the permissions of a user all resolve their subjects here. Evaluating
//! a user is authorized as `evaluateAccess` on that user, evaluating an external subject as `evaluateExternalAccess` on the
//! caller's own organization. The caller's own user is evaluated with the credential of the request unless the question asks
//! for the whole role; other users are always evaluated with their whole role (see "Questions about oneself" in
//! docs/decisions.md).

use super::authorizer::EVALUATE_ACTION;
use super::caller::user_attributes;
use super::{Authorizer, Caller, Error, UserAtFullRole};
use crate::authz::{DecisionContext, ExternalError, Principal, ResourceEntity};
use crate::store::Account;
use crate::types::{Id, OrgPath};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// The action that permits evaluating external subjects.
pub const EVALUATE_EXTERNAL_ACTION: &str = "evaluateExternalAccess";

/// A subject or resource named by a question.
#[derive(Debug, Clone, Copy)]
pub struct EntityRef<'a> {
    /// The entity type.
    pub kind: &'a str,
    /// The id.
    pub id: &'a str,
    /// The attributes that the client supplied.
    pub properties: &'a Map<String, Value>,
}

/// The scopes with which a user is evaluated (see "Questions about oneself" in docs/decisions.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Those of the credential of the request: the default for the caller, and not available for other users.
    Credential,
    /// Those of the whole role: the default, and the only choice, for other users.
    Role,
}

/// How a question names its subject.
#[derive(Debug, Clone, Copy)]
pub enum SubjectSelector<'a> {
    /// The caller's own user, with the credential of the request.
    Caller,
    /// The bearer of an access token or an API key, with the scopes of that credential.
    Token(&'a str),
    /// A user, or an external entity. The id `me` is the caller's own user.
    Entity(EntityRef<'a>, Option<Basis>),
}

/// A resolved subject that the caller may ask about.
#[derive(Debug)]
pub struct ResolvedSubject {
    /// The principal.
    pub principal: Arc<Principal>,
    /// The request context of its evaluation.
    pub context: DecisionContext,
}

/// Why there is no subject to evaluate.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The caller may not evaluate such subjects.
    #[error("not authorized to evaluate this subject")]
    Forbidden,
    /// There is no such user, or the caller may not evaluate it.
    #[error("User does not exist or is not accessible")]
    UnknownUser,
    /// The type is one of the service's own, and not `User`.
    #[error("{0:?} is not a valid subject type; expected \"User\" or an external type")]
    InvalidType(String),
    /// The credential as basis was requested for another subject than the caller.
    #[error("basis: `credential` is only available for the caller's own user")]
    CredentialBasisNotAvailable,
    /// The user has no scopes.
    #[error("the user is blocked, or its organization is inactive")]
    Blocked,
    /// The token is not valid, or the caller may not evaluate its bearer.
    #[error("{0}")]
    InvalidToken(Error),
    /// The external subject cannot be built from the stored data and the properties.
    #[error(transparent)]
    External(ExternalError),
    /// The subject could not be loaded.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Resolves the subjects of one request.
#[derive(Debug)]
pub struct SubjectResolver<'a> {
    authorizer: &'a Authorizer,
    /// Decides `evaluateAccess` on users.
    evaluation: Authorizer,
}

impl<'a> SubjectResolver<'a> {
    /// Creates a resolver for questions. The check of the subject is a prerequisite of the decision, and only its denials are
    /// in the decision log.
    pub fn for_questions(authorizer: &'a Authorizer) -> Self {
        Self { authorizer, evaluation: authorizer.for_prerequisite(EVALUATE_ACTION) }
    }

    /// Creates a resolver for requests in which the check of the subject is the decision that the log records.
    pub fn for_recorded_checks(authorizer: &'a Authorizer) -> Self {
        Self { authorizer, evaluation: authorizer.with_action(EVALUATE_ACTION) }
    }

    /// Resolves the subject of a question, and authorizes its evaluation.
    ///
    /// # Errors
    /// As the variants of [`SubjectError`] say.
    pub async fn resolve(&self, selector: SubjectSelector<'_>) -> Result<ResolvedSubject, SubjectError> {
        match selector {
            SubjectSelector::Caller => {
                self.find_user(Some(self.authorizer.caller().id)).await?;
                Ok(ResolvedSubject::from_caller(self.authorizer))
            }
            SubjectSelector::Token(token) => self.resolve_bearer(token).await,
            SubjectSelector::Entity(EntityRef { kind: "User", id, .. }, basis) => {
                let user = self.find_user(self.authorizer.resolve_id(id)).await?;
                self.user_subject(&user, basis)
            }
            SubjectSelector::Entity(entity_ref, basis) => self.resolve_external(entity_ref, basis),
        }
    }

    /// Loads a user that the caller may evaluate.
    ///
    /// # Errors
    /// [`SubjectError::UnknownUser`] if there is no such user or the caller may not evaluate it, and
    /// [`SubjectError::Forbidden`] if the caller may evaluate no user of its own organization either (see "403 or 404" in
    /// docs/decisions.md).
    pub async fn find_user(&self, id: Option<Id>) -> Result<EvaluableUser, SubjectError> {
        let user = match id {
            Some(id) => {
                Caller::load_user_at_full_role(self.authorizer.state(), self.authorizer.engine(), id).await?
            }
            None => None,
        };
        match (id, user) {
            (Some(id), Some(user)) if self.evaluation.is_permitted_on(&user.resource) => {
                Ok(EvaluableUser { id, user })
            }
            _ => Err(self.inaccessible_user()),
        }
    }

    fn inaccessible_user(&self) -> SubjectError {
        match self.evaluation.could_in_home_org("User") {
            true => SubjectError::UnknownUser,
            false => SubjectError::Forbidden,
        }
    }

    /// Returns a user, that the caller may evaluate, as subject.
    ///
    /// # Errors
    /// [`SubjectError::Blocked`], or [`SubjectError::CredentialBasisNotAvailable`] for another user than the caller's own.
    pub fn user_subject(
        &self,
        user: &EvaluableUser,
        basis: Option<Basis>,
    ) -> Result<ResolvedSubject, SubjectError> {
        let is_own = user.id == self.authorizer.caller().id;
        match basis {
            Some(Basis::Credential) if !is_own => Err(SubjectError::CredentialBasisNotAvailable),
            None | Some(Basis::Credential) if is_own => Ok(ResolvedSubject::from_caller(self.authorizer)),
            _ => ResolvedSubject::at_full_role(self.authorizer, &user.user),
        }
    }

    /// Returns the user of an account as a candidate of a search; none if the caller may not evaluate it or it has no scopes.
    pub fn candidate(&self, account: &Account, basis: Option<Basis>) -> Option<ResolvedSubject> {
        let user = ResourceEntity::user(account.id, &account.path, user_attributes(account));
        if !self.evaluation.is_permitted_on(&user) {
            return None;
        }
        if account.id == self.authorizer.caller().id && basis != Some(Basis::Role) {
            return Some(ResolvedSubject::from_caller(self.authorizer));
        }
        let caller = Caller::from_account(self.authorizer.engine(), account)?;
        Some(ResolvedSubject { principal: caller.principal, context: self.authorizer.bare_context() })
    }

    /// Requires that the caller may evaluate external subjects.
    ///
    /// # Errors
    /// [`SubjectError::Forbidden`].
    pub fn require_external(&self) -> Result<(), SubjectError> {
        let external = self.authorizer.for_prerequisite(EVALUATE_EXTERNAL_ACTION);
        match external.is_permitted_in(&self.authorizer.caller().organization) {
            true => Ok(()),
            false => Err(SubjectError::Forbidden),
        }
    }

    /// Returns an external subject, built from the stored data and the properties of the question.
    ///
    /// # Errors
    /// [`SubjectError::External`] if the schema has no such type, or a property violates its declaration.
    pub fn external_subject(&self, entity_ref: EntityRef<'_>) -> Result<ResolvedSubject, SubjectError> {
        let EntityRef { kind, id, properties } = entity_ref;
        let entity = self.authorizer.engine().external_entities().resolve(kind, id, properties);
        let principal = Arc::new(Principal::external(entity.map_err(SubjectError::External)?));
        Ok(ResolvedSubject { principal, context: self.authorizer.bare_context() })
    }

    fn resolve_external(
        &self,
        entity_ref: EntityRef<'_>,
        basis: Option<Basis>,
    ) -> Result<ResolvedSubject, SubjectError> {
        if self.authorizer.state().resource_types.contains(entity_ref.kind) {
            return Err(SubjectError::InvalidType(entity_ref.kind.to_owned()));
        }
        self.require_external()?;
        if basis == Some(Basis::Credential) {
            return Err(SubjectError::CredentialBasisNotAvailable);
        }
        self.external_subject(entity_ref)
    }

    /// Resolves the bearer of a token. The token of an inaccessible user is reported like one of no user, and a caller that
    /// may not evaluate other users does not learn why their tokens are invalid.
    async fn resolve_bearer(&self, token: &str) -> Result<ResolvedSubject, SubjectError> {
        let (state, engine) = (self.authorizer.state(), self.authorizer.engine());
        let error = match Caller::from_token(state, engine, token).await {
            Ok(caller) => match self.find_user(Some(caller.id)).await {
                Ok(_) => {
                    let context = self.authorizer.request_context_for(caller.credential);
                    return Ok(ResolvedSubject { principal: Arc::clone(&caller.principal), context });
                }
                Err(SubjectError::UnknownUser) => Error::invalid_token(),
                Err(error) => return Err(error),
            },
            Err(error) if error.kind.is_server_error() => return Err(error.into()),
            Err(error) => error,
        };
        match self.inaccessible_user() {
            SubjectError::Forbidden => Err(SubjectError::Forbidden),
            _ => Err(SubjectError::InvalidToken(error)),
        }
    }
}

/// A user that the caller may evaluate.
#[derive(Debug)]
pub struct EvaluableUser {
    /// The id.
    pub id: Id,
    user: Arc<UserAtFullRole>,
}

impl EvaluableUser {
    /// Returns the id of the organization of the user.
    pub fn organization(&self) -> Id {
        self.user.resource.organization_path().map_or(Id::NIL, OrgPath::org_id)
    }
}

impl ResolvedSubject {
    /// Returns the caller with the credential of the request.
    fn from_caller(authorizer: &Authorizer) -> Self {
        Self { principal: Arc::clone(&authorizer.caller().principal), context: authorizer.request_context() }
    }

    /// Returns a user with its whole role.
    ///
    /// # Errors
    /// [`SubjectError::Blocked`].
    fn at_full_role(authorizer: &Authorizer, user: &UserAtFullRole) -> Result<Self, SubjectError> {
        let principal = user.principal.as_ref().ok_or(SubjectError::Blocked)?;
        Ok(Self { principal: Arc::clone(principal), context: authorizer.bare_context() })
    }
}
