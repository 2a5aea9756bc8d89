//! Undecided -> Permitted. Only the engine turns the one into the other, and only what is permitted can be shown or
//! saved: a handler that forgets to ask does not compile.

use super::entities::AuthzResource;
use super::{ResourceEntity, Scope};
use crate::types::{Id, OrgPath};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A thing of which Cedar has not been asked yet. It can be neither shown nor saved.
///
/// It does not serialize:
///
/// ```compile_fail,E0277
/// fn show(row: cedargate::authz::Undecided<cedargate::api::forms::Form>) -> String {
///     serde_json::to_string(&row).unwrap_or_default()
/// }
/// ```
///
/// Nor can it be saved:
///
/// ```compile_fail,E0308
/// async fn save(work: cedargate::store::Work, row: cedargate::authz::Undecided<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
///
/// What was permitted can:
///
/// ```
/// async fn save(work: cedargate::store::Work, row: cedargate::authz::Permitted<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
pub struct Unchecked<T> {
    resource: Arc<T>,
    path: OrgPath,
    /// What Cedar must know of it, once that is wanted.
    entity: OnceLock<Arc<ResourceEntity>>,
}

impl<T> Clone for Unchecked<T> {
    fn clone(&self) -> Self {
        let (resource, path) = (Arc::clone(&self.resource), self.path.clone());
        Self { resource, path, entity: self.entity.clone() }
    }
}

impl<T> Unchecked<T> {
    /// A thing held by the organization that stands at `path`; an organization stands there itself.
    pub fn new(resource: T, path: OrgPath) -> Self {
        Self { resource: Arc::new(resource), path, entity: OnceLock::new() }
    }

    /// To be called by the engine when it has permitted it.
    pub(super) fn into_permitted(self) -> Permitted<T> {
        Permitted { resource: self.resource, path: self.path }
    }
}

impl<T: AuthzResource> Unchecked<T> {
    /// What Cedar must know of it.
    pub fn resource_entity(&self) -> Arc<ResourceEntity> {
        let resourced = self.entity.get_or_init(|| {
            ResourceEntity::new(T::TYPE, self.resource.id(), self.resource.attributes(), &self.path).into()
        });
        Arc::clone(resourced)
    }

    /// What Cedar must know of it as a resource that is being created.
    pub(super) fn created_entity(&self) -> ResourceEntity {
        ResourceEntity::created(T::TYPE, self.resource.id(), self.resource.attributes(), &self.path)
    }

    /// The role that a user has or would have; none for other resources.
    pub fn granted_role(&self) -> Option<Scope> {
        self.resource.granted_role()
    }
}

impl<T: Serialize> Unchecked<T> {
    /// The names of those fields of a patch that would get a new value, which policies may read before they decide.
    pub fn changed_fields(&self, patch: &Map<String, Value>) -> Vec<String> {
        let current = serde_json::to_value(&*self.resource).unwrap_or(Value::Null);
        patch
            .iter()
            .filter(|(name, value)| current.get(name) != Some(value))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl<T> fmt::Debug for Unchecked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unchecked<{}>", std::any::type_name::<T>())
    }
}

/// A thing that the caller may have, because Cedar said so.
#[derive(Clone)]
pub struct Permitted<T> {
    resource: Arc<T>,
    path: OrgPath,
}

impl<T> Permitted<T> {
    /// Where the organization stands that holds it.
    pub fn path(&self) -> &OrgPath {
        &self.path
    }

    /// A changed form of it, to be asked about, held by the organization that stands at `path`.
    pub fn with_changes(&self, resource: T, path: OrgPath) -> Unchecked<T> {
        Unchecked::new(resource, path)
    }
}

impl<T: AuthzResource> Permitted<T> {
    /// What Cedar must know of it, to decide whether another action on it is permitted.
    pub fn resource_entity(&self) -> ResourceEntity {
        ResourceEntity::new(T::TYPE, self.resource.id(), self.resource.attributes(), &self.path)
    }
}

impl<T> std::ops::Deref for Permitted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.resource
    }
}

impl<T: Serialize> Serialize for Permitted<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.resource.serialize(serializer)
    }
}

impl<T> fmt::Debug for Permitted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permitted<{}>", std::any::type_name::<T>())
    }
}

/// Organizations of which an action is permitted. Never empty.
#[derive(Debug, Clone)]
pub struct AuthorizedOrgs {
    organizations: HashSet<Id>,
    denied: Vec<Id>,
    is_complete: bool,
}

impl AuthorizedOrgs {
    /// Those of `asked` that `allowed` says yes to; none where it says yes to none.
    pub(super) fn new_permitted(
        candidates: Vec<OrgPath>,
        allowed: impl Fn(&OrgPath) -> bool,
    ) -> Option<Permitted<Self>> {
        let top = candidates.first()?.clone();
        let (organizations, denied): (Vec<&OrgPath>, Vec<&OrgPath>) =
            candidates.iter().partition(|path| allowed(path));
        let organizations: HashSet<Id> = organizations.into_iter().map(OrgPath::org_id).collect();
        let denied: Vec<Id> = denied.into_iter().map(OrgPath::org_id).collect();
        let is_complete = candidates.len() > 1 && denied.is_empty();
        let authorized = Self { organizations, denied, is_complete };
        (!authorized.organizations.is_empty()).then_some(Permitted { resource: authorized.into(), path: top })
    }

    /// Whether these are all organizations of a subtree.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Those that were asked about, too, and of which it is not permitted.
    pub fn denied(&self) -> &[Id] {
        &self.denied
    }

    /// The organizations.
    pub fn organizations(&self) -> &HashSet<Id> {
        &self.organizations
    }
}

impl Permitted<AuthorizedOrgs> {
    /// The organization at the top of the subtree that was asked about.
    pub fn top(&self) -> &OrgPath {
        &self.path
    }

    /// A thing of the list, if one of these organizations holds it.
    pub fn admit<T>(&self, resource: Unchecked<T>) -> Option<Permitted<T>> {
        self.organizations.contains(&resource.path.org_id()).then(|| resource.into_permitted())
    }
}

/// That an action is not permitted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action} is not permitted")]
pub struct Denied {
    action: String,
}

impl Denied {
    pub(super) fn new(action: &str) -> Self {
        Self { action: action.to_owned() }
    }

    /// What is not permitted.
    pub fn action(&self) -> &str {
        &self.action
    }
}
