//! What a client may call: one file a part, each with its routes, bodies, rows and what Cedar learns of them.

pub mod access;
pub mod audit;
pub mod authorize;
mod batch;
pub mod contacts;
pub mod conversations;
pub mod discovery;
pub mod families;
pub mod forms;
pub mod forward;
pub mod health;
pub mod kbitems;
pub mod keys;
pub mod messages;
pub mod organizations;
pub mod orggroups;
mod password_change;
pub mod policies;
pub mod policy_reload;
pub mod question;
pub mod revocation;
pub mod search;
mod sent;
pub mod services;
pub mod sessions;
pub mod tokens;
mod understood;
pub mod users;

use crate::http::Routes;
use crate::store::Kinds;

/// Every route: the table of contents.
pub fn all() -> Vec<Routes> {
    vec![
        tokens::routes(),
        revocation::routes(),
        sessions::log_out_routes(),
        sessions::routes(),
        keys::routes(),
        authorize::routes(),
        forward::routes(),
        access::routes(),
        access::metadata_routes(),
        discovery::routes(),
        policies::routes(),
        policies::permission_routes(),
        audit::routes(),
        organizations::routes(),
        orggroups::routes(),
        users::routes(),
        conversations::routes(),
        conversations::message_routes(),
        messages::routes(),
        contacts::routes(),
        kbitems::routes(),
        forms::routes(),
        services::routes(),
        health::routes(),
    ]
}

/// The kinds of things that the routes are for.
pub fn kinds() -> Kinds {
    all().iter().filter_map(Routes::kind).collect()
}
