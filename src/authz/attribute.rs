//! The attributes of entities, and the trait of the resources that have them.

use super::Scope;
use super::entity_uid::{ORGANIZATION, SCOPE, scope_uid, uid};
use super::read_set::ORGANIZATION_ATTRIBUTE;
use crate::types::{Email, Id, Label, UserStatus};
use cedar_policy::RestrictedExpression;
use std::borrow::Cow;
use std::fmt::Display;
use std::marker::PhantomData;

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
    /// An entity of an enumerated type, by type and id.
    Enum(&'static str, &'static str),
}

/// The type of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeType {
    /// A string.
    Text,
    /// A boolean.
    Bool,
    /// An integer.
    Long,
    /// An entity of this type.
    Entity(&'static str),
    /// An entity of this enumerated type, which has these ids.
    Enum(&'static str, &'static [&'static str]),
}

/// An attribute that entities of a stored type can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuppliedAttribute {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub value: AttributeType,
}

/// A value that can be an attribute.
pub trait AttributeValue {
    /// The type of the attribute.
    const TYPE: AttributeType;

    /// The attribute; none if the entity does not have it.
    fn attribute(self) -> Option<Attribute>;
}

impl<T: AttributeValue> AttributeValue for Option<T> {
    const TYPE: AttributeType = T::TYPE;

    fn attribute(self) -> Option<Attribute> {
        self.and_then(T::attribute)
    }
}

/// Implements [`AttributeValue`] for a type: its attribute type, and the attribute of a value.
macro_rules! attribute_value {
    ($type:ty, $kind:expr, $attribute:expr) => {
        impl AttributeValue for $type {
            const TYPE: AttributeType = $kind;

            fn attribute(self) -> Option<Attribute> {
                let attribute: fn(Self) -> Attribute = $attribute;
                Some(attribute(self))
            }
        }
    };
}

attribute_value!(&Label, AttributeType::Text, text);
attribute_value!(&Email, AttributeType::Text, text);
attribute_value!(bool, AttributeType::Bool, boolean);
attribute_value!(i64, AttributeType::Long, Attribute::Long);
attribute_value!(Scope, AttributeType::Entity(SCOPE), Attribute::Scope);
attribute_value!(OrganizationRef, AttributeType::Entity(ORGANIZATION), |organization| {
    Attribute::EntityRef(ORGANIZATION.into(), organization.0)
});

/// A reference to an organization.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrganizationRef(pub(super) Id);

/// A reference to a resource of the type `T`.
#[derive(Debug)]
pub struct ResourceRef<T>(Id, PhantomData<fn() -> T>);

/// A reference to the resource of the type `T` with this id.
pub fn entity<T: AuthzResource>(id: Id) -> ResourceRef<T> {
    ResourceRef(id, PhantomData)
}

impl<T: AuthzResource> AttributeValue for ResourceRef<T> {
    const TYPE: AttributeType = AttributeType::Entity(T::TYPE);

    fn attribute(self) -> Option<Attribute> {
        Some(Attribute::EntityRef(T::TYPE.into(), self.0))
    }
}

/// Makes the values of a string enum entities of the enumerated type with the name of the enum.
macro_rules! enum_attribute {
    ($type:ident) => {
        impl $crate::authz::AttributeValue for $type {
            const TYPE: $crate::authz::AttributeType =
                $crate::authz::AttributeType::Enum(stringify!($type), Self::VALUES);

            fn attribute(self) -> Option<$crate::authz::Attribute> {
                Some($crate::authz::Attribute::Enum(stringify!($type), self.as_str()))
            }
        }
    };
}
pub(crate) use enum_attribute;

enum_attribute!(UserStatus);

/// Declares the attributes of a type, with the names and types that its schema has: a constant that lists them, and the
/// function that builds them.
macro_rules! supplied_attributes {
    ($(#[doc = $doc:literal])* $constant:ident = fn $function:ident($($name:literal $value:ident: $type:ty),+ $(,)?)) => {
        $(#[doc = $doc])*
        pub(crate) const $constant: &[$crate::authz::SuppliedAttribute] = &[$(
            $crate::authz::SuppliedAttribute {
                name: $name,
                value: <$type as $crate::authz::AttributeValue>::TYPE,
            }
        ),+];

        $(#[doc = $doc])*
        fn $function($($value: $type),+) -> Vec<(&'static str, $crate::authz::Attribute)> {
            let attributes = [$(($name, $crate::authz::AttributeValue::attribute($value))),+];
            attributes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
        }
    };
}
pub(crate) use supplied_attributes;

supplied_attributes!(
    /// The attributes of a user besides its organization.
    USER_ATTRIBUTES = fn user_attributes("role" role: Scope, "status" status: UserStatus, "email" email: Option<&Email>)
);

/// The attributes of an entity, by name.
pub(super) type Attributes = Vec<(Cow<'static, str>, Attribute)>;

/// A resource that policies can refer to.
pub trait AuthzResource {
    /// Its Cedar entity type.
    const TYPE: &'static str;

    /// The attributes that [`AuthzResource::attributes`] can return.
    const ATTRIBUTES: &'static [SuppliedAttribute] = &[];

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

impl Attribute {
    pub(super) fn expression(&self) -> Option<RestrictedExpression> {
        Some(match self {
            Self::Text(text) => RestrictedExpression::new_string(text.clone()),
            Self::Bool(value) => RestrictedExpression::new_bool(*value),
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::EntityRef(kind, id) => RestrictedExpression::new_entity_uid(uid(kind, &id.to_string())?),
            Self::Scope(scope) => RestrictedExpression::new_entity_uid(scope_uid(*scope)?),
            Self::Enum(kind, id) => RestrictedExpression::new_entity_uid(uid(kind, id)?),
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
        let mut attributes = user_attributes(self.role, self.status, self.email);
        attributes
            .push((ORGANIZATION_ATTRIBUTE, Attribute::EntityRef(ORGANIZATION.into(), self.organization)));
        attributes
    }
}
