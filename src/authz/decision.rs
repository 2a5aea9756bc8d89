//! What Cedar says of a question.

use super::bundle::PolicyMetadata;
use super::invalid_attribute::{EvaluationError, InvalidAttribute};
use crate::types::to_raw_json;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What Cedar says.
#[derive(Debug, Clone, Default)]
pub struct AuthzDecision {
    /// Whether it is permitted. Where anything went wrong, it is not.
    pub allowed: bool,
    /// The policies that decided: those that permitted, or those that forbade; none where none permitted.
    pub policies: Vec<Arc<PolicyMetadata>>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// The field of the context that does not fit its declaration, where that is what went wrong.
    pub invalid_attribute: Option<InvalidAttribute>,
    /// The ids of the policies in words, once that is wanted.
    ids: OnceLock<Box<RawValue>>,
}

impl AuthzDecision {
    pub(super) fn new(allowed: bool, policies: Vec<Arc<PolicyMetadata>>, errors: Vec<String>) -> Self {
        Self { allowed, policies, errors, invalid_attribute: None, ids: OnceLock::new() }
    }

    /// The ids of the policies that decided.
    pub(super) fn ids(&self) -> &RawValue {
        self.ids
            .get_or_init(|| to_raw_json(&self.policies.iter().map(|policy| &policy.id).collect::<Vec<_>>()))
    }

    /// Whether another one says the same of the same policies.
    fn is_equivalent(&self, other: &Self) -> bool {
        self.allowed == other.allowed
            && self.errors == other.errors
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&other.policies).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    pub(super) fn from_error(error: impl Into<EvaluationError>) -> Self {
        let EvaluationError { message, attribute } = error.into();
        Self { invalid_attribute: attribute, ..Self::new(false, Vec::new(), vec![message]) }
    }
}

/// This thread's own copy of an answer that others have too, so that no core waits for the count of another's.
pub(super) fn thread_local_copy(decision: &Arc<AuthzDecision>) -> Arc<AuthzDecision> {
    /// How many a thread keeps at the most.
    const MAX_COPIES: usize = 256;
    thread_local! {
        /// The answers, each by its place in memory, where it stays as long as it is here, with the copy.
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

/// The answers that the policies of one action have given. They are few, and most decisions share them.
#[derive(Debug, Default)]
pub(super) struct DecisionPool(Mutex<Vec<Arc<AuthzDecision>>>);

impl DecisionPool {
    /// How many are kept at the most.
    const CAPACITY: usize = 64;

    /// The same answer, as one that others have too.
    pub(super) fn intern(&self, decision: AuthzDecision) -> Arc<AuthzDecision> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(existing) = pool.iter().find(|pool| pool.is_equivalent(&decision)) {
            return Arc::clone(existing);
        }
        let decision = Arc::new(decision);
        if pool.len() < Self::CAPACITY {
            pool.push(Arc::clone(&decision));
        }
        decision
    }
}
