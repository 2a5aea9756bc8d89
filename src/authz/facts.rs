//! What Cedar learns of a caller and of a thing. The names here are those of the schema.

use super::reads::PLACE;
use super::shown::{Shown, Text};
use super::{Scope, ScopeSet};
use crate::decision_log;
use crate::values::{Email, Fingerprint, Id, OrgPath, raw};
use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use cedar_policy_core::ast::{Entity, EntityUID, PartialValue, Value as CedarValue};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, OnceLock};

pub(super) const USER: &str = "User";
pub(super) const SCOPE: &str = "Scope";
pub(super) const ORGANIZATION: &str = "Organization";

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A truth.
    Bool(bool),
    /// A whole number.
    Long(i64),
    /// Another thing, by type and id.
    Thing(&'static str, Id),
    /// A scope.
    Scope(Scope),
}

/// The attributes of an entity.
pub(super) type Attributes = Vec<(&'static str, Attribute)>;

/// A thing that policies speak of.
pub trait Thing {
    /// Its Cedar entity type.
    const TYPE: &'static str;

    /// Its id.
    fn id(&self) -> Id;

    /// Its attributes, as the schema declares them. `organization` is added from its place in the tree of organizations.
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        Vec::new()
    }

    /// The role that a user has or would have; none for other resources. Policies read it as `context.role`.
    fn granted_role(&self) -> Option<Scope> {
        None
    }
}

/// A text attribute.
pub fn text(value: impl Display) -> Attribute {
    Attribute::Text(value.to_string())
}

/// A truth attribute.
pub fn boolean(value: bool) -> Attribute {
    Attribute::Bool(value)
}

/// An attribute that names another thing.
pub fn entity<T: Thing>(id: Id) -> Attribute {
    Attribute::Thing(T::TYPE, id)
}

impl Attribute {
    fn value(&self) -> Option<CedarValue> {
        Some(match self {
            Self::Text(text) => text.as_str().into(),
            Self::Bool(value) => (*value).into(),
            Self::Long(value) => (*value).into(),
            Self::Thing(kind, id) => core(&uid(kind, &id.to_string())?).into(),
            Self::Scope(scope) => core(&uid(SCOPE, scope.as_str())?).into(),
        })
    }
}

/// The entity of this type with this id; none where the type is no name.
pub(super) fn uid(kind: &str, id: &str) -> Option<EntityUid> {
    Some(EntityUid::from_type_name_and_id(type_name(kind)?, EntityId::new(id)))
}

/// The name of a type, which takes Cedar longer to read than to decide by; none where it is none.
fn type_name(kind: &str) -> Option<EntityTypeName> {
    static READ: LazyLock<Cache<String, EntityTypeName>> = LazyLock::new(|| Cache::new(1_000));
    if let Some(known) = READ.get(kind) {
        return Some(known);
    }
    let name = EntityTypeName::from_str(kind).ok()?;
    READ.insert(kind.to_owned(), name.clone());
    Some(name)
}

pub(super) fn core(uid: &EntityUid) -> EntityUID {
    uid.as_ref().clone()
}

/// An entity with its ancestors, all of them, so that nothing has to be computed when it is asked about.
fn made<'a>(
    uid: EntityUID,
    attributes: impl IntoIterator<Item = &'a (&'static str, Attribute)>,
    ancestors: HashSet<EntityUID>,
) -> Option<Arc<Entity>> {
    let attributes: Option<Vec<_>> = attributes
        .into_iter()
        .map(|(name, value)| Some(((*name).into(), PartialValue::from(value.value()?))))
        .collect();
    Some(Arc::new(Entity::new_with_attr_partial_value(uid, attributes?, HashSet::new(), ancestors, [])))
}

/// These entities and those, all of whose ancestors are known.
pub(super) fn with(
    these: Entities,
    those: impl IntoIterator<Item = Arc<Entity>>,
) -> Result<Entities, String> {
    let known = TCComputation::AssumeAlreadyComputed;
    let all = these.add_entities(those, None::<&NoEntitiesSchema>, known, Extensions::all_available());
    all.map_err(|error| error.to_string())
}

fn above(path: &OrgPath) -> impl Iterator<Item = EntityUID> + '_ {
    static KIND: LazyLock<Option<EntityTypeName>> = LazyLock::new(|| type_name(ORGANIZATION));
    path.ids().filter_map(|id| {
        let id = id.as_text(|text| EntityId::new(text));
        Some(EntityUid::from_type_name_and_id(KIND.clone()?, id).into())
    })
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
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = vec![
            ("organization", Attribute::Thing(ORGANIZATION, self.organization)),
            ("role", Attribute::Scope(self.role)),
            ("status", text(self.status)),
        ];
        attributes.extend(self.email.map(|email| ("email", text(email))));
        attributes
    }
}

/// Who is asked about: a user with the scopes of the credential in hand, or somebody of another domain.
#[derive(Debug, Clone)]
pub struct Principal {
    pub(super) uid: Option<EntityUid>,
    /// None of somebody of another domain that nothing is known of.
    pub(super) entity: Option<Arc<Entity>>,
    /// That entity and no other, once that is wanted.
    entities: Arc<OnceLock<Entities>>,
    /// Where a user stands.
    pub(super) organization: Option<Arc<OrgPath>>,
    /// What a user's credential grants, the cascade applied.
    pub(super) scopes: Arc<HashSet<EntityUID>>,
    pub(super) fingerprint: Fingerprint,
    /// Of its type, scopes and place only.
    pub(super) place_print: Fingerprint,
    /// In words, once that is wanted.
    shown: Arc<OnceLock<Shown>>,
}

impl Principal {
    /// A user that stands at `organization`. `scopes` are all that its credential grants, the cascade applied
    /// ([`super::Engine::effective`]).
    pub fn new(id: Id, organization: &OrgPath, user: UserFacts<'_>, scopes: Option<&ScopeSet>) -> Self {
        let attributes = user.attributes();
        let fingerprint = Fingerprint::of(&(USER, id, &attributes, organization, scopes));
        let place_print = Fingerprint::of(&(USER, place(&attributes), organization, scopes));
        let scopes = scopes.into_iter().flat_map(ScopeSet::iter);
        let scopes: HashSet<EntityUID> =
            scopes.filter_map(|scope| uid(SCOPE, scope.as_str())).map(|uid| core(&uid)).collect();
        let uid = uid(USER, &id.to_string());
        let ancestors = scopes.iter().cloned().chain(above(organization)).collect();
        let entity = uid.as_ref().and_then(|uid| made(core(uid), &attributes, ancestors));
        let (organization, scopes) = (Some(Arc::new(organization.clone())), Arc::new(scopes));
        let (entities, shown) = Default::default();
        Self { uid, entity, entities, organization, scopes, fingerprint, place_print, shown }
    }

    /// Its entity and no other.
    pub(super) fn entities(&self) -> &Entities {
        // Only two of one name could not stand together.
        self.entities.get_or_init(|| with(Entities::new(), self.entity.clone()).unwrap_or_default())
    }

    /// Whether its credential grants this.
    pub(super) fn has(&self, scope: Scope) -> bool {
        uid(SCOPE, scope.as_str()).is_some_and(|uid| self.scopes.contains(uid.as_ref()))
    }

    /// What stands for all that Cedar knows of it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Its type and id.
    pub fn name(&self) -> (&str, &str) {
        let shown = self.shown();
        (&shown.kind, &shown.id)
    }

    /// In words.
    pub(super) fn shown(&self) -> &Shown {
        self.shown.get_or_init(|| Shown::of(self))
    }

    /// The same user with other scopes; none of somebody who has no scopes.
    pub fn with_scopes(&self, scopes: Option<&ScopeSet>) -> Option<Self> {
        let organization = self.organization.as_ref()?;
        let entity = self.entity.as_ref()?;
        let granted = scopes.into_iter().flat_map(ScopeSet::iter);
        let granted: HashSet<EntityUID> =
            granted.filter_map(|scope| uid(SCOPE, scope.as_str())).map(|uid| core(&uid)).collect();
        let attributes = entity.attrs().map(|(name, value)| (name.clone(), value.clone()));
        let ancestors = granted.iter().cloned().chain(above(organization)).collect();
        let entity = Entity::new_with_attr_partial_value(
            entity.uid().clone(),
            attributes,
            HashSet::new(),
            ancestors,
            [],
        );
        Some(Self {
            entity: Some(Arc::new(entity)),
            entities: Arc::default(),
            scopes: Arc::new(granted),
            fingerprint: Fingerprint::of(&(self.fingerprint, scopes)),
            place_print: Fingerprint::of(&(self.place_print, scopes)),
            shown: Arc::default(),
            ..self.clone()
        })
    }

    /// Somebody of another domain.
    pub fn foreign(foreign: Foreign) -> Self {
        Self {
            uid: Some(foreign.uid),
            entity: foreign.entity,
            entities: Arc::default(),
            organization: None,
            scopes: Arc::default(),
            fingerprint: foreign.fingerprint,
            place_print: foreign.fingerprint,
            shown: Arc::default(),
        }
    }
}

/// Somebody or something of another domain: what the data says of it, and what whoever asks says besides.
#[derive(Debug, Clone)]
pub struct Foreign {
    pub(super) kind: String,
    pub(super) uid: EntityUid,
    pub(super) entity: Option<Arc<Entity>>,
    pub(super) text: Text,
    pub(super) fingerprint: Fingerprint,
}

/// What Cedar must know of a thing that is asked about. Its copies share all but what stands for it.
#[derive(Debug, Clone)]
pub struct Resourced {
    known: Arc<Known>,
    pub(super) fingerprint: Fingerprint,
    /// Of its type and place only, where that is an organization above it.
    pub(super) place_print: Fingerprint,
}

#[derive(Debug)]
struct Known {
    body: Body,
    /// Its type and id in words, once that is wanted.
    named: OnceLock<Box<RawValue>>,
    /// The same of all that is known of it.
    shown: OnceLock<Box<RawValue>>,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    /// A thing of this service.
    Own(Own),
    /// A thing of another domain.
    Foreign(Foreign),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Own {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) attributes: Attributes,
    /// Where the organization stands that holds it; an organization itself. None of what stands nowhere.
    pub(super) path: Option<OrgPath>,
    /// Whether the resource is being created. Only then does a create action apply to its type.
    pub(super) is_new: bool,
}

impl Body {
    /// Its type and id.
    pub(super) fn name(&self) -> (&str, &str) {
        match self {
            Self::Own(own) => (&own.kind, &own.id),
            Self::Foreign(foreign) => (&foreign.kind, foreign.uid.id().unescaped()),
        }
    }
}

impl Own {
    /// The entity, with these ancestors besides the organizations above it, and with all of its attributes or only the one
    /// that says where it stands.
    pub(super) fn entity(
        &self,
        uid: &EntityUid,
        also: &HashSet<EntityUID>,
        is_whole: bool,
    ) -> Option<Arc<Entity>> {
        let own = core(uid);
        let above = self.path.iter().flat_map(above).filter(|above| *above != own);
        let ancestors = above.chain(also.iter().cloned()).collect();
        made(own, self.attributes.iter().filter(|(name, _)| is_whole || *name == PLACE), ancestors)
    }
}

impl Resourced {
    /// A thing held by the organization that stands at `path`. An organization stands there itself.
    pub(super) fn new(kind: &str, id: Id, attributes: Attributes, path: &OrgPath) -> Self {
        Self::local(kind, id, attributes, path, false)
    }

    /// The same of a resource that is being created.
    pub(super) fn created(kind: &str, id: Id, attributes: Attributes, path: &OrgPath) -> Self {
        Self::local(kind, id, attributes, path, true)
    }

    fn local(kind: &str, id: Id, mut attributes: Attributes, path: &OrgPath, is_new: bool) -> Self {
        if kind == ORGANIZATION {
            attributes = organization_attributes(path);
        }
        let path = Some(path.clone());
        Self::own(Own { kind: kind.to_owned(), id: id.to_string(), attributes, path, is_new })
    }

    fn own(mut own: Own) -> Self {
        if place(&own.attributes).is_none() {
            let holder = own.path.as_ref().map_or(Id::NONE, OrgPath::own);
            own.attributes.push((PLACE, Attribute::Thing(ORGANIZATION, holder)));
        }
        let fingerprint = Fingerprint::of(&own);
        let place_print = match place(&own.attributes) {
            _ if own.kind == ORGANIZATION => fingerprint,
            Some(Attribute::Thing(ORGANIZATION, _)) | None => {
                Fingerprint::of(&(&own.kind, place(&own.attributes), &own.path, own.is_new))
            }
            Some(_) => fingerprint,
        };
        Self { known: Known::of(Body::Own(own)), fingerprint, place_print }
    }

    pub(super) fn body(&self) -> &Body {
        &self.known.body
    }

    /// An organization.
    pub fn organization(path: &OrgPath) -> Self {
        Self::new(ORGANIZATION, path.own(), Vec::new(), path)
    }

    /// A user.
    pub fn user(id: Id, path: &OrgPath, facts: UserFacts<'_>) -> Self {
        Self::new(USER, id, facts.attributes(), path)
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
        let attributes = least_attributes(kind, Id::NONE);
        Self::own(Own { kind: kind.to_owned(), id: id.to_owned(), attributes, path: None, is_new: false })
    }

    /// Where the organization stands that holds it; an organization itself. None of what stands nowhere.
    pub fn place(&self) -> Option<&OrgPath> {
        match self.body() {
            Body::Own(own) => own.path.as_ref(),
            Body::Foreign(_) => None,
        }
    }

    /// Its type and id in words.
    pub(super) fn named(&self) -> &RawValue {
        self.known.named.get_or_init(|| {
            let (kind, id) = self.body().name();
            raw(&decision_log::Thing { kind, id })
        })
    }

    /// All that is known of it in words.
    pub(super) fn shown(&self) -> &RawValue {
        match self.body() {
            Body::Own(own) => self.known.shown.get_or_init(|| raw(own)),
            Body::Foreign(foreign) => foreign.text.of(foreign.entity.as_deref()),
        }
    }

    /// A thing of another domain.
    pub fn foreign(foreign: Foreign) -> Self {
        let fingerprint = foreign.fingerprint;
        Self { known: Known::of(Body::Foreign(foreign)), fingerprint, place_print: fingerprint }
    }
}

impl Known {
    fn of(body: Body) -> Arc<Self> {
        Arc::new(Self { body, named: OnceLock::new(), shown: OnceLock::new() })
    }
}

/// The organization that a thing names as its own.
fn place(attributes: &Attributes) -> Option<&Attribute> {
    attributes.iter().find(|(name, _)| *name == PLACE).map(|(_, value)| value)
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
    let parent = path.parent().map(|parent| ("parent", Attribute::Thing(ORGANIZATION, parent)));
    let level = Attribute::Long(i64::try_from(path.level()).unwrap_or(i64::MAX));
    let own = Attribute::Thing(ORGANIZATION, path.own());
    [(PLACE, own), ("level", level)].into_iter().chain(parent).collect()
}
