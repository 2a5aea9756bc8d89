//! Bulk requests: the creation of an array of resources, and changes and deletions of all that match a filter.

use super::page::PageWriter;
use super::query::list_request::ListScope;
use super::query::{ListSpec, SelectionRequest};
use super::{Json, Problem, entity_tag};
use crate::application::Authorizer;
use crate::application::bulk::{self, BulkAction, Selection};
use crate::application::changes::Patch;
use crate::application::creation::{self, NewResource};
use crate::application::writes::WritableResource;
use crate::types::Id;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// Which resources a bulk request changed or deleted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkResult {
    /// The number of resources.
    #[schema(examples(2))]
    count: usize,
    /// Their ids, ascending.
    ids: Vec<Id>,
    /// Whether it was a dry run: nothing was changed.
    dry_run: bool,
}

/// `POST /` with an array: creates all resources or none, and returns them in the order of the array.
///
/// # Errors
/// As [`super::crud::create`]; each error names the index of its element.
pub async fn create<N: NewResource>(
    authorizer: &Authorizer,
    request: &HttpRequest,
    bodies: Vec<Value>,
) -> Result<HttpResponse, Problem> {
    // The response is written before the transaction commits, because it might not fit into the memory for bodies.
    let written = creation::create_all::<N, _, Problem>(authorizer, bodies, |stored| {
        let mut page = PageWriter::unlimited(request)?;
        stored.iter().for_each(|row| {
            page.push(row);
        });
        page.check()?;
        Ok(page)
    });
    Box::pin(written).await?.finish(request, HttpResponse::Created())
}

/// `PATCH /`: changes some fields of all resources that match the query string.
///
/// # Errors
/// 400 if the query string or a field is invalid, or if too many resources match; 403 if the change of one of them is denied; 409 if
/// one conflicts with another resource; 503 if the database is unavailable.
pub async fn update<R: WritableResource>(
    authorizer: Authorizer,
    (request, Json(patch)): (HttpRequest, Json<Patch>),
    (spec, list_action): (Arc<ListSpec>, &'static str),
) -> Result<HttpResponse, Problem> {
    apply::<R>(&authorizer, &request, (&spec, list_action), BulkAction::Update(&patch)).await
}

/// `DELETE /`: deletes all resources that match the query string.
///
/// # Errors
/// As [`update`].
pub async fn delete<R: WritableResource>(
    authorizer: Authorizer,
    request: HttpRequest,
    (spec, list_action): (Arc<ListSpec>, &'static str),
) -> Result<HttpResponse, Problem> {
    apply::<R>(&authorizer, &request, (&spec, list_action), BulkAction::Delete).await
}

async fn apply<R: WritableResource>(
    authorizer: &Authorizer,
    request: &HttpRequest,
    (spec, list_action): (&ListSpec, &'static str),
    action: BulkAction<'_>,
) -> Result<HttpResponse, Problem> {
    let within = ListScope::of(request).authorize(&authorizer.with_action(list_action)).await?;
    let SelectionRequest { filters, is_dry_run } = SelectionRequest::parse(request, spec)?;
    let message = "is about a single resource; use filters such as `updatedAt=<=…` here";
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        entity_tag::reject(request, &name, message)?;
    }
    let selection = Selection { within: &within, filters };
    let ids = bulk::apply::<R>(authorizer, &selection, action, is_dry_run).await?;
    Ok(HttpResponse::Ok().json(BulkResult { count: ids.len(), ids, dry_run: is_dry_run }))
}
