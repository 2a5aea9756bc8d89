//! Generic handlers for list, fetch, create, update and delete: the path of a request on one screen.

use super::base_url::absolute_url;
use super::list::ListField;
use super::page::PageWriter;
use super::{Json, PathId, Problem, body, list};
use crate::application::Authorizer;
use crate::authz::{Permitted, Unchecked};
use crate::resource::{self, CreationInfo, Reference, Resource};
use crate::store::Reader;
use crate::types::{Id, OrgPath};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The body of an update: a JSON object whose fields are merged at the top level.
pub type Patch = Map<String, Value>;

/// `GET /`: lists the resources of the organizations in which the list is permitted.
pub async fn list<R: Resource>(
    authorizer: Authorizer,
    request: HttpRequest,
    fields: Arc<Vec<ListField>>,
) -> Result<HttpResponse, Problem> {
    let within = authorizer.lookups().authorized_orgs(list::organization(&request).as_deref()).await?;
    let list_request = list::ListRequest::parse(&request, &fields)?;
    let mut page = PageWriter::new(&request)?;
    let listed =
        authorizer.state().store.list::<R>(&within, &list_request.query, |row| page.push(&row)).await?;
    list::list_response(&request, &list_request, page, listed)
}

/// `GET /{id}`: returns a resource.
pub async fn fetch<R: Resource>(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    Ok(ok_json(&authorizer.lookups().find_authorized::<R>(&id.0).await?))
}

/// `POST /`: creates a resource.
pub async fn create<R: Resource>(
    authorizer: Authorizer,
    (request, Json(body)): (HttpRequest, Json<R::Body>),
) -> Result<HttpResponse, Problem> {
    let row: R =
        resource::build_row(&body, creation_info(&authorizer, authorizer.caller().organization.org_id()))?;
    let row = authorize_new_row(&authorizer, row).await?;
    let work = authorizer.begin().await?;
    let row = work.insert(row).await?;
    work.commit().await?;
    Ok(created(&request, row.id(), &row))
}

/// Returns the fields of a new row of this organization that the service sets.
pub fn creation_info(authorizer: &Authorizer, organization: Id) -> CreationInfo {
    CreationInfo { id: authorizer.new_id(), organization, now: authorizer.state().clock.now() }
}

/// Authorizes a new row in its organization, and its references.
///
/// # Errors
/// 403 if the creation is denied; 400 if the organization or a reference is missing or inaccessible.
pub async fn authorize_new_row<R: Resource>(
    authorizer: &Authorizer,
    row: R,
) -> Result<Permitted<R>, Problem> {
    let owner_path = authorizer
        .lookups()
        .resolve_owner_org(&authorizer.reader(), Some(row.organization()), "organization")
        .await?;
    let references = row.references();
    let row = authorizer.authorize_new(&owner_path, Unchecked::new(row, owner_path.clone()))?;
    authorizer.lookups().check_references(&authorizer.reader(), references).await?;
    Ok(row)
}

/// `PATCH /{id}`: changes some fields of a resource.
pub async fn update<R: Resource>(
    authorizer: Authorizer,
    (id, Json(patch)): (PathId, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let change = UpdateRequest { patch: &patch, extra_changes: &[] };
    let keep_location = |_: &mut R| None;
    // Authorized without a lock first, then again on the locked row.
    let first = change
        .authorize(
            &authorizer,
            &authorizer.reader(),
            authorizer.lookups().find_unchecked(&id.0).await?,
            keep_location,
        )
        .await?;
    authorizer.lookups().check_references(&authorizer.reader(), first.references).await?;
    let work = authorizer.begin().await?;
    let resource = authorizer.lookups().find_unchecked_in(&work, &id.0).await?;
    let row = change.authorize(&authorizer, &work.reader(), resource, keep_location).await?.row;
    let row = work.save(row).await?;
    work.commit().await?;
    Ok(updated(&authorizer, &row))
}

/// The requested change of a resource.
#[derive(Debug, Clone, Copy)]
pub struct UpdateRequest<'a> {
    /// The fields to set.
    pub patch: &'a Patch,
    /// The names of changed fields that are not columns of the row, such as the password.
    pub extra_changes: &'a [&'a str],
}

/// A changed row that may be saved after its new references have been checked.
#[derive(Debug)]
pub struct AuthorizedUpdate<R> {
    /// The row before the change.
    pub before: Permitted<R>,
    /// The changed row.
    pub row: Permitted<R>,
    /// The references that it did not have before.
    pub references: Vec<Reference>,
}

impl UpdateRequest<'_> {
    /// Authorizes the change with the names of the changed fields: on the resource as it is, and on it as it would be.
    /// `adjust` sets derived fields. It returns the new path of the owning organization if the field `organization` does not
    /// determine that.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`]; 400 if the patch is invalid or moves the resource to an inaccessible organization.
    pub async fn authorize<R: Resource>(
        &self,
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        resource: Option<Unchecked<R>>,
        adjust: impl FnOnce(&mut R) -> Option<OrgPath>,
    ) -> Result<AuthorizedUpdate<R>, Problem> {
        let extra_changes = || self.extra_changes.iter().map(|&field| field.to_owned());
        let mut home_context = authorizer.request_context();
        home_context.changes = Some(self.patch.keys().cloned().chain(extra_changes()).collect());
        let mut request_context = authorizer.request_context();
        request_context.changes = resource.as_ref().map_or_else(
            || home_context.changes.clone(),
            |resource| Some(resource.changed_fields(self.patch).into_iter().chain(extra_changes()).collect()),
        );
        let row = authorizer.authorize_with_home_context(resource, &request_context, &home_context)?;

        let body: R::Body = body::from_value(Value::Object(resource::apply_patch(&*row, self.patch)?), "")?;
        let mut changed: R = resource::replace_fields(&*row, &body, authorizer.state().clock.now())?;
        let owner_path = match adjust(&mut changed) {
            Some(location) => location,
            None if changed.organization() == row.organization() => row.path().clone(),
            None => {
                let named = Some(changed.organization());
                authorizer
                    .for_prerequisite("referTo")
                    .lookups()
                    .resolve_owner_org(reader, named, "organization")
                    .await?
            }
        };
        let references = new_references(&*row, &changed);
        if changed.granted_role() != row.granted_role() {
            request_context.role = changed.granted_role();
        }
        let before = row;
        let row = authorizer.authorize_changed(before.with_changes(changed, owner_path), &request_context)?;
        Ok(AuthorizedUpdate { before, row, references })
    }
}

/// Returns the references that the old row does not have. Existing ones are not checked again: their targets may have been
/// deleted since.
fn new_references<R: Resource>(old: &R, new: &R) -> Vec<Reference> {
    let existing = old.references();
    let is_new = |reference: &Reference| {
        !existing.iter().any(|old| (old.kind, old.id) == (reference.kind, reference.id))
    };
    new.references().into_iter().filter(is_new).collect()
}

/// `DELETE /{id}`: deletes a resource.
pub async fn delete<R: Resource>(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    authorizer.lookups().find_authorized::<R>(&id.0).await?;
    let work = authorizer.begin().await?;
    let row = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<R>(&work, &id.0).await?,
        &authorizer.request_context(),
    )?;
    work.delete(&row).await?;
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the response to an update: 200 with the resource if the caller may fetch it, else 204 (see "Update response" in
/// docs/decisions.md).
pub fn updated<R: Resource>(authorizer: &Authorizer, row: &Permitted<R>) -> HttpResponse {
    if authorizer.can_fetch(row) { ok_json(row) } else { HttpResponse::NoContent().finish() }
}

/// Returns 200 with the resource.
fn ok_json<T: Serialize>(resource: &Permitted<T>) -> HttpResponse {
    HttpResponse::Ok().json(resource)
}

/// Returns 201 with the resource and its `Location`.
pub fn created(request: &HttpRequest, id: Id, resource: &impl Serialize) -> HttpResponse {
    let location = absolute_url(request, &format!("{}/{id}", request.path().trim_end_matches('/')));
    HttpResponse::Created().insert_header((header::LOCATION, location)).json(resource)
}
