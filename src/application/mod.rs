//! The application layer: authenticates callers, authorizes what they do, and keeps sessions, throttles and limits.
//!
//! It has neither HTTP nor SQL. `http` and `cli` call it; its errors are mapped to problem details in `http::problem`.

pub mod api_keys;
pub mod audit;
pub mod authorizer;
pub mod bootstrap;
pub mod bulk;
pub mod caller;
pub mod caller_cache;
pub mod change_feed;
pub mod changes;
pub mod creation;
pub mod denials;
mod element_errors;
pub mod error;
pub mod field_error;
pub mod fields;
pub mod idempotency;
pub mod idempotent_answers;
mod json_value;
pub mod login_throttle;
pub mod lookups;
pub mod organizations;
pub mod password_change;
pub mod policy_archive;
pub mod policy_proof;
pub mod policy_reload;
pub mod populate;
pub mod precondition;
pub mod rate_limits;
pub mod refusals;
pub mod sessions;
pub mod signing_keys;
pub mod state;
pub mod subjects;
pub mod token_families;
pub mod users;
pub mod verification;
pub mod writes;

pub use authorizer::Authorizer;
pub use caller::{Caller, Credential, UserAtFullRole};
pub use error::{Error, ErrorKind};
pub use field_error::FieldError;
pub use lookups::Lookups;
pub use signing_keys::SigningKeys;
pub use state::{AppState, SharedState};
