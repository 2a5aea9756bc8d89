//! Decisions: the result of an evaluation.

use super::invalid_attribute::{EvaluationError, InvalidAttribute};
use super::policy_metadata::PolicyMetadata;
use crate::types::to_raw_json;
use serde_json::value::RawValue;
use std::sync::{Arc, OnceLock};

/// The decision on a request.
#[derive(Debug, Clone, Default)]
pub struct AuthzDecision {
    /// Whether the request is allowed. Never if the evaluation failed.
    pub allowed: bool,
    /// The determining policies: the matching permits of an allow, the matching forbids of a denial. Empty if no policy
    /// matches.
    pub policies: Vec<Arc<PolicyMetadata>>,
    /// Why the evaluation failed.
    pub errors: Vec<String>,
    /// The field of the context that violates its declaration, if that is why the evaluation failed.
    pub invalid_attribute: Option<InvalidAttribute>,
    /// The ids of the determining policies as JSON, created on first use.
    ids: OnceLock<Box<RawValue>>,
}

impl AuthzDecision {
    pub(super) fn new(allowed: bool, policies: Vec<Arc<PolicyMetadata>>, errors: Vec<String>) -> Self {
        Self { allowed, policies, errors, invalid_attribute: None, ids: OnceLock::new() }
    }

    /// The ids of the determining policies as a JSON array.
    pub(super) fn ids(&self) -> &RawValue {
        self.ids
            .get_or_init(|| to_raw_json(&self.policies.iter().map(|policy| &policy.id).collect::<Vec<_>>()))
    }

    /// The denial of a request that cannot be evaluated.
    pub(super) fn from_error(error: impl Into<EvaluationError>) -> Self {
        let EvaluationError { message, attribute } = error.into();
        Self { invalid_attribute: attribute, ..Self::new(false, Vec::new(), vec![message]) }
    }
}
