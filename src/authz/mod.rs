//! Authorization: loads and validates Cedar bundles, evaluates requests and explains denials. No SQL, no HTTP.
//!
//! - A [`Bundle`] is a validated set of schema, policies, data and policy tests, read from its directories ([`Sources`]).
//! - An [`Engine`] evaluates requests by one bundle. An [`AuthzRequest`] names the principal, the action and the request
//!   context; together with a [`ResourceEntity`] it is one question.
//! - The [`PolicyHandle`] holds the active engine and replaces it on a reload.
//! - Rows are [`Unchecked`] until the engine permits an action on them; only [`Permitted`] rows can be serialized or saved.
//!
//! A request that cannot be evaluated is denied: an unknown action or type, an invalid context, a policy that fails.

mod action_policies;
mod attribute;
mod bundle;
mod candidate;
pub mod cases;
pub(crate) mod condition_parts;
mod context_changes;
mod context_json;
mod counters;
mod decision;
mod decision_context;
mod engine;
mod entities;
mod entity_json;
mod entity_path;
mod entity_uid;
mod explain;
mod explained_parts;
mod explanation;
mod external_entities;
pub mod filter;
mod indexed_policy;
mod invalid_attribute;
mod inventory;
mod list_actions;
mod logged_request;
mod logged_values;
mod matrix;
mod matrix_claims;
mod missing_resources;
mod part_values;
mod permitted;
mod policy_handle;
mod policy_metadata;
mod policy_parts;
mod policy_source;
mod question_warnings;
mod read_set;
mod recorder;
mod reference;
mod schema_type;
mod scope;
mod search_record;
mod snapshot;
mod snapshot_file;
mod verifier;
mod version;

pub use attribute::{
    Attribute, AttributeType, AttributeValue, AuthzResource, ResourceRef, SuppliedAttribute, UserAttributes,
    boolean, entity, text,
};
pub(crate) use attribute::{USER_ATTRIBUTES, enum_attribute, supplied_attributes};
pub(crate) use bundle::action_name;
pub use bundle::{BUILT_IN_CLAIMS, Bundle, BundleDiagnostic, BundleError, CASCADE_CLAIM, Claim, Rule};
pub use candidate::{Candidate, PendingConfirmation, ReloadConfig};
pub use counters::{DecisionCounts, LATENCY_BUCKETS_NANOS};
pub use decision::AuthzDecision;
pub use decision_context::{CredentialKind, DecisionContext};
pub use engine::{AuthzRequest, Engine};
pub(crate) use entities::ORGANIZATION_ATTRIBUTES;
pub use entities::{ExternalEntity, Principal, ResourceEntity};
pub(crate) use entity_path::PathStart;
pub use explain::{DenialReason, ExplainOptions};
pub use explanation::{
    ExplainedPart, ExplainedPolicy, Explanation, LeastChange, Outcome, ReadValue, Visibility,
};
pub use external_entities::{ExternalEntities, ExternalError};
pub use invalid_attribute::InvalidAttribute;
pub use inventory::{Inventory, Losses};
pub(crate) use list_actions::is_row_environment;
pub use logged_request::{LoggedRequest, LoggedUid};
pub use matrix::{MatrixRow, ScopeCells, matrix, matrix_rows};
pub use matrix_claims::matrix_claims;
pub use permitted::{AuthorizedOrgs, Denied, Permitted, Unchecked};
pub use policy_handle::{PolicyHandle, ReloadCounts, ScanState};
pub use policy_metadata::PolicyMetadata;
pub use policy_parts::{PartKind, PartValue, PolicyPart, PolicyParts};
pub use question_warnings::QuestionWarning;
pub use recorder::DecisionRecorder;
pub use reference::Answer;
pub use scope::{Scope, ScopeSet};
pub use search_record::SearchDetails;
pub use snapshot::{PROOF_FILE, Snapshot, Sources, StoredType};
pub use snapshot_file::FileKind;
pub(crate) use snapshot_file::SnapshotFile;
pub use verifier::{Difference, RowVerification, VerificationCounts, Verifier};
pub use version::{InvalidVersion, VersionPrefix, short_version};
