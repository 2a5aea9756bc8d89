//! Cache of parsed and authorized evaluation requests.
//!
//! The key is the caller, the policies and the body. An entry is valid while the rows that it was resolved from are
//! unchanged. A hit skips parsing and resolution; the decision is made by the engine and recorded every time.

use super::evaluation::{self, EvaluationResult};
use crate::application::Authorizer;
use crate::application::subjects::EntityRef;
use crate::authz::{AuthzRequest, DecisionContext, Principal, ResourceEntity};
use crate::store::CacheVersion;
use crate::types::{Fingerprint, Id, ThreadCache};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::sync::Arc;

/// The number of entries per thread.
const CAPACITY: usize = 1_024;

/// The maximum size of a cached body, in bytes.
const MAX_BODY_BYTES: usize = 2_048;

/// The actions that are authorized before a question is evaluated: evaluating the subject, and referring to the resource.
const PREREQUISITES: [&str; 3] = ["evaluateAccess", "evaluateExternalAccess", "referTo"];

thread_local! {
    static CACHE: RefCell<ThreadCache<CachedQuestion>> = const { RefCell::new(ThreadCache::EMPTY) };
}

/// The cache key: a fingerprint of the caller, the policies and the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuestionKey(Fingerprint);

impl QuestionKey {
    /// The key of a body; none if the body is too large to cache.
    pub(super) fn for_request(authorizer: &Authorizer, body: &[u8]) -> Option<Self> {
        let caller = authorizer.caller().principal.fingerprint();
        (body.len() <= MAX_BODY_BYTES)
            .then(|| Self(Fingerprint::of(&(authorizer.engine().instance_id(), caller, body))))
    }
}

/// A parsed question whose subject and resource the caller may refer to.
#[derive(Debug)]
pub(super) struct CachedQuestion {
    pub(super) principal: Arc<Principal>,
    /// Whether the subject is the caller, with the credential of the request.
    pub(super) is_own: bool,
    pub(super) action: String,
    pub(super) resource: Arc<ResourceEntity>,
    /// The context that the client sent.
    pub(super) client_context: Map<String, Value>,
    /// The versions of the rows that the question was resolved from.
    pub(super) versions: [EntityVersion; 2],
}

/// A row and its cache version; none for entities that are not in the store.
pub(super) type EntityVersion = Option<(Id, CacheVersion)>;

/// The version of a subject or resource, taken before it is read.
pub(super) fn entity_version(authorizer: &Authorizer, entity_ref: EntityRef<'_>) -> EntityVersion {
    let id = authorizer
        .resolve_id(entity_ref.id)
        .filter(|_| authorizer.state().resource_types.contains(entity_ref.kind))?;
    Some((id, authorizer.state().store.cache_version(id)))
}

/// Decides a cached question; none on a cache miss.
pub(super) fn decide(authorizer: &Authorizer, key: QuestionKey) -> Option<EvaluationResult> {
    CACHE.with_borrow(|cache| {
        let cached = cache.get(key.0)?;
        let store = &authorizer.state().store;
        if !cached.versions.iter().flatten().all(|(id, version)| store.is_unchanged(*version, *id)) {
            return None;
        }
        let base_context =
            if cached.is_own { authorizer.request_context() } else { authorizer.bare_context() };
        let request_context =
            DecisionContext { client_context: cached.client_context.clone(), ..base_context };
        let ask = AuthzRequest {
            principal: &cached.principal,
            action: &cached.action,
            context: &request_context,
            recorder: Some(authorizer.decision_recorder()),
        };
        Some(evaluation::decide_found(authorizer.engine(), &ask, &cached.resource, false))
    })
}

/// Caches a question, unless policies for its prerequisites read the request context, such as the time or the address of
/// the caller.
pub(super) fn insert(authorizer: &Authorizer, key: QuestionKey, question: CachedQuestion) {
    if PREREQUISITES.iter().any(|action| authorizer.engine().reads_context(action)) {
        return;
    }
    CACHE.with_borrow_mut(|cache| cache.insert(CAPACITY, key.0, question));
}
