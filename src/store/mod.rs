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
mod chain;
mod connect;
mod connections;
mod credentials;
mod database_file;
mod durability;
mod error;
mod facts;
mod freshness;
mod janitor;
mod kinds;
mod list;
mod migrate;
mod policy_state;
mod postgres;
mod revocations;
mod rows;
mod sessions;
mod signing_keys;
mod spans;

use crate::values::Id;
pub use accounts::Account;
pub use archive::{ArchiveFile, Segment};
pub use archive_file::{ArchiveError, ArchiveWriter};
pub use attempts::AttemptRow;
pub use audit::{AuditRow, Cause, Entry, Event, Outcome};
pub use chain::{Head, Verified};
use connections::{Connections, Executor, Transaction};
pub use credentials::ApiKeyRow;
pub use database_file::ServeLock;
use durability::Durability;
pub use error::StoreError;
pub use facts::Stamp;
use facts::{Facts, Written};
pub use janitor::Swept;
pub use kinds::{Kind, Kinds};
pub use list::{ListQuery, Listed, Page};
pub use policy_state::PolicyState;
use revocations::Settlement;
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
pub use sessions::{Ending, NewRefreshToken, Origin, Session, Sessions, SpentToken};
pub use signing_keys::SigningKeyRow;
use std::sync::{Arc, Mutex, PoisonError};

/// The database, for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Connections,
    facts: Arc<Facts>,
    durability: Arc<Durability>,
}

/// A unit of work: everything that is written in it becomes visible at once, at [`Work::commit`], or not at all.
///
/// What it reads of a row it keeps for itself until it ends, so that a decision holds until the row is written.
#[derive(Debug)]
pub struct Work {
    tx: Transaction,
    facts: Arc<Facts>,
    written: Mutex<Written>,
    cause: Cause,
    entries: Mutex<Vec<Entry>>,
    settlement: Settlement,
}

/// What reads: the database as everybody sees it, or a unit of work, which has its connection already. Whoever has one
/// open reads with that: to wait for a second connection while holding one is how all of them end up waiting.
#[derive(Debug)]
pub struct Reader<'a>(Executor<'a>);

/// Whether several processes may serve this database.
fn is_shared(db: &impl ConnectionTrait) -> bool {
    db.get_database_backend() == DbBackend::Postgres
}

impl Store {
    /// The stamp for what is read from now on of the thing with this id.
    pub fn stamp(&self, id: Id) -> Stamp {
        self.facts.stamp(id)
    }

    /// Whether what was read with this stamp of the thing with this id is still so.
    pub fn is_good(&self, stamp: Stamp, id: Id) -> bool {
        self.facts.is_good(stamp, id)
    }

    /// Whether what was absent at this stamp still is.
    pub fn is_still_absent(&self, stamp: Stamp, id: Id) -> bool {
        self.facts.is_still_absent(stamp, id)
    }

    /// Whether the database is away, and decisions use what was read before.
    pub fn is_stale(&self) -> bool {
        self.facts.freshness().is_stale()
    }

    /// The number of times that a stale period began or ended: odd during one.
    pub fn stale_changes(&self) -> u64 {
        self.facts.freshness().changes()
    }

    /// The time since this process last received something from the database.
    pub fn since_contact(&self) -> std::time::Duration {
        self.facts.freshness().since_contact()
    }

    /// Reads what everybody sees.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Connections(&self.db))
    }
}

impl Work {
    /// Reads within the unit of work, and keeps nothing of it from others.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Executor::Transaction(&self.tx))
    }

    /// Makes everything that was written visible, and the audit trail tell of it.
    pub async fn commit(self) -> Result<(), StoreError> {
        let Self { tx, facts, written, cause, entries, settlement } = self;
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What was written is forgotten when this ends, also where it is not known whether it was written.
        let forget = facts::Forget(facts, written);
        let last = match &tx {
            Transaction::Sqlite(tx) => {
                // SQLite has one writer, and this is it.
                if let Err(error) = audit::append(tx, &cause, entries).await {
                    return settlement.settle(Err(error));
                }
                String::new()
            }
            Transaction::Postgres(_) => append::statements(Facts::notice(&forget.1), &cause, entries),
        };
        let backend = tx.get_database_backend();
        // By a task of its own: a request whose client goes away ends here, and the database may commit all the same.
        let committed = tokio::spawn(async move {
            let _forget = forget;
            let committed = match (settlement.check_in_place(), tx) {
                (Ok(()), Transaction::Sqlite(tx)) => tx.commit().await.map_err(StoreError::from),
                (Ok(()), Transaction::Postgres(session)) => {
                    session.commit(&last).await.map_err(StoreError::from)
                }
                (Err(error), _) => Err(error),
            };
            settlement.settle(committed)
        });
        let ended = |error: tokio::task::JoinError| DbErr::Custom(error.to_string());
        spans::timed(backend, "COMMIT", async { committed.await.map_err(ended)? }).await
    }

    /// Notes that a thing is being written.
    fn wrote(&self, id: Id) {
        Facts::note(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Notes that a resource is being created.
    fn created(&self, id: Id) {
        Facts::note_created(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner), id);
    }

    /// Notes that things are being written that nobody counts.
    fn wrote_all(&self) {
        Facts::note_all(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
