//! Requests as the decision log records them, which are decided again.

use super::action_policies::ActionPolicies;
use super::entity_uid::{ORGANIZATION, SCOPE};
use super::invalid_attribute::EvaluationError;
use super::logged_values;
use super::{AuthzDecision, Engine, Scope, ScopeSet};
use crate::types::Fingerprint;
use cedar_policy::{Entities, Entity, EntityId, EntityUid, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The type of a reference to an organization.
const ORGANIZATION_TYPE: &str = "\"type\":\"Organization\"";

/// What a line has instead of an entity that is in no data.
const ABSENT: &str = "null";

/// Type and id of an entity in a line of the decision log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct LoggedUid<'a> {
    /// Its Cedar entity type.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// Its id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

/// The inputs of a decision, as a line of the decision log has them.
#[derive(Debug, Clone)]
pub struct LoggedRequest<'a> {
    /// Who performs the action.
    pub principal: LoggedUid<'a>,
    /// The scopes of the credential of the principal; none of an external one.
    pub claimed_scopes: Option<ScopeSet>,
    /// The name of the action.
    pub action: Cow<'a, str>,
    /// The resource that was evaluated.
    pub resource: LoggedUid<'a>,
    /// The entities of the principal and the resource in Cedar's JSON format, with all of their ancestors as parents.
    pub entities: Vec<&'a RawValue>,
    /// The request context in Cedar's JSON format.
    pub context: &'a RawValue,
    /// Whether the resource was being created.
    pub is_new: bool,
    /// Whether the decision is a denial in any case, since the resource does not exist or the principal must not know of it.
    pub is_missing: bool,
}

/// The parts of an entity in Cedar's JSON format that identify where it is, and what scopes it can have.
#[derive(Deserialize)]
struct EntityLocation<'a> {
    #[serde(borrow)]
    uid: LoggedUid<'a>,
    #[serde(borrow)]
    attrs: LocationAttributes<'a>,
    #[serde(borrow)]
    parents: &'a RawValue,
}

#[derive(Deserialize)]
struct LocationAttributes<'a> {
    #[serde(borrow, default)]
    organization: Option<&'a RawValue>,
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
}

/// What the key of a request has of an entity.
#[derive(Hash)]
enum EntityKey<'a> {
    /// Its text, which has its id.
    Whole(&'a str),
    /// Its type and id, since it has no text.
    Absent(&'a LoggedUid<'a>),
    /// Its type, organization, role and ancestors.
    Location { kind: Cow<'a, str>, organization: &'a str, role: Option<&'a str>, parents: &'a str },
}

/// The parts of the entity of a principal that determine its scopes.
#[derive(Deserialize)]
struct ScopesOf<'a> {
    #[serde(borrow)]
    uid: LoggedUid<'a>,
    #[serde(borrow, default)]
    attrs: RoleOf<'a>,
    #[serde(borrow)]
    parents: Vec<LoggedUid<'a>>,
}

#[derive(Default, Deserialize)]
struct RoleOf<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RoleReference<'a> {
    #[serde(borrow, rename = "__entity")]
    entity: LoggedUid<'a>,
}

impl<'a> LoggedRequest<'a> {
    fn scopes_of_principal(&self) -> Option<ScopesOf<'a>> {
        let entities = self.entities.iter().filter_map(|entity| serde_json::from_str(entity.get()).ok());
        entities.into_iter().find(|entity: &ScopesOf<'a>| entity.uid == self.principal)
    }

    /// Whether these scopes are the scopes among the parents of the entity of the principal.
    fn has_scopes(&self, scopes: &[Cow<'_, str>]) -> bool {
        let entity = self.scopes_of_principal();
        let parents = entity.iter().flat_map(|entity| &entity.parents);
        is_equal_set(scopes, parents.filter(|parent| parent.kind == SCOPE).map(|scope| &*scope.id))
    }
}

fn is_equal_set<'s>(scopes: &[Cow<'_, str>], others: impl Iterator<Item = &'s str>) -> bool {
    let mut scopes: Vec<&str> = scopes.iter().map(|scope| &**scope).collect();
    let mut others: Vec<&str> = others.collect();
    scopes.sort_unstable();
    others.sort_unstable();
    scopes == others
}

impl Engine {
    /// Whether these effective scopes are those of the entity of the principal, and those that its credential and its role
    /// imply by this version's cascade. The scopes of a principal without a credential follow from nothing else in the line.
    pub fn implies_scopes(&self, request: &LoggedRequest<'_>, scopes: &[Cow<'_, str>]) -> bool {
        if !request.has_scopes(scopes) {
            return false;
        }
        let Some(claimed) = &request.claimed_scopes else { return true };
        let role = request.scopes_of_principal().and_then(|entity| {
            serde_json::from_str::<RoleReference<'_>>(entity.attrs.role?.get()).ok()?.entity.id.parse().ok()
        });
        let Some(role) = role else { return false };
        let effective = self.effective_scopes(claimed, role);
        is_equal_set(scopes, effective.iter().flat_map(ScopeSet::iter).map(Scope::as_str))
    }

    /// The key of the decision on a logged request: requests with equal keys are decided equally. It covers what the policies of
    /// the action read, as the cache key of a decision does.
    pub fn logged_request_key(&self, request: &LoggedRequest<'_>) -> Fingerprint {
        self.key_of_read(request).unwrap_or_else(|| {
            let entities: Vec<&str> = request.entities.iter().map(|entity| entity.get()).collect();
            let (principal, resource) = (&request.principal, &request.resource);
            Fingerprint::of(&(
                principal,
                &*request.action,
                resource,
                entities,
                request.context.get(),
                flags(request),
            ))
        })
    }

    /// The key with the parts that the policies read; none if policies may read other parts, too.
    fn key_of_read(&self, request: &LoggedRequest<'_>) -> Option<Fingerprint> {
        let action = self.action_policies(&request.action)?;
        let context = read_context(action, request)?;
        let (principal, resource) = match request.entities[..] {
            [principal, resource] => (principal, resource),
            [principal] => (principal, principal),
            _ => return None,
        };
        let principal =
            self.entity_key(&request.principal, principal, action.reads_principal_attributes())?;
        let resource = self.entity_key(&request.resource, resource, action.reads_resource_attributes())?;
        Some(Fingerprint::of(&(principal, action.index, resource, context, flags(request))))
    }

    /// What the key has of the principal or the resource; none if the text is that of another entity.
    fn entity_key<'a>(
        &self,
        uid: &'a LoggedUid<'a>,
        text: &'a RawValue,
        is_read: bool,
    ) -> Option<EntityKey<'a>> {
        if text.get() == ABSENT {
            return Some(EntityKey::Absent(uid));
        }
        let EntityLocation { uid: found, attrs, parents } = serde_json::from_str(text.get()).ok()?;
        if found != *uid {
            return None;
        }
        // An organization is identified by its id; so is what belongs to something else than an organization. Entities of the
        // data have the attributes and ancestors of this version, and not those of the text.
        let is_located = found.kind != ORGANIZATION && self.bundle().is_stored_type(&found.kind);
        let organization =
            attrs.organization.map(RawValue::get).filter(|text| text.contains(ORGANIZATION_TYPE));
        Some(match organization {
            Some(organization) if is_located && !is_read => EntityKey::Location {
                kind: found.kind,
                organization,
                role: attrs.role.map(RawValue::get),
                parents: parents.get(),
            },
            _ => EntityKey::Whole(text.get()),
        })
    }

    /// Decides a logged request again, by Cedar's authorizer. The decision is the same as over all policies and all entities of
    /// the data: the policies and entities that are left out cannot apply to the action.
    pub fn decide_logged(&self, request: &LoggedRequest<'_>) -> AuthzDecision {
        let decision = match self.cedar_request_of(request) {
            Ok((action, cedar_request, entities)) => {
                self.authorize(&cedar_request, &action.policy_set, &entities)
            }
            Err(error) => AuthzDecision::from_error(error),
        };
        if request.is_missing && decision.allowed { AuthzDecision::default() } else { decision }
    }

    /// The Cedar request for a logged request, and the entities that policies may read.
    fn cedar_request_of(
        &self,
        request: &LoggedRequest<'_>,
    ) -> Result<(&ActionPolicies, Request, Entities), EvaluationError> {
        let unknown = || format!("unknown action {:?}", request.action);
        let action = self.action_policies(&request.action).ok_or_else(unknown)?;
        let not_applicable = |role: &str, kind: &str| {
            format!("the action {} does not apply to the {role} type {kind}", request.action)
        };
        let LoggedRequest { principal, resource, .. } = request;
        let principal_type = action
            .principals
            .get(&*principal.kind)
            .ok_or_else(|| not_applicable("subject", &principal.kind))?;
        let resource_type = action
            .resource_type(&resource.kind, request.is_new)
            .ok_or_else(|| not_applicable("resource", &resource.kind))?;
        let uid = |kind: &cedar_policy::EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let (principal, resource) = (uid(principal_type, &principal.id), uid(resource_type, &resource.id));
        let fields: Map<String, Value> =
            serde_json::from_str(request.context.get()).map_err(|error| format!("context: {error}"))?;
        let fields = action.project_declared(&fields);
        let mut entities: Vec<Arc<Entity>> = self.external_entities().referenced_in(fields.values());
        for json in request.entities.iter().filter(|json| json.get() != ABSENT) {
            let value: Value =
                serde_json::from_str(json.get()).map_err(|error| format!("entity: {error}"))?;
            entities.extend(self.entity_of(request, value)?);
        }
        let schema = &self.bundle().schema;
        let context = logged_values::context(fields, schema, &action.action)
            .map_err(|error| format!("context: {error}"))?;
        let entities = action
            .literal_entities
            .clone()
            .upsert_entities(entities.into_iter().map(Arc::unwrap_or_clone), None)
            .map_err(|error| error.to_string())?;
        let request = Request::new(principal, action.action.clone(), resource, context, Some(schema))
            .map_err(|error| error.to_string())?;
        Ok((action, request, entities))
    }
}

impl Engine {
    /// The entity of a logged request, as the data of this version have it. The scopes of a user are those that its credential and
    /// its role imply by this version's cascade; of an external entity, the ancestors are those of the data, and the attributes,
    /// too, as far as the data have them.
    fn entity_of(
        &self,
        request: &LoggedRequest<'_>,
        mut value: Value,
    ) -> Result<Option<Arc<Entity>>, EvaluationError> {
        let (kind, id) = (text_at(&value, "/uid/type"), text_at(&value, "/uid/id"));
        if !self.bundle().is_stored_type(&kind) {
            let attributes = value.get("attrs").and_then(Value::as_object).cloned().unwrap_or_default();
            let external = self.external_entities().resolve(&kind, &id, &attributes);
            return Ok(external.map_err(|error| format!("entity: {error}"))?.entity);
        }
        let is_principal = (&*kind, &*id) == (&*request.principal.kind, &*request.principal.id);
        if let Some(claimed) = request.claimed_scopes.as_ref().filter(|_| is_principal) {
            self.replace_scopes(&mut value, claimed);
        }
        let entity = logged_values::entity(value).map_err(|error| format!("entity: {error}"))?;
        Ok(Some(Arc::new(entity)))
    }

    /// Replaces the scopes among the parents of a user by those that this version's cascade implies.
    fn replace_scopes(&self, user: &mut Value, claimed: &ScopeSet) {
        let Ok(role) = text_at(user, "/attrs/role/__entity/id").parse() else { return };
        let effective = self.effective_scopes(claimed, role);
        let Some(parents) = user.get_mut("parents").and_then(Value::as_array_mut) else { return };
        parents.retain(|parent| text_at(parent, "/type") != SCOPE);
        let effective = effective.iter().flat_map(ScopeSet::iter);
        parents.extend(effective.map(|scope| json!({ "type": SCOPE, "id": scope.as_str() })));
    }
}

/// The text at this place; empty if there is none.
fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a decision depends on besides the entities and the context.
fn flags<'a>(request: &'a LoggedRequest<'_>) -> (bool, bool, Option<&'a ScopeSet>) {
    (request.is_new, request.is_missing, request.claimed_scopes.as_ref())
}

/// The fields of the context that the decision depends on: those that policies read, and those that a client may have sent,
/// which are validated. None if the context may refer to the principal or the resource.
fn read_context<'a>(
    action: &ActionPolicies,
    request: &LoggedRequest<'a>,
) -> Option<BTreeMap<Cow<'a, str>, &'a str>> {
    let text = request.context.get();
    // A reference has the name of its type, unless the text has escapes.
    if text.contains('\\')
        || [&request.principal, &request.resource].iter().any(|uid| text.contains(&*uid.kind))
    {
        return None;
    }
    let fields: BTreeMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(text).ok()?;
    let is_relevant = |name: &str| action.depends_on_context_field(name);
    let fields = fields.into_iter().filter(|(name, _)| is_relevant(name));
    Some(fields.map(|(name, value)| (name, value.get())).collect())
}
