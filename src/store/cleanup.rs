//! What is of no use to anybody any more goes: a little at a time, so that nobody waits for it, and harmless however many
//! processes do it at once.

use super::{Store, StoreError};
use crate::types::Timestamp;
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, Query, SelectStatement};
use std::fmt;

/// How many rows one statement deletes.
const BATCH_SIZE: u64 = 500;

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupCounts {
    /// Sessions, with their refresh tokens.
    pub sessions: u64,
    /// API keys.
    pub api_keys: u64,
}

impl fmt::Display for CleanupCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, api_keys } = self;
        write!(f, "{sessions} sessions, {api_keys} API keys")
    }
}

impl Store {
    /// Deletes the sessions of which nothing has been good since `ended_before`, whether they were ended or ran out, and the API
    /// keys that have been expired since `expired_before`. A refresh token goes with its session and not before: as long as that
    /// lives, one that comes again ends it.
    pub async fn delete_expired(
        &self,
        ended_before: Timestamp,
        expired_before: Timestamp,
    ) -> Result<CleanupCounts, StoreError> {
        let expired_in = |table: &'static str, end: &'static str, before: Timestamp| {
            let mut batch = Query::select();
            batch.column("id").from(table).and_where(Expr::col(end).lt(before));
            batch
        };
        let mut sessions = expired_in("sessions", "good_until", ended_before);
        // A session may have very many, and taking all of them at once would keep others from writing.
        let mut tokens = Query::select();
        tokens
            .column("hash")
            .from("refresh_tokens")
            .and_where(Expr::col("session").in_subquery(sessions.clone()));
        self.delete_batches("refresh_tokens", "hash", &mut tokens).await?;
        Ok(CleanupCounts {
            sessions: self.delete_batches("sessions", "id", &mut sessions).await?,
            api_keys: self
                .delete_batches("api_keys", "id", &mut expired_in("api_keys", "expires_at", expired_before))
                .await?,
        })
    }

    async fn delete_batches(
        &self,
        table: &'static str,
        key: &'static str,
        batch: &mut SelectStatement,
    ) -> Result<u64, StoreError> {
        // What another one is at is left to it.
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
