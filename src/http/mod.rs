//! HTTP: routes, authentication of requests, generic handlers, bodies, lists, problems, middleware, limits and TLS. It has
//! nothing about single resources.

pub mod authentication;
pub mod base_url;
pub mod body;
pub mod body_budget;
mod body_reader;
pub mod connection;
pub mod connection_limiter;
pub mod cors;
pub mod crud;
pub mod docs;
pub mod drain;
pub mod forward_auth;
pub mod list;
pub mod metrics;
pub mod openapi;
mod paced_body;
pub mod page;
pub mod problem;
pub mod rate_limits;
pub mod request_middleware;
mod request_span;
pub mod routes;
pub mod server;
pub mod state;
pub mod tls;

pub use crate::application::FieldError;
pub use authentication::authenticate;
pub use body::{Form, Json, PathId};
pub use problem::Problem;
pub use routes::RouteGroup;
pub use state::WorkerState;
