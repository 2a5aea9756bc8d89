//! Entities and contexts in Cedar's JSON format, for the decision log.

use super::decision_context::DecisionContext;
use super::entities::{Attribute, Attributes, LocalEntity, ORGANIZATION, Principal, SCOPE};
use super::scope::Scope;
use crate::decision_log::Subject;
use crate::types::to_raw_json;
use cedar_policy::Entity;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::sync::{Arc, OnceLock};

/// The JSON of an entity, created on first use and shared by copies.
#[derive(Debug, Clone, Default)]
pub(super) struct EntityJson(Arc<OnceLock<Box<RawValue>>>);

impl EntityJson {
    /// The JSON of the entity; `null` without one.
    pub(super) fn get_or_serialize(&self, entity: Option<&Entity>) -> &RawValue {
        self.0.get_or_init(|| to_raw_json(&entity.and_then(|entity| entity.to_json_value().ok())))
    }
}

/// A principal as JSON.
#[derive(Debug)]
pub(super) struct PrincipalJson {
    pub(super) kind: String,
    pub(super) id: String,
    /// Type, id and scopes in ascending order.
    pub(super) subject: Box<RawValue>,
    /// The entity with its attributes and parents.
    pub(super) entity: Box<RawValue>,
}

impl PrincipalJson {
    pub(super) fn new(principal: &Principal) -> Self {
        let has = |scope: &Scope| principal.has_scope(*scope);
        let uid = principal.uid.as_ref();
        let kind = uid.map(|uid| uid.type_name().to_string()).unwrap_or_default();
        let id = uid.map(|uid| uid.id().unescaped().to_owned()).unwrap_or_default();
        let scopes: Vec<&str> = Scope::ALL.into_iter().filter(has).map(Scope::as_str).collect();
        let subject = to_raw_json(&Subject { kind: &kind, id: &id, scopes: &scopes });
        let entity = EntityJson::default().get_or_serialize(principal.entity.as_deref()).to_owned();
        Self { kind, id, subject, entity }
    }
}

/// A reference to an entity.
#[derive(Serialize)]
struct EntityUidJson<'a, I> {
    r#type: &'a str,
    id: I,
}

/// An entity reference as an attribute value.
#[derive(Serialize)]
struct EntityReferenceJson<'a, I> {
    __entity: EntityUidJson<'a, I>,
}

fn reference<I>(kind: &str, id: I) -> EntityReferenceJson<'_, I> {
    EntityReferenceJson { __entity: EntityUidJson { r#type: kind, id } }
}

/// An extension value, as a call of its constructor.
#[derive(Serialize)]
struct ExtensionJson<I> {
    __extn: ExtensionCallJson<I>,
}

#[derive(Serialize)]
struct ExtensionCallJson<I> {
    r#fn: &'static str,
    arg: I,
}

fn extension<I>(name: &'static str, arg: I) -> ExtensionJson<I> {
    ExtensionJson { __extn: ExtensionCallJson { r#fn: name, arg } }
}

impl Serialize for Attribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Long(value) => serializer.serialize_i64(*value),
            Self::EntityRef(kind, id) => reference(kind, id).serialize(serializer),
            Self::Scope(scope) => reference(SCOPE, scope.as_str()).serialize(serializer),
        }
    }
}

/// Attributes as a JSON object.
struct AttributesJson<'a>(&'a Attributes);

impl Serialize for AttributesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The organizations above a resource.
struct ParentsJson<'a>(&'a LocalEntity);

impl Serialize for ParentsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_organization = self.0.kind == ORGANIZATION;
        let mut parents = serializer.serialize_seq(None)?;
        if let Some(path) = &self.0.path {
            for id in path.ids().filter(|id| !(is_organization && *id == path.org_id())) {
                parents.serialize_element(&EntityUidJson { r#type: ORGANIZATION, id })?;
            }
        }
        parents.end()
    }
}

impl Serialize for LocalEntity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entity = serializer.serialize_map(Some(3))?;
        entity.serialize_entry("uid", &EntityUidJson { r#type: &self.kind, id: &self.id })?;
        entity.serialize_entry("attrs", &AttributesJson(&self.attributes))?;
        entity.serialize_entry("parents", &ParentsJson(self))?;
        entity.end()
    }
}

/// Serializes the context. A value that the service sets replaces a client value of the same name.
impl Serialize for DecisionContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut context = serializer.serialize_map(None)?;
        for (name, value) in self.client_context.iter().filter(|(name, _)| !self.is_set(name)) {
            context.serialize_entry(name, value)?;
        }
        if let Some(credential) = &self.credential {
            context.serialize_entry("credential", credential)?;
        }
        if let Some(provisioning) = self.provisioning {
            context.serialize_entry("provisioning", &provisioning)?;
        }
        if let Some(ip) = &self.ip {
            context.serialize_entry("ip", &extension("ip", ip))?;
        }
        if let Some(now) = self.now {
            context.serialize_entry("now", &extension("datetime", now.to_string()))?;
        }
        if let Some(changes) = &self.changes {
            context.serialize_entry("changes", changes)?;
        }
        for (name, scope) in [("scope", self.scope), ("role", self.role)] {
            if let Some(scope) = scope {
                context.serialize_entry(name, &reference(SCOPE, scope.as_str()))?;
            }
        }
        context.end()
    }
}
