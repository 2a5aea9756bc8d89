//! Idempotency keys: a request that is repeated with the same key is executed once
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! In one process, [`RequestsInProgress`] excludes a second execution from the start; between processes, the unit of work does,
//! which takes a lock or finds the answer of the first one. [`super::idempotent_answers`] finds and stores the answers.

use super::{Error, ErrorKind};
use crate::store::{AnswerKey, DeferredCommit, StoredAnswer, UnitOfWork};
use crate::types::{FieldErrorCode, Id, InvalidValue, Timestamp};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum length of a key.
pub const MAX_KEY_LENGTH: usize = 255;

/// An idempotency key. It is not stored: only a digest of it, and a digest of the request with it as the secret.
#[derive(Clone)]
pub struct IdempotencyKey(String);

impl std::fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdempotencyKey")
    }
}

impl IdempotencyKey {
    /// Parses the value of the header: the key, with or without quotation marks.
    ///
    /// # Errors
    /// It is empty, too long, or has other characters than visible ASCII characters without quotation marks and backslashes.
    pub fn parse(value: &str) -> Result<Self, InvalidValue> {
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let key = quoted.unwrap_or(value);
        if key.is_empty() {
            return Err(InvalidValue::new(FieldErrorCode::TooShort, "the key is empty".to_owned()));
        }
        if key.len() > MAX_KEY_LENGTH {
            let message = format!("more than {MAX_KEY_LENGTH} characters");
            return Err(InvalidValue::new(FieldErrorCode::TooLong, message));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
            let message = "expected visible ASCII characters except for quotation marks and backslashes, such as a UUID";
            return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message.to_owned()));
        }
        Ok(Self(key.to_owned()))
    }

    /// Returns the digest under which the answer to this caller is stored.
    pub(super) fn of_caller(&self, caller: Id) -> AnswerKey {
        let digest = digest::digest(&SHA256, format!("{caller} {}", self.0).as_bytes());
        AnswerKey(digest.as_ref().try_into().unwrap_or_default())
    }

    /// Returns the digest of a request. Without the key, it does not reveal what the request contains.
    pub(super) fn fingerprint(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes()));
        for part in parts {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        hex::encode(context.sign())
    }
}

/// The requests with an idempotency key that this process executes.
#[derive(Debug, Clone, Default)]
pub struct RequestsInProgress(Arc<Mutex<HashSet<AnswerKey>>>);

impl RequestsInProgress {
    fn keys(&self) -> MutexGuard<'_, HashSet<AnswerKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a request whose key belongs to one that is still executed.
fn in_progress() -> Error {
    let message = "A request with this Idempotency-Key is in progress. Repeat this one later.";
    Error::new(ErrorKind::InProgress { retry_after: 1 }, "idempotency_in_progress", message)
}

/// A request with an idempotency key while it is executed.
#[derive(Debug)]
pub struct IdempotentRequest {
    pub(super) key: AnswerKey,
    pub(super) fingerprint: String,
    pub(super) deferred: Arc<DeferredCommit>,
    /// The answer of another process, which was stored since this request began.
    pub(super) concurrent_answer: Mutex<Option<StoredAnswer>>,
    in_progress: RequestsInProgress,
}

impl IdempotentRequest {
    /// Begins the execution of a request.
    ///
    /// # Errors
    /// `idempotency_in_progress` if this process executes another one with the same key.
    pub(super) fn begin(
        in_progress_keys: &RequestsInProgress,
        key: AnswerKey,
        fingerprint: String,
    ) -> Result<Self, Error> {
        if !in_progress_keys.keys().insert(key) {
            return Err(in_progress());
        }
        Ok(Self {
            key,
            fingerprint,
            deferred: Arc::default(),
            concurrent_answer: Mutex::default(),
            in_progress: in_progress_keys.clone(),
        })
    }

    /// Prevents other processes from executing a request with this key until the unit of work ends, and defers its commit.
    ///
    /// # Errors
    /// `idempotency_in_progress` if another process executes one, or has executed one since this request began.
    pub(super) async fn claim(&self, work: UnitOfWork, now: Timestamp) -> Result<UnitOfWork, Error> {
        if self.deferred.is_parked() {
            return Err(Error::internal("a request with an idempotency key begins a second unit of work"));
        }
        if !work.lock_idempotency_key(&self.key).await? {
            return Err(in_progress());
        }
        if let Some(answer) = work.reader().idempotent_answer(&self.key, now).await? {
            *self.concurrent_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            return Err(in_progress());
        }
        Ok(work.with_deferred_commit(Arc::clone(&self.deferred)))
    }
}

impl Drop for IdempotentRequest {
    fn drop(&mut self) {
        // Rolled back before the key is free.
        drop(self.deferred.take());
        self.in_progress.keys().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(value: &str) -> Option<FieldErrorCode> {
        IdempotencyKey::parse(value).err().map(|error| error.code)
    }

    #[test]
    fn a_key_is_short_and_printable() {
        for value in ["8e03978e-40d5-43dd-bc93-6894a57f9324", "\"8e03978e\"", "a", &"x".repeat(255)] {
            assert_eq!(code(value), None, "{value}");
        }
        for (value, expected) in [
            ("", FieldErrorCode::TooShort),
            ("\"\"", FieldErrorCode::TooShort),
            (&"x".repeat(256), FieldErrorCode::TooLong),
            ("a b", FieldErrorCode::InvalidFormat),
            ("a\"b", FieldErrorCode::InvalidFormat),
            ("\"a", FieldErrorCode::InvalidFormat),
            ("a\\", FieldErrorCode::InvalidFormat),
            ("ä", FieldErrorCode::InvalidFormat),
        ] {
            assert_eq!(code(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn quotation_marks_are_no_part_of_a_key_and_callers_share_none() {
        let [plain, quoted] = ["k", "\"k\""].map(|value| IdempotencyKey::parse(value).unwrap());
        let caller: Id = "599e1fcd9da1c72645c95886".parse().unwrap();
        assert_eq!(plain.of_caller(caller), quoted.of_caller(caller));
        assert_ne!(plain.of_caller(caller), plain.of_caller(Id::NIL));
    }

    #[test]
    fn parts_of_a_request_are_not_confused() {
        let key = IdempotencyKey::parse("k").unwrap();
        assert_eq!(key.fingerprint(&[b"a", b"bc"]), key.fingerprint(&[b"a", b"bc"]));
        assert_ne!(key.fingerprint(&[b"a", b"bc"]), key.fingerprint(&[b"ab", b"c"]));
        let other = IdempotencyKey::parse("l").unwrap();
        assert_ne!(key.fingerprint(&[b"a"]), other.fingerprint(&[b"a"]));
    }

    #[test]
    fn a_key_is_free_again_when_its_request_ends() {
        let (keys, key) = (RequestsInProgress::default(), AnswerKey([7; 32]));
        let first = IdempotentRequest::begin(&keys, key, String::new()).unwrap();
        let second = IdempotentRequest::begin(&keys, key, String::new()).unwrap_err();
        assert_eq!(second.code, "idempotency_in_progress");
        drop(first);
        IdempotentRequest::begin(&keys, key, String::new()).unwrap();
    }
}
