//! The HTTP API: one file per resource or endpoint group, with its routes, bodies, rows and Cedar attributes.
//!
//! - [`all_routes`] is the route table. The server, the OpenAPI document, forward authentication and the tests read it.
//! - A resource ([`contacts`], [`forms`] and so on) declares its row, its body, its Cedar attributes and its five actions; the
//!   handlers are those of [`crate::http::crud`]. [`users`] and [`organizations`] have handlers of their own where an update has
//!   further effects.
//! - [`tokens`], [`revocation`], [`sessions`] and [`api_keys`] are the endpoints for credentials.
//! - [`decisions`] are the endpoints that answer questions of other services.
//!
//! A handler gets an [`Authorizer`](crate::application::Authorizer) for the action that its route names. The policies decide;
//! no handler tests a role or a scope.

pub mod api_keys;
pub mod audit;
pub mod changes;
pub mod commands;
pub mod contacts;
pub mod conversation_messages;
pub mod conversations;
pub mod decisions;
pub mod discovery;
pub mod forms;
pub mod health;
pub mod knowledge_items;
pub mod messages;
mod metrics;
pub mod organization_groups;
pub mod organizations;
pub mod participants;
pub mod policies;
pub mod policy_versions;
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
        decisions::authorize::routes(),
        decisions::forward::routes(),
        decisions::authzen::routes(),
        decisions::authzen::metadata_routes(),
        discovery::routes(),
        policies::routes(),
        policies::permission_routes(),
        policy_versions::routes(),
        audit::routes(),
        changes::routes(),
        organizations::routes(),
        organization_groups::routes(),
        users::routes(),
        conversations::routes(),
        conversation_messages::routes(),
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
