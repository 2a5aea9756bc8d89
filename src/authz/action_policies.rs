//! The policies that can speak of one action, and what they may read.

use super::bundle::{Bundle, action_name};
use super::compiled_policy::CompiledPolicy;
use super::decision::DecisionPool;
use super::decision_context::DecisionContext;
use super::entities::{Principal, ResourceEntity};
use super::external_entities::{ExternalEntities, error_chain};
use super::invalid_attribute::{EvaluationError, InvalidAttribute};
use super::read_set::ActionReadSet;
use super::schema_type::SchemaType;
use crate::types::{Fingerprint, to_raw_json};
use cedar_policy::{
    ActionConstraint, Context, Entities, EntityTypeName, EntityUid, Policy, PrincipalConstraint,
    ResourceConstraint, Schema,
};
use cedar_policy_core::ast::Entity;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// All policies, by the actions that their scopes name.
#[derive(Debug, Default)]
pub(super) struct PolicyIndex {
    any_action: Vec<Arc<CompiledPolicy>>,
    by_action: HashMap<EntityUid, Vec<Arc<CompiledPolicy>>>,
    by_group: HashMap<EntityUid, Vec<Arc<CompiledPolicy>>>,
}

impl PolicyIndex {
    pub(super) fn new(bundle: &Bundle) -> Result<Self, Failure> {
        let mut index = Self::default();
        for policy in bundle.policies.policies() {
            let rule = Arc::new(CompiledPolicy::new(bundle, policy)?);
            match policy.action_constraint() {
                ActionConstraint::Any => index.any_action.push(rule),
                ActionConstraint::Eq(uid) => index.by_action.entry(uid).or_default().push(rule),
                ActionConstraint::In(groups) => {
                    for group in groups {
                        index.by_group.entry(group).or_default().push(Arc::clone(&rule));
                    }
                }
            }
        }
        Ok(index)
    }

    /// Those that can speak of an action in these groups, which the action itself is one of.
    fn for_action<'a>(
        &'a self,
        action: &EntityUid,
        groups: impl Iterator<Item = &'a EntityUid>,
    ) -> impl Iterator<Item = &'a Arc<CompiledPolicy>> {
        let by_group = groups.filter_map(|group| self.by_group.get(group));
        self.any_action.iter().chain(self.by_action.get(action).into_iter().chain(by_group).flatten())
    }
}

/// The policies that can speak of one action, and what they may read.
#[derive(Debug)]
pub(super) struct ActionPolicies {
    pub(super) action: EntityUid,
    /// The name of the action in words.
    pub(super) name: Box<RawValue>,
    /// In the order of their ids.
    pub(super) policies: Vec<Arc<CompiledPolicy>>,
    /// What the conditions of the policies may look at besides the two that are asked about: the action among its groups,
    /// and the entities that they name.
    pub(super) literal_entities: Vec<Arc<Entity>>,
    /// The types that the action applies to, by their names.
    pub(super) principals: BTreeMap<String, EntityTypeName>,
    pub(super) resources: BTreeMap<String, EntityTypeName>,
    /// The type of the resources that the action creates: it applies to a resource of this type that is being created.
    created_type: Option<EntityTypeName>,
    /// Tells the slices of an engine apart.
    pub(super) index: usize,
    /// What the action's context declares.
    declared_fields: BTreeSet<String>,
    /// What of it, and of the two, the policies read.
    read_set: ActionReadSet,
    context_type: SchemaType,
    /// Whether the action's context has a field that may not be left out.
    requires_context: bool,
    pub(super) decisions: DecisionPool,
}

impl ActionPolicies {
    pub(super) fn new(
        bundle: &Bundle,
        domain: &ExternalEntities,
        candidates: &PolicyIndex,
        actions: &Entities,
        action: &EntityUid,
        index: usize,
    ) -> Result<Self, Failure> {
        let groups: BTreeSet<&EntityUid> = actions.ancestors(action).into_iter().flatten().collect();
        let is_group = |uid: &EntityUid| uid == action || groups.contains(uid);
        let principals: HashSet<EntityTypeName> =
            bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect();
        let resources: HashSet<EntityTypeName> =
            bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect();
        // One that names several of the groups is still one.
        let rules: BTreeMap<&str, &Arc<CompiledPolicy>> = candidates
            .for_action(action, groups.iter().copied().chain([action]))
            .filter(|rule| can_match(&rule.policy, &principals, &resources))
            .map(|rule| (rule.metadata.id.as_str(), rule))
            .collect();
        let rules: Vec<Arc<CompiledPolicy>> = rules.into_values().cloned().collect();
        let shape = bundle.context_types.get(action).cloned().unwrap_or_default();
        let declared = shape.field_names();
        let literals: HashSet<&EntityUid> = rules.iter().flat_map(|rule| &rule.entity_literals).collect();
        let asks_for_action = rules.iter().any(|rule| rule.uses_action);
        // The action's own place among its groups, for policies that ask for it in a condition; all actions where one
        // asks for others.
        let mut others =
            literals.iter().filter(|uid| uid.type_name().basename() == "Action" && !is_group(uid));
        let own = || groups.iter().copied().chain([action]).filter_map(|uid| actions.get(uid));
        let actions: Vec<_> = match others.next() {
            Some(_) => actions.iter().collect(),
            None if asks_for_action => own().collect(),
            None => Vec::new(),
        };
        let actions = actions.into_iter().map(|entity| Arc::new(entity.as_ref().clone()));
        let named = literals.iter().filter_map(|literal| domain.entity(literal));
        let base = actions.chain(named).collect();
        let named = |kind: EntityTypeName| (kind.to_string(), kind);
        let reads =
            ActionReadSet::new(rules.iter().map(|rule| &rule.read_set), &declared, &principals, &resources);
        let mut resources: BTreeMap<String, EntityTypeName> = resources.into_iter().map(named).collect();
        let creates = created_type(action).and_then(|kind| resources.get(kind).cloned());
        // A question is about the organization that would hold a new resource: an existing one is not created.
        if let Some(creates) = creates.as_ref().filter(|_| resources.len() > 1) {
            resources.remove(&creates.to_string());
        }
        Ok(Self {
            action: action.clone(),
            name: to_raw_json(&action_name(action)),
            policies: rules,
            literal_entities: base,
            principals: principals.into_iter().map(named).collect(),
            resources,
            created_type: creates,
            index,
            declared_fields: declared,
            read_set: reads,
            requires_context: shape.has_required(),
            context_type: shape,
            decisions: DecisionPool::default(),
        })
    }

    /// The resource type of this name, if the action applies to such a resource, or to one that is being created.
    pub(super) fn resource_type(&self, kind: &str, is_new: bool) -> Option<&EntityTypeName> {
        match is_new {
            true => self.created_type.as_ref().filter(|creates| creates.basename() == kind),
            false => self.resources.get(kind),
        }
    }

    /// Whether any of the policies reads anything of the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.read_set.context.is_empty()
    }

    /// Whether more of the principal is read than its type, scopes and place.
    fn reads_principal(&self, context: &DecisionContext) -> bool {
        self.read_set.principal || self.may_reference_entities(context)
    }

    /// Whether more of the resource is read than its type and place.
    pub(super) fn reads_resource(&self, context: &DecisionContext) -> bool {
        self.read_set.resource || self.may_reference_entities(context)
    }

    /// Whether what is said of a call may name either of the two where a policy looks.
    fn may_reference_entities(&self, context: &DecisionContext) -> bool {
        self.reads_context() && self.declared_client_context(context).next().is_some()
    }

    /// Everything that a decision of this engine reads.
    pub(super) fn cache_key(
        &self,
        engine_id: u64,
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
            engine_id,
            self.index,
            resource_fingerprint,
            self.context_fingerprint(context),
        ))
    }

    /// What the action's context declares of what is said of a call.
    pub(super) fn declared_client_context<'a>(
        &'a self,
        context: &'a DecisionContext,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        context.client_context.iter().filter(|(name, _)| self.declared_fields.contains(*name))
    }

    /// What a decision reads of the circumstances: what the policies read, and all that is said and declared, since that is
    /// checked even where it is not read.
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
            // A value that the service knows replaces what a client says, so the key depends on which values are known.
            context.credential.is_some(),
            context.provisioning.is_some(),
            context.ip.is_some(),
            context.changes.is_some(),
            context.role.is_some(),
            client_context,
        )))
    }

    /// What the action's context declares of what somebody says of a call.
    pub(super) fn project_declared(&self, client_context: &Map<String, Value>) -> Map<String, Value> {
        self.context_type.project(client_context)
    }

    /// Whether the context has to be held against the schema: where somebody else says something of it, or where the
    /// schema asks for something.
    pub(super) fn needs_validation(&self, context: &DecisionContext) -> bool {
        self.declared_client_context(context).next().is_some() || self.requires_context
    }

    /// The context of a call, with what the action's context declares. Where nothing is said and nothing read, it is
    /// empty: that changes no decision.
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
        // Read with the schema, which knows what is an entity and what an address, and refuses what is mistyped.
        let mut fields = self.project_declared(&decision_context.client_context);
        if let Ok(Value::Object(server_values)) = server_values.to_json_value() {
            fields.extend(server_values);
        }
        Context::from_json_value(Value::Object(fields), Some((schema, &self.action))).map_err(|error| {
            self.invalid_context(decision_context, || format!("context: {}", error_chain(&error)))
        })
    }

    /// Why a context cannot be used: the field that does not fit, or else this message.
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

/// The name of the type that an action of this service creates: `Form` for `createForm`; none for other actions.
fn created_type(action: &EntityUid) -> Option<&str> {
    let is_own = action.type_name().namespace().is_empty();
    action.id().unescaped().strip_prefix("create").filter(|_| is_own)
}

/// Whether a policy can speak of a principal and a resource of these types.
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
