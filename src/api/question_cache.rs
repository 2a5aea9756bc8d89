//! Questions of late, understood. Whoever asks the same in the same words means the same by them, and may ask it still, as
//! long as the caller, the policies and what it asks about are as they were. Such a question is neither read nor looked up
//! again. It is decided each time, by the engine, and recorded like any other.

use super::evaluation::{self, EntityRef, EvaluationResult};
use crate::application::Authorizer;
use crate::authz::{AuthzRequest, DecisionContext, Principal, ResourceEntity};
use crate::store::CacheVersion;
use crate::types::{Fingerprint, Id, ThreadCache};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::sync::Arc;

/// How many questions a thread has near.
const CAPACITY: usize = 1_024;

/// How many bytes a question has at most that is kept.
const MAX_BODY_BYTES: usize = 2_048;

/// The decisions on the way to one of these questions: whether the caller may ask about somebody, and name a thing.
const PREREQUISITES: [&str; 3] = ["evaluateAccess", "evaluateForeignAccess", "referTo"];

thread_local! {
    static CACHE: RefCell<ThreadCache<CachedQuestion>> = const { RefCell::new(ThreadCache::EMPTY) };
}

/// What the caller, the policies and the words of a question are together.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuestionKey(Fingerprint);

impl QuestionKey {
    /// Those of this body; none of a long one, which would take too much room.
    pub(super) fn for_request(authorizer: &Authorizer, body: &[u8]) -> Option<Self> {
        let caller = authorizer.caller().principal.fingerprint();
        (body.len() <= MAX_BODY_BYTES)
            .then(|| Self(Fingerprint::of(&(authorizer.engine().instance_id(), caller, body))))
    }
}

/// A question that its caller may ask, about a thing that it may name.
#[derive(Debug)]
pub(super) struct CachedQuestion {
    pub(super) principal: Arc<Principal>,
    /// Whether it is the caller itself, with the credential in hand.
    pub(super) is_own: bool,
    pub(super) action: String,
    pub(super) resource: Arc<ResourceEntity>,
    /// What is said of the call.
    pub(super) client_context: Map<String, Value>,
    /// What of the store it was understood from, as that was before.
    pub(super) versions: [EntityVersion; 2],
}

/// A thing of the store, and when it was looked at; none of what is not in the store.
pub(super) type EntityVersion = Option<(Id, CacheVersion)>;

/// Whom or what a question names, before it is looked at.
pub(super) fn entity_version(authorizer: &Authorizer, entity_ref: EntityRef<'_>) -> EntityVersion {
    let id = authorizer
        .resolve_id(entity_ref.id)
        .filter(|_| authorizer.state().resource_types.contains(entity_ref.kind))?;
    Some((id, authorizer.state().store.cache_version(id)))
}

/// The verdict on a question that is understood already; none where it is not.
pub(super) fn decide(authorizer: &Authorizer, key: QuestionKey) -> Option<EvaluationResult> {
    CACHE.with_borrow(|cache| {
        let cached = cache.get(key.0)?;
        let store = &authorizer.state().store;
        if !cached.versions.iter().flatten().all(|(id, version)| store.is_unchanged(*version, *id)) {
            return None;
        }
        let base_context =
            if cached.is_own { authorizer.request_context() } else { authorizer.bare_context() };
        let circumstances = DecisionContext { client_context: cached.client_context.clone(), ..base_context };
        let ask = AuthzRequest {
            principal: &cached.principal,
            action: &cached.action,
            context: &circumstances,
            recorder: Some(authorizer.decision_recorder()),
        };
        Some(evaluation::decide_found(authorizer.engine(), &ask, &cached.resource, false))
    })
}

/// Keeps a question. Where the way to it depends on more than is looked at when it is asked again, such as the time or the
/// caller's address, it is not kept.
pub(super) fn insert(authorizer: &Authorizer, key: QuestionKey, question: CachedQuestion) {
    if PREREQUISITES.iter().any(|action| authorizer.engine().reads_context(action)) {
        return;
    }
    CACHE.with_borrow_mut(|cache| cache.insert(CAPACITY, key.0, question));
}
