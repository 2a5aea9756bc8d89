//! Counterexamples: requests that a solver finds, as readable policy tests.
//!
//! A solver's model names every action as an entity, uses empty or strange ids, and sets attributes that do not matter. A
//! [`Scenario`] is made of it; [`Simplifier::simplify`] removes what is not needed and renames the rest, as long as what the
//! scenario shows still holds by Cedar's own authorizer.

use crate::authz::cases::PolicyTest;
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Policy, PolicySet, Request, Schema,
};
use cedar_policy_symcc::Env;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A request and its entities, as JSON in Cedar's format.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    context: Map<String, Value>,
    entities: Vec<Value>,
}

/// The decision of a policy set on a scenario.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Whether the request is allowed.
    pub allowed: bool,
    /// The ids of the determining policies, in ascending order.
    pub reason: Vec<String>,
    /// The ids of the policies whose evaluation fails, in ascending order.
    pub errors: Vec<String>,
}

impl Scenario {
    /// The request and the entities of a solver's model, without the action entities, which every evaluation adds from the
    /// schema. None if the model has a value without a JSON form.
    pub fn from_model(model: &Env) -> Option<Self> {
        let Env { request, entities } = model;
        let context = match request.context().map(Context::to_json_value) {
            Some(Ok(Value::Object(fields))) => fields,
            Some(_) => return None,
            None => Map::new(),
        };
        let is_action = |uid: &EntityUid| uid.type_name().basename() == "Action";
        let entities = entities.iter().filter(|entity| !is_action(&entity.uid()));
        Some(Self {
            principal: request.principal()?.clone(),
            action: request.action()?.clone(),
            resource: request.resource()?.clone(),
            context,
            entities: entities.map(|entity| entity.to_json_value().ok()).collect::<Option<_>>()?,
        })
    }

    /// The request and the entities for Cedar, with the action entities. None if they violate the schema.
    pub fn to_request(&self, schema: &Schema) -> Option<(Request, Entities)> {
        let context =
            Context::from_json_value(Value::Object(self.context.clone()), Some((schema, &self.action)))
                .ok()?;
        let (principal, resource) = (self.principal.clone(), self.resource.clone());
        let request = Request::new(principal, self.action.clone(), resource, context, Some(schema)).ok()?;
        let entities = Entities::from_json_value(Value::Array(self.entities.clone()), Some(schema)).ok()?;
        Some((request, entities))
    }

    /// The decision by Cedar's own authorizer. None if the scenario violates the schema.
    pub fn evaluate(&self, policies: &PolicySet, schema: &Schema) -> Option<Outcome> {
        let (request, entities) = self.to_request(schema)?;
        Some(Outcome::of(&request, policies, &entities))
    }

    /// The scenario as a policy test that expects what these policies decide. None if the scenario violates the schema.
    pub fn to_policy_test(&self, name: &str, policies: &PolicySet, schema: &Schema) -> Option<PolicyTest> {
        let (request, entities) = self.to_request(schema)?;
        PolicyTest::from_decision(name, &request, &entities, policies).ok()
    }

    /// The uids of the principal and the resource.
    fn request_uids(&self) -> [&EntityUid; 2] {
        [&self.principal, &self.resource]
    }
}

impl Outcome {
    /// Evaluates a request by Cedar's own authorizer.
    pub fn of(request: &Request, policies: &PolicySet, entities: &Entities) -> Self {
        let response = Authorizer::new().is_authorized(request, policies, entities);
        let mut reason: Vec<String> =
            response.diagnostics().reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
        reason.sort();
        let errors = response
            .diagnostics()
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(error)| AsRef::<str>::as_ref(error.policy_id()));
        let mut errors: Vec<String> = errors.map(str::to_owned).collect();
        errors.sort();
        Self { allowed: response.decision() == Decision::Allow, reason, errors }
    }

    /// The decision of the service: it denies a request for which a policy fails.
    pub fn with_denying_failures(self) -> Self {
        Self { allowed: self.allowed && self.errors.is_empty(), ..self }
    }
}

/// Makes scenarios small and readable.
#[derive(Debug)]
pub struct Simplifier<'a> {
    schema: &'a Schema,
    /// The entities of the data files, which a scenario contains as they are defined there.
    definitions: HashMap<EntityUid, Value>,
    /// Entities that keep their ids, because policies name them.
    literals: HashSet<EntityUid>,
}

impl<'a> Simplifier<'a> {
    /// A simplifier for scenarios about these policies, with the entities of the data files.
    pub fn new<'p>(
        schema: &'a Schema,
        data: &[Entity],
        policies: impl IntoIterator<Item = &'p Policy>,
    ) -> Self {
        let literals = policies.into_iter().flat_map(Policy::entity_literals).collect();
        let definition = |entity: &Entity| Some((entity.uid(), entity.to_json_value().ok()?));
        Self { schema, definitions: data.iter().filter_map(definition).collect(), literals }
    }

    /// A smaller scenario with readable ids for which `holds` is still true.
    ///
    /// Entities of the data files are as they are defined there, with all their ancestors. Everything else is removed if
    /// `holds` stays true without it: entities, parents, optional attributes, fields of the context and elements of its sets.
    /// If the scenario does not even hold with the data's own entities, it is returned unchanged.
    pub fn simplify(&self, scenario: Scenario, holds: impl Fn(&Request, &Entities) -> bool) -> Scenario {
        let is_kept = |candidate: &Scenario| {
            candidate.to_request(self.schema).is_some_and(|(request, entities)| holds(&request, &entities))
        };
        let mut current = self.with_definitions(scenario.clone());
        if !is_kept(&current) {
            return scenario;
        }
        for kind in current.entity_types() {
            let renamed = self.with_definitions(self.rename(&current, &kind));
            if is_kept(&renamed) {
                current = renamed;
            }
        }
        // A removal can make another one possible. Each round but the last removes something, so that this ends.
        loop {
            let mut is_smaller = false;
            for removal in current.removals(&self.definitions) {
                let Some(candidate) = current.without(&removal) else { continue };
                let candidate = self.with_definitions(candidate);
                if candidate != current && is_kept(&candidate) {
                    current = candidate;
                    is_smaller = true;
                }
            }
            if !is_smaller {
                return current;
            }
        }
    }

    /// The scenario with the data's definitions of all entities that it refers to, and of their ancestors.
    fn with_definitions(&self, mut scenario: Scenario) -> Scenario {
        scenario
            .entities
            .retain(|entity| !entity_uid(entity).is_some_and(|uid| self.definitions.contains_key(&uid)));
        let mut referenced: Vec<EntityUid> = scenario.referenced();
        let mut added = BTreeMap::new();
        while let Some(uid) = referenced.pop() {
            let Some(definition) = self.definitions.get(&uid) else { continue };
            if added.contains_key(&uid.to_string()) {
                continue;
            }
            referenced.extend(parents(definition));
            // Policies read the attributes of the principal and the resource only.
            if scenario.request_uids().contains(&&uid) {
                definition
                    .get("attrs")
                    .into_iter()
                    .for_each(|attrs| collect_references(attrs, &mut referenced));
            }
            added.insert(uid.to_string(), definition.clone());
        }
        scenario.entities.extend(added.into_values());
        scenario
    }

    /// The scenario with readable ids for the entities of a type, except those that policies or data files name.
    fn rename(&self, scenario: &Scenario, kind: &EntityTypeName) -> Scenario {
        let is_fixed = |uid: &EntityUid| self.literals.contains(uid) || self.definitions.contains_key(uid);
        let mut uids: Vec<EntityUid> = scenario.request_uids().into_iter().cloned().collect();
        uids.extend(scenario.entities.iter().filter_map(entity_uid));
        uids.extend(scenario.referenced());
        uids.retain(|uid| uid.type_name() == kind);
        let taken: BTreeSet<String> =
            uids.iter().filter(|uid| is_fixed(uid)).map(|uid| uid.id().unescaped().to_owned()).collect();
        let mut names = HashMap::new();
        let mut number = 0_usize;
        for uid in uids.into_iter().filter(|uid| !is_fixed(uid)) {
            if names.contains_key(&uid) {
                continue;
            }
            let id = loop {
                number += 1;
                let id = format!("{}{number}", lower_camel_case(kind.basename()));
                if !taken.contains(&id) {
                    break id;
                }
            };
            names.insert(uid, EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id)));
        }
        scenario.renamed(&names)
    }
}

/// Something that a scenario may do without.
#[derive(Debug, Clone)]
enum Removal {
    Entity(EntityUid),
    Parent(EntityUid, EntityUid),
    /// An attribute or tag: the entity, `attrs` or `tags`, and the name.
    Field(EntityUid, &'static str, String),
    ContextField(String),
    ContextElement(String, Value),
}

impl Scenario {
    /// The types of all entities that occur in it.
    fn entity_types(&self) -> Vec<EntityTypeName> {
        let mut uids = self.referenced();
        uids.extend(self.entities.iter().filter_map(entity_uid));
        let types: BTreeMap<String, EntityTypeName> =
            uids.into_iter().map(|uid| (uid.type_name().to_string(), uid.type_name().clone())).collect();
        types.into_values().collect()
    }

    /// The principal, the resource and all entities to which the context and the entities refer.
    fn referenced(&self) -> Vec<EntityUid> {
        let mut found: Vec<EntityUid> = self.request_uids().into_iter().cloned().collect();
        self.context.values().for_each(|value| collect_references(value, &mut found));
        for entity in &self.entities {
            found.extend(parents(entity));
            for name in ["attrs", "tags"] {
                entity.get(name).into_iter().for_each(|fields| collect_references(fields, &mut found));
            }
        }
        found
    }

    /// What may be removed. The entities of the principal and the resource stay: without them their attributes would be
    /// missing, and policies would fail.
    fn removals(&self, definitions: &HashMap<EntityUid, Value>) -> Vec<Removal> {
        let mut removals = Vec::new();
        let uids = self.entities.iter().filter_map(|entity| Some((entity_uid(entity)?, entity)));
        let own: Vec<(EntityUid, &Value)> = uids.filter(|(uid, _)| !definitions.contains_key(uid)).collect();
        let needed = self.request_uids();
        removals.extend(
            own.iter().filter(|(uid, _)| !needed.contains(&uid)).map(|(uid, _)| Removal::Entity(uid.clone())),
        );
        for (uid, entity) in own {
            removals.extend(parents(entity).into_iter().map(|parent| Removal::Parent(uid.clone(), parent)));
            for kind in ["attrs", "tags"] {
                let fields = entity.get(kind).and_then(Value::as_object).into_iter().flat_map(Map::keys);
                removals.extend(fields.map(|name| Removal::Field(uid.clone(), kind, name.clone())));
            }
        }
        for (name, value) in &self.context {
            removals.push(Removal::ContextField(name.clone()));
            let elements = value.as_array().into_iter().flatten();
            removals.extend(elements.map(|element| Removal::ContextElement(name.clone(), element.clone())));
        }
        removals
    }

    /// The scenario without this; none if it has no such part.
    fn without(&self, removal: &Removal) -> Option<Self> {
        let mut smaller = self.clone();
        match removal {
            Removal::Entity(uid) => {
                smaller.entities.retain(|entity| entity_uid(entity).as_ref() != Some(uid));
            }
            Removal::Parent(uid, parent) => {
                let parents = smaller.entity_mut(uid)?.get_mut("parents")?.as_array_mut()?;
                parents.retain(|value| uid_from_json(value).as_ref() != Some(parent));
            }
            Removal::Field(uid, kind, name) => {
                smaller.entity_mut(uid)?.get_mut(*kind)?.as_object_mut()?.shift_remove(name)?;
            }
            Removal::ContextField(name) => {
                smaller.context.shift_remove(name)?;
            }
            Removal::ContextElement(name, element) => {
                smaller.context.get_mut(name)?.as_array_mut()?.retain(|value| value != element);
            }
        }
        Some(smaller)
    }

    fn entity_mut(&mut self, uid: &EntityUid) -> Option<&mut Value> {
        self.entities.iter_mut().find(|entity| entity_uid(entity).as_ref() == Some(uid))
    }

    fn renamed(&self, names: &HashMap<EntityUid, EntityUid>) -> Self {
        let new_uid = |uid: &EntityUid| names.get(uid).unwrap_or(uid).clone();
        let mut renamed = self.clone();
        renamed.principal = new_uid(&self.principal);
        renamed.resource = new_uid(&self.resource);
        renamed.context.values_mut().for_each(|value| rename_references(value, names));
        for entity in &mut renamed.entities {
            let Some(fields) = entity.as_object_mut() else { continue };
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("uid", uid) => rename_uid(uid, names),
                    ("parents", Value::Array(parents)) => {
                        parents.iter_mut().for_each(|parent| rename_uid(parent, names));
                    }
                    (_, value) => rename_references(value, names),
                }
            }
        }
        renamed
    }
}

/// The uid in `{"type": …, "id": …}`, which may be the value of `__entity`.
fn uid_from_json(value: &Value) -> Option<EntityUid> {
    let value = value.get("__entity").unwrap_or(value);
    let kind: EntityTypeName = value.get("type")?.as_str()?.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(value.get("id")?.as_str()?)))
}

fn entity_uid(entity: &Value) -> Option<EntityUid> {
    uid_from_json(entity.get("uid")?)
}

fn parents(entity: &Value) -> Vec<EntityUid> {
    let parents = entity.get("parents").and_then(Value::as_array).into_iter().flatten();
    parents.filter_map(uid_from_json).collect()
}

/// Collects the entities to which a value refers.
fn collect_references(value: &Value, found: &mut Vec<EntityUid>) {
    match value {
        Value::Object(fields) => match fields.get("__entity") {
            Some(uid) => found.extend(uid_from_json(uid)),
            None => fields.values().for_each(|value| collect_references(value, found)),
        },
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

fn rename_references(value: &mut Value, names: &HashMap<EntityUid, EntityUid>) {
    match value {
        Value::Object(fields) => match fields.get_mut("__entity") {
            Some(uid) => rename_uid(uid, names),
            None => fields.values_mut().for_each(|value| rename_references(value, names)),
        },
        Value::Array(items) => items.iter_mut().for_each(|value| rename_references(value, names)),
        _ => {}
    }
}

/// Replaces a uid in the form of [`uid_from_json`].
fn rename_uid(value: &mut Value, names: &HashMap<EntityUid, EntityUid>) {
    let Some(name) = uid_from_json(value).and_then(|uid| names.get(&uid)) else { return };
    let renamed = json!({ "type": name.type_name().to_string(), "id": name.id().unescaped() });
    match value.get_mut("__entity") {
        Some(inner) => *inner = renamed,
        None => *value = renamed,
    }
}

fn lower_camel_case(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    const SCHEMA: &str = "entity Scope in [Scope]; entity Org in [Org]; \
        entity User in [Scope, Org] = { org: Org, name?: String }; \
        action read appliesTo { principal: User, resource: User, context: { changes?: Set<String>, ip?: String } };";

    const CASCADE: &str = r#"[
        {"uid": {"type": "Scope", "id": "admin"}, "attrs": {}, "parents": [{"type": "Scope", "id": "guest"}]},
        {"uid": {"type": "Scope", "id": "guest"}, "attrs": {}, "parents": []}]"#;

    /// What a solver found: an admin with all attributes and ids that mean nothing.
    fn scenario() -> Scenario {
        let reference = |kind: &str, id: &str| json!({ "__entity": { "type": kind, "id": id } });
        let user = |id: &str, parents: Value| {
            json!({
                "uid": { "type": "User", "id": id },
                "attrs": { "org": reference("Org", ""), "name": "\u{1}" },
                "parents": parents,
            })
        };
        let all = json!([{ "type": "Scope", "id": "admin" }, { "type": "Scope", "id": "guest" }, { "type": "Org", "id": "" }]);
        Scenario {
            principal: EntityUid::from_str(r#"User::"""#).unwrap(),
            action: EntityUid::from_str(r#"Action::"read""#).unwrap(),
            resource: EntityUid::from_str(r#"User::"A""#).unwrap(),
            context: json!({ "changes": ["", "role"], "ip": "" }).as_object().unwrap().clone(),
            entities: vec![
                user("", all),
                user("A", json!([])),
                json!({ "uid": { "type": "Org", "id": "" }, "attrs": {}, "parents": [{ "type": "Org", "id": "B" }] }),
                json!({ "uid": { "type": "Org", "id": "B" }, "attrs": {}, "parents": [] }),
                json!({ "uid": { "type": "Scope", "id": "admin" }, "attrs": {}, "parents": [{ "type": "Scope", "id": "guest" }] }),
                json!({ "uid": { "type": "Scope", "id": "guest" }, "attrs": {}, "parents": [] }),
            ],
        }
    }

    fn simplified(policies: &str) -> (Scenario, Value) {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let data = Entities::from_json_str(CASCADE, None).unwrap();
        let data: Vec<Entity> = data.iter().cloned().collect();
        let policies: PolicySet = policies.parse().unwrap();
        let holds =
            |request: &Request, entities: &Entities| Outcome::of(request, &policies, entities).allowed;
        let simple = Simplifier::new(&schema, &data, policies.policies()).simplify(scenario(), holds);
        let test = simple.to_policy_test("found", &policies, &schema).unwrap();
        (simple, serde_json::to_value(test).unwrap())
    }

    #[test]
    fn only_what_the_decision_needs_remains_under_readable_names() {
        let (_, test) = simplified(
            r#"permit (principal in Scope::"guest", action, resource)
               when { context has changes && context.changes.contains("role") };"#,
        );
        let organization = json!({ "__entity": { "type": "Org", "id": "org1" } });
        let expected = json!({
            "name": "found",
            "request": {
                "principal": r#"User::"user1""#,
                "action": r#"Action::"read""#,
                "resource": r#"User::"user2""#,
                "context": { "changes": ["role"] },
            },
            "entities": [
                { "uid": { "type": "Scope", "id": "guest" }, "attrs": {}, "parents": [] },
                { "uid": { "type": "User", "id": "user2" }, "attrs": { "org": organization }, "parents": [] },
                {
                    "uid": { "type": "User", "id": "user1" },
                    "attrs": { "org": organization },
                    "parents": [{ "type": "Scope", "id": "guest" }],
                },
            ],
            "decision": "allow",
            "reason": ["policy0"],
            "num_errors": 0,
        });
        assert_eq!(test, expected);
    }

    #[test]
    fn entities_of_the_data_files_keep_their_ancestors() {
        let (simple, test) = simplified(
            r#"permit (principal in Scope::"admin", action, resource) when { principal in Scope::"guest" };"#,
        );
        assert_eq!(test["decision"], "allow");
        let principal = simple.entities.iter().find(|entity| entity["uid"]["id"] == "user1").unwrap();
        assert_eq!(principal["parents"], json!([{ "type": "Scope", "id": "admin" }]));
        assert!(simple.entities.contains(
            &json!({ "uid": { "type": "Scope", "id": "admin" }, "attrs": {}, "parents": [{ "type": "Scope", "id": "guest" }] })
        ));
    }

    #[test]
    fn a_scenario_that_the_data_contradicts_is_shown_as_it_was_found() {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let data = Entities::from_json_str(CASCADE, None).unwrap();
        let data: Vec<Entity> = data.iter().cloned().collect();
        let mut found = scenario();
        // An admin that is no guest.
        found.entities[4]["parents"] = json!([]);
        found.entities[0]["parents"] = json!([{ "type": "Scope", "id": "admin" }]);
        let policies: PolicySet = r#"permit (principal in Scope::"admin", action, resource)
                                     unless { principal in Scope::"guest" };"#
            .parse()
            .unwrap();
        let holds =
            |request: &Request, entities: &Entities| Outcome::of(request, &policies, entities).allowed;
        let simplifier = Simplifier::new(&schema, &data, policies.policies());
        assert_eq!(simplifier.simplify(found.clone(), holds), found);
    }
}
