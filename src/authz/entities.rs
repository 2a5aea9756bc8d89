//! Principals and resources as Cedar entities, with the names of the schema.

use super::attribute::{Attribute, Attributes, OrganizationRef, UserAttributes, supplied_attributes};
use super::entity_json::{AttributesJson, EntityJson, EntityUidJson, PrincipalJson};
use super::entity_uid::{ORGANIZATION, SCOPE, USER, scope_uid, type_name, uid};
use super::read_set::ORGANIZATION_ATTRIBUTE;
use super::schema_type::SchemaType;
use super::{Scope, ScopeSet};
use crate::decision_log;
use crate::types::{Fingerprint, Id, OrgPath, to_raw_json};
use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, OnceLock};

/// An entity with all of its ancestors as parents. None if an attribute is invalid.
fn build_entity<'a>(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = &'a (Cow<'static, str>, Attribute)>,
    ancestors: impl IntoIterator<Item = EntityUid>,
) -> Option<Arc<Entity>> {
    let attributes: Option<Vec<_>> = attributes
        .into_iter()
        .map(|(name, value)| Some((name.clone().into_owned(), value.expression()?)))
        .collect();
    Entity::new_with_tags(uid, attributes?, ancestors, []).ok().map(Arc::new)
}

fn organization_ancestors(path: &OrgPath) -> impl Iterator<Item = EntityUid> + '_ {
    static KIND: LazyLock<Option<EntityTypeName>> = LazyLock::new(|| type_name(ORGANIZATION));
    path.ids().filter_map(|id| {
        let id = id.with_str(|text| EntityId::new(text));
        Some(EntityUid::from_type_name_and_id(KIND.clone()?, id))
    })
}

fn scope_uids(scopes: Option<&ScopeSet>) -> HashSet<EntityUid> {
    scopes.into_iter().flat_map(ScopeSet::iter).filter_map(scope_uid).collect()
}

/// A principal: a user with the scopes of a credential, or an external entity.
#[derive(Debug, Clone)]
pub struct Principal {
    pub(super) uid: Option<EntityUid>,
    /// None for an external principal without attributes.
    pub(super) entity: Option<Arc<Entity>>,
    /// The path of the organization of a user. None for an external principal.
    pub(super) organization: Option<Arc<OrgPath>>,
    /// The attributes of a user. Empty for an external principal.
    attributes: Arc<Attributes>,
    /// The effective scopes of the credential as entity uids.
    pub(super) scopes: Arc<HashSet<EntityUid>>,
    /// The scopes of the credential, for the decision log.
    claimed: Option<Arc<ScopeSet>>,
    /// The fingerprint of everything that Cedar can read of it.
    pub(super) fingerprint: Fingerprint,
    /// The fingerprint of its type, scopes and organization only.
    pub(super) location_fingerprint: Fingerprint,
    /// Its JSON for the decision log, created on first use.
    json: Arc<OnceLock<PrincipalJson>>,
}

impl Principal {
    /// Whether these are the attributes of the user.
    pub(super) fn has_attributes(&self, attributes: &Attributes) -> bool {
        *self.attributes == *attributes
    }

    /// A user of an organization. `scopes` are the effective scopes of its credential
    /// ([`super::Engine::effective_scopes`]).
    pub fn new(id: Id, organization: &OrgPath, user: UserAttributes<'_>, scopes: Option<&ScopeSet>) -> Self {
        let attributes = owned_names(user.attributes());
        let fingerprint = Fingerprint::of(&(USER, id, &attributes, organization, scopes));
        let location_fingerprint =
            Fingerprint::of(&(USER, find_organization_attribute(&attributes), organization, scopes));
        let scopes = scope_uids(scopes);
        let uid = uid(USER, &id.to_string());
        let ancestors = scopes.iter().cloned().chain(organization_ancestors(organization));
        let entity = uid.clone().and_then(|uid| build_entity(uid, &attributes, ancestors));
        let (organization, scopes) = (Some(Arc::new(organization.clone())), Arc::new(scopes));
        let attributes = Arc::new(attributes);
        Self {
            uid,
            entity,
            organization,
            attributes,
            scopes,
            claimed: None,
            fingerprint,
            location_fingerprint,
            json: Arc::default(),
        }
    }

    /// The same with the scopes of its credential, from which the effective ones were computed.
    #[must_use]
    pub fn with_claimed_scopes(self, claimed: &ScopeSet) -> Self {
        Self { claimed: Some(Arc::new(claimed.clone())), json: Arc::default(), ..self }
    }

    /// Whether this is one of its effective scopes.
    pub(super) fn has_scope(&self, scope: Scope) -> bool {
        scope_uid(scope).is_some_and(|uid| self.scopes.contains(&uid))
    }

    /// The fingerprint of everything that Cedar can read of it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Its type and id.
    pub fn uid_parts(&self) -> (&str, &str) {
        let json = self.json();
        (&json.kind, &json.id)
    }

    /// Its JSON for the decision log.
    pub(super) fn json(&self) -> &PrincipalJson {
        self.json.get_or_init(|| {
            let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| self.has_scope(*scope)).collect();
            PrincipalJson::new(self.uid.as_ref(), &scopes, self.claimed.as_deref(), self.entity.as_deref())
        })
    }

    /// The user as a resource, without the scopes of its credential. None for an external principal.
    pub fn as_resource(&self) -> Option<ResourceEntity> {
        let path = self.organization.as_deref()?;
        let id = self.uid.as_ref()?.id().unescaped().parse().ok()?;
        Some(ResourceEntity::local(USER, id, (*self.attributes).clone(), path, false))
    }

    /// A copy of a user with other scopes. None for an external principal.
    pub fn with_scopes(&self, scopes: Option<&ScopeSet>) -> Option<Self> {
        let organization = self.organization.as_ref()?;
        let (uid, attributes, _) = self.entity.as_deref()?.clone().into_inner();
        let granted = scope_uids(scopes);
        let ancestors = granted.iter().cloned().chain(organization_ancestors(organization)).collect();
        Some(Self {
            entity: Some(Arc::new(Entity::new(uid, attributes, ancestors).ok()?)),
            scopes: Arc::new(granted),
            claimed: None,
            fingerprint: Fingerprint::of(&(self.fingerprint, scopes)),
            location_fingerprint: Fingerprint::of(&(self.location_fingerprint, scopes)),
            json: Arc::default(),
            ..self.clone()
        })
    }

    /// A principal of an external domain.
    pub fn external(external: ExternalEntity) -> Self {
        Self {
            uid: Some(external.uid),
            entity: external.entity,
            organization: None,
            attributes: Arc::default(),
            scopes: Arc::default(),
            claimed: None,
            fingerprint: external.fingerprint,
            location_fingerprint: external.fingerprint,
            json: Arc::default(),
        }
    }
}

/// An entity of an external domain: its data, and the properties that a question adds.
#[derive(Debug, Clone)]
pub struct ExternalEntity {
    pub(super) kind: String,
    pub(super) uid: EntityUid,
    pub(super) entity: Option<Arc<Entity>>,
    pub(super) json: EntityJson,
    pub(super) fingerprint: Fingerprint,
}

/// A resource as a Cedar entity. Copies share the entity.
#[derive(Debug, Clone)]
pub struct ResourceEntity {
    inner: Arc<ResourceInner>,
    /// The fingerprint of everything that Cedar can read of it.
    pub(super) fingerprint: Fingerprint,
    /// The fingerprint of its type and organization only, if `organization` refers to an organization.
    pub(super) location_fingerprint: Fingerprint,
}

#[derive(Debug)]
struct ResourceInner {
    data: EntityData,
    /// Its type and id as JSON, created on first use.
    uid_json: OnceLock<Box<RawValue>>,
    /// The whole entity as JSON, created on first use.
    json: OnceLock<Box<RawValue>>,
}

#[derive(Debug, Clone)]
pub(super) enum EntityData {
    /// A resource of this service.
    Local(LocalEntity),
    /// An entity of an external domain.
    External(ExternalEntity),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LocalEntity {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) attributes: Attributes,
    /// The path of its organization, or of the organization itself. None for a detached resource.
    pub(super) path: Option<OrgPath>,
    /// Whether the resource is being created. Only then does a create action apply to its type.
    pub(super) is_new: bool,
}

impl EntityData {
    /// Its type and id.
    pub(super) fn uid_parts(&self) -> (&str, &str) {
        match self {
            Self::Local(local) => (&local.kind, &local.id),
            Self::External(external) => (&external.kind, external.uid.id().unescaped()),
        }
    }
}

impl LocalEntity {
    /// Builds the Cedar entity. Its ancestors are the organizations above it and `extra_ancestors`. Unless
    /// `has_all_attributes` is set, `organization` is its only attribute.
    pub(super) fn build(
        &self,
        uid: &EntityUid,
        extra_ancestors: &HashSet<EntityUid>,
        has_all_attributes: bool,
    ) -> Option<Arc<Entity>> {
        let organizations =
            self.path.iter().flat_map(organization_ancestors).filter(|ancestor| ancestor != uid);
        let is_included = |name: &str| has_all_attributes || name == ORGANIZATION_ATTRIBUTE;
        build_entity(
            uid.clone(),
            self.attributes.iter().filter(|(name, _)| is_included(name)),
            organizations.chain(extra_ancestors.iter().cloned()),
        )
    }
}

/// The organizations above a resource, and the scopes of the principal if it is the resource.
struct ParentsJson<'a>(&'a LocalEntity, Option<&'a HashSet<EntityUid>>);

impl Serialize for ParentsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_organization = self.0.kind == ORGANIZATION;
        let mut parents = serializer.serialize_seq(None)?;
        if let Some(path) = &self.0.path {
            for id in path.ids().filter(|id| !(is_organization && *id == path.org_id())) {
                parents.serialize_element(&EntityUidJson { r#type: ORGANIZATION, id })?;
            }
        }
        for scope in Scope::ALL {
            if self.1.is_some_and(|scopes| scope_uid(scope).is_some_and(|uid| scopes.contains(&uid))) {
                parents.serialize_element(&EntityUidJson { r#type: SCOPE, id: scope.as_str() })?;
            }
        }
        parents.end()
    }
}

impl Serialize for LocalEntity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize_with(None, serializer)
    }
}

impl LocalEntity {
    fn serialize_with<S: Serializer>(
        &self,
        scopes: Option<&HashSet<EntityUid>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut entity = serializer.serialize_map(Some(3))?;
        entity.serialize_entry("uid", &EntityUidJson { r#type: &self.kind, id: &self.id })?;
        entity.serialize_entry("attrs", &AttributesJson(&self.attributes))?;
        entity.serialize_entry("parents", &ParentsJson(self, scopes))?;
        entity.end()
    }
}

/// A resource that is the principal itself, with the scopes of the principal.
struct SelfJson<'a>(&'a LocalEntity, &'a HashSet<EntityUid>);

impl Serialize for SelfJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with(Some(self.1), serializer)
    }
}

impl ResourceEntity {
    /// A resource of the organization with this path. An organization has its own path.
    pub(super) fn new(
        kind: &str,
        id: Id,
        attributes: Vec<(&'static str, Attribute)>,
        path: &OrgPath,
    ) -> Self {
        Self::local(kind, id, owned_names(attributes), path, false)
    }

    /// As [`ResourceEntity::new`], for a resource that is being created.
    pub(super) fn created(
        kind: &str,
        id: Id,
        attributes: Vec<(&'static str, Attribute)>,
        path: &OrgPath,
    ) -> Self {
        Self::local(kind, id, owned_names(attributes), path, true)
    }

    fn local(kind: &str, id: Id, mut attributes: Attributes, path: &OrgPath, is_new: bool) -> Self {
        if kind == ORGANIZATION {
            attributes = organization_attributes(path);
        }
        let path = Some(path.clone());
        Self::from_local(LocalEntity { kind: kind.to_owned(), id: id.to_string(), attributes, path, is_new })
    }

    fn from_local(mut local: LocalEntity) -> Self {
        if find_organization_attribute(&local.attributes).is_none() {
            let owner_org = local.path.as_ref().map_or(Id::NIL, OrgPath::org_id);
            local
                .attributes
                .push((ORGANIZATION_ATTRIBUTE.into(), Attribute::EntityRef(ORGANIZATION.into(), owner_org)));
        }
        let fingerprint = Fingerprint::of(&local);
        let location_fingerprint = match find_organization_attribute(&local.attributes) {
            _ if local.kind == ORGANIZATION => fingerprint,
            Some(Attribute::EntityRef(kind, _)) if kind != ORGANIZATION => fingerprint,
            Some(Attribute::EntityRef(..)) | None => Fingerprint::of(&(
                &local.kind,
                find_organization_attribute(&local.attributes),
                &local.path,
                local.is_new,
            )),
            Some(_) => fingerprint,
        };
        Self { inner: ResourceInner::new(EntityData::Local(local)), fingerprint, location_fingerprint }
    }

    pub(super) fn data(&self) -> &EntityData {
        &self.inner.data
    }

    /// An organization as a resource.
    pub fn organization(path: &OrgPath) -> Self {
        Self::new(ORGANIZATION, path.org_id(), Vec::new(), path)
    }

    /// A user as a resource.
    pub fn user(id: Id, path: &OrgPath, user_attributes: UserAttributes<'_>) -> Self {
        Self::new(USER, id, user_attributes.attributes(), path)
    }

    /// A resource of type `kind` that does not exist, in the organization with this path. Its attributes are those that the
    /// type requires.
    pub(super) fn hypothetical(kind: &str, entity_type: Option<&SchemaType>, path: &OrgPath) -> Self {
        if kind == ORGANIZATION {
            return Self::organization(path);
        }
        Self::local(kind, Id::NIL, required_attributes(entity_type, path.org_id()), path, false)
    }

    /// A resource of type `kind` that belongs to no organization, so that it is inaccessible to everybody. `id` is arbitrary.
    pub(super) fn detached(kind: &str, entity_type: Option<&SchemaType>, id: &str) -> Self {
        Self::from_local(LocalEntity {
            kind: kind.to_owned(),
            id: id.to_owned(),
            attributes: required_attributes(entity_type, Id::NIL),
            path: None,
            is_new: false,
        })
    }

    /// The path of its organization, or of the organization itself. None for detached and external resources.
    pub fn organization_path(&self) -> Option<&OrgPath> {
        match self.data() {
            EntityData::Local(local) => local.path.as_ref(),
            EntityData::External(_) => None,
        }
    }

    /// Its entity type.
    pub fn kind(&self) -> &str {
        self.data().uid_parts().0
    }

    /// Whether it is the same entity as a principal.
    pub fn is_same(&self, principal: &Principal) -> bool {
        self.data().uid_parts() == principal.uid_parts()
    }

    /// Whether it is being created.
    pub fn is_new(&self) -> bool {
        matches!(self.data(), EntityData::Local(local) if local.is_new)
    }

    /// Its type and id as JSON.
    pub(super) fn uid_json(&self) -> &RawValue {
        self.inner.uid_json.get_or_init(|| {
            let (kind, id) = self.data().uid_parts();
            to_raw_json(&decision_log::ResourceUid { kind, id })
        })
    }

    /// The whole entity as JSON.
    pub(super) fn json(&self) -> &RawValue {
        match self.data() {
            EntityData::Local(local) => self.inner.json.get_or_init(|| to_raw_json(local)),
            EntityData::External(external) => external.json.get_or_serialize(external.entity.as_deref()),
        }
    }

    /// The whole entity as JSON, of a resource that is the principal itself: with the scopes of the principal as parents, too.
    pub(super) fn json_with_scopes(&self, principal: &Principal) -> Box<RawValue> {
        match self.data() {
            EntityData::Local(local) => to_raw_json(&SelfJson(local, &principal.scopes)),
            EntityData::External(_) => self.json().to_owned(),
        }
    }

    /// An entity of an external domain as a resource.
    pub fn external(external: ExternalEntity) -> Self {
        let fingerprint = external.fingerprint;
        Self {
            inner: ResourceInner::new(EntityData::External(external)),
            fingerprint,
            location_fingerprint: fingerprint,
        }
    }
}

impl ResourceInner {
    fn new(data: EntityData) -> Arc<Self> {
        Arc::new(Self { data, uid_json: OnceLock::new(), json: OnceLock::new() })
    }
}

/// The attribute `organization`, if it is present.
fn find_organization_attribute(attributes: &Attributes) -> Option<&Attribute> {
    attributes.iter().find(|(name, _)| *name == ORGANIZATION_ATTRIBUTE).map(|(_, value)| value)
}

/// The attributes that a type requires, with the least privileged values: the lowest scope, and empty texts.
///
/// A required attribute of another kind is left out. A policy that reads it fails, which denies the request.
fn required_attributes(entity_type: Option<&SchemaType>, organization: Id) -> Attributes {
    let required = entity_type.into_iter().flat_map(SchemaType::required_fields);
    let value = |field: &SchemaType| match field {
        SchemaType::String => Some(Attribute::Text(String::new())),
        SchemaType::Long => Some(Attribute::Long(0)),
        SchemaType::Boolean => Some(Attribute::Bool(false)),
        SchemaType::Entity(kind) if kind == SCOPE => Some(Attribute::Scope(Scope::Guest)),
        SchemaType::Entity(kind) if kind == ORGANIZATION => {
            Some(Attribute::EntityRef(ORGANIZATION.into(), organization))
        }
        SchemaType::Entity(kind) => Some(Attribute::EntityRef(kind.clone().into(), Id::NIL)),
        SchemaType::Enum(..)
        | SchemaType::Record(_)
        | SchemaType::Set(_)
        | SchemaType::Extension(_)
        | SchemaType::Other => None,
    };
    required.filter_map(|(name, field)| Some((name.to_owned().into(), value(field)?))).collect()
}

/// Attributes with names that need not be known at compile time.
fn owned_names(attributes: Vec<(&'static str, Attribute)>) -> Attributes {
    attributes.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

supplied_attributes!(
    /// The attributes of an organization besides its attribute `organization`.
    ORGANIZATION_ATTRIBUTES = fn place_attributes("level" level: i64, "parent" parent: Option<OrganizationRef>)
);

/// The attributes of an organization, derived from its path.
fn organization_attributes(path: &OrgPath) -> Attributes {
    let level = i64::try_from(path.level()).unwrap_or(i64::MAX);
    let mut attributes = place_attributes(level, path.parent().map(OrganizationRef));
    attributes.push((ORGANIZATION_ATTRIBUTE, Attribute::EntityRef(ORGANIZATION.into(), path.org_id())));
    owned_names(attributes)
}
