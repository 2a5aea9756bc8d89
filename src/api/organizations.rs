//! The routes of organizations: the tenants, a tree with one root.

use crate::http::{RouteGroup, crud, openapi};
use crate::resource::organization::{Organization, OrganizationBody};

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Organization>("Organizations", "/v2/organizations")
        .about("Tenants, in a tree. Every resource belongs to one.")
        .list::<Organization>("listOrganizations")
        .fetch::<Organization>()
        .post(
            "",
            "createOrganization",
            openapi::create::<Organization, OrganizationBody>,
            crud::create::<OrganizationBody>,
        )
        .additional_actions(&["referTo"])
        .idempotent()
        .update::<Organization>("updateOrganization")
        .delete::<Organization>("deleteOrganization")
        .bulk::<Organization>(
            "listOrganizations",
            ("updateOrganization", "updateOrganizations"),
            ("deleteOrganization", "deleteOrganizations"),
        )
}
