//! The reference for the engine: Cedar's own authorizer over all policies and all entities, without any optimization.
//!
//! It shares no cache, index, slice of the entities or projection of the context with the engine. It shares what defines a
//! question: how principal and resource become entities, and that a create action does not apply to an existing resource.

use super::AuthzDecision;
use super::bundle::{Bundle, action_name};
use super::decision_context::DecisionContext;
use super::entities::{EntityData, Principal, ResourceEntity};
use super::list_actions::is_listed;
use crate::types::OrgPath;
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, PolicyId, Request, Response,
};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

type Failure = Box<dyn std::error::Error>;

/// A decision, as far as the engine and Cedar have to agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether the request is allowed.
    pub allowed: bool,
    /// The ids of the determining policies, in ascending order.
    pub policies: Vec<String>,
    /// Whether the evaluation failed.
    pub has_failed: bool,
}

impl Answer {
    /// The denial of a request that cannot be evaluated.
    fn failed() -> Self {
        Self { allowed: false, policies: Vec::new(), has_failed: true }
    }

    /// A denial that no policy determines.
    fn denied() -> Self {
        Self { allowed: false, policies: Vec::new(), has_failed: false }
    }
}

impl From<&AuthzDecision> for Answer {
    fn from(decision: &AuthzDecision) -> Self {
        let mut policies: Vec<String> = decision.policies.iter().map(|policy| policy.id.clone()).collect();
        policies.sort();
        Self { allowed: decision.allowed, policies, has_failed: !decision.errors.is_empty() }
    }
}

impl From<&Response> for Answer {
    /// As for the engine, an error denies, since Cedar skips a forbid whose evaluation fails.
    fn from(response: &Response) -> Self {
        let has_failed = response.diagnostics().errors().next().is_some();
        let is_permitted = response.decision() == Decision::Allow;
        let mut policies: Vec<String> = Vec::new();
        if !(is_permitted && has_failed) {
            policies.extend(response.diagnostics().reason().map(|id| AsRef::<str>::as_ref(id).to_owned()));
        }
        policies.sort();
        Self { allowed: is_permitted && !has_failed, policies, has_failed }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allow" } else { "deny" })?;
        match (self.has_failed, self.policies.as_slice()) {
            (true, []) => f.write_str(" (evaluation failed)"),
            (false, []) => f.write_str(" (no policy)"),
            (true, policies) => write!(f, " ({}; evaluation failed)", policies.join(", ")),
            (false, policies) => write!(f, " ({})", policies.join(", ")),
        }
    }
}

/// A question, without its resource.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) principal: Principal,
    pub(super) action: String,
    pub(super) context: DecisionContext,
}

/// Answers questions by Cedar's authorizer, over all policies and entities of a bundle.
#[derive(Debug)]
pub(super) struct Reference {
    bundle: Arc<Bundle>,
    /// The entities of the data and the actions, built on first use.
    store: OnceLock<Option<Entities>>,
}

impl Question {
    pub(super) fn new(principal: &Principal, action: &str, context: &DecisionContext) -> Self {
        Self { principal: principal.clone(), action: action.to_owned(), context: context.clone() }
    }
}

impl Reference {
    pub(super) fn new(bundle: Arc<Bundle>) -> Self {
        Self { bundle, store: OnceLock::new() }
    }

    /// The version of the bundle.
    pub(super) fn version(&self) -> &str {
        self.bundle.version()
    }

    /// The answer for a resource.
    pub(super) fn decide(&self, question: &Question, resource: &ResourceEntity) -> Answer {
        self.evaluate(question, resource, false)
            .map_or_else(|_| Answer::failed(), |response| Answer::from(&response))
    }

    /// The answer for a row of a list, within that list. It needs no permit, since the list is permitted on its organization: it is
    /// allowed unless a forbid policy applies or fails.
    pub(super) fn decide_listed_row(&self, question: &Question, row: &ResourceEntity) -> Answer {
        let Ok(response) = self.evaluate(question, row, true) else { return Answer::failed() };
        let is_forbid = |id: &PolicyId| {
            self.bundle.policies.policy(id).is_some_and(|policy| policy.effect() == Effect::Forbid)
        };
        let diagnostics = response.diagnostics();
        let mut forbids: Vec<String> = diagnostics
            .reason()
            .filter(|id| is_forbid(id))
            .map(|id| AsRef::<str>::as_ref(id).to_owned())
            .collect();
        forbids.sort();
        let has_failed = diagnostics.errors().any(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => is_forbid(error.policy_id()),
        });
        Answer { allowed: forbids.is_empty() && !has_failed, policies: forbids, has_failed }
    }

    /// The answer for a resource that is missing, or that the principal must not know of: always a denial. It is that of such a
    /// resource in the principal's own organization, if that is a denial, else that of a resource without an organization.
    pub(super) fn decide_missing(&self, question: &Question, kind: &str, id: &str) -> Answer {
        let entity_type = self.bundle.entity_types.get(kind);
        let home: Option<&OrgPath> = question.principal.organization.as_deref();
        let at_home =
            home.map(|home| self.decide(question, &ResourceEntity::hypothetical(kind, entity_type, home)));
        let answer = at_home
            .filter(|answer| !answer.allowed)
            .unwrap_or_else(|| self.decide(question, &ResourceEntity::detached(kind, entity_type, id)));
        if answer.allowed { Answer::denied() } else { answer }
    }

    fn evaluate(
        &self,
        question: &Question,
        resource: &ResourceEntity,
        is_listed_row: bool,
    ) -> Result<Response, Failure> {
        let action = self.action(&question.action).ok_or("the action is not in the schema")?;
        let principal = question.principal.uid.clone().ok_or("the subject type is not in the schema")?;
        let (kind, id) = resource.data().uid_parts();
        let resource_uid =
            EntityUid::from_type_name_and_id(EntityTypeName::from_str(kind)?, EntityId::new(id));
        if !is_listed_row {
            self.check_applies(&action, resource)?;
        }
        let context = self.context(&action, &question.context)?;
        let entities = self.entities(&question.principal, &principal, resource, &resource_uid)?;
        let request = Request::new(principal, action, resource_uid, context, Some(&self.bundle.schema))?;
        Ok(Authorizer::new().is_authorized(&request, &self.bundle.policies, &entities))
    }

    /// Whether the schema has an action of this name.
    pub(super) fn has_action(&self, name: &str) -> bool {
        self.action(name).is_some()
    }

    fn action(&self, name: &str) -> Option<EntityUid> {
        self.bundle.schema.actions().find(|action| action_name(action) == name).cloned()
    }

    /// Checks that an action of this service which creates a resource is evaluated on the organization that will own it, or on
    /// the new resource, and one that lists resources on their organization.
    fn check_applies(&self, action: &EntityUid, resource: &ResourceEntity) -> Result<(), Failure> {
        let is_new = matches!(resource.data(), EntityData::Local(local) if local.is_new);
        let created = Some(action.id().unescaped())
            .filter(|_| action.type_name().namespace().is_empty())
            .and_then(|name| name.strip_prefix("create"));
        let is_created_type = created == Some(resource.data().uid_parts().0);
        let types = self.bundle.schema.resources_for_action(action).into_iter().flatten().count();
        if types > 1 && is_listed(action, &EntityTypeName::from_str(resource.data().uid_parts().0)?) {
            return Err("the action applies to such a resource only within a list".into());
        }
        match (is_new, is_created_type) {
            (true, false) => Err("the action does not create such a resource".into()),
            (false, true) if types > 1 => Err("the action does not apply to an existing resource".into()),
            _ => Ok(()),
        }
    }

    /// The context with all declared fields, those of the service before those of the client.
    fn context(&self, action: &EntityUid, context: &DecisionContext) -> Result<Context, Failure> {
        let declared = self.bundle.context_types.get(action).ok_or("the action has no context type")?;
        let names = declared.field_names();
        let mut fields = declared.project(&context.client_context);
        let server_values = Context::from_pairs(context.server_values(|name| names.contains(name)))?;
        if let Value::Object(server_values) = server_values.to_json_value()? {
            fields.extend(server_values);
        }
        Ok(Context::from_json_value(Value::Object(fields), Some((&self.bundle.schema, action)))?)
    }

    /// All entities of the data and the schema, with the principal and the resource in the place of entities of the same uid.
    fn entities(
        &self,
        principal: &Principal,
        principal_uid: &EntityUid,
        resource: &ResourceEntity,
        resource_uid: &EntityUid,
    ) -> Result<Entities, Failure> {
        let store = self.store.get_or_init(|| self.build_store().ok());
        let store = store.clone().ok_or("the entities of the data cannot be built")?;
        let is_self = principal_uid == resource_uid;
        let resource_entity: Option<Arc<Entity>> = match resource.data() {
            EntityData::Local(local) => {
                let no_ancestors = HashSet::new();
                // The resource is the caller itself: its attributes, and the scopes of the credential.
                let scopes = if is_self { &*principal.scopes } else { &no_ancestors };
                local.build(resource_uid, scopes, true)
            }
            EntityData::External(external) => external.entity.clone(),
        };
        let principal_entity = principal.entity.clone().filter(|_| !is_self);
        let entities = principal_entity.into_iter().chain(resource_entity).map(Arc::unwrap_or_clone);
        Ok(store.upsert_entities(entities, None)?)
    }

    fn build_store(&self) -> Result<Entities, Failure> {
        let actions = self.bundle.schema.action_entities()?;
        let data = self.bundle.data.iter().cloned();
        Ok(Entities::from_entities(data.chain(actions.iter().cloned()), None)?)
    }
}
