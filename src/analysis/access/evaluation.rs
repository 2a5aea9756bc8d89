//! Partial evaluation of the policies for all requests of a kind.

use super::simplification::{constant, simplify};
use super::substitution::Substitution;
use super::{Condition, CredentialType, Location, ORGANIZATION, Outcome, USER, Verdict};
use crate::authz::{Bundle, ScopeSet};
use cedar_policy::{
    ActionConstraint, Entities, EntityId, EntityTypeName, EntityUid, PartialEntities, PartialEntity,
    PartialEntityUid, PartialRequest, Policy, PolicyId, PolicySet, TpeResponse,
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

    /// The kinds of credentials that policies of this action can distinguish, each with the kinds that have its results.
    pub(super) fn distinguished_credentials(
        &self,
        action: &EntityUid,
    ) -> Vec<(CredentialType, &'static [CredentialType])> {
        use CredentialType::{ApiKey, ProvisioningKey, Session};
        let reads = |field: &str| {
            let attribute = format!("\"attr\":\"{field}\"");
            let policies = self.policies.iter().filter(|policy| self.is_applicable(policy, action));
            policies
                .into_iter()
                .any(|policy| policy.to_json().is_ok_and(|json| json.to_string().contains(&attribute)))
        };
        match (reads("credential"), reads("provisioning")) {
            (false, false) => vec![(Session, &[Session, ApiKey, ProvisioningKey])],
            (true, false) => vec![(Session, &[Session]), (ApiKey, &[ApiKey, ProvisioningKey])],
            (false, true) => vec![(Session, &[Session, ApiKey]), (ProvisioningKey, &[ProvisioningKey])],
            (true, true) => {
                vec![(Session, &[Session]), (ApiKey, &[ApiKey]), (ProvisioningKey, &[ProvisioningKey])]
            }
        }
    }

    /// Whether the scope of a policy can match the action.
    fn is_applicable(&self, policy: &Policy, action: &EntityUid) -> bool {
        let is_in = |group: &EntityUid| group == action || self.actions.is_ancestor_of(group, action);
        match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *action,
            ActionConstraint::In(groups) => groups.iter().any(is_in),
        }
    }

    /// The policies whose scope can match the action, after a substitution.
    fn policies_of(&mut self, action: &EntityUid, substitution: &Substitution) -> Result<PolicySet, String> {
        let key = substitution.key();
        if !self.substituted.contains_key(&key) {
            let policies: Result<Vec<Policy>, String> =
                self.policies.iter().map(|policy| substitution.apply(policy)).collect();
            self.substituted.insert(key.clone(), policies?);
        }
        let policies = self.substituted.get(&key).into_iter().flatten();
        let policies = policies.filter(|policy| self.is_applicable(policy, action));
        PolicySet::from_policies(policies.cloned()).map_err(|error| error.to_string())
    }

    /// What a cell fixes beside the entities: the credential, and the organizations of caller and resource.
    fn substitution(&self, question: &Question<'_>) -> Substitution {
        let mut substitution = Substitution::default();
        let credential = match question.credential {
            CredentialType::Session => "session",
            CredentialType::ApiKey | CredentialType::ProvisioningKey => "apiKey",
        };
        let is_provisioning = (question.credential == CredentialType::ProvisioningKey).to_string();
        // A field of another type stays unknown, so that the result covers all of its values.
        for (field, value) in [("credential", credential), ("provisioning", &is_provisioning)] {
            if let Some(literal) = self.bundle.context_literal(question.action, field, value) {
                substitution.fix("context", field, &literal);
            }
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
    let mut permits = ids(&mut response.true_permits());
    let mut forbids = ids(&mut response.true_forbids().chain(response.error_forbids()));
    let conditional_permits = conditions(response, &mut response.residual_permits(), &mut permits);
    let conditional_forbids = conditions(response, &mut response.residual_forbids(), &mut forbids);
    let verdict = if !forbids.is_empty() || (permits.is_empty() && conditional_permits.is_empty()) {
        Verdict::Denied
    } else if permits.is_empty() || !conditional_forbids.is_empty() {
        Verdict::Depends
    } else {
        Verdict::Allowed
    };
    let (conditional_permits, conditional_forbids) = match verdict {
        Verdict::Depends => (conditional_permits, conditional_forbids),
        Verdict::Allowed | Verdict::Denied => (Vec::new(), Vec::new()),
    };
    Outcome { verdict, permits, forbids, conditional_permits, conditional_forbids }
}

fn ids(policies: &mut dyn Iterator<Item = &PolicyId>) -> Vec<String> {
    let mut ids: Vec<String> = policies.map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
    ids.sort();
    ids
}

/// What is left of the conditions of these policies. Policies that always match are added to `matching`.
fn conditions(
    response: &TpeResponse<'_>,
    policies: &mut dyn Iterator<Item = &PolicyId>,
    matching: &mut Vec<String>,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for policy in ids(policies) {
        match residual(response, &policy) {
            Some((Some(true), _)) => matching.push(policy),
            Some((Some(false), _)) => {}
            Some((None, expression)) => conditions.push(Condition { policy, expression }),
            None => conditions.push(Condition { policy, expression: "it cannot be shown".to_owned() }),
        }
    }
    matching.sort();
    conditions
}

/// What is left of the conditions of a policy: its value, if it is known, and its text.
fn residual(response: &TpeResponse<'_>, id: &str) -> Option<(Option<bool>, String)> {
    let mut json = response.get_policy(&PolicyId::new(id))?.to_json().ok()?;
    json.as_object_mut()?.shift_remove("annotations");
    let body = json.pointer_mut("/conditions/0/body")?;
    *body = simplify(body.take());
    let value = constant(body);
    let text = Policy::from_json(None, json).ok()?.to_string();
    let (_, condition) = text.split_once("when {")?;
    let condition = condition.trim().strip_suffix(';')?.trim().strip_suffix('}')?.trim();
    Some((value, condition.to_owned()))
}
