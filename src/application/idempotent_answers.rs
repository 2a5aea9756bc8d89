//! The answers to requests with an idempotency key: stored with the change, and repeated if the caller may still see them.

use super::idempotency::{IdempotencyKey, IdempotentRequest};
use super::{Authorizer, Error};
use crate::store::{AnswerScope, StoredAnswer};
use std::sync::{Arc, PoisonError};

/// For how many seconds an answer is kept: 24 hours.
pub const ANSWER_RETENTION: u64 = 24 * 3_600;

impl IdempotentRequest {
    /// Begins the execution of a request, which `parts` identify.
    ///
    /// # Errors
    /// `idempotency_in_progress` if this process executes another one with the same key.
    pub fn of(authorizer: &Authorizer, key: &IdempotencyKey, parts: &[&[u8]]) -> Result<Arc<Self>, Error> {
        let keys = &authorizer.state().requests_in_progress;
        let answer_key = key.of_caller(authorizer.caller().id);
        Ok(Arc::new(Self::begin(keys, answer_key, key.fingerprint(parts))?))
    }

    /// Returns the answer to an earlier request with the same key; none if there was none in the last 24 hours.
    ///
    /// # Errors
    /// `idempotency_key_reused` if it was another request; `not_found` or `forbidden` if the caller may no longer see the answer.
    pub async fn earlier_answer(&self, authorizer: &Authorizer) -> Result<Option<StoredAnswer>, Error> {
        let now = authorizer.state().clock.now();
        match authorizer.reader().idempotent_answer(&self.key, now).await? {
            Some(answer) => self.check(authorizer, answer).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the answer that another process has stored since this request began; none if that is not why it failed.
    ///
    /// # Errors
    /// As [`IdempotentRequest::earlier_answer`].
    pub async fn concurrent_answer(&self, authorizer: &Authorizer) -> Result<Option<StoredAnswer>, Error> {
        let answer = self.concurrent_answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match answer {
            Some(answer) => self.check(authorizer, answer).await.map(Some),
            None => Ok(None),
        }
    }

    async fn check(&self, authorizer: &Authorizer, answer: StoredAnswer) -> Result<StoredAnswer, Error> {
        if answer.fingerprint != self.fingerprint {
            let message = "The Idempotency-Key was used for another request: with another method, address, If-Match or body. \
                           Use a new key for each request.";
            return Err(Error::conflict_with_code("idempotency_key_reused", message));
        }
        if answer.body.is_some() {
            authorize_repetition(authorizer, &answer.scope).await?;
        }
        Ok(answer)
    }

    /// Commits what the request has written, together with its answer. `has_resources` says whether that contains them; the scope
    /// of the answer is set accordingly. Returns false if the request has written nothing; its answer is not stored.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn commit(
        &self,
        authorizer: &Authorizer,
        answer: StoredAnswer,
        has_resources: bool,
    ) -> Result<bool, Error> {
        let Some(work) = self.deferred.take() else { return Ok(false) };
        let scope = match has_resources {
            true => work.answer_scope(resource_type(authorizer.action())),
            false => AnswerScope::Home,
        };
        let answer = StoredAnswer { scope, fingerprint: self.fingerprint.clone(), ..answer };
        let now = authorizer.state().clock.now();
        let expires_at = now.plus_seconds(ANSWER_RETENTION);
        work.commit_with_answer((&self.key, authorizer.caller().id), &answer, (now, expires_at)).await?;
        Ok(true)
    }
}

/// Returns the type of the resources that an action creates or updates.
fn resource_type(action: &str) -> &str {
    action.strip_prefix("create").or_else(|| action.strip_prefix("update")).unwrap_or_default()
}

/// Authorizes the repetition of an answer.
async fn authorize_repetition(authorizer: &Authorizer, scope: &AnswerScope) -> Result<(), Error> {
    let state = authorizer.state();
    match scope {
        AnswerScope::Organizations(organizations) => {
            for organization in organizations {
                match state.store.path(*organization).await? {
                    Some(path) => authorizer.require(&path)?,
                    None => return Err(Error::not_found("Organization")),
                }
            }
            Ok(())
        }
        AnswerScope::Resources(resources) => {
            for (kind, id) in resources {
                let fetch = state.resource_types.fetch_action(kind).unwrap_or_default();
                let fetch = authorizer.for_prerequisite(fetch);
                let found = state.resource_types.load_cached(&state.store, kind, *id).await?;
                if !found.is_some_and(|resource| fetch.is_permitted_on(&resource)) {
                    return Err(match fetch.could_in_home_org(kind) {
                        true => Error::not_found(kind),
                        false => Error::forbidden(fetch.action()),
                    });
                }
            }
            Ok(())
        }
        // The action applies to resources that exist.
        AnswerScope::Home if authorizer.action().starts_with("update") => {
            match authorizer.could_in_home_org(resource_type(authorizer.action())) {
                true => Ok(()),
                false => Err(authorizer.forbidden_audited()),
            }
        }
        AnswerScope::Home => authorizer.require(&authorizer.caller().organization),
    }
}
