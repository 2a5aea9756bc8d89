//! What Cedar learns of a caller, of a thing and of a call. The names here are those of the schema.

use super::{Scope, ScopeSet};
use crate::values::{Email, Id, OrgPath, Timestamp};
use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

pub(super) const USER: &str = "User";
pub(super) const SCOPE: &str = "Scope";
pub(super) const ORGANIZATION: &str = "Organization";

/// The attributes of an entity.
pub(super) type Attributes = Vec<(&'static str, RestrictedExpression)>;

/// A thing that policies speak of.
pub trait Thing {
    /// Its Cedar entity type.
    const TYPE: &'static str;

    /// Its id.
    fn id(&self) -> Id;

    /// Its attributes, as the schema declares them. Its place in the tree of organizations is not among them.
    fn attributes(&self) -> Vec<(&'static str, RestrictedExpression)> {
        Vec::new()
    }
}

/// A text attribute.
pub fn text(value: impl Display) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_string())
}

/// A truth attribute.
pub fn boolean(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

/// A whole number attribute.
pub fn integer(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

/// An attribute that names another thing.
pub fn entity<T: Thing>(id: Id) -> RestrictedExpression {
    reference(uid(T::TYPE, &id))
}

fn reference(uid: Option<EntityUid>) -> RestrictedExpression {
    // The types are constants of this program; a test asks about each of them.
    uid.map_or_else(|| RestrictedExpression::new_string(String::new()), RestrictedExpression::new_entity_uid)
}

/// The entity of this type with this id; none where the type is no name.
pub(super) fn uid(kind: &str, id: &impl Display) -> Option<EntityUid> {
    let kind = EntityTypeName::from_str(kind).ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(id.to_string())))
}

/// What policies may know of a user, whether it is the caller or the thing that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct UserFacts<'a> {
    /// Its organization.
    pub organization: Id,
    /// Its role.
    pub role: Scope,
    /// `active` or `blocked`.
    pub status: &'a str,
    /// Its address; whoever sits at the terminal has none.
    pub email: Option<&'a Email>,
}

impl UserFacts<'_> {
    /// Its attributes, as the schema declares them.
    pub fn attributes(&self) -> Vec<(&'static str, RestrictedExpression)> {
        let mut attributes = vec![
            ("organization", reference(uid(ORGANIZATION, &self.organization))),
            ("role", reference(uid(SCOPE, &self.role))),
            ("status", text(self.status)),
        ];
        attributes.extend(self.email.map(|email| ("email", text(email))));
        attributes
    }
}

/// Who is asked about: a user, with the scopes of the credential in hand.
#[derive(Debug, Clone)]
pub struct Principal {
    pub(super) uid: Option<EntityUid>,
    pub(super) organization: OrgPath,
    pub(super) attributes: Attributes,
    /// What its credential grants, the cascade applied.
    pub(super) scopes: HashSet<EntityUid>,
    /// The organizations that it stands in.
    pub(super) above: HashSet<EntityUid>,
}

impl Principal {
    /// A user that stands at `organization`. `scopes` are all that its credential grants, the cascade applied
    /// ([`super::Engine::effective`]).
    pub fn new(id: Id, organization: &OrgPath, user: UserFacts<'_>, scopes: Option<&ScopeSet>) -> Self {
        let scopes = scopes.into_iter().flat_map(ScopeSet::iter).filter_map(|scope| uid(SCOPE, &scope));
        let above = organization.ids().filter_map(|id| uid(ORGANIZATION, &id));
        Self {
            uid: uid(USER, &id),
            organization: organization.clone(),
            attributes: user.attributes(),
            scopes: scopes.collect(),
            above: above.collect(),
        }
    }
}

/// What Cedar must know of a thing that is asked about.
#[derive(Debug, Clone)]
pub struct Resourced {
    pub(super) uid: Option<EntityUid>,
    pub(super) attributes: Attributes,
    pub(super) parents: HashSet<EntityUid>,
}

impl Resourced {
    /// A thing held by the organization that stands at `path`. An organization stands there itself.
    pub(super) fn new(kind: &str, id: Id, mut attributes: Attributes, path: &OrgPath) -> Self {
        let own = uid(kind, &id);
        if kind == ORGANIZATION {
            attributes = organization_attributes(path);
        }
        let above =
            path.ids().filter_map(|id| uid(ORGANIZATION, &id)).filter(|above| Some(above) != own.as_ref());
        let parents = above.collect();
        Self { uid: own, attributes, parents }
    }

    /// An organization.
    pub fn organization(path: &OrgPath) -> Self {
        Self::new(ORGANIZATION, path.own(), Vec::new(), path)
    }

    /// A thing of type `kind` that does not exist, as it would be in an organization.
    pub(super) fn hypothetical(kind: &str, path: &OrgPath) -> Self {
        if kind == ORGANIZATION {
            return Self::organization(path);
        }
        Self::new(kind, Id::NONE, least_attributes(kind, path.own()), path)
    }

    /// A thing of type `kind` that stands nowhere, so that nobody has it within reach. `id` is what the caller calls it.
    pub fn nowhere(kind: &str, id: &str) -> Self {
        let own = uid(kind, &id);
        Self { uid: own, attributes: least_attributes(kind, Id::NONE), parents: HashSet::new() }
    }
}

/// The attributes that the schema requires of a thing of this type.
fn least_attributes(kind: &str, organization: Id) -> Attributes {
    if kind == USER {
        UserFacts { organization, role: Scope::Guest, status: "active", email: None }.attributes()
    } else {
        Vec::new()
    }
}

/// What policies may know of an organization: what its place in the tree tells.
fn organization_attributes(path: &OrgPath) -> Attributes {
    let parent = path.parent().map(|parent| ("parent", reference(uid(ORGANIZATION, &parent))));
    let level = integer(i64::try_from(path.level()).unwrap_or(i64::MAX));
    [("level", level)].into_iter().chain(parent).collect()
}

/// What a policy may read of a call: its context. What an action's context does not declare is left out.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// How the caller proved who it is: `password`, `apiKey` or `terminal`.
    pub credential: Option<String>,
    /// From where it calls.
    pub ip: Option<IpAddr>,
    /// When.
    pub now: Option<Timestamp>,
    /// The names of the fields that would get a new value.
    pub changes: Option<Vec<String>>,
    /// The scope that a key is wanted for.
    pub scope: Option<Scope>,
    /// What whoever asks says of the call, in Cedar's JSON form; what the service itself knows goes before it.
    pub said: Map<String, Value>,
}

impl Circumstances {
    /// What the service itself knows, by the names of the schema.
    pub(super) fn known(&self) -> Vec<(&'static str, RestrictedExpression)> {
        let changes =
            self.changes.as_ref().map(|changes| RestrictedExpression::new_set(changes.iter().map(text)));
        [
            ("credential", self.credential.as_ref().map(text)),
            ("ip", self.ip.map(|ip| RestrictedExpression::new_ip(ip.to_string()))),
            ("now", self.now.map(|now| RestrictedExpression::new_datetime(now.to_string()))),
            ("changes", changes),
            ("scope", self.scope.map(|scope| reference(uid(SCOPE, &scope)))),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}
