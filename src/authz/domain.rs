//! The entities of external domains: what the data files say of them, and what a question adds to that.

use super::bundle::Bundle;
use super::facts::{Foreign, core, uid};
use super::shape::Shape;
use super::shown::Text;
use super::unfit::UnfitAttribute;
use crate::values::Fingerprint;
use cedar_policy::{Entities, EntityUid, Schema};
use cedar_policy_core::ast::Entity;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// The entities of other domains.
#[derive(Debug)]
pub struct Domain {
    schema: Schema,
    /// Each with all its ancestors.
    entities: HashMap<EntityUid, (Arc<Entity>, Text)>,
    ids: BTreeMap<String, BTreeSet<String>>,
    shapes: BTreeMap<String, Shape>,
}

impl Domain {
    /// The entities of `data`, which has been closed: each knows all its ancestors. A context may name `actions`, too.
    pub(super) fn new(bundle: &Bundle, data: &Entities, actions: &Entities) -> Self {
        let mut entities = HashMap::new();
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entity in data.iter() {
            let uid = entity.uid();
            ids.entry(uid.type_name().to_string()).or_default().insert(uid.id().unescaped().to_owned());
            entities.insert(uid, (Arc::new(entity.as_ref().clone()), Text::default()));
        }
        for action in actions.iter() {
            entities.insert(action.uid(), (Arc::new(action.as_ref().clone()), Text::default()));
        }
        Self { schema: bundle.schema.clone(), entities, ids, shapes: bundle.shapes.clone() }
    }

    pub(super) fn entity(&self, uid: &EntityUid) -> Option<Arc<Entity>> {
        self.entities.get(uid).map(|(entity, _)| Arc::clone(entity))
    }

    /// Whether the schema has this entity type.
    pub fn knows(&self, kind: &str) -> bool {
        self.shapes.contains_key(kind)
    }

    /// The ids of the entities of a type, in their order, from the first one or from the one behind `after` on.
    pub fn ids(&self, kind: &str, after: Option<&str>) -> impl Iterator<Item = &str> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.ids.get(kind).into_iter();
        ids.flat_map(move |ids| ids.range::<str, _>((from, Bound::Unbounded))).map(String::as_str)
    }

    /// The entity of this type with this id: what the data says of it, and of `properties` those attributes that the data
    /// does not have (decision 24). Properties that are not declared are left out.
    ///
    /// # Errors
    ///
    /// Where the type is unknown, or a property does not fit its declaration.
    pub fn find(
        &self,
        kind: &str,
        id: &str,
        properties: &Map<String, Value>,
    ) -> Result<Foreign, ExternalError> {
        let unknown = || ExternalError::UnknownType(kind.to_owned());
        let shape = self.shapes.get(kind).ok_or_else(unknown)?;
        let uid = uid(kind, id).ok_or_else(unknown)?;
        let known = self.entities.get(&uid);
        let mut said = shape.project(properties);
        if let Some((entity, _)) = known {
            said.retain(|name, _| entity.get(name).is_none());
        }
        if said.is_empty() {
            let fingerprint = Fingerprint::of(&(kind, id));
            let (entity, text) =
                known.cloned().map(|(entity, text)| (Some(entity), text)).unwrap_or_default();
            return Ok(Foreign { kind: kind.to_owned(), uid, entity, text, fingerprint });
        }
        let fingerprint = Fingerprint::of(&(kind, id, serde_json::to_string(&said).unwrap_or_default()));
        let entity = Arc::new(self.completed(&uid, known.map(|(entity, _)| entity), said, shape)?);
        Ok(Foreign { kind: kind.to_owned(), uid, entity: Some(entity), text: Text::default(), fingerprint })
    }

    /// The entity with these attributes besides those that the data has of it.
    fn completed(
        &self,
        uid: &EntityUid,
        known: Option<&Arc<Entity>>,
        said: Map<String, Value>,
        shape: &Shape,
    ) -> Result<Entity, ExternalError> {
        let form = known.map(json_form).transpose().map_err(ExternalError::Failed)?.unwrap_or_default();
        let fields = |name: &str| form.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut attributes, tags) = (fields("attrs"), fields("tags"));
        attributes.extend(said.clone());
        let name = json!({ "type": uid.type_name().to_string(), "id": uid.id().unescaped() });
        let form = json!({ "uid": name, "attrs": attributes, "tags": tags, "parents": [] });
        let parsed = cedar_policy::Entity::from_json_value(form, Some(&self.schema)).map_err(|error| {
            let other = || ExternalError::Failed(format!("the properties of {uid}: {}", with_causes(&error)));
            let unfit = shape.first_invalid(&said).or_else(|| shape.first_missing(&attributes));
            unfit.map_or_else(other, ExternalError::Attribute)
        })?;
        let ancestors = known.map(|entity| entity.ancestors().cloned().collect()).unwrap_or_default();
        let attributes = parsed.as_ref().attrs().map(|(name, value)| (name.clone(), value.clone()));
        let tags = parsed.as_ref().tags().map(|(name, value)| (name.clone(), value.clone()));
        Ok(Entity::new_with_attr_partial_value(core(uid), attributes, Default::default(), ancestors, tags))
    }

    /// The entities that a context names, since policies may read their attributes too.
    pub(super) fn named_in<'a>(&self, context: impl Iterator<Item = &'a Value>) -> Vec<Arc<Entity>> {
        let mut found = BTreeMap::new();
        context.for_each(|value| self.collect(value, &mut found));
        found.into_values().collect()
    }

    fn collect(&self, value: &Value, found: &mut BTreeMap<EntityUid, Arc<Entity>>) {
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
                fields.values().for_each(|value| self.collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| self.collect(value, found)),
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
    /// A property does not fit the declaration of its attribute.
    #[error("{0}")]
    Attribute(UnfitAttribute),
    /// Anything else that Cedar refuses.
    #[error("{0}")]
    Failed(String),
}

/// An entity in Cedar's JSON form.
fn json_form(entity: &Arc<Entity>) -> Result<Value, String> {
    let entity = cedar_policy::Entity::from(entity.as_ref().clone());
    entity.to_json_value().map_err(|error| error.to_string())
}

/// What an error says, and what it says of its causes.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
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
