//! The routes of organizations: the tenants, a tree with one root.

use crate::application::Authorizer;
use crate::application::changes::Patch;
use crate::application::organizations;
use crate::http::{IfMatch, Json, PathId, Problem, RouteGroup, crud, openapi};
use crate::resource::organization::{Organization, OrganizationBody};
use actix_web::{HttpRequest, HttpResponse};

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Organization>("Organizations", "/v2/organizations")
        .about("Tenants, in a tree. Every resource belongs to one.")
        .list::<Organization>("listOrganizations")
        .fetch::<Organization>()
        .post("", "createOrganization", openapi::create::<Organization, OrganizationBody>, create)
        .additional_actions(&["referTo"])
        .patch("/{id}", "updateOrganization", openapi::update::<Organization>, update)
        .additional_actions(&["referTo"])
        .remove("/{id}", "deleteOrganization", openapi::delete::<Organization>, delete)
}

/// `POST /v2/organizations`: authorized on the parent organization.
async fn create(
    authorizer: Authorizer,
    (request, Json(body)): (HttpRequest, Json<OrganizationBody>),
) -> Result<HttpResponse, Problem> {
    let organization = organizations::create(&authorizer, body).await?;
    Ok(crud::created(&request, organization.id, &organization))
}

/// `PATCH /v2/organizations/{id}`. A new `parent` moves the organization and its subtree.
async fn update(
    authorizer: Authorizer,
    (id, IfMatch(precondition), Json(patch)): (PathId, IfMatch, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let organization = organizations::update(&authorizer, &id.0, &patch, &precondition).await?;
    Ok(crud::updated(&authorizer, &organization))
}

/// `DELETE /v2/organizations/{id}`: 409 if the organization still owns resources.
async fn delete(
    authorizer: Authorizer,
    (id, IfMatch(precondition)): (PathId, IfMatch),
) -> Result<HttpResponse, Problem> {
    organizations::delete(&authorizer, &id.0, &precondition).await?;
    Ok(HttpResponse::NoContent().finish())
}
