//! The policies that can apply to one action, and what their evaluation reads.

use super::bundle::{Bundle, action_name};
use super::decision_context::DecisionContext;
use super::entities::{Principal, ResourceEntity};
use super::entity_uid::ORGANIZATION;
use super::external_entities::{ExternalEntities, error_chain};
use super::indexed_policy::IndexedPolicy;
use super::invalid_attribute::{EvaluationError, InvalidAttribute};
use super::list_actions::is_listed;
use super::read_set::ActionReadSet;
use super::schema_type::SchemaType;
use crate::types::{Fingerprint, to_raw_json};
use cedar_policy::{
    ActionConstraint, Context, Effect, Entities, EntityTypeName, EntityUid, Policy, PolicySet,
    PrincipalConstraint, ResourceConstraint, Schema,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// All policies of a bundle, indexed by the action constraint of their scope.
#[derive(Debug, Default)]
pub(super) struct PolicyIndex {
    any_action: Vec<Arc<IndexedPolicy>>,
    by_action: HashMap<EntityUid, Vec<Arc<IndexedPolicy>>>,
    by_group: HashMap<EntityUid, Vec<Arc<IndexedPolicy>>>,
}

impl PolicyIndex {
    /// Compiles the policies of a bundle, and indexes them by action.
    ///
    /// # Errors
    /// A policy cannot be compiled.
    pub(super) fn new(bundle: &Bundle) -> Result<Self, Failure> {
        let mut index = Self::default();
        for policy in bundle.policies.policies() {
            let indexed = Arc::new(IndexedPolicy::new(bundle, policy)?);
            match policy.action_constraint() {
                ActionConstraint::Any => index.any_action.push(indexed),
                ActionConstraint::Eq(uid) => index.by_action.entry(uid).or_default().push(indexed),
                ActionConstraint::In(groups) => {
                    for group in groups {
                        index.by_group.entry(group).or_default().push(Arc::clone(&indexed));
                    }
                }
            }
        }
        Ok(index)
    }

    /// The policies whose action constraint matches `action`. `groups` are its ancestors and the action itself.
    fn for_action<'a>(
        &'a self,
        action: &EntityUid,
        groups: impl Iterator<Item = &'a EntityUid>,
    ) -> impl Iterator<Item = &'a Arc<IndexedPolicy>> {
        let by_group = groups.filter_map(|group| self.by_group.get(group));
        self.any_action.iter().chain(self.by_action.get(action).into_iter().chain(by_group).flatten())
    }
}

/// The policies that can apply to one action, and what their evaluation reads.
///
/// Policies whose scope excludes the action, or its principal or resource types, are left out. This changes no decision: a
/// policy whose scope does not match neither determines a decision nor fails.
#[derive(Debug)]
pub(super) struct ActionPolicies {
    pub(super) action: EntityUid,
    /// The name of the action as JSON.
    pub(super) name: Box<RawValue>,
    pub(super) policies: Vec<Arc<IndexedPolicy>>,
    pub(super) policy_set: PolicySet,
    /// Entities that the conditions may read besides principal and resource: the action with its groups, and the entity
    /// literals.
    pub(super) literal_entities: Entities,
    /// The principal types that the action applies to, by name.
    pub(super) principals: BTreeMap<String, EntityTypeName>,
    /// The resource types that the action applies to, by name.
    pub(super) resources: BTreeMap<String, EntityTypeName>,
    /// The resource type that the action creates. The action applies to resources of this type only while they are created.
    created_type: Option<EntityTypeName>,
    /// The policies that take rows out of the list that this action returns, if it is a list action whose schema declares the
    /// type of the rows.
    pub(super) rows: Option<RowPolicies>,
    /// Identifies the action within its engine; part of the cache key.
    pub(super) index: usize,
    /// The fields that the action's context declares.
    declared_fields: BTreeSet<String>,
    /// What the policies read of the context, the principal and the resource.
    read_set: ActionReadSet,
    context_type: SchemaType,
    /// Whether the action's context has a required field.
    requires_context: bool,
}

impl ActionPolicies {
    /// Selects the policies that can apply to an action, and precomputes what their evaluation needs.
    ///
    /// # Errors
    /// The actions or the least entities of a request cannot be built.
    pub(super) fn new(
        bundle: &Bundle,
        external_entities: &ExternalEntities,
        candidates: &PolicyIndex,
        actions: &Entities,
        action: &EntityUid,
        index: usize,
    ) -> Result<Self, Failure> {
        let groups: BTreeSet<&EntityUid> = actions.ancestors(action).into_iter().flatten().collect();
        let is_group = |uid: &EntityUid| uid == action || groups.contains(uid);
        let principals: HashSet<EntityTypeName> =
            bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect();
        let mut resources: HashSet<EntityTypeName> =
            bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect();
        let listed_type = resources.iter().find(|kind| is_listed(action, kind)).cloned();
        // A list action applies to the organization, and to the rows only within a list.
        let listed_type = listed_type.filter(|_| resources.len() > 1);
        resources.retain(|kind| Some(kind) != listed_type.as_ref());
        let matching = |resources: &HashSet<EntityTypeName>| -> Vec<Arc<IndexedPolicy>> {
            // Collected by id: a policy that names several of the groups counts once.
            let policies: BTreeMap<&str, &Arc<IndexedPolicy>> = candidates
                .for_action(action, groups.iter().copied().chain([action]))
                .filter(|policy| can_match(&policy.policy, &principals, resources))
                .map(|policy| (policy.metadata.id.as_str(), policy))
                .collect();
            policies.into_values().cloned().collect()
        };
        let policies = matching(&resources);
        let rows = listed_type.map(|kind| RowPolicies::new(kind.clone(), matching(&HashSet::from([kind]))));
        let rows = rows.transpose()?;
        let context_type = bundle.context_types.get(action).cloned().unwrap_or_default();
        let declared_fields = context_type.field_names();
        let row_policies = rows.iter().flat_map(|rows| &rows.policies);
        let all_policies: Vec<Arc<IndexedPolicy>> = policies.iter().chain(row_policies).cloned().collect();
        let literal_entities = literal_entities(&all_policies, external_entities, actions, is_group)?;
        let by_name = |kind: EntityTypeName| (kind.to_string(), kind);
        let read_sets = policies.iter().map(|policy| &policy.read_set);
        let mut read_set = ActionReadSet::new(read_sets, &declared_fields, &principals, &resources);
        // The rows of a list are decided in the context of the list.
        let row_read_sets = rows.iter().flat_map(|rows| &rows.policies).map(|policy| &policy.read_set);
        let none = HashSet::new();
        let of_rows = ActionReadSet::new(row_read_sets, &declared_fields, &none, &none);
        read_set.context.extend(of_rows.context);
        // An entity of the data that is below the principal or the resource has the ancestors of it, too. The cache key always
        // identifies an organization.
        let stored_ancestor_types = external_entities.stored_ancestor_types.iter();
        if stored_ancestor_types
            .filter(|kind| kind.to_string() != ORGANIZATION)
            .any(|kind| principals.contains(kind) || resources.contains(kind))
        {
            (read_set.principal, read_set.resource) = (true, true);
        }
        let mut resources: BTreeMap<String, EntityTypeName> = resources.into_iter().map(by_name).collect();
        let created_type = created_type(action).and_then(|kind| resources.get(kind).cloned());
        // A create action applies to the owning organization and to the new resource, but not to an existing one.
        if let Some(created) = created_type.as_ref().filter(|_| resources.len() > 1) {
            resources.remove(&created.to_string());
        }
        Ok(Self {
            action: action.clone(),
            name: to_raw_json(&action_name(action)),
            policy_set: PolicySet::from_policies(policies.iter().map(|policy| policy.policy.clone()))?,
            policies,
            literal_entities,
            principals: principals.into_iter().map(by_name).collect(),
            resources,
            created_type,
            rows,
            index,
            declared_fields,
            read_set,
            requires_context: context_type.has_required(),
            context_type,
        })
    }

    /// The resource type with this name, if the action applies to it. `is_new`: the resource is being created.
    pub(super) fn resource_type(&self, kind: &str, is_new: bool) -> Option<&EntityTypeName> {
        match is_new {
            true => self.created_type.as_ref().filter(|created| created.basename() == kind),
            false => self.resources.get(kind),
        }
    }

    /// The policy with this id, if it can apply to the action.
    pub(super) fn policy(&self, id: &str) -> Option<&IndexedPolicy> {
        self.policies.iter().find(|policy| policy.metadata.id == id).map(|policy| &**policy)
    }

    /// The declared type of the action's context.
    pub(super) fn context_type(&self) -> &SchemaType {
        &self.context_type
    }

    /// Whether any policy reads the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.read_set.context.is_empty()
    }

    /// Whether the policies read more of the principal than its type, scopes and organization.
    fn reads_principal(&self, context: &DecisionContext) -> bool {
        self.read_set.principal || self.may_reference_entities(context)
    }

    /// Whether the policies read more of the resource than its type and organization.
    pub(super) fn reads_resource(&self, context: &DecisionContext) -> bool {
        self.read_set.resource || self.may_reference_entities(context)
    }

    /// Whether the policies read more of the principal than its type, scopes and organization, whatever the context.
    pub(super) fn reads_principal_attributes(&self) -> bool {
        self.read_set.principal
    }

    /// Whether the policies read more of the resource than its type and organization, whatever the context.
    pub(super) fn reads_resource_attributes(&self) -> bool {
        self.read_set.resource
    }

    /// Whether the action's context declares this field.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.declared_fields.contains(name)
    }

    /// Whether a decision depends on this field of the context: policies read it, or a client may have sent it, so that it is
    /// validated.
    pub(super) fn depends_on_context_field(&self, name: &str) -> bool {
        self.declared_fields.contains(name)
            && (self.read_set.context.contains(name) || !DecisionContext::is_server_field(name))
    }

    /// Whether the client context may name the principal or the resource where a policy reads it.
    fn may_reference_entities(&self, context: &DecisionContext) -> bool {
        self.reads_context() && self.declared_client_context(context).next().is_some()
    }

    /// The key of a decision in the cache: a fingerprint of everything that the decision reads.
    pub(super) fn cache_key(
        &self,
        principal: &Principal,
        resource: &ResourceEntity,
        context: &DecisionContext,
    ) -> Fingerprint {
        let principal_fingerprint = match self.reads_principal(context) {
            true => principal.fingerprint,
            false => principal.location_fingerprint,
        };
        let resource_fingerprint = match self.reads_resource(context) {
            true => resource.fingerprint,
            false => resource.location_fingerprint,
        };
        Fingerprint::of(&(
            principal_fingerprint,
            self.index,
            resource_fingerprint,
            self.context_fingerprint(context),
        ))
    }

    /// The fields of the client context that the action's context declares.
    pub(super) fn declared_client_context<'a>(
        &'a self,
        context: &'a DecisionContext,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        context.client_context.iter().filter(|(name, _)| self.declared_fields.contains(*name))
    }

    /// The fingerprint of what a decision reads of the context; none if it reads nothing.
    ///
    /// It covers what the policies read and every declared field that the client sent, because those are validated even where
    /// no policy reads them.
    fn context_fingerprint(&self, context: &DecisionContext) -> Option<Fingerprint> {
        let client_context: Vec<(&String, &Value)> = self.declared_client_context(context).collect();
        if self.read_set.context.is_empty() && client_context.is_empty() {
            return None;
        }
        let is_read = |name: &str| self.read_set.context.contains(name);
        let client_context =
            (!client_context.is_empty()).then(|| serde_json::to_string(&client_context).unwrap_or_default());
        Some(Fingerprint::of(&(
            context.credential.filter(|_| is_read("credential")),
            context.ip.filter(|_| is_read("ip")),
            context.now.filter(|_| is_read("now")),
            context.changes.as_ref().filter(|_| is_read("changes")),
            (
                context.provisioning.filter(|_| is_read("provisioning")),
                context.scope.filter(|_| is_read("scope")),
                context.role.filter(|_| is_read("role")),
            ),
            // A value that the service sets replaces that of the client, so the key depends on which values are set.
            context.credential.is_some(),
            context.provisioning.is_some(),
            context.ip.is_some(),
            context.changes.is_some(),
            context.role.is_some(),
            client_context,
        )))
    }

    /// The client context without the fields that the action's context does not declare, at any depth.
    pub(super) fn project_declared(&self, client_context: &Map<String, Value>) -> Map<String, Value> {
        self.context_type.project(client_context)
    }

    /// Whether the context has to be validated against the schema: if the client sent a declared field, or if a field is
    /// required.
    pub(super) fn needs_validation(&self, context: &DecisionContext) -> bool {
        self.declared_client_context(context).next().is_some() || self.requires_context
    }

    /// The Cedar context of a request, limited to the declared fields. It is empty if no policy reads it and nothing has to be
    /// validated.
    ///
    /// # Errors
    /// The context does not conform to the schema.
    pub(super) fn context(
        &self,
        schema: &Schema,
        decision_context: &DecisionContext,
    ) -> Result<Context, EvaluationError> {
        let needs_validation = self.needs_validation(decision_context);
        if !needs_validation && !self.reads_context() {
            return Ok(Context::empty());
        }
        let server_values = decision_context.server_values(|name| {
            self.declared_fields.contains(name) && (needs_validation || self.read_set.context.contains(name))
        });
        let server_values = Context::from_pairs(server_values).map_err(|error| error.to_string())?;
        if !needs_validation {
            return Ok(server_values);
        }
        // Parsed with the schema, which resolves entity references and extension values and rejects values of a wrong type.
        let mut fields = self.project_declared(&decision_context.client_context);
        if let Ok(Value::Object(server_values)) = server_values.to_json_value() {
            fields.extend(server_values);
        }
        Context::from_json_value(Value::Object(fields), Some((schema, &self.action))).map_err(|error| {
            self.invalid_context(decision_context, || format!("context: {}", error_chain(&error)))
        })
    }

    /// The error for an invalid context: the first invalid or missing field, or else `message`.
    pub(super) fn invalid_context(
        &self,
        context: &DecisionContext,
        message: impl FnOnce() -> String,
    ) -> EvaluationError {
        let mut client_context = self.project_declared(&context.client_context);
        client_context.retain(|name, _| !context.is_set(name));
        let invalid = self.context_type.first_invalid(&client_context).or_else(|| {
            let set_fields = self.declared_fields.iter().filter(|name| context.is_set(name));
            client_context.extend(set_fields.map(|name| (name.clone(), Value::Null)));
            self.context_type.first_missing(&client_context)
        });
        match invalid {
            Some(invalid) => InvalidAttribute { path: format!("context.{}", invalid.path), ..invalid }.into(),
            None => message().into(),
        }
    }
}

/// The entities of the literals in the conditions, and the actions if a condition tests the action. `is_group` tells the action
/// and its groups from other actions.
fn literal_entities(
    policies: &[Arc<IndexedPolicy>],
    external_entities: &ExternalEntities,
    actions: &Entities,
    is_group: impl Fn(&EntityUid) -> bool,
) -> Result<Entities, Failure> {
    let literals: HashSet<&EntityUid> = policies.iter().flat_map(|policy| &policy.entity_literals).collect();
    let mut action_literals = literals.iter().filter(|uid| uid.type_name().basename() == "Action");
    // Conditions may test the action: with its own groups, or with those of another action.
    let uses_action =
        action_literals.clone().next().is_some() || policies.iter().any(|policy| policy.read_set.action);
    let uses_others = action_literals.any(|uid| !is_group(uid));
    let actions = actions.iter().filter(|action| uses_others || (uses_action && is_group(&action.uid())));
    let entities = literals.iter().filter_map(|literal| external_entities.entity(literal));
    Ok(Entities::from_entities(actions.cloned().chain(entities.map(Arc::unwrap_or_clone)), None)?)
}

/// The forbid policies that can match the rows of a list. Rows need no permit: the list is permitted on their organization.
#[derive(Debug)]
pub(super) struct RowPolicies {
    /// The type of the rows.
    pub(super) kind: EntityTypeName,
    /// The name of that type.
    pub(super) kind_name: String,
    pub(super) policies: Vec<Arc<IndexedPolicy>>,
    pub(super) policy_set: PolicySet,
    /// Those that can decide the rows of one organization differently: that read more of a row than its organization, or apply
    /// to rows but not to their organization.
    pub(super) row_reading: PolicySet,
}

impl RowPolicies {
    /// Selects the forbid policies of those that can match the rows.
    ///
    /// # Errors
    /// Two policies have the same id.
    fn new(kind: EntityTypeName, mut policies: Vec<Arc<IndexedPolicy>>) -> Result<Self, Failure> {
        policies.retain(|policy| policy.policy.effect() == Effect::Forbid);
        let row_reading = policies.iter().filter(|policy| policy.read_set.reads_rows(&kind));
        let row_reading = PolicySet::from_policies(row_reading.map(|policy| policy.policy.clone()))?;
        let policy_set = PolicySet::from_policies(policies.iter().map(|policy| policy.policy.clone()))?;
        Ok(Self { kind_name: kind.to_string(), kind, policies, policy_set, row_reading })
    }

    /// Whether they can decide the rows of one organization differently.
    pub(super) fn read_rows(&self) -> bool {
        !self.row_reading.is_empty()
    }
}

/// The resource type that an action of this service creates: `Form` for `createForm`. None for other actions.
fn created_type(action: &EntityUid) -> Option<&str> {
    let is_local = action.type_name().namespace().is_empty();
    action.id().unescaped().strip_prefix("create").filter(|_| is_local)
}

/// Whether the scope of a policy can match a principal and a resource of these types.
fn can_match(
    policy: &Policy,
    principals: &HashSet<EntityTypeName>,
    resources: &HashSet<EntityTypeName>,
) -> bool {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => principals.contains(&kind),
        PrincipalConstraint::Eq(uid) => principals.contains(uid.type_name()),
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => resources.contains(&kind),
        ResourceConstraint::Eq(uid) => resources.contains(uid.type_name()),
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
    };
    principal && resource
}
