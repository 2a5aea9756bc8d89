//! The policies that can speak of one action, and what they may read.

use super::answer::Answers;
use super::bundle::{Bundle, action_name};
use super::circumstances::Circumstances;
use super::domain::{Domain, with_causes};
use super::facts::{Principal, Resourced};
use super::reads::Reads;
use super::rules::Rule;
use super::shape::Shape;
use super::unfit::{Undecidable, UnfitAttribute};
use crate::values::{Fingerprint, raw};
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
pub(super) struct Candidates {
    of_all: Vec<Arc<Rule>>,
    equal: HashMap<EntityUid, Vec<Arc<Rule>>>,
    within: HashMap<EntityUid, Vec<Arc<Rule>>>,
}

impl Candidates {
    pub(super) fn new(bundle: &Bundle) -> Result<Self, Failure> {
        let mut candidates = Self::default();
        for policy in bundle.policies.policies() {
            let rule = Arc::new(Rule::new(bundle, policy)?);
            match policy.action_constraint() {
                ActionConstraint::Any => candidates.of_all.push(rule),
                ActionConstraint::Eq(uid) => candidates.equal.entry(uid).or_default().push(rule),
                ActionConstraint::In(groups) => {
                    for group in groups {
                        candidates.within.entry(group).or_default().push(Arc::clone(&rule));
                    }
                }
            }
        }
        Ok(candidates)
    }

    /// Those that can speak of an action in these groups, which the action itself is one of.
    fn of<'a>(
        &'a self,
        action: &EntityUid,
        groups: impl Iterator<Item = &'a EntityUid>,
    ) -> impl Iterator<Item = &'a Arc<Rule>> {
        let within = groups.filter_map(|group| self.within.get(group));
        self.of_all.iter().chain(self.equal.get(action).into_iter().chain(within).flatten())
    }
}

/// The policies that can speak of one action, and what they may read.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) action: EntityUid,
    /// The name of the action in words.
    pub(super) name: Box<RawValue>,
    /// In the order of their ids.
    pub(super) rules: Vec<Arc<Rule>>,
    /// What the conditions of the policies may look at besides the two that are asked about: the action among its groups,
    /// and the entities that they name.
    pub(super) base: Vec<Arc<Entity>>,
    /// The types that the action applies to, by their names.
    pub(super) principals: BTreeMap<String, EntityTypeName>,
    pub(super) resources: BTreeMap<String, EntityTypeName>,
    /// The type of the resources that the action creates: it applies to a resource of this type that is being created.
    creates: Option<EntityTypeName>,
    /// Tells the slices of an engine apart.
    pub(super) number: usize,
    /// What the action's context declares.
    declared: BTreeSet<String>,
    /// What of it, and of the two, the policies read.
    reads: Reads,
    shape: Shape,
    /// Whether the action's context has a field that may not be left out.
    requires_context: bool,
    pub(super) answers: Answers,
}

impl Slice {
    pub(super) fn new(
        bundle: &Bundle,
        domain: &Domain,
        candidates: &Candidates,
        actions: &Entities,
        action: &EntityUid,
        number: usize,
    ) -> Result<Self, Failure> {
        let groups: BTreeSet<&EntityUid> = actions.ancestors(action).into_iter().flatten().collect();
        let is_group = |uid: &EntityUid| uid == action || groups.contains(uid);
        let principals: HashSet<EntityTypeName> =
            bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect();
        let resources: HashSet<EntityTypeName> =
            bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect();
        // One that names several of the groups is still one.
        let rules: BTreeMap<&str, &Arc<Rule>> = candidates
            .of(action, groups.iter().copied().chain([action]))
            .filter(|rule| can_match(&rule.policy, &principals, &resources))
            .map(|rule| (rule.about.id.as_str(), rule))
            .collect();
        let rules: Vec<Arc<Rule>> = rules.into_values().cloned().collect();
        let shape = bundle.contexts.get(action).cloned().unwrap_or_default();
        let declared = shape.names();
        let literals: HashSet<&EntityUid> = rules.iter().flat_map(|rule| &rule.named).collect();
        let asks_for_action = rules.iter().any(|rule| rule.asks_for_action);
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
        let reads = Reads::of(rules.iter().map(|rule| &rule.found), &declared, &principals, &resources);
        let mut resources: BTreeMap<String, EntityTypeName> = resources.into_iter().map(named).collect();
        let creates = created_type(action).and_then(|kind| resources.get(kind).cloned());
        // A question is about the organization that would hold a new resource: an existing one is not created.
        if let Some(creates) = creates.as_ref().filter(|_| resources.len() > 1) {
            resources.remove(&creates.to_string());
        }
        Ok(Self {
            action: action.clone(),
            name: raw(&action_name(action)),
            rules,
            base,
            principals: principals.into_iter().map(named).collect(),
            resources,
            creates,
            number,
            declared,
            reads,
            requires_context: shape.has_required(),
            shape,
            answers: Answers::default(),
        })
    }

    /// The resource type of this name, if the action applies to such a resource, or to one that is being created.
    pub(super) fn resource_type(&self, kind: &str, is_new: bool) -> Option<&EntityTypeName> {
        match is_new {
            true => self.creates.as_ref().filter(|creates| creates.basename() == kind),
            false => self.resources.get(kind),
        }
    }

    /// Whether any of the policies reads anything of the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.reads.context.is_empty()
    }

    /// Whether more of the principal is read than its type, scopes and place.
    fn reads_principal(&self, circumstances: &Circumstances) -> bool {
        self.reads.principal || self.may_name(circumstances)
    }

    /// Whether more of the resource is read than its type and place.
    pub(super) fn reads_resource(&self, circumstances: &Circumstances) -> bool {
        self.reads.resource || self.may_name(circumstances)
    }

    /// Whether what is said of a call may name either of the two where a policy looks.
    fn may_name(&self, circumstances: &Circumstances) -> bool {
        self.reads_context() && self.heard(circumstances).next().is_some()
    }

    /// Everything that a decision of this engine reads.
    pub(super) fn print(
        &self,
        engine: u64,
        principal: &Principal,
        resource: &Resourced,
        circumstances: &Circumstances,
    ) -> Fingerprint {
        let who = match self.reads_principal(circumstances) {
            true => principal.fingerprint,
            false => principal.place_print,
        };
        let what = match self.reads_resource(circumstances) {
            true => resource.fingerprint,
            false => resource.place_print,
        };
        Fingerprint::of(&(who, engine, self.number, what, self.context_print(circumstances)))
    }

    /// What the action's context declares of what is said of a call.
    pub(super) fn heard<'a>(
        &'a self,
        circumstances: &'a Circumstances,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        circumstances.said.iter().filter(|(name, _)| self.declared.contains(*name))
    }

    /// What a decision reads of the circumstances: what the policies read, and all that is said and declared, since that is
    /// checked even where it is not read.
    fn context_print(&self, circumstances: &Circumstances) -> Option<Fingerprint> {
        let said: Vec<(&String, &Value)> = self.heard(circumstances).collect();
        if self.reads.context.is_empty() && said.is_empty() {
            return None;
        }
        let reads = |name: &str| self.reads.context.contains(name);
        let said = (!said.is_empty()).then(|| serde_json::to_string(&said).unwrap_or_default());
        Some(Fingerprint::of(&(
            circumstances.credential.filter(|_| reads("credential")),
            circumstances.ip.filter(|_| reads("ip")),
            circumstances.now.filter(|_| reads("now")),
            circumstances.changes.as_ref().filter(|_| reads("changes")),
            (
                circumstances.provisioning.filter(|_| reads("provisioning")),
                circumstances.scope.filter(|_| reads("scope")),
                circumstances.role.filter(|_| reads("role")),
            ),
            // A value that the service knows replaces what a client says, so the key depends on which values are known.
            circumstances.credential.is_some(),
            circumstances.provisioning.is_some(),
            circumstances.ip.is_some(),
            circumstances.changes.is_some(),
            circumstances.role.is_some(),
            said,
        )))
    }

    /// What the action's context declares of what somebody says of a call.
    pub(super) fn declared_of(&self, said: &Map<String, Value>) -> Map<String, Value> {
        self.shape.project(said)
    }

    /// Whether the context has to be held against the schema: where somebody else says something of it, or where the
    /// schema asks for something.
    pub(super) fn is_checked(&self, circumstances: &Circumstances) -> bool {
        self.heard(circumstances).next().is_some() || self.requires_context
    }

    /// The context of a call, with what the action's context declares. Where nothing is said and nothing read, it is
    /// empty: that changes no decision.
    pub(super) fn context(
        &self,
        schema: &Schema,
        circumstances: &Circumstances,
    ) -> Result<Context, Undecidable> {
        let is_checked = self.is_checked(circumstances);
        if !is_checked && !self.reads_context() {
            return Ok(Context::empty());
        }
        let known = circumstances
            .known(|name| self.declared.contains(name) && (is_checked || self.reads.context.contains(name)));
        let known = Context::from_pairs(known).map_err(|error| error.to_string())?;
        if !is_checked {
            return Ok(known);
        }
        // Read with the schema, which knows what is an entity and what an address, and refuses what is mistyped.
        let mut fields = self.declared_of(&circumstances.said);
        if let Ok(Value::Object(known)) = known.to_json_value() {
            fields.extend(known);
        }
        Context::from_json_value(Value::Object(fields), Some((schema, &self.action))).map_err(|error| {
            self.unfit_context(circumstances, || format!("context: {}", with_causes(&error)))
        })
    }

    /// Why a context cannot be used: the field that does not fit, or else this message.
    pub(super) fn unfit_context(
        &self,
        circumstances: &Circumstances,
        message: impl FnOnce() -> String,
    ) -> Undecidable {
        let mut said = self.declared_of(&circumstances.said);
        said.retain(|name, _| !circumstances.knows(name));
        let unfit = self.shape.first_invalid(&said).or_else(|| {
            let known = self.declared.iter().filter(|name| circumstances.knows(name));
            said.extend(known.map(|name| (name.clone(), Value::Null)));
            self.shape.first_missing(&said)
        });
        match unfit {
            Some(unfit) => UnfitAttribute { path: format!("context.{}", unfit.path), ..unfit }.into(),
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
