//! The HTTP API: one file per resource or endpoint group, with its routes, bodies, rows and Cedar attributes.

pub mod api_keys;
pub mod audit;
pub mod authorize;
pub mod authzen;
mod authzen_batch;
mod authzen_body;
pub mod authzen_search;
pub mod contacts;
pub mod conversations;
pub mod discovery;
pub mod evaluation;
pub mod forms;
pub mod forward;
pub mod health;
pub mod knowledge_items;
pub mod messages;
mod metrics;
pub mod organization_groups;
pub mod organizations;
pub mod policies;
pub mod revocation;
pub mod services;
pub mod sessions;
pub mod tokens;
pub mod users;

use crate::http::RouteGroup;
use crate::store::ResourceTypes;

/// The route table.
pub fn all_routes() -> Vec<RouteGroup> {
    vec![
        tokens::routes(),
        revocation::routes(),
        sessions::log_out_routes(),
        sessions::routes(),
        api_keys::routes(),
        authorize::routes(),
        forward::routes(),
        authzen::routes(),
        authzen::metadata_routes(),
        discovery::routes(),
        policies::routes(),
        policies::permission_routes(),
        audit::routes(),
        organizations::routes(),
        organization_groups::routes(),
        users::routes(),
        conversations::routes(),
        conversations::message_routes(),
        messages::routes(),
        contacts::routes(),
        knowledge_items::routes(),
        forms::routes(),
        services::routes(),
        health::routes(),
    ]
}

/// The resource types of the route table.
pub fn resource_types() -> ResourceTypes {
    all_routes().iter().filter_map(RouteGroup::kind).collect()
}
