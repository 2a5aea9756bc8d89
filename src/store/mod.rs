//! The store: the only module with queries.
//!
//! Rows leave it as [`Unchecked`](crate::authz::Unchecked) and are saved only as [`Permitted`](crate::authz::Permitted), so
//! that the authorizer cannot be bypassed. Knows SQL; knows neither HTTP nor the policies.

mod accounts;
mod admins;
mod append;
mod archive;
mod archive_file;
mod attempts;
mod audit;
mod audit_row;
mod backup;
mod cache;
mod chain;
mod changes;
mod cleanup;
mod connect;
mod connections;
mod credentials;
mod database_file;
mod durability;
mod error;
mod filter;
mod freshness;
mod idempotency;
mod list;
mod migrate;
mod org_tree;
mod policy_state;
mod policy_versions;
mod postgres;
mod resource_types;
mod revocations;
mod rows;
mod sessions;
mod signing_keys;
mod spans;
mod statistics;
pub mod table_filter;
mod verification;
mod verification_report;

use crate::types::{Id, RowVersion, RowVersions};
pub use accounts::Account;
pub use archive::{ArchiveFile, ArchiveSegment};
pub use archive_file::{ArchiveError, ArchiveWriter};
pub use attempts::AttemptRow;
pub use audit::{AuditActor, AuditEntry, AuditRow, Event, Outcome};
use cache::{RowCache, WriteSet};
pub use chain::ChainHead;
pub use changes::{Change, ChangeKind, ChangePosition, ChangeSelection, ChangeWindow, NewChanges};
pub use cleanup::CleanupCounts;
use connections::{Connections, Executor, Transaction};
pub use credentials::ApiKeyRow;
pub use database_file::ServeLock;
use durability::Durability;
pub use error::StoreError;
use idempotency::StoredResource;
pub use idempotency::{AnswerKey, AnswerScope, DeferredCommit, StoredAnswer};
pub use list::{
    Comparison, ElementPath, Field, Filter, FilterValue, Leaf, ListQuery, ListResult, Page, SortKey,
    SortOrder, Test, fold, full_order,
};
pub use policy_state::{ActiveVersion, PolicyState};
pub use policy_versions::{Activation, ActivationTrigger, PolicyActivationRow, PolicyVersionRow};
pub use resource_types::{AnyUnchecked, ResourceType, ResourceTypes};
use revocations::PendingRevocations;
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
pub use sessions::{EndReason, NewRefreshToken, Origin, Session, SessionSelection, SpentToken};
pub use signing_keys::SigningKeyRow;
use std::sync::{Arc, Mutex, PoisonError};
pub use verification_report::VerificationReport;

/// A database, for reading and for starting units of work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Connections,
    cache: Arc<RowCache>,
    durability: Arc<Durability>,
}

/// A unit of work: a transaction whose writes become visible together at [`UnitOfWork::commit`], or not at all.
///
/// Rows that it reads are locked until it ends, so that an authorization decision still holds when the row is written.
#[derive(Debug)]
pub struct UnitOfWork {
    tx: Transaction,
    cache: Arc<RowCache>,
    write_set: Mutex<WriteSet>,
    actor: AuditActor,
    entries: Mutex<Vec<AuditEntry>>,
    pending_revocations: PendingRevocations,
    /// Takes this unit of work when it would commit, if the answer to the request has to be stored with it.
    deferred_commit: Option<Arc<DeferredCommit>>,
    /// What it wrote, if it defers its commit.
    stored_resources: Mutex<Vec<StoredResource>>,
}

/// Reads rows, on the connections of the store or within a unit of work.
///
/// During a unit of work, read through [`UnitOfWork::reader`]: waiting for a second connection while holding one can
/// deadlock the pool.
#[derive(Debug)]
pub struct Reader<'a>(Executor<'a>);

/// Returns whether several processes may serve this database.
fn is_shared_database(db: &impl ConnectionTrait) -> bool {
    db.get_database_backend() == DbBackend::Postgres
}

impl Store {
    /// Returns the version of the row with this id, for what is read of it from now on.
    pub fn row_version(&self, id: Id) -> RowVersion {
        self.cache.row_version(id)
    }

    /// The current write counters of the rows, on which the validity of cached values depends.
    pub fn row_versions(&self) -> &dyn RowVersions {
        &*self.cache
    }

    /// Returns whether the database is unavailable and decisions use cached rows.
    pub fn is_stale(&self) -> bool {
        self.cache.freshness().is_stale()
    }

    /// The number of times that a stale period began or ended; odd during one.
    pub fn stale_transitions(&self) -> u64 {
        self.cache.freshness().transitions()
    }

    /// The time since this process last received data from the database.
    pub fn time_since_contact(&self) -> std::time::Duration {
        self.cache.freshness().time_since_contact()
    }

    /// Returns a reader of the committed rows.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Connections(&self.db))
    }
}

impl UnitOfWork {
    /// Returns a reader within the transaction. What it reads is not stored in the row cache.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Transaction(&self.tx))
    }

    /// Commits the writes together with their audit entries. If the commit is deferred, it takes place when the answer to the
    /// request is stored: see [`DeferredCommit`].
    ///
    /// # Errors
    ///
    /// If the database is unavailable or rejects the transaction. [`StoreError::RevocationNotStored`] if a revocation
    /// could not be stored; it is in effect in this process nevertheless.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        match self.deferred_commit.take() {
            Some(deferred) => deferred.park(self),
            None => self.commit_now().await,
        }
    }

    async fn commit_now(self) -> Result<(), StoreError> {
        let Self { tx, cache, write_set, actor, entries, pending_revocations, .. } = self;
        let write_set = write_set.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Cached rows are invalidated at the end even if it is unknown whether the transaction was committed.
        let invalidate = cache::InvalidateOnDrop(cache, write_set);
        let last = match &tx {
            Transaction::Sqlite(tx) => {
                // SQLite has a single writer, so nobody else appends.
                if let Err(error) = audit::append(tx, &actor, entries).await {
                    return pending_revocations.finish(Err(error));
                }
                String::new()
            }
            Transaction::Postgres(_) => {
                append::append_statements(RowCache::notification(&invalidate.1), &actor, entries)
            }
        };
        let backend = tx.get_database_backend();
        // In a separate task: if the client disconnects, this future is dropped, but the database may still commit.
        let task = tokio::spawn(async move {
            let _invalidate = invalidate;
            let result = match (pending_revocations.check_file_in_place(), tx) {
                (Ok(()), Transaction::Sqlite(tx)) => tx.commit().await.map_err(StoreError::from),
                (Ok(()), Transaction::Postgres(session)) => {
                    session.commit(&last).await.map_err(StoreError::from)
                }
                (Err(error), _) => Err(error),
            };
            pending_revocations.finish(result)
        });
        let join_error = |error: tokio::task::JoinError| DbErr::Custom(error.to_string());
        spans::traced(backend, "COMMIT", async { task.await.map_err(join_error)? }).await
    }

    /// Records that a row with this id is being written.
    fn mark_written(&self, id: Id) {
        RowCache::add_written(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Records that a resource with this id is being created.
    fn mark_created(&self, id: Id) {
        RowCache::add_created(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Records that an unknown set of rows is being written.
    fn mark_all_written(&self) {
        RowCache::add_all(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
