//! The answers to requests with an idempotency key, each stored in the transaction of the change that it reports.
//!
//! A unit of work that a request with a key begins does not commit by itself: it is parked, until the answer is stored in it.
//! A crash therefore loses both or neither.

use super::connections::Transaction;
use super::{Reader, StoreError, UnitOfWork};
use crate::authz::Permitted;
use crate::resource::Resource;
use crate::types::{Id, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, TryGetable};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The table.
const TABLE: &str = "idempotent_answers";

/// The digest of a caller and its idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey(pub [u8; 32]);

impl AnswerKey {
    fn text(&self) -> String {
        hex::encode(self.0)
    }

    /// The number of the advisory lock. Two keys with the same number only exclude each other.
    fn lock_number(&self) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The answer to a request that was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The digest of the request.
    pub fingerprint: String,
    /// The status.
    pub status: u16,
    /// The headers that belong to the answer: names and values.
    pub headers: Vec<(String, String)>,
    /// The body; none if it is empty.
    pub body: Option<String>,
    /// On what a repetition of the answer is authorized.
    pub scope: AnswerScope,
}

/// On what the repetition of an answer is authorized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnswerScope {
    /// On the organizations in which the request created resources, for its action.
    Organizations(Vec<Id>),
    /// On the resources that the request changed, for the action that fetches them: their types and ids.
    Resources(Vec<(String, Id)>),
    /// On the organization of the caller, for the action of the request: of an answer without resources.
    Home,
}

/// A resource that a unit of work inserted or saved.
#[derive(Debug)]
pub(super) struct StoredResource {
    kind: &'static str,
    id: Id,
    organization: Id,
    is_new: bool,
}

/// The unit of work of a request with an idempotency key, when its handler has committed it.
#[derive(Debug, Default)]
pub struct DeferredCommit(Mutex<Option<UnitOfWork>>);

impl DeferredCommit {
    fn slot(&self) -> MutexGuard<'_, Option<UnitOfWork>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a unit of work instead of its commit.
    ///
    /// # Errors
    /// The request has committed one before: both could not be stored together.
    pub(super) fn park(&self, work: UnitOfWork) -> Result<(), StoreError> {
        let mut slot = self.slot();
        if slot.is_some() {
            let cause = "a request with an idempotency key has more than one unit of work";
            return Err(StoreError::Failed(cause.to_owned()));
        }
        *slot = Some(work);
        Ok(())
    }

    /// Returns whether the request has committed a unit of work.
    pub fn is_parked(&self) -> bool {
        self.slot().is_some()
    }

    /// Returns the unit of work that the request has committed; none if it has written nothing. It is rolled back if it is
    /// dropped.
    pub fn take(&self) -> Option<UnitOfWork> {
        self.slot().take()
    }
}

impl Reader<'_> {
    /// Returns the stored answer of a key; none if there is none, or it has expired.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn idempotent_answer(
        &self,
        key: &AnswerKey,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError> {
        let mut select = Query::select();
        select
            .columns(["fingerprint", "status", "headers", "body", "scope"])
            .from(TABLE)
            .and_where(Expr::col("key").eq(key.text()))
            .and_where(Expr::col("expires_at").gt(now));
        let row = self.0.query_one(&select).await?;
        row.as_ref().map(read_answer).transpose()
    }
}

fn read_answer(row: &QueryResult) -> Result<StoredAnswer, StoreError> {
    let text = |column| String::try_get(row, "", column).map_err(DbErr::from);
    let failed = |error: serde_json::Error| StoreError::Failed(error.to_string());
    let status = i64::try_get(row, "", "status").map_err(DbErr::from)?;
    Ok(StoredAnswer {
        fingerprint: text("fingerprint")?,
        status: u16::try_from(status).unwrap_or_default(),
        headers: serde_json::from_str(&text("headers")?).map_err(failed)?,
        body: Option::<String>::try_get(row, "", "body").map_err(DbErr::from)?,
        scope: serde_json::from_str(&text("scope")?).map_err(failed)?,
    })
}

impl UnitOfWork {
    /// Makes [`UnitOfWork::commit`] park this unit of work.
    #[must_use]
    pub fn with_deferred_commit(self, deferred: Arc<DeferredCommit>) -> Self {
        Self { deferred_commit: Some(deferred), ..self }
    }

    /// Returns false if another transaction is executing a request with this key. Otherwise it prevents others until it ends.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn lock_idempotency_key(&self, key: &AnswerKey) -> Result<bool, StoreError> {
        if matches!(self.tx, Transaction::Sqlite(_)) {
            // There is a single writer.
            return Ok(true);
        }
        let lock = Statement::from_sql_and_values(
            self.tx.get_database_backend(),
            "SELECT pg_try_advisory_xact_lock($1) AS locked",
            [key.lock_number().into()],
        );
        let row = self.tx.query_one_raw(lock).await?;
        let is_locked = row.map(|row| bool::try_get(&row, "", "locked")).transpose().map_err(DbErr::from)?;
        Ok(is_locked == Some(true))
    }

    /// Notes a resource that is inserted or saved, if the answer to the request is stored.
    pub(super) fn note_stored<R: Resource>(&self, row: &Permitted<R>, is_new: bool) {
        if self.deferred_commit.is_some() {
            let stored =
                StoredResource { kind: R::TYPE, id: row.id(), organization: row.organization(), is_new };
            self.stored_resources.lock().unwrap_or_else(PoisonError::into_inner).push(stored);
        }
    }

    /// Returns on what a repetition of the answer is authorized, if it has a body about the resources of this type that this unit
    /// of work wrote.
    pub fn answer_scope(&self, kind: &str) -> AnswerScope {
        let stored = self.stored_resources.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, changed): (Vec<&StoredResource>, Vec<&StoredResource>) =
            stored.iter().filter(|resource| resource.kind == kind).partition(|resource| resource.is_new);
        let mut organizations: Vec<Id> = new.iter().map(|resource| resource.organization).collect();
        organizations.sort_unstable();
        organizations.dedup();
        match (organizations.is_empty(), changed.is_empty()) {
            (false, true) => AnswerScope::Organizations(organizations),
            (true, false) => {
                let resources = changed.iter().map(|resource| (resource.kind.to_owned(), resource.id));
                AnswerScope::Resources(resources.collect())
            }
            _ => AnswerScope::Home,
        }
    }

    /// Stores the answer to the request of this unit of work, and commits both.
    ///
    /// # Errors
    ///
    /// As [`UnitOfWork::commit`].
    pub async fn commit_with_answer(
        self,
        (key, caller): (&AnswerKey, Id),
        answer: &StoredAnswer,
        (now, expires_at): (Timestamp, Timestamp),
    ) -> Result<(), StoreError> {
        let mut expired = Query::delete();
        expired
            .from_table(TABLE)
            .and_where(Expr::col("key").eq(key.text()))
            .and_where(Expr::col("expires_at").lte(now));
        self.tx.execute(&expired).await?;
        let json = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| StoreError::Failed(error.to_string()))
        };
        let mut insert = Query::insert();
        insert
            .into_table(TABLE)
            .columns(["key", "caller", "fingerprint", "status", "headers", "body", "scope", "expires_at"])
            .values_panic([
                key.text().into(),
                caller.into(),
                answer.fingerprint.as_str().into(),
                i64::from(answer.status).into(),
                json(serde_json::to_string(&answer.headers))?.into(),
                answer.body.clone().into(),
                json(serde_json::to_string(&answer.scope))?.into(),
                expires_at.into(),
            ]);
        self.tx.execute(&insert).await?;
        self.commit_now().await
    }
}
