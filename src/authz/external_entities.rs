//! Entities of external domains: those of the data files, merged with the properties of a question.

use super::bundle::Bundle;
use super::entities::ExternalEntity;
use super::entity_json::EntityJson;
use super::entity_uid::uid;
use super::invalid_attribute::InvalidAttribute;
use super::schema_type::SchemaType;
use crate::types::Fingerprint;
use cedar_policy::{Entities, Entity, EntityTypeName, EntityUid, Schema};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

/// The entities of the data files, and the declared attributes of every entity type.
#[derive(Debug)]
pub struct ExternalEntities {
    schema: Schema,
    /// The entities with all of their ancestors, and their JSON.
    entities: HashMap<EntityUid, (Arc<Entity>, EntityJson)>,
    /// The entities of the data, for their hierarchy.
    data: Entities,
    ids: BTreeMap<String, BTreeSet<String>>,
    entity_types: BTreeMap<String, SchemaType>,
    /// The types of ancestors that the data do not define, since they are stored in the database.
    pub(super) stored_ancestor_types: HashSet<EntityTypeName>,
}

impl ExternalEntities {
    /// Collects the entities of `data`, whose transitive closure is computed, and the `actions`, which a context may refer to.
    pub(super) fn new(bundle: &Bundle, data: &Entities, actions: &Entities) -> Self {
        let mut entities = HashMap::new();
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut stored_ancestor_types = HashSet::new();
        for entity in data.iter() {
            let uid = entity.uid();
            let stored =
                data.ancestors(&uid).into_iter().flatten().filter(|ancestor| data.get(ancestor).is_none());
            stored_ancestor_types.extend(stored.map(|ancestor| ancestor.type_name().clone()));
            ids.entry(uid.type_name().to_string()).or_default().insert(uid.id().unescaped().to_owned());
            entities.insert(uid, (Arc::new(entity.clone()), EntityJson::default()));
        }
        for action in actions.iter() {
            entities.insert(action.uid(), (Arc::new(action.clone()), EntityJson::default()));
        }
        Self {
            schema: bundle.schema.clone(),
            entities,
            data: data.clone(),
            ids,
            entity_types: bundle.entity_types.clone(),
            stored_ancestor_types,
        }
    }

    /// The entity with this uid.
    pub(super) fn entity(&self, uid: &EntityUid) -> Option<Arc<Entity>> {
        self.entities.get(uid).map(|(entity, _)| Arc::clone(entity))
    }

    /// The ancestors of an entity of the data.
    pub(super) fn ancestors_of(&self, uid: &EntityUid) -> impl Iterator<Item = &EntityUid> {
        self.data.ancestors(uid).into_iter().flatten()
    }

    /// The entities of the data that have this ancestor.
    pub(super) fn descendants_of(&self, ancestor: &EntityUid) -> impl Iterator<Item = EntityUid> {
        self.data.iter().map(Entity::uid).filter(|uid| self.data.is_ancestor_of(ancestor, uid))
    }

    /// Whether the schema has this entity type.
    pub fn has_type(&self, kind: &str) -> bool {
        self.entity_types.contains_key(kind)
    }

    /// Whether the data has an entity of this type with this id.
    pub fn is_listed(&self, kind: &str, id: &str) -> bool {
        self.ids.get(kind).is_some_and(|ids| ids.contains(id))
    }

    /// Whether the data has this attribute of an entity.
    pub(super) fn has_attribute(&self, kind: &str, id: &str, name: &str) -> bool {
        let entity = uid(kind, id).and_then(|uid| self.entity(&uid));
        entity.is_some_and(|entity| entity.attr(name).is_some())
    }

    /// The ids of the entities of a type in ascending order, those after `after` if it is given.
    pub fn ids(&self, kind: &str, after: Option<&str>) -> impl Iterator<Item = &str> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.ids.get(kind).into_iter();
        ids.flat_map(move |ids| ids.range::<str, _>((from, Bound::Unbounded))).map(String::as_str)
    }

    /// The entity of this type with this id.
    ///
    /// Its attributes are those of the data files, and those `properties` that the data does not have (see "Stored data take
    /// precedence" in docs/decisions.md). Undeclared properties are ignored.
    ///
    /// # Errors
    /// The type is unknown, or a property violates its declaration.
    pub fn resolve(
        &self,
        kind: &str,
        id: &str,
        properties: &Map<String, Value>,
    ) -> Result<ExternalEntity, ExternalError> {
        let unknown = || ExternalError::UnknownType(kind.to_owned());
        let entity_type = self.entity_types.get(kind).ok_or_else(unknown)?;
        let uid = uid(kind, id).ok_or_else(unknown)?;
        let stored = self.entities.get(&uid);
        let mut given = entity_type.project(properties);
        if let Some((entity, _)) = stored {
            given.retain(|name, _| entity.attr(name).is_none());
        }
        if given.is_empty() {
            let fingerprint = Fingerprint::of(&(kind, id));
            let (entity, json) =
                stored.cloned().map(|(entity, json)| (Some(entity), json)).unwrap_or_default();
            return Ok(ExternalEntity { kind: kind.to_owned(), uid, entity, json, fingerprint });
        }
        let fingerprint = Fingerprint::of(&(kind, id, serde_json::to_string(&given).unwrap_or_default()));
        let stored = stored.map(|(entity, _)| &**entity);
        let entity = Arc::new(self.merge_properties(&uid, stored, given, entity_type)?);
        Ok(ExternalEntity {
            kind: kind.to_owned(),
            uid,
            entity: Some(entity),
            json: EntityJson::default(),
            fingerprint,
        })
    }

    /// The stored entity with `given` as additional attributes.
    fn merge_properties(
        &self,
        uid: &EntityUid,
        stored: Option<&Entity>,
        given: Map<String, Value>,
        entity_type: &SchemaType,
    ) -> Result<Entity, ExternalError> {
        let to_json = |entity: &Entity| {
            entity.to_json_value().map_err(|error| ExternalError::Failed(error.to_string()))
        };
        let stored = stored.map(to_json).transpose()?.unwrap_or_default();
        let fields = |name: &str| stored.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut attributes, tags) = (fields("attrs"), fields("tags"));
        attributes.extend(given.clone());
        let name = json!({ "type": uid.type_name().to_string(), "id": uid.id().unescaped() });
        let parents = stored.get("parents").cloned().unwrap_or_else(|| json!([]));
        let merged = json!({ "uid": name, "attrs": attributes, "tags": tags, "parents": parents });
        Entity::from_json_value(merged, Some(&self.schema)).map_err(|error| {
            let other = || ExternalError::Failed(format!("properties of {uid}: {}", error_chain(&error)));
            let invalid =
                entity_type.first_invalid(&given).or_else(|| entity_type.first_missing(&attributes));
            invalid.map_or_else(other, ExternalError::Attribute)
        })
    }

    /// The entities that values of a context refer to, since policies may read their attributes.
    pub(super) fn referenced_in<'a>(&self, context: impl Iterator<Item = &'a Value>) -> Vec<Arc<Entity>> {
        let mut found = BTreeMap::new();
        context.for_each(|value| self.collect_entities(value, &mut found));
        found.into_values().collect()
    }

    fn collect_entities(&self, value: &Value, found: &mut BTreeMap<EntityUid, Arc<Entity>>) {
        match value {
            Value::Object(fields) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                if let (Some(kind), Some(id)) = (text("type"), text("id")) {
                    let uid = uid(kind, id);
                    if let Some((uid, entity)) =
                        uid.and_then(|uid| self.entity(&uid).map(|entity| (uid, entity)))
                    {
                        found.insert(uid, entity);
                    }
                }
                fields.values().for_each(|value| self.collect_entities(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| self.collect_entities(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Why a question about an external entity cannot be evaluated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExternalError {
    /// The schema has no such entity type.
    #[error("{0:?} is not an entity type of the schema")]
    UnknownType(String),
    /// A property violates the declaration of its attribute.
    #[error("{0}")]
    Attribute(InvalidAttribute),
    /// Another error of Cedar.
    #[error("{0}")]
    Failed(String),
}

/// The message of an error followed by those of its causes.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}
