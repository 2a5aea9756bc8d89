//! Generic handlers for list, fetch, create, update and delete: the path of a request on one screen.

use super::base_url::absolute_url;
use super::list::ListField;
use super::page::PageWriter;
use super::{Json, PathId, Problem, list};
use crate::application::Authorizer;
use crate::application::changes::{Patch, UpdateRequest, authorize_new_row, creation_info};
use crate::authz::Permitted;
use crate::resource::{self, Resource};
use crate::types::Id;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::sync::Arc;

/// `GET /`: lists the resources of the organizations in which the list is permitted.
///
/// # Errors
/// 403 if the list is permitted in no organization; 400 if the query string is invalid; 503 if the database is unavailable.
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
///
/// # Errors
/// 404 or 403 if the resource is not accessible; 503 if the database is unavailable.
pub async fn fetch<R: Resource>(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    Ok(ok_json(&authorizer.lookups().find_authorized::<R>(&id.0).await?))
}

/// `POST /`: creates a resource.
///
/// # Errors
/// 400 if a field is invalid; 403 if the policies do not permit it; 409 if it conflicts with another resource; 413 if it is too
/// large; 503 if the database is unavailable.
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

/// `PATCH /{id}`: changes some fields of a resource.
///
/// # Errors
/// 404 or 403 if the resource is not accessible or the change not permitted; 400 if a field is invalid; 409 if it conflicts with
/// another resource; 413 if it is too large; 503 if the database is unavailable.
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

/// `DELETE /{id}`: deletes a resource.
///
/// # Errors
/// 404 or 403 if the resource is not accessible; 409 if another one refers to it; 503 if the database is unavailable.
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
