//! Cleanup of expired sessions, refresh tokens and API keys: in small batches, so that other writers are not blocked,
//! and safe to run in several processes at once.

use super::{Store, StoreError};
use crate::types::Timestamp;
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, Query, SelectStatement};
use std::fmt;

/// The number of rows per DELETE statement.
const BATCH_SIZE: u64 = 500;

/// The number of deleted rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupCounts {
    /// Sessions, with their refresh tokens.
    pub sessions: u64,
    /// API keys.
    pub api_keys: u64,
    /// Answers to requests with an idempotency key.
    pub answers: u64,
    /// Changes of the change feed.
    pub changes: u64,
}

impl fmt::Display for CleanupCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, api_keys, answers, changes } = self;
        write!(f, "{sessions} sessions, {api_keys} API keys, {answers} answers, {changes} changes")
    }
}

impl Store {
    /// Deletes the sessions whose tokens all ended before `ended_before`, the API keys that expired before `expired_before`, and
    /// the stored answers that have expired `now`.
    ///
    /// Refresh tokens are deleted with their session and not earlier, since the reuse of a spent token must be detected
    /// as long as the session lives.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delete_expired(
        &self,
        ended_before: Timestamp,
        expired_before: Timestamp,
        now: Timestamp,
    ) -> Result<CleanupCounts, StoreError> {
        let expired_in = |table: &'static str, end: &'static str, before: Timestamp| {
            let mut batch = Query::select();
            batch.column("id").from(table).and_where(Expr::col(end).lt(before));
            batch
        };
        let mut sessions = expired_in("sessions", "last_token_expiry", ended_before);
        // A session may have many tokens; deleting them by the cascade in one statement would block other writers.
        let mut tokens = Query::select();
        tokens
            .column("hash")
            .from("refresh_tokens")
            .and_where(Expr::col("session").in_subquery(sessions.clone()));
        self.delete_batches("refresh_tokens", "hash", &mut tokens).await?;
        let mut answers = Query::select();
        answers.column("key").from("idempotent_answers").and_where(Expr::col("expires_at").lte(now));
        Ok(CleanupCounts {
            sessions: self.delete_batches("sessions", "id", &mut sessions).await?,
            api_keys: self
                .delete_batches("api_keys", "id", &mut expired_in("api_keys", "expires_at", expired_before))
                .await?,
            answers: self.delete_batches("idempotent_answers", "key", &mut answers).await?,
            changes: 0,
        })
    }

    async fn delete_batches(
        &self,
        table: &'static str,
        key: &'static str,
        batch: &mut SelectStatement,
    ) -> Result<u64, StoreError> {
        // Rows that another process is deleting are skipped.
        batch.limit(BATCH_SIZE).lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
        let mut total = 0;
        loop {
            let mut delete = Query::delete();
            delete.from_table(table).and_where(Expr::col(key).in_subquery(batch.clone()));
            let deleted = self.db.execute(&delete).await?.rows_affected();
            total += deleted;
            if deleted < BATCH_SIZE {
                return Ok(total);
            }
        }
    }
}
