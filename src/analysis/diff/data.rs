//! Entities of the data that differ between two versions.
//!
//! The solver compares the policies for all entities that the schema allows, and knows of the data only what they say about the
//! entities that policies name. What the data say otherwise, such as the groups of a person or the folder of a document, decides
//! as well. Where it differs, the decisions about the entities of the data are compared one by one. This finds what changes, but
//! proves nothing about requests with other entities or another context.

use super::declarations::Environment;
use super::environment::VersionView;
use super::{Direction, PolicyVersion, Witness};
use crate::authz::cases::PolicyTest;
use cedar_policy::{Context, Entities, Entity, EntityTypeName, EntityUid, Policy, Request, RequestEnv};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The maximum number of requests that are compared for all environments.
const MAX_REQUESTS: usize = 10_000;

/// An entity that differs.
struct ChangedEntity {
    uid: EntityUid,
    /// The names of the attributes that differ.
    attributes: BTreeSet<String>,
    /// The types of the ancestors of one version only.
    ancestors: BTreeSet<String>,
}

/// The entities of the data that differ.
pub(super) struct ChangedData {
    changed: Vec<ChangedEntity>,
    entities: [Entities; 2],
    /// How many further requests may be compared.
    room: usize,
}

/// What the changed data mean for an environment.
pub(super) struct DataChange {
    /// A request for each direction that was found.
    pub(super) witnesses: Vec<Witness>,
    /// Why this is not complete.
    pub(super) reason: String,
}

/// The sets on the right of the tests for membership in policies.
#[derive(Default)]
struct Memberships {
    /// The types of the entities that they can contain.
    types: BTreeSet<String>,
    /// Whether one can contain others.
    has_unknown: bool,
}

impl ChangedData {
    /// Compares the data of two versions.
    pub(super) fn new(old: PolicyVersion<'_>, new: PolicyVersion<'_>) -> Self {
        let entities = [old, new].map(|version| {
            Entities::from_entities(version.engine.bundle().data().to_vec(), None).unwrap_or_default()
        });
        let [before, after] = &entities;
        let uids: BTreeSet<EntityUid> = before.iter().chain(after.iter()).map(Entity::uid).collect();
        let changed = uids.into_iter().filter_map(|uid| changed_entity(uid, before, after)).collect();
        Self { changed, entities, room: MAX_REQUESTS }
    }

    /// Whether no entity differs.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// What the changed data mean for requests of this environment; none if its policies do not read what differs.
    pub(super) fn compare(
        &mut self,
        environment: &RequestEnv,
        declared: [&Environment; 2],
        fields: [&BTreeSet<String>; 2],
        [old, new]: [VersionView<'_>; 2],
        policies: &[&Policy],
    ) -> Option<DataChange> {
        let memberships = Memberships::of(policies, environment, declared);
        let is_read = |entity: &&ChangedEntity| {
            let kind = entity.uid.type_name().to_string();
            declared.iter().any(|declared| declared.types.contains(&kind))
                && (entity.attributes.iter().any(|name| fields.iter().any(|fields| fields.contains(name)))
                    || (memberships.has_unknown && !entity.ancestors.is_empty())
                    || !memberships.types.is_disjoint(&entity.ancestors))
        };
        let read: Vec<&ChangedEntity> = self.changed.iter().filter(is_read).collect();
        let example = read.first()?.uid.to_string();
        let count = read.len();
        let is_empty_context_valid = declared.iter().all(|declared| !declared.needs_context());
        let (witnesses, compared) = match is_empty_context_valid {
            true => self.witnesses(environment, [old, new]),
            false => (Vec::new(), 0),
        };
        let reason = format!(
            "the data differ in {count} entities that the policies read, such as {example}; {compared} requests about entities \
             of the data were compared, without a context"
        );
        Some(DataChange { witnesses, reason })
    }

    /// The first request of each direction about entities of the data, and how many were compared.
    fn witnesses(
        &mut self,
        environment: &RequestEnv,
        [old, new]: [VersionView<'_>; 2],
    ) -> (Vec<Witness>, usize) {
        let (mut witnesses, mut compared) = (Vec::<Witness>::new(), 0);
        let principals = self.uids_of(environment.principal());
        let resources = self.uids_of(environment.resource());
        for (principal, resource) in principals
            .iter()
            .flat_map(|principal| resources.iter().map(move |resource| (principal, resource)))
        {
            if self.room == 0 || witnesses.len() == 2 {
                break;
            }
            (self.room, compared) = (self.room - 1, compared + 1);
            let witness = self.witness(environment, (principal, resource), [old, new]);
            let is_new =
                |witness: &Witness| witnesses.iter().all(|known| known.direction != witness.direction);
            witnesses.extend(witness.filter(is_new));
        }
        (witnesses, compared)
    }

    fn witness(
        &self,
        environment: &RequestEnv,
        (principal, resource): (&EntityUid, &EntityUid),
        [old, new]: [VersionView<'_>; 2],
    ) -> Option<Witness> {
        let (action, context) = (environment.action().clone(), Context::empty());
        let request = Request::new(principal.clone(), action, resource.clone(), context, None).ok()?;
        let [old_entities, new_entities] = &self.entities;
        let (before, after) =
            (old.outcome(&request, old_entities, false)?, new.outcome(&request, new_entities, false)?);
        let direction = match (before.allowed, after.allowed) {
            (false, true) => Direction::Wider,
            (true, false) => Direction::Narrower,
            _ => return None,
        };
        let what = if direction == Direction::Wider { "is allowed now" } else { "is denied now" };
        let name = format!(
            "{} on {resource} by {principal} {what}",
            crate::authz::action_name(environment.action())
        );
        let entities = neighbourhood(new_entities, [principal, resource])?;
        let policies = new.engine?.bundle().policy_set();
        let test = PolicyTest::from_decision(&name, &request, &entities, policies).ok()?;
        Some(Witness { direction, test, old: before, new: after })
    }

    /// The entities of a type that either version has, those that differ first.
    fn uids_of(&self, kind: &EntityTypeName) -> Vec<EntityUid> {
        let changed: BTreeSet<EntityUid> = self.changed.iter().map(|entity| entity.uid.clone()).collect();
        let all: BTreeSet<EntityUid> =
            self.entities.iter().flat_map(Entities::iter).map(Entity::uid).collect();
        let others = all.difference(&changed);
        changed.iter().chain(others).filter(|uid| uid.type_name() == kind).cloned().collect()
    }
}

/// How an entity differs; none if it does not.
fn changed_entity(uid: EntityUid, before: &Entities, after: &Entities) -> Option<ChangedEntity> {
    let attributes = [before, after].map(|entities| {
        let json = entities.get(&uid).and_then(|entity| entity.to_json_value().ok()).unwrap_or_default();
        match json.get("attrs") {
            Some(Value::Object(attributes)) => attributes.clone(),
            _ => Map::new(),
        }
    });
    let [old, new] = &attributes;
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let attributes = names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect();
    let [old, new] = [before, after].map(|entities| {
        entities.ancestors(&uid).into_iter().flatten().cloned().collect::<BTreeSet<EntityUid>>()
    });
    let ancestors = old.symmetric_difference(&new).map(|ancestor| ancestor.type_name().to_string()).collect();
    let entity = ChangedEntity { uid, attributes, ancestors };
    (!entity.attributes.is_empty() || !entity.ancestors.is_empty()).then_some(entity)
}

impl Memberships {
    fn of(policies: &[&Policy], environment: &RequestEnv, declared: [&Environment; 2]) -> Self {
        let mut memberships = Self::default();
        for policy in policies {
            let json = policy.to_json().unwrap_or_default();
            memberships.visit(json.get("conditions").unwrap_or(&Value::Null), environment, declared);
        }
        memberships
    }

    fn visit(&mut self, expression: &Value, environment: &RequestEnv, declared: [&Environment; 2]) {
        match expression {
            Value::Object(fields) => {
                for (operator, operands) in fields {
                    let set = match operator.as_str() {
                        "in" => operands.get("right"),
                        "is" => operands.get("in"),
                        _ => None,
                    };
                    if let Some(set) = set {
                        self.add(set, environment, declared);
                    }
                    self.visit(operands, environment, declared);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.visit(item, environment, declared)),
            _ => {}
        }
    }

    /// Adds the types of a set. Those of literals are compared by the solver.
    fn add(&mut self, set: &Value, environment: &RequestEnv, declared: [&Environment; 2]) {
        if set.pointer("/Value/__entity").is_some() {
            return;
        }
        if let Some(items) = set.get("Set").and_then(Value::as_array) {
            return items.iter().for_each(|item| self.add(item, environment, declared));
        }
        match (set.get("Var").and_then(Value::as_str), set.get(".").and_then(|access| access.get("attr"))) {
            (Some("principal"), _) => drop(self.types.insert(environment.principal().to_string())),
            (Some("resource"), _) => drop(self.types.insert(environment.resource().to_string())),
            (_, Some(Value::String(name))) => {
                self.types.extend(declared.iter().flat_map(|declared| declared.types_of_field(name)));
            }
            _ => self.has_unknown = true,
        }
    }
}

/// These entities, their ancestors, and the entities to which their attributes refer.
fn neighbourhood(entities: &Entities, start: [&EntityUid; 2]) -> Option<Entities> {
    let mut found: BTreeMap<EntityUid, Entity> = BTreeMap::new();
    let mut waiting: Vec<EntityUid> = start.into_iter().cloned().collect();
    let by_text: HashMap<(String, String), EntityUid> = entities
        .iter()
        .map(|entity| entity.uid())
        .map(|uid| ((uid.type_name().to_string(), uid.id().unescaped().to_owned()), uid))
        .collect();
    while let Some(uid) = waiting.pop() {
        let Some(entity) = entities.get(&uid).filter(|_| !found.contains_key(&uid)) else { continue };
        let mut references = Vec::new();
        collect_references(&entity.to_json_value().ok()?, &mut references);
        waiting.extend(references.iter().filter_map(|reference| by_text.get(reference)).cloned());
        found.insert(uid, entity.clone());
    }
    Entities::from_entities(found.into_values(), None).ok()
}

/// The types and ids of all references in an entity.
fn collect_references(value: &Value, references: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            references.extend(text("type").zip(text("id")));
            fields.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}
