//! The only room with queries. A row leaves it undecided, and enters it permitted. Knows SQL; knows nothing of requests
//! or of what a policy says.

mod accounts;
mod connect;
mod credentials;
mod error;
mod kinds;
mod list;
mod rows;

pub use accounts::Account;
pub use credentials::{ApiKeyRow, NewSession, Session, SigningKeyRow};
pub use error::StoreError;
pub use kinds::{Kind, Kinds};
pub use list::{ListQuery, Page};
use sea_orm::{DatabaseConnection, DatabaseExecutor, DatabaseTransaction};

/// The database, for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: DatabaseConnection,
    url: secrecy::SecretString,
}

/// A unit of work: everything that is written in it becomes visible at once, at [`Work::commit`], or not at all.
///
/// What it reads of a row it keeps for itself until it ends, so that a decision holds until the row is written.
#[derive(Debug)]
pub struct Work {
    tx: DatabaseTransaction,
}

/// What reads: the database as everybody sees it, or a unit of work, which has its connection already. Whoever has one
/// open reads with that: to wait for a second connection while holding one is how all of them end up waiting.
#[derive(Debug)]
pub struct Reader<'a>(DatabaseExecutor<'a>);

impl Store {
    /// Reads what everybody sees.
    pub fn reader(&self) -> Reader<'_> {
        Reader((&self.db).into())
    }
}

impl Work {
    /// Reads within the unit of work, and keeps nothing of it from others.
    pub fn reader(&self) -> Reader<'_> {
        Reader((&self.tx).into())
    }

    /// Makes everything that was written visible.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}
