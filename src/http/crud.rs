//! Generic handlers for list, fetch, create, update and delete: the path of a request on one screen.

use super::accept::{NDJSON, is_preferred};
use super::base_url::absolute_url;
use super::entity_tag::reject_preconditions;
use super::export::{self, ListAccess, ResourceExport};
use super::page::PageWriter;
use super::query::list_request::ListScope;
use super::query::{ListRequest, ListSpec, Shape};
use super::view::{self, View};
use super::{IfMatch, Json, PathId, Problem, bulk, list};
use crate::application::changes::Patch;
use crate::application::creation::{self, NewResource};
use crate::application::writes::{self, WritableResource};
use crate::application::{Authorizer, precondition};
use crate::authz::{AuthorizedOrgs, AuthzResource as _, Permitted};
use crate::resource::{self, Resource};
use crate::types::{Id, JsonSize};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;
use std::sync::Arc;

/// `GET /`: lists the resources of the organizations in which the list is permitted.
///
/// # Errors
/// 403 if the list is permitted in no organization; 400 if the query string is invalid; 503 if the database is unavailable.
pub async fn list<R: Resource>(
    authorizer: Authorizer,
    request: HttpRequest,
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    let access = ListScope::of(&request);
    list_with::<R, _>(authorizer, request, &spec, access).await
}

/// Returns a page of the resources to which `access` leads, or their export if the request asks for NDJSON.
///
/// # Errors
/// As [`list()`], and those of `access`.
pub async fn list_with<R: Resource, A: ListAccess>(
    authorizer: Authorizer,
    request: HttpRequest,
    spec: &ListSpec,
    access: A,
) -> Result<HttpResponse, Problem> {
    let within = access.authorize(&authorizer).await?;
    if is_preferred(&request, NDJSON) {
        let export = ResourceExport::<R, A>::new(request.clone(), spec, access, (authorizer, within))?;
        return export::respond(&request, export).await;
    }
    let mut list_request = ListRequest::parse(&request, spec)?;
    list_request.query.filters.extend(access.filters());
    list_within::<R>(&authorizer, &request, &within, &list_request).await
}

/// Returns the page of a list of these organizations.
///
/// # Errors
/// 503 if the database is unavailable, or the memory for bodies is exhausted.
async fn list_within<R: Resource>(
    authorizer: &Authorizer,
    request: &HttpRequest,
    within: &Permitted<AuthorizedOrgs>,
    list_request: &ListRequest,
) -> Result<HttpResponse, Problem> {
    let store = &authorizer.state().store;
    let mut page = PageWriter::new(request)?;
    if list_request.shape.is_plain() {
        let mut last = None;
        let visit = |row: Permitted<R>| {
            let fits = page.push(&row);
            if fits {
                last = Some(row);
            }
            fits
        };
        let listed = store.list::<R>(within, &list_request.query, visit).await?;
        let last = last.map(|row| resource::to_json_object(&row)).transpose()?;
        return list::list_response(request, list_request, page, &listed, last.as_ref());
    }
    // Collected first: what they refer to is loaded for all of them together.
    let (mut rows, mut bytes) = (Vec::new(), 0_usize);
    let visit = |row: Permitted<R>| {
        bytes = bytes.saturating_add(JsonSize::of(&row).bytes);
        let fits = rows.is_empty() || bytes <= page.max_bytes();
        if fits {
            rows.push(row);
        }
        fits
    };
    let mut listed = store.list::<R>(within, &list_request.query, visit).await?;
    let view = View::load(authorizer, &list_request.shape, request, &rows, page.max_bytes()).await?;
    let mut written = 0;
    for row in &rows {
        if !page.push(&view.json(row)?) {
            break;
        }
        written += 1;
    }
    if written < rows.len() {
        listed.has_more = true;
        listed.item_count = u64::try_from(written).unwrap_or(u64::MAX);
    }
    let last = written.checked_sub(1).and_then(|index| rows.get(index));
    let last = last.map(resource::to_json_object).transpose()?;
    list::list_response(request, list_request, page, &listed, last.as_ref())
}

/// `GET /{id}`: returns a resource.
///
/// # Errors
/// 404 or 403 if the resource is not accessible; 400 if the query string is invalid; 503 if the database is unavailable.
pub async fn fetch<R: Resource>(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    let row = authorizer.lookups().find_authorized::<R>(&id.0).await?;
    let shape = Shape::parse(&request, &spec)?;
    view::fetch_response(&authorizer, &request, &shape, row).await
}

/// `POST /`: creates a resource, or all of an array.
///
/// # Errors
/// 400 if a field is invalid; 403 if the policies do not permit it; 409 if it conflicts with another resource; 413 if it is too
/// large; 503 if the database is unavailable.
pub async fn create<N: NewResource>(
    authorizer: Authorizer,
    (request, Json(body)): (HttpRequest, Json<Value>),
) -> Result<HttpResponse, Problem> {
    reject_preconditions(&request)?;
    match body {
        Value::Object(_) => {
            let row = creation::create(&authorizer, N::parse(body)?).await?;
            Ok(created(&request, row.id(), &row))
        }
        Value::Array(bodies) => bulk::create::<N>(&authorizer, &request, bodies).await,
        _ => Err(Problem::bad_request("Expected a JSON object, or an array of JSON objects.")),
    }
}

/// `PATCH /{id}`: changes some fields of a resource.
///
/// # Errors
/// 404 or 403 if the resource is not accessible or the change not permitted; 400 if a field is invalid; 409 if it conflicts with
/// another resource; 412 if the resource does not have the version in `If-Match`; 413 if it is too large; 503 if the database is
/// unavailable.
pub async fn update<R: WritableResource>(
    authorizer: Authorizer,
    (id, IfMatch(precondition), Json(patch)): (PathId, IfMatch, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let row = writes::update::<R>(&authorizer, &id.0, &patch, &precondition).await?;
    Ok(updated(&authorizer, &row))
}

/// `PUT /{id}`: replaces the writable fields of a resource. Those that the body omits get their defaults.
///
/// # Errors
/// As [`update`].
pub async fn replace<R: WritableResource>(
    authorizer: Authorizer,
    (id, precondition, Json(body)): (PathId, IfMatch, Json<R::Body>),
) -> Result<HttpResponse, Problem> {
    let all_fields = resource::to_json_object(&body)?;
    update::<R>(authorizer, (id, precondition, Json(all_fields))).await
}

/// `DELETE /{id}`: deletes a resource.
///
/// # Errors
/// 404 or 403 if the resource is not accessible; 409 if another one refers to it; 412 if it does not have the version in
/// `If-Match`; 503 if the database is unavailable.
pub async fn delete<R: WritableResource>(
    authorizer: Authorizer,
    (id, IfMatch(precondition)): (PathId, IfMatch),
) -> Result<HttpResponse, Problem> {
    writes::delete::<R>(&authorizer, &id.0, &precondition).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the response to an update: 200 with the resource if the caller may fetch it, else 204 (see "Update response" in
/// docs/decisions.md).
pub fn updated<R: Resource>(authorizer: &Authorizer, row: &Permitted<R>) -> HttpResponse {
    if authorizer.can_fetch(row) { view::ok_json(row) } else { HttpResponse::NoContent().finish() }
}

/// Returns 201 with a resource below the path of the request, its `Location` and its `ETag`.
pub fn created<R: Resource>(request: &HttpRequest, id: Id, resource: &Permitted<R>) -> HttpResponse {
    created_at(request, &format!("{}/{id}", request.path().trim_end_matches('/')), resource)
}

/// Returns 201 with the resource of this path, its `Location` and its `ETag`.
pub fn created_at<R: Resource>(request: &HttpRequest, path: &str, resource: &Permitted<R>) -> HttpResponse {
    let location = absolute_url(request, path);
    let tag = view::entity_tag(&precondition::version(resource));
    HttpResponse::Created()
        .insert_header((header::LOCATION, location))
        .insert_header((header::ETAG, tag))
        .json(resource)
}
