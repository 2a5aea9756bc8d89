//! Cedargate: an authorization service. It issues tokens, serves nine resources, and answers authorization questions. Cedar
//! policies make every authorization decision.
//!
//! The layers; each uses only those below it:
//!
//! ```text
//! main, cli -> server -> api -> http -> application -> { authn, store } -> resource -> analysis -> authz
//! leaves, each of which may use those after it: telemetry, decision_log, config, types
//! ```
//!
//! [`http::crud`] shows the path of a request: authentication, authorization, store, response. A row leaves the store as
//! [`authz::Unchecked`]. Only the engine turns it into [`authz::Permitted`], and only that can be serialized or saved.

pub mod analysis;
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
