//! Compile-time proof of authorization: rows are [`Unchecked`] until the engine makes them [`Permitted`].
//!
//! Only permitted rows can be serialized or saved, so that a handler that does not authorize does not compile.

use super::attribute::AuthzResource;
use super::filter::Filter;
use super::verifier::RowVerification;
use super::{AuthzRequest, Engine, ResourceEntity, Scope};
use crate::types::{Id, OrgPath};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A resource on which no action has been authorized. It can be neither serialized nor saved.
///
/// It cannot be serialized:
///
/// ```compile_fail,E0277
/// fn show(row: cedargate::authz::Unchecked<cedargate::api::forms::Form>) -> String {
///     serde_json::to_string(&row).unwrap_or_default()
/// }
/// ```
///
/// Nor can it be saved:
///
/// ```compile_fail,E0308
/// async fn save(work: cedargate::store::UnitOfWork, row: cedargate::authz::Unchecked<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
///
/// A permitted resource can:
///
/// ```
/// async fn save(work: cedargate::store::UnitOfWork, row: cedargate::authz::Permitted<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
pub struct Unchecked<T> {
    resource: Arc<T>,
    path: OrgPath,
    /// Its Cedar entity, created on first use.
    entity: OnceLock<Arc<ResourceEntity>>,
}

impl<T> Clone for Unchecked<T> {
    fn clone(&self) -> Self {
        let (resource, path) = (Arc::clone(&self.resource), self.path.clone());
        Self { resource, path, entity: self.entity.clone() }
    }
}

impl<T> Unchecked<T> {
    /// A resource of the organization with this path. An organization has its own path.
    pub fn new(resource: T, path: OrgPath) -> Self {
        Self { resource: Arc::new(resource), path, entity: OnceLock::new() }
    }

    /// Converts a resource on which an action was allowed. Private: only this module can create a [`Permitted`] value.
    fn into_permitted(self) -> Permitted<T> {
        Permitted { resource: self.resource, path: self.path }
    }
}

impl<T: AuthzResource> Unchecked<T> {
    /// Its id.
    pub fn id(&self) -> Id {
        self.resource.id()
    }

    /// Its Cedar entity.
    pub fn resource_entity(&self) -> Arc<ResourceEntity> {
        let entity = self.entity.get_or_init(|| {
            ResourceEntity::new(T::TYPE, self.resource.id(), self.resource.attributes(), &self.path).into()
        });
        Arc::clone(entity)
    }

    /// Its Cedar entity as a resource that is being created.
    fn created_entity(&self) -> ResourceEntity {
        ResourceEntity::created(T::TYPE, self.resource.id(), self.resource.attributes(), &self.path)
    }

    /// The role of a user, existing or new; none for other resources.
    pub fn granted_role(&self) -> Option<Scope> {
        self.resource.granted_role()
    }
}

impl<T: Serialize> Unchecked<T> {
    /// The names of the fields whose value `patch` changes, for the request context.
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

/// A resource on which an action was allowed.
#[derive(Clone)]
pub struct Permitted<T> {
    resource: Arc<T>,
    path: OrgPath,
}

impl<T> Permitted<T> {
    /// The path of its organization.
    pub fn path(&self) -> &OrgPath {
        &self.path
    }

    /// The changed resource, in the organization with this path. It has to be authorized again.
    pub fn with_changes(&self, resource: T, path: OrgPath) -> Unchecked<T> {
        Unchecked::new(resource, path)
    }
}

impl<T: AuthzResource> Permitted<T> {
    /// Its Cedar entity, to authorize another action on it.
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

/// The rows of a list that the policies permit.
#[derive(Debug, Clone)]
pub(super) struct RowFilter {
    /// The type of the rows.
    pub(super) kind: String,
    /// Those of them that are permitted.
    pub(super) filter: Filter,
    /// The verification of a sample of them; none if it is off.
    pub(super) verification: Option<RowVerification>,
}

/// The organizations of a subtree on which an action is allowed, and which of their rows it is allowed on. Never empty.
#[derive(Debug, Clone)]
pub struct AuthorizedOrgs {
    organizations: HashSet<Id>,
    denied: Vec<Id>,
    is_complete: bool,
    rows: Option<RowFilter>,
}

impl AuthorizedOrgs {
    /// The candidates that `allowed` selects; none if it selects none. The first candidate is the root of the subtree.
    fn new_permitted(
        candidates: Vec<OrgPath>,
        allowed: impl Fn(&OrgPath) -> bool,
        rows: impl FnOnce() -> Option<RowFilter>,
    ) -> Option<Permitted<Self>> {
        let top = candidates.first()?.clone();
        let (organizations, denied): (Vec<&OrgPath>, Vec<&OrgPath>) =
            candidates.iter().partition(|path| allowed(path));
        let organizations: HashSet<Id> = organizations.into_iter().map(OrgPath::org_id).collect();
        let denied: Vec<Id> = denied.into_iter().map(OrgPath::org_id).collect();
        let is_complete = candidates.len() > 1 && denied.is_empty();
        if organizations.is_empty() {
            return None;
        }
        let authorized = Self { organizations, denied, is_complete, rows: rows() };
        Some(Permitted { resource: authorized.into(), path: top })
    }

    /// Whether the action is allowed on all organizations of a subtree.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The candidates on which the action is denied.
    pub fn denied(&self) -> &[Id] {
        &self.denied
    }

    /// Whether the list contains all resources of this type that the organizations own.
    pub fn has_all_rows(&self, kind: &str) -> bool {
        *self.row_filter(kind) == Filter::Always
    }

    /// Which resources of this type, of those that the organizations own, the list contains.
    pub fn row_filter(&self, kind: &str) -> &Filter {
        match &self.rows {
            None => &Filter::Always,
            Some(rows) if rows.kind == kind => &rows.filter,
            // The list of another type.
            Some(_) => &Filter::Never,
        }
    }

    /// The ids of the organizations.
    pub fn organizations(&self) -> &HashSet<Id> {
        &self.organizations
    }
}

impl Permitted<AuthorizedOrgs> {
    /// The path of the root of the subtree.
    pub fn top(&self) -> &OrgPath {
        &self.path
    }

    /// Permits a resource of a list, if it belongs to one of these organizations. The query of the list has selected it by
    /// [`AuthorizedOrgs::row_filter`], if that filters: such a row counts as a decision of which a sample is verified.
    pub fn admit<T: AuthzResource>(&self, resource: Unchecked<T>) -> Option<Permitted<T>> {
        if !self.organizations.contains(&resource.path.org_id()) {
            return None;
        }
        if let Some(verification) = self.rows.as_ref().and_then(|rows| rows.verification.as_ref()) {
            verification.verify_sampled(|| resource.resource_entity());
        }
        Some(resource.into_permitted())
    }
}

impl Engine {
    /// Permits a resource if the action on it is allowed.
    ///
    /// # Errors
    /// The action is denied.
    pub fn permit<T: AuthzResource>(
        &self,
        request: &AuthzRequest<'_>,
        resource: Unchecked<T>,
    ) -> Result<Permitted<T>, Denied> {
        let entity = resource.resource_entity();
        if self.allows(request, &entity) {
            Ok(resource.into_permitted())
        } else {
            Err(Denied::new(request.action, Some(entity)))
        }
    }

    /// Permits a new resource if the action is allowed on the organization that will own it and on the resource itself (see
    /// "List and create" in docs/decisions.md). The owner of a new organization is its parent.
    ///
    /// # Errors
    /// The action is denied on either.
    pub fn permit_create<T: AuthzResource>(
        &self,
        request: &AuthzRequest<'_>,
        owner_org: &OrgPath,
        resource: Unchecked<T>,
    ) -> Result<Permitted<T>, Denied> {
        for entity in [ResourceEntity::organization(owner_org), resource.created_entity()] {
            if !self.allows(request, &entity) {
                return Err(Denied::new(request.action, Some(Arc::new(entity))));
            }
        }
        Ok(resource.into_permitted())
    }

    /// Permits those of these organizations on which the action is allowed. The first one is the root of their subtree.
    ///
    /// # Errors
    /// The action is denied on all of them.
    pub fn permit_organizations(
        &self,
        request: &AuthzRequest<'_>,
        organizations: Vec<OrgPath>,
    ) -> Result<Permitted<AuthorizedOrgs>, Denied> {
        let allowed = |path: &OrgPath| self.allows(request, &ResourceEntity::organization(path));
        AuthorizedOrgs::new_permitted(organizations, allowed, || self.listed_rows(request))
            .ok_or_else(|| Denied::new(request.action, None))
    }
}

impl Engine {
    /// Which rows a list contains; none if it contains all rows of its organizations.
    fn listed_rows(&self, request: &AuthzRequest<'_>) -> Option<RowFilter> {
        let kind = self.row_type(request.action)?.to_owned();
        let filter = match self.row_filter(request) {
            Ok(filter) => filter?,
            Err(error) => {
                // Policies that cannot be filters are not loaded, so that the request itself cannot be evaluated.
                tracing::error!(
                    action = request.action,
                    "the rows of a list cannot be filtered: none is listed"
                );
                tracing::debug!(action = request.action, error = %error, "the rows of a list cannot be filtered");
                Filter::Never
            }
        };
        Some(RowFilter { kind, filter, verification: self.list_verification(request) })
    }
}

/// The error that an action was denied.
#[derive(Debug, Clone, thiserror::Error)]
#[error("not authorized to perform {action}")]
pub struct Denied {
    action: String,
    /// The entity on which it was denied; none if it was denied on several.
    resource: Option<Arc<ResourceEntity>>,
}

impl Denied {
    fn new(action: &str, resource: Option<Arc<ResourceEntity>>) -> Self {
        Self { action: action.to_owned(), resource }
    }

    /// The entity on which the action was denied; none if it was denied on several.
    pub fn resource(&self) -> Option<&ResourceEntity> {
        self.resource.as_deref()
    }

    /// The name of the denied action.
    pub fn action(&self) -> &str {
        &self.action
    }
}
