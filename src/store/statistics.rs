//! The statistics by which a database chooses the indexes of a query.

use super::connections::Connections;
use super::{Store, StoreError};
use sea_orm::{ConnectionTrait, DatabaseConnection};

/// How many rows SQLite reads per index to estimate its values.
pub(super) const SAMPLE_ROWS: u32 = 400;

/// Analyzes the tables that are new or have grown tenfold, those that this connection has not read included.
const UPDATE: &str = "PRAGMA optimize = 0x10002";

impl Store {
    /// Updates the statistics of a SQLite database. Connections that are opened later use them. PostgreSQL does this by itself.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn update_statistics(&self) -> Result<(), StoreError> {
        match &self.db {
            Connections::Sqlite(db) => update_statistics(db).await,
            Connections::Postgres(_) => Ok(()),
        }
    }
}

/// Updates the statistics of a SQLite database.
///
/// # Errors
/// The database cannot be written.
pub(super) async fn update_statistics(db: &DatabaseConnection) -> Result<(), StoreError> {
    db.execute_unprepared(UPDATE).await?;
    Ok(())
}
