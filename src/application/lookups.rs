//! Lookups: load the resources and organizations that a request names, and authorize what is loaded.
//!
//! The [`Authorizer`] decides about what it is given; [`Lookups`] find it in the store first.

use super::verification::{self, VerifiedSearch};
use super::{Authorizer, Error, FieldError};
use crate::authz::{AuthorizedOrgs, AuthzRequest, Permitted, ResourceEntity, Unchecked};
use crate::resource::{Reference, Resource};
use crate::store::{Reader, UnitOfWork};
use crate::types::{Id, OrgPath};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Loads what a request names, and authorizes it with the authorizer of the request.
#[derive(Debug, Clone, Copy)]
pub struct Lookups<'a> {
    authorizer: &'a Authorizer,
}

impl Authorizer {
    /// Returns the lookups that this authorizer authorizes.
    pub fn lookups(&self) -> Lookups<'_> {
        Lookups { authorizer: self }
    }
}

impl Lookups<'_> {
    /// Loads the resource that a path names and authorizes the action on it. `me` is the caller's own user.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`].
    pub async fn find_authorized<R: Resource>(&self, id: &str) -> Result<Permitted<R>, Error> {
        self.authorizer.authorize(self.find_unchecked(id).await?, &self.authorizer.request_context())
    }

    /// Loads the resource that a path names, to be authorized; none if there is none.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn find_unchecked<R: Resource>(&self, id: &str) -> Result<Option<Unchecked<R>>, Error> {
        match self.authorizer.resolve_id(id) {
            Some(id) => Ok(self.authorizer.state().store.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// Loads the resource that a path names within a unit of work, which locks its row.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn find_unchecked_in<R: Resource>(
        &self,
        work: &UnitOfWork,
        id: &str,
    ) -> Result<Option<Unchecked<R>>, Error> {
        match self.authorizer.resolve_id(id) {
            Some(id) => Ok(work.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// Returns the path of the organization that owns a new resource: the one with `organization_id`, else the caller's.
    ///
    /// # Errors
    /// If the organization is missing or the action is not permitted in it: an invalid `field` if the action is permitted in
    /// the caller's own organization, else `forbidden`.
    pub async fn resolve_owner_org(
        &self,
        reader: &Reader<'_>,
        organization_id: Option<Id>,
        field: &str,
    ) -> Result<OrgPath, Error> {
        let home = &self.authorizer.caller().organization;
        let Some(id) = organization_id.filter(|id| *id != home.org_id()) else {
            return Ok(home.clone());
        };
        match reader.path(id).await? {
            Some(path) if self.authorizer.is_permitted_in(&path) => Ok(path),
            found if self.authorizer.is_permitted_in(home) => {
                let error = Error::missing_reference(field, "Organization", id);
                Err(self.authorizer.not_found_audited(error, found.is_some()))
            }
            _ => {
                let context = self.authorizer.request_context();
                Err(self.authorizer.forbidden_explained(None, (&context, &context), "Organization"))
            }
        }
    }

    /// Returns the organizations whose resources a list contains: the requested one, else those of the caller's subtree in
    /// which the list is permitted.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`], if the list is permitted in none of them.
    pub async fn authorized_orgs(&self, requested: Option<&str>) -> Result<Permitted<AuthorizedOrgs>, Error> {
        match requested {
            Some(requested) => {
                let path = self.resolve_organization(requested).await?;
                self.authorizer.authorize_organizations(path.map(|path| vec![path]))
            }
            None => self.authorized_subtree(None).await,
        }
    }

    /// Returns the organizations of the subtree of the requested organization, else of the caller's, in which the action is
    /// permitted.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`], if the action is permitted in none of them.
    pub async fn authorized_subtree(
        &self,
        requested: Option<&str>,
    ) -> Result<Permitted<AuthorizedOrgs>, Error> {
        let top = match requested {
            Some(requested) => self.resolve_organization(requested).await?,
            None => Some(self.authorizer.caller().organization.clone()),
        };
        let subtree = match &top {
            Some(top) => Some(self.authorizer.state().store.subtree(top).await?),
            None => None,
        };
        self.authorizer.authorize_organizations(subtree)
    }

    /// Returns the path of the organization with this id; none if there is none.
    async fn resolve_organization(&self, id: &str) -> Result<Option<OrgPath>, Error> {
        match id.parse() {
            Ok(id) => Ok(self.authorizer.state().store.path(id).await?),
            Err(_) => Ok(None),
        }
    }

    /// Returns the entity of a resource if the caller may refer to it (`referTo`), from the row cache if it has the row.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn load_referenceable_cached(
        &self,
        kind: &str,
        id: Id,
    ) -> Result<Option<Arc<ResourceEntity>>, Error> {
        let resource = self
            .authorizer
            .state()
            .resource_types
            .load_cached(&self.authorizer.state().store, kind, id)
            .await?;
        Ok(self.only_referenceable(resource))
    }

    fn only_referenceable(&self, resource: Option<Arc<ResourceEntity>>) -> Option<Arc<ResourceEntity>> {
        resource.filter(|resource| self.authorizer.for_prerequisite("referTo").is_permitted_on(resource))
    }

    /// Returns a page of the resources of a type in the caller's subtree, by id: for each the entity if the caller may refer
    /// to it.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn page_referenceable(
        &self,
        kind: &str,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Option<Arc<ResourceEntity>>)>, Error> {
        let authorizer = self.authorizer.for_prerequisite("referTo");
        let home = &self.authorizer.caller().organization;
        let page = self
            .authorizer
            .state()
            .resource_types
            .page(&self.authorizer.reader(), kind, home, after, limit)
            .await?;
        let referenceable = |resource: Arc<ResourceEntity>| {
            Some(resource).filter(|resource| authorizer.is_permitted_on(resource))
        };
        Ok(page.into_iter().map(|(id, resource)| (id, referenceable(resource))).collect())
    }

    /// Returns the ids of those resources of a type in the caller's subtree that the caller may refer to and on which a request is
    /// allowed, in ascending order: at most `limit`, after the id `after`. None if the policies cannot be a filter of the
    /// database, so that every resource has to be evaluated.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn search_referenceable(
        &self,
        request: &AuthzRequest<'_>,
        kind: &str,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Option<Vec<Id>>, Error> {
        let (engine, caller) = (self.authorizer.engine(), self.authorizer.caller());
        let context = self.authorizer.request_context();
        let reference = AuthzRequest {
            principal: &caller.principal,
            action: "referTo",
            context: &context,
            recorder: None,
        };
        let requests = [&reference, request];
        let filters = requests.map(|request| engine.filter(request, kind));
        let Ok(filters) = filters.into_iter().collect::<Result<Vec<_>, _>>() else { return Ok(None) };
        let (types, reader) = (&self.authorizer.state().resource_types, self.authorizer.reader());
        let top = &caller.organization;
        let found = types.search(&reader, kind, top, &filters, (after, limit)).await?;
        if let (Some(ids), Some(verification)) = (&found, engine.row_verification(&requests)) {
            let search = VerifiedSearch { kind: kind.to_owned(), top: top.clone(), filters, verification };
            verification::verify_search(self.authorizer.shared_state(), search, ids);
        }
        Ok(found)
    }

    /// Checks that the caller may refer to every resource that a new or changed one refers to.
    ///
    /// # Errors
    /// The fields that refer to missing or inaccessible resources are invalid.
    pub async fn check_references(
        &self,
        reader: &Reader<'_>,
        references: impl IntoIterator<Item = Reference>,
    ) -> Result<(), Error> {
        let references: Vec<Reference> = references.into_iter().collect();
        let mut ids: BTreeMap<&'static str, BTreeSet<Id>> = BTreeMap::new();
        for reference in &references {
            ids.entry(reference.kind).or_default().insert(reference.id);
        }
        let mut referenceable = HashSet::new();
        for (kind, ids) in ids {
            let ids: Vec<Id> = ids.into_iter().collect();
            let found = self.authorizer.state().resource_types.load(reader, kind, &ids).await?;
            let authorizer = self.authorizer.for_prerequisite("referTo");
            // In the order of the ids.
            let permitted = ids
                .into_iter()
                .filter(|id| found.get(id).is_some_and(|resource| authorizer.is_permitted_on(resource)));
            referenceable.extend(permitted.map(|id| (kind, id)));
        }
        let missing = references
            .into_iter()
            .filter(|reference| !referenceable.contains(&(reference.kind, reference.id)));
        let errors: Vec<FieldError> = missing
            .map(|Reference { field, kind, id }| FieldError::missing_reference(field, kind, id))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(errors)) }
    }
}
