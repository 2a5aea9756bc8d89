//! How a call becomes an answer: route -> authn -> decision -> store -> answer. Knows HTTP; knows no single resource.

pub mod address;
pub mod audit;
pub mod body;
pub mod budget;
pub mod caller;
pub mod connection;
pub mod connections;
pub mod cors;
pub mod crud;
pub mod docs;
pub mod edge;
pub mod forward;
pub mod gate;
pub mod guessing;
mod incoming;
pub mod limits;
pub mod list;
pub mod metrics;
pub mod openapi;
mod paced;
pub mod page;
pub mod parts;
pub mod problem;
pub mod refusals;
pub mod routes;
pub mod server;
mod span;
pub mod tls;
pub mod token_keys;

pub use body::{Form, Json, PathId};
pub use caller::{ByRole, Caller, Credential};
pub use gate::Gate;
pub use parts::Parts;
pub use problem::{FieldError, Problem};
pub use routes::Routes;
pub use token_keys::TokenKeys;
