//! Cedargate: an authorization service. It issues tokens, serves nine resources, and sends every authorization decision
//! to Cedar policies.
//!
//! The layers, each of which knows only those after it:
//!
//! ```text
//! main, cli -> server -> api -> http -> { authn, store } -> resource -> authz
//! telemetry, decision_log, config, types: leaves, each of which may name those after it
//! ```
//!
//! The path of a request is one straight line, and [`http::crud`] shows it: route -> authn -> decision -> store ->
//! answer. A row leaves the store as [`authz::Undecided`]; only Cedar's yes makes it [`authz::Permitted`], and only that
//! can be shown or saved.

pub mod api;
pub mod application;
pub mod authn;
pub mod authz;
pub mod cli;
pub mod config;
pub mod decision_log;
pub mod http;
pub mod resource;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod types;
