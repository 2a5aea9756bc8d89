//! What Cedar says of a question.

use super::bundle::About;
use super::unfit::{Undecidable, UnfitAttribute};
use crate::values::raw;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What Cedar says.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Whether it is permitted. Where anything went wrong, it is not.
    pub allowed: bool,
    /// The policies that decided: those that permitted, or those that forbade; none where none permitted.
    pub policies: Vec<Arc<About>>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// The field of the context that does not fit its declaration, where that is what went wrong.
    pub unfit: Option<UnfitAttribute>,
    /// The ids of the policies in words, once that is wanted.
    ids: OnceLock<Box<RawValue>>,
}

impl Answer {
    pub(super) fn new(allowed: bool, policies: Vec<Arc<About>>, errors: Vec<String>) -> Self {
        Self { allowed, policies, errors, unfit: None, ids: OnceLock::new() }
    }

    /// The ids of the policies that decided.
    pub(super) fn ids(&self) -> &RawValue {
        self.ids.get_or_init(|| raw(&self.policies.iter().map(|about| &about.id).collect::<Vec<_>>()))
    }

    /// Whether another one says the same of the same policies.
    fn is_like(&self, other: &Self) -> bool {
        self.allowed == other.allowed
            && self.errors == other.errors
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&other.policies).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    pub(super) fn undecidable(error: impl Into<Undecidable>) -> Self {
        let Undecidable { message, attribute } = error.into();
        Self { unfit: attribute, ..Self::new(false, Vec::new(), vec![message]) }
    }
}

/// This thread's own copy of an answer that others have too, so that no core waits for the count of another's.
pub(super) fn own(answer: &Arc<Answer>) -> Arc<Answer> {
    /// How many a thread keeps at the most.
    const KEPT: usize = 256;
    thread_local! {
        /// The answers, each by its place in memory, where it stays as long as it is here, with the copy.
        static OWN: RefCell<HashMap<*const Answer, [Arc<Answer>; 2]>> = RefCell::default();
    }
    OWN.with_borrow_mut(|all| {
        let place = Arc::as_ptr(answer);
        if all.len() >= KEPT && !all.contains_key(&place) {
            all.clear();
        }
        let copy = || [Arc::clone(answer), Arc::new((**answer).clone())];
        let [_, own] = all.entry(place).or_insert_with(copy);
        Arc::clone(own)
    })
}

/// The answers that the policies of one action have given. They are few, and most decisions share them.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Vec<Arc<Answer>>>);

impl Answers {
    /// How many are kept at the most.
    const KEPT: usize = 64;

    /// The same answer, as one that others have too.
    pub(super) fn shared(&self, answer: Answer) -> Arc<Answer> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| known.is_like(&answer)) {
            return Arc::clone(same);
        }
        let answer = Arc::new(answer);
        if known.len() < Self::KEPT {
            known.push(Arc::clone(&answer));
        }
        answer
    }
}
