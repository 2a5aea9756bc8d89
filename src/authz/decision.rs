//! Decisions: the result of an evaluation, and copies of it that threads do not contend for.

use super::bundle::PolicyMetadata;
use super::invalid_attribute::{EvaluationError, InvalidAttribute};
use crate::types::to_raw_json;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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

    /// Whether two decisions have the same outcome, errors and determining policies.
    fn is_equivalent(&self, other: &Self) -> bool {
        self.allowed == other.allowed
            && self.errors == other.errors
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&other.policies).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// The denial of a request that cannot be evaluated.
    pub(super) fn from_error(error: impl Into<EvaluationError>) -> Self {
        let EvaluationError { message, attribute } = error.into();
        Self { invalid_attribute: attribute, ..Self::new(false, Vec::new(), vec![message]) }
    }
}

/// This thread's own copy of a decision. Threads that share one would contend for the cache line of its reference count.
pub(super) fn thread_local_copy(decision: &Arc<AuthzDecision>) -> Arc<AuthzDecision> {
    /// The maximum number of copies per thread.
    const MAX_COPIES: usize = 256;
    thread_local! {
        /// The shared decision and its copy, by the address of the shared one. Holding it keeps the address from being reused.
        static COPIES: RefCell<HashMap<*const AuthzDecision, [Arc<AuthzDecision>; 2]>> = RefCell::default();
    }
    COPIES.with_borrow_mut(|copies| {
        let address = Arc::as_ptr(decision);
        if copies.len() >= MAX_COPIES && !copies.contains_key(&address) {
            copies.clear();
        }
        let copy = || [Arc::clone(decision), Arc::new((**decision).clone())];
        let [_, own_copy] = copies.entry(address).or_insert_with(copy);
        Arc::clone(own_copy)
    })
}

/// Distinct decisions of one action. There are few, so that most cached decisions share one allocation.
#[derive(Debug, Default)]
pub(super) struct DecisionPool(Mutex<Vec<Arc<AuthzDecision>>>);

impl DecisionPool {
    /// The maximum number of decisions.
    const CAPACITY: usize = 64;

    /// The equivalent decision of the pool, or this one, which is added if there is space.
    pub(super) fn intern(&self, decision: AuthzDecision) -> Arc<AuthzDecision> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(existing) = pool.iter().find(|pooled| pooled.is_equivalent(&decision)) {
            return Arc::clone(existing);
        }
        let decision = Arc::new(decision);
        if pool.len() < Self::CAPACITY {
            pool.push(Arc::clone(&decision));
        }
        decision
    }
}
