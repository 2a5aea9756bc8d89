//! The only room with queries. A row leaves it undecided, and enters it permitted. Knows SQL; knows nothing of requests
//! or of what a policy says.

mod accounts;
mod admins;
mod append;
mod archive;
mod archive_file;
mod attempts;
mod audit;
mod backup;
mod cache;
mod chain;
mod cleanup;
mod connect;
mod connections;
mod credentials;
mod database_file;
mod durability;
mod error;
mod freshness;
mod list;
mod migrate;
mod policy_state;
mod postgres;
mod resource_types;
mod revocations;
mod rows;
mod sessions;
mod signing_keys;
mod spans;

use crate::types::Id;
pub use accounts::Account;
pub use archive::{ArchiveFile, ArchiveSegment};
pub use archive_file::{ArchiveError, ArchiveWriter};
pub use attempts::AttemptRow;
pub use audit::{AuditActor, AuditEntry, AuditRow, Event, Outcome};
pub use cache::CacheVersion;
use cache::{RowCache, WriteSet};
pub use chain::{ChainHead, VerificationReport};
pub use cleanup::CleanupCounts;
use connections::{Connections, Executor, Transaction};
pub use credentials::ApiKeyRow;
pub use database_file::ServeLock;
use durability::Durability;
pub use error::StoreError;
pub use list::{ListQuery, ListResult, Page};
pub use policy_state::PolicyState;
pub use resource_types::{ResourceType, ResourceTypes};
use revocations::PendingRevocations;
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
pub use sessions::{EndReason, NewRefreshToken, Origin, Session, SessionSelection, SpentToken};
pub use signing_keys::SigningKeyRow;
use std::sync::{Arc, Mutex, PoisonError};

/// The database, for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Connections,
    cache: Arc<RowCache>,
    durability: Arc<Durability>,
}

/// A unit of work: everything that is written in it becomes visible at once, at [`Work::commit`], or not at all.
///
/// What it reads of a row it keeps for itself until it ends, so that a decision holds until the row is written.
#[derive(Debug)]
pub struct UnitOfWork {
    tx: Transaction,
    cache: Arc<RowCache>,
    write_set: Mutex<WriteSet>,
    actor: AuditActor,
    entries: Mutex<Vec<AuditEntry>>,
    pending_revocations: PendingRevocations,
}

/// What reads: the database as everybody sees it, or a unit of work, which has its connection already. Whoever has one
/// open reads with that: to wait for a second connection while holding one is how all of them end up waiting.
#[derive(Debug)]
pub struct Reader<'a>(Executor<'a>);

/// Whether several processes may serve this database.
fn is_shared_database(db: &impl ConnectionTrait) -> bool {
    db.get_database_backend() == DbBackend::Postgres
}

impl Store {
    /// The stamp for what is read from now on of the thing with this id.
    pub fn cache_version(&self, id: Id) -> CacheVersion {
        self.cache.cache_version(id)
    }

    /// Whether what was read with this stamp of the thing with this id is still so.
    pub fn is_unchanged(&self, version: CacheVersion, id: Id) -> bool {
        self.cache.is_unchanged(version, id)
    }

    /// Whether what was absent at this stamp still is.
    pub fn is_still_absent(&self, version: CacheVersion, id: Id) -> bool {
        self.cache.is_still_absent(version, id)
    }

    /// Whether the database is away, and decisions use what was read before.
    pub fn is_stale(&self) -> bool {
        self.cache.freshness().is_stale()
    }

    /// The number of times that a stale period began or ended: odd during one.
    pub fn stale_transitions(&self) -> u64 {
        self.cache.freshness().transitions()
    }

    /// The time since this process last received something from the database.
    pub fn time_since_contact(&self) -> std::time::Duration {
        self.cache.freshness().time_since_contact()
    }

    /// Reads what everybody sees.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Connections(&self.db))
    }
}

impl UnitOfWork {
    /// Reads within the unit of work, and keeps nothing of it from others.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Transaction(&self.tx))
    }

    /// Makes everything that was written visible, and the audit trail tell of it.
    pub async fn commit(self) -> Result<(), StoreError> {
        let Self { tx, cache, write_set, actor, entries, pending_revocations } = self;
        let write_set = write_set.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What was written is forgotten when this ends, also where it is not known whether it was written.
        let invalidate = cache::InvalidateOnDrop(cache, write_set);
        let last = match &tx {
            Transaction::Sqlite(tx) => {
                // SQLite has one writer, and this is it.
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
        // By a task of its own: a request whose client goes away ends here, and the database may commit all the same.
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

    /// Notes that a thing is being written.
    fn mark_written(&self, id: Id) {
        RowCache::add_written(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Notes that a resource is being created.
    fn mark_created(&self, id: Id) {
        RowCache::add_created(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Notes that things are being written that nobody counts.
    fn mark_all_written(&self) {
        RowCache::add_all(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
