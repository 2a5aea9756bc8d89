//! HTTP: routes, authentication of requests, generic handlers, bodies, lists, problems, middleware, limits and TLS. It has
//! nothing about single resources.
//!
//! A request passes these modules, in this order:
//!
//! 1. [`server`], [`connection_limiter`] and [`connection`]: the connection, its limits and deadlines.
//! 2. [`cors`] and [`request_middleware`]: request id, limit by address, and the rendering of errors.
//! 3. [`routes`]: the route with its action, and [`authentication`] of the caller before anything else of the request is read.
//! 4. `query_check` or [`query`], and [`body`]: the query string, and the body within the memory of [`body_budget`].
//! 5. [`crud`] or [`bulk`], or a handler in [`crate::api`]: authorization, then the store.
//! 6. [`view`], [`page`], [`list`], [`export`] and [`problem`]: the response, or the error.
//!
//! Errors of the layers below become a [`Problem`] here, and nowhere else.

pub mod accept;
pub mod authentication;
pub mod base_url;
pub mod body;
pub mod body_budget;
mod body_reader;
pub mod bulk;
pub mod compression;
pub mod connection;
pub mod connection_limiter;
pub mod cors;
pub mod crud;
pub mod docs;
pub mod drain;
pub mod entity_tag;
pub mod event_stream;
pub mod export;
pub mod export_limiter;
pub mod forward_auth;
pub mod idempotency;
pub mod list;
pub mod metrics;
pub mod mount;
pub mod openapi;
mod operation_doc;
mod paced_body;
pub mod page;
pub mod problem;
pub mod query;
pub mod query_check;
pub mod rate_limits;
pub mod request_info;
pub mod request_middleware;
mod request_span;
pub mod route_group;
pub mod routes;
pub mod server;
pub mod state;
pub mod tls;
pub mod view;

pub use crate::application::FieldError;
pub use authentication::authenticate;
pub use body::{Form, Json, OAuthForm, PathId};
pub use entity_tag::IfMatch;
pub use problem::Problem;
pub use route_group::RouteGroup;
pub use state::WorkerState;
