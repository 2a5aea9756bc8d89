//! May it? Cedar and nothing else: no SQL, no HTTP.

mod action_policies;
mod bundle;
mod candidate;
pub mod cases;
mod compiled_policy;
mod counters;
mod decision;
mod decision_context;
mod engine;
mod entities;
mod explain;
mod external_entities;
mod invalid_attribute;
mod inventory;
mod log_json;
mod matrix;
mod permitted;
mod policy_handle;
mod read_set;
mod recorder;
mod schema_type;
mod scope;
mod snapshot;

pub use bundle::{Bundle, BundleDiagnostic, BundleError, PolicyMetadata, Sources};
pub use candidate::{Candidate, PendingConfirmation};
pub use counters::{DecisionCounts, LATENCY_BUCKETS_NANOS};
pub use decision::AuthzDecision;
pub use decision_context::DecisionContext;
pub use engine::{AuthzRequest, Engine};
pub use entities::{
    Attribute, AuthzResource, ExternalEntity, Principal, ResourceEntity, UserAttributes, boolean, entity,
    text,
};
pub use explain::DenialReason;
pub use external_entities::{ExternalEntities, ExternalError};
pub use invalid_attribute::InvalidAttribute;
pub use inventory::{Inventory, Losses};
pub use matrix::{MatrixRow, ScopeCells, matrix, matrix_rows};
pub use permitted::{AuthorizedOrgs, Denied, Permitted, Unchecked};
pub use policy_handle::{PolicyHandle, ReloadConfig, ReloadCounts, ScanState};
pub use recorder::DecisionRecorder;
pub use scope::{Scope, ScopeSet};
