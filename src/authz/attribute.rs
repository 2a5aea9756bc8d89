//! The attributes of entities, and the trait of the resources that have them.

use super::Scope;
use super::entity_uid::{ORGANIZATION, scope_uid, uid};
use crate::types::{Email, Id, UserStatus};
use cedar_policy::RestrictedExpression;
use std::borrow::Cow;
use std::fmt::Display;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// A string.
    Text(String),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Long(i64),
    /// A reference to an entity, by type and id.
    EntityRef(Cow<'static, str>, Id),
    /// A reference to a scope entity.
    Scope(Scope),
}

/// The attributes of an entity, by name.
pub(super) type Attributes = Vec<(Cow<'static, str>, Attribute)>;

/// A resource that policies can refer to.
pub trait AuthzResource {
    /// Its Cedar entity type.
    const TYPE: &'static str;

    /// Its id.
    fn id(&self) -> Id;

    /// Its attributes as the schema declares them, without `organization`, which is added from the path of its organization.
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        Vec::new()
    }

    /// The role of a user, existing or new; none for other resources. Policies read it as `context.role`.
    fn granted_role(&self) -> Option<Scope> {
        None
    }
}

/// A string attribute.
pub fn text(value: impl Display) -> Attribute {
    Attribute::Text(value.to_string())
}

/// A boolean attribute.
pub fn boolean(value: bool) -> Attribute {
    Attribute::Bool(value)
}

/// An attribute that refers to another resource.
pub fn entity<T: AuthzResource>(id: Id) -> Attribute {
    Attribute::EntityRef(T::TYPE.into(), id)
}

impl Attribute {
    pub(super) fn expression(&self) -> Option<RestrictedExpression> {
        Some(match self {
            Self::Text(text) => RestrictedExpression::new_string(text.clone()),
            Self::Bool(value) => RestrictedExpression::new_bool(*value),
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::EntityRef(kind, id) => RestrictedExpression::new_entity_uid(uid(kind, &id.to_string())?),
            Self::Scope(scope) => RestrictedExpression::new_entity_uid(scope_uid(*scope)?),
        })
    }
}

/// The attributes of a user, as principal or as resource.
#[derive(Debug, Clone, Copy)]
pub struct UserAttributes<'a> {
    /// Its organization.
    pub organization: Id,
    /// Its role.
    pub role: Scope,
    /// Its status.
    pub status: UserStatus,
    /// Its email address. None for the operator at the command line.
    pub email: Option<&'a Email>,
}

impl UserAttributes<'_> {
    /// Its attributes, as the schema declares them.
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = vec![
            ("organization", Attribute::EntityRef(ORGANIZATION.into(), self.organization)),
            ("role", Attribute::Scope(self.role)),
            ("status", text(self.status)),
        ];
        attributes.extend(self.email.map(|email| ("email", text(email))));
        attributes
    }
}
