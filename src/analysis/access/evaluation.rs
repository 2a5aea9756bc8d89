//! Partial evaluation of the policies for all requests of a kind.

use super::substitution::Substitution;
use super::{Condition, CredentialType, Location, ORGANIZATION, Outcome, USER, Verdict};
use crate::authz::{Bundle, ScopeSet};
use cedar_policy::{
    ActionConstraint, Decision, Entities, EntityId, EntityTypeName, EntityUid, PartialEntities,
    PartialEntity, PartialEntityUid, PartialRequest, Policy, PolicyId, PolicySet, TpeResponse,
};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The name of the attribute with the organization of a user or a resource.
const ORGANIZATION_ATTRIBUTE: &str = "organization";

/// The requests of a cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) action: &'a EntityUid,
    pub(super) resource: &'a EntityTypeName,
    /// The effective scopes of the caller.
    pub(super) scopes: Option<&'a ScopeSet>,
    pub(super) location: Location,
    pub(super) credential: CredentialType,
    /// Whether the resource is the caller.
    pub(super) is_own_record: bool,
}

/// Evaluates the policies of a bundle partially.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    bundle: &'a Bundle,
    /// The data, with the ancestors of each entity.
    data: Entities,
    actions: Entities,
    policies: Vec<Policy>,
    /// The entities that policies name.
    literals: HashSet<EntityUid>,
    /// The policies after a substitution, by its key.
    substituted: HashMap<String, Vec<Policy>>,
}

impl<'a> Evaluator<'a> {
    /// Prepares the policies and the data of a bundle.
    ///
    /// # Errors
    /// The data cannot be used.
    pub(super) fn new(bundle: &'a Bundle) -> Result<Self, String> {
        let data = Entities::from_entities(bundle.data().iter().cloned(), None);
        let actions = bundle.schema().action_entities();
        let policies: Vec<Policy> = bundle.policy_set().policies().cloned().collect();
        Ok(Self {
            bundle,
            data: data.map_err(|error| error.to_string())?,
            actions: actions.map_err(|error| error.to_string())?,
            literals: policies.iter().flat_map(Policy::entity_literals).collect(),
            policies,
            substituted: HashMap::new(),
        })
    }

    /// The data.
    pub(super) fn data(&self) -> &Entities {
        &self.data
    }

    /// The result for the requests of a cell.
    ///
    /// # Errors
    /// The policies cannot be evaluated partially.
    pub(super) fn outcome(&mut self, question: &Question<'_>) -> Result<Outcome, String> {
        let substitution = self.substitution(question);
        let policies = self.policies_of(question.action, &substitution)?;
        let entities = self.cell_entities(question)?;
        let principal = uid(USER, "caller")?;
        let resource = resource_uid(question)?;
        self.evaluate(
            &policies,
            &entities,
            PartialEntityUid::from_concrete(principal),
            question.action,
            PartialEntityUid::from_concrete(resource),
        )
    }

    /// The result for these principals and resources, without a known context. Unknown ids stand for all entities of the type.
    ///
    /// # Errors
    /// The policies cannot be evaluated partially.
    pub(super) fn outcome_of(
        &mut self,
        principal: PartialEntityUid,
        action: &EntityUid,
        resource: PartialEntityUid,
        entities: &PartialEntities,
    ) -> Result<Outcome, String> {
        let policies = self.policies_of(action, &Substitution::default())?;
        self.evaluate(&policies, entities, principal, action, resource)
    }

    fn evaluate(
        &self,
        policies: &PolicySet,
        entities: &PartialEntities,
        principal: PartialEntityUid,
        action: &EntityUid,
        resource: PartialEntityUid,
    ) -> Result<Outcome, String> {
        let schema = self.bundle.schema();
        let request = PartialRequest::new(principal, action.clone(), resource, None, schema);
        let request = request.map_err(|error| format!("{action}: {error}"))?;
        let response =
            policies.tpe(&request, entities, schema).map_err(|error| format!("{action}: {error}"))?;
        Ok(outcome(&response))
    }

    /// The policies whose scope can match the action, after a substitution.
    fn policies_of(&mut self, action: &EntityUid, substitution: &Substitution) -> Result<PolicySet, String> {
        let key = substitution.key();
        if !self.substituted.contains_key(&key) {
            let policies: Result<Vec<Policy>, String> =
                self.policies.iter().map(|policy| substitution.apply(policy)).collect();
            self.substituted.insert(key.clone(), policies?);
        }
        let is_in = |group: &EntityUid| group == action || self.actions.is_ancestor_of(group, action);
        let is_applicable = |policy: &&Policy| match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *action,
            ActionConstraint::In(groups) => groups.iter().any(is_in),
        };
        let policies = self.substituted.get(&key).into_iter().flatten();
        PolicySet::from_policies(policies.filter(is_applicable).cloned()).map_err(|error| error.to_string())
    }

    /// What a cell fixes beside the entities: the credential, and the organizations of caller and resource.
    fn substitution(&self, question: &Question<'_>) -> Substitution {
        let mut substitution = Substitution::default();
        let credential = match question.credential {
            CredentialType::Session => "session",
            CredentialType::ApiKey | CredentialType::ProvisioningKey => "apiKey",
        };
        if let Some(literal) = self.bundle.context_literal(question.action, "credential", credential) {
            substitution.fix("context", "credential", &literal);
        }
        let is_provisioning = question.credential == CredentialType::ProvisioningKey;
        if self.bundle.context_literal(question.action, "provisioning", "").is_some() {
            substitution.fix("context", "provisioning", &json!(is_provisioning));
        }
        let organization = |name: &str| json!({ "__entity": { "type": ORGANIZATION, "id": name } });
        let has_organization =
            |kind: &str| self.bundle.has_entity_attribute(kind, ORGANIZATION_ATTRIBUTE, ORGANIZATION);
        if has_organization(USER) {
            substitution.fix("principal", ORGANIZATION_ATTRIBUTE, &organization("own"));
        }
        if has_organization(&question.resource.to_string()) {
            let name = organization(question.location.as_str());
            substitution.fix("resource", ORGANIZATION_ATTRIBUTE, &name);
        }
        substitution
    }

    /// The entities of a cell: the organizations, the caller, the resource, and the data that policies name.
    fn cell_entities(&self, question: &Question<'_>) -> Result<PartialEntities, String> {
        let scopes = question.scopes.into_iter().flat_map(ScopeSet::iter);
        let scopes: Result<HashSet<EntityUid>, String> =
            scopes.map(|scope| uid("Scope", scope.as_str())).collect();
        let scopes = scopes?;
        let mut entities: BTreeMap<String, (EntityUid, HashSet<EntityUid>)> = BTreeMap::new();
        let mut add = |uid: EntityUid, ancestors: HashSet<EntityUid>| {
            entities.insert(uid.to_string(), (uid, ancestors));
        };
        for location in Location::ALL {
            add(uid(ORGANIZATION, location.as_str())?, ancestors_at(location, false)?);
        }
        add(uid(ORGANIZATION, "above")?, HashSet::new());
        let is_scope = |uid: &EntityUid| uid.type_name().to_string() == "Scope";
        let named: Vec<&EntityUid> =
            self.literals.iter().filter(|uid| self.data.get(uid).is_some()).collect();
        let data_scopes = self.data.iter().map(|entity| entity.uid()).filter(is_scope);
        for uid in named.into_iter().cloned().chain(data_scopes) {
            let mut ancestors: HashSet<EntityUid> =
                self.data.ancestors(&uid).into_iter().flatten().cloned().collect();
            ancestors.remove(&uid);
            add(uid, ancestors);
        }
        let caller: HashSet<EntityUid> =
            ancestors_at(Location::Own, true)?.into_iter().chain(scopes).collect();
        if !question.is_own_record && question.resource.to_string() != ORGANIZATION {
            add(resource_uid(question)?, ancestors_at(question.location, true)?);
        }
        add(uid(USER, "caller")?, caller);
        self.partial_entities(entities.into_values())
    }

    /// Entities with these ancestors, and with unknown attributes.
    fn partial_entities(
        &self,
        entities: impl Iterator<Item = (EntityUid, HashSet<EntityUid>)>,
    ) -> Result<PartialEntities, String> {
        let schema = self.bundle.schema();
        let entities: Result<Vec<PartialEntity>, String> = entities
            .map(|(uid, ancestors)| {
                PartialEntity::new(uid, None, Some(ancestors), None, schema)
                    .map_err(|error| error.to_string())
            })
            .collect();
        PartialEntities::from_partial_entities(entities?, schema).map_err(|error| error.to_string())
    }
}

/// The organization at a location and those above it, for an entity in it (`is_inside`) or for the organization itself.
fn ancestors_at(location: Location, is_inside: bool) -> Result<HashSet<EntityUid>, String> {
    let above: &[&str] = match location {
        Location::Own | Location::Sibling => &["above"],
        Location::Below => &["own", "above"],
    };
    let own = is_inside.then_some(location.as_str());
    above.iter().copied().chain(own).map(|name| uid(ORGANIZATION, name)).collect()
}

/// The resource of a cell.
fn resource_uid(question: &Question<'_>) -> Result<EntityUid, String> {
    let kind = question.resource.to_string();
    if question.is_own_record {
        uid(USER, "caller")
    } else if kind == ORGANIZATION {
        uid(ORGANIZATION, question.location.as_str())
    } else {
        Ok(EntityUid::from_type_name_and_id(question.resource.clone(), EntityId::new("resource")))
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(|error| format!("{kind}: {error}"))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

/// The result that partial evaluation found. A permit that fails permits nothing, and a forbid that fails denies, as in the
/// service.
fn outcome(response: &TpeResponse<'_>) -> Outcome {
    let ids = |policies: &mut dyn Iterator<Item = &PolicyId>| -> Vec<String> {
        let mut ids: Vec<String> = policies.map(ToString::to_string).collect();
        ids.sort();
        ids
    };
    let conditions = |policies: &mut dyn Iterator<Item = &PolicyId>| -> Vec<Condition> {
        let condition = |id: String| Condition { expression: residual(response, &id), policy: id };
        ids(policies).into_iter().map(condition).collect()
    };
    let permits = ids(&mut response.true_permits());
    let forbids = ids(&mut response.true_forbids().chain(response.error_forbids()));
    let decided = if forbids.is_empty() { response.decision() } else { Some(Decision::Deny) };
    let verdict = match decided {
        Some(Decision::Allow) => Verdict::Allowed,
        Some(Decision::Deny) => Verdict::Denied,
        None => Verdict::Depends,
    };
    let is_open = verdict == Verdict::Depends;
    Outcome {
        verdict,
        permits,
        forbids,
        conditional_permits: if is_open { conditions(&mut response.residual_permits()) } else { Vec::new() },
        conditional_forbids: if is_open { conditions(&mut response.residual_forbids()) } else { Vec::new() },
    }
}

/// What is left of the conditions of a policy.
fn residual(response: &TpeResponse<'_>, id: &str) -> String {
    let Some(policy) = response.get_policy(&PolicyId::new(id)) else { return String::new() };
    let text = policy.to_string();
    let condition = text.split_once("when {").map_or(text.as_str(), |(_, condition)| condition);
    condition.trim().trim_end_matches(';').trim_end().trim_end_matches('}').trim().to_owned()
}
