//! Entities and circumstances as Cedar's JSON has them, for whoever reads the decision log.

use super::circumstances::Circumstances;
use super::facts::{Attribute, Attributes, ORGANIZATION, Own, Principal, SCOPE};
use super::scope::Scope;
use crate::decision_log::Subject;
use crate::values::raw;
use cedar_policy_core::ast::Entity;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

/// The text of an entity, made when it is first wanted. Its copies share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Text(Arc<OnceLock<Box<RawValue>>>);

impl Text {
    /// The text; `null` where there is no entity.
    pub(super) fn of(&self, entity: Option<&Entity>) -> &RawValue {
        self.0.get_or_init(|| {
            let form = entity.map(|entity| cedar_policy::Entity::from(entity.clone()));
            let form = form.and_then(|entity| entity.to_json_value().ok());
            raw(&form)
        })
    }
}

/// A principal in words.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) kind: String,
    pub(super) id: String,
    /// With its scopes, in ascending order.
    pub(super) subject: Box<RawValue>,
    pub(super) entity: Box<RawValue>,
}

impl Shown {
    pub(super) fn of(principal: &Principal) -> Self {
        let has = |scope: &Scope| principal.has(*scope);
        let uid = principal.uid.as_ref();
        let kind = uid.map(|uid| uid.type_name().to_string()).unwrap_or_default();
        let id = uid.map(|uid| uid.id().unescaped().to_owned()).unwrap_or_default();
        let scopes: Vec<&str> = Scope::ALL.into_iter().filter(has).map(Scope::as_str).collect();
        let subject = raw(&Subject { kind: &kind, id: &id, scopes: &scopes });
        let entity = Text::default().of(principal.entity.as_deref()).to_owned();
        Self { kind, id, subject, entity }
    }
}

/// A reference to an entity.
#[derive(Serialize)]
struct Uid<'a, I> {
    r#type: &'a str,
    id: I,
}

/// A reference as the value of an attribute.
#[derive(Serialize)]
struct Reference<'a, I> {
    __entity: Uid<'a, I>,
}

fn reference<I>(kind: &str, id: I) -> Reference<'_, I> {
    Reference { __entity: Uid { r#type: kind, id } }
}

/// A call of an extension function as a value.
#[derive(Serialize)]
struct Extension<I> {
    __extn: Call<I>,
}

#[derive(Serialize)]
struct Call<I> {
    r#fn: &'static str,
    arg: I,
}

fn extension<I>(name: &'static str, arg: I) -> Extension<I> {
    Extension { __extn: Call { r#fn: name, arg } }
}

impl Serialize for Attribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Long(value) => serializer.serialize_i64(*value),
            Self::Thing(kind, id) => reference(kind, id).serialize(serializer),
            Self::Scope(scope) => reference(SCOPE, scope.as_str()).serialize(serializer),
        }
    }
}

/// Attributes as the fields of an object.
struct Fields<'a>(&'a Attributes);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The organizations above a thing.
struct Above<'a>(&'a Own);

impl Serialize for Above<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_itself = self.0.kind == ORGANIZATION;
        let mut above = serializer.serialize_seq(None)?;
        if let Some(path) = &self.0.path {
            for id in path.ids().filter(|id| !(is_itself && *id == path.own())) {
                above.serialize_element(&Uid { r#type: ORGANIZATION, id })?;
            }
        }
        above.end()
    }
}

impl Serialize for Own {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entity = serializer.serialize_map(Some(3))?;
        entity.serialize_entry("uid", &Uid { r#type: &self.kind, id: &self.id })?;
        entity.serialize_entry("attrs", &Fields(&self.attributes))?;
        entity.serialize_entry("parents", &Above(self))?;
        entity.end()
    }
}

impl Circumstances {
    /// Gives them in words. Many decisions that are made one after the other are made in the same ones, and nothing is kept
    /// of what is said.
    pub(super) fn as_words<T>(&self, to: impl FnOnce(&RawValue) -> T) -> T {
        thread_local! {
            static LAST: RefCell<Option<(Circumstances, Box<RawValue>)>> = const { RefCell::new(None) };
        }
        if !self.said.is_empty() {
            return to(&raw(self));
        }
        LAST.with_borrow_mut(|last| {
            if last.as_ref().is_none_or(|(circumstances, _)| circumstances != self) {
                *last = None;
            }
            let (_, words) = last.get_or_insert_with(|| (self.clone(), raw(self)));
            to(words)
        })
    }
}

/// As a context: what is said of the call, and before that what the service itself knows.
impl Serialize for Circumstances {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut context = serializer.serialize_map(None)?;
        for (name, value) in self.said.iter().filter(|(name, _)| !self.knows(name)) {
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
            now.as_text(|now| context.serialize_entry("now", &extension("datetime", now)))?;
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
