//! Entities and values in Cedar's JSON format, for the decision log.

use super::attribute::{Attribute, Attributes};
use super::entity_uid::SCOPE;
use super::scope::{Scope, ScopeSet};
use crate::decision_log::Subject;
use crate::types::to_raw_json;
use cedar_policy::{Entity, EntityUid};
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
    /// Type, id, effective scopes and those of the credential, in ascending order.
    pub(super) subject: Box<RawValue>,
    /// The entity with its attributes and parents.
    pub(super) entity: Box<RawValue>,
}

impl PrincipalJson {
    /// The JSON of a principal with these effective scopes and those of its credential, in ascending order.
    pub(super) fn new(
        uid: Option<&EntityUid>,
        scopes: &[Scope],
        claimed: Option<&ScopeSet>,
        entity: Option<&Entity>,
    ) -> Self {
        let kind = uid.map(|uid| uid.type_name().to_string()).unwrap_or_default();
        let id = uid.map(|uid| uid.id().unescaped().to_owned()).unwrap_or_default();
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let claimed: Vec<&str> = claimed.into_iter().flat_map(ScopeSet::iter).map(Scope::as_str).collect();
        let subject = to_raw_json(&Subject { kind: &kind, id: &id, scopes: &scopes, claimed: &claimed });
        let entity = EntityJson::default().get_or_serialize(entity).to_owned();
        Self { kind, id, subject, entity }
    }
}

/// A reference to an entity.
#[derive(Serialize)]
pub(super) struct EntityUidJson<'a, I> {
    pub(super) r#type: &'a str,
    pub(super) id: I,
}

/// An entity reference as an attribute value.
#[derive(Serialize)]
pub(super) struct EntityReferenceJson<'a, I> {
    __entity: EntityUidJson<'a, I>,
}

pub(super) fn reference<I>(kind: &str, id: I) -> EntityReferenceJson<'_, I> {
    EntityReferenceJson { __entity: EntityUidJson { r#type: kind, id } }
}

/// An extension value, as a call of its constructor.
#[derive(Serialize)]
pub(super) struct ExtensionJson<I> {
    __extn: ExtensionCallJson<I>,
}

#[derive(Serialize)]
pub(super) struct ExtensionCallJson<I> {
    r#fn: &'static str,
    arg: I,
}

pub(super) fn extension<I>(name: &'static str, arg: I) -> ExtensionJson<I> {
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
            Self::Enum(kind, id) => reference(kind, id).serialize(serializer),
        }
    }
}

/// Attributes as a JSON object.
pub(super) struct AttributesJson<'a>(pub(super) &'a Attributes);

impl Serialize for AttributesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
