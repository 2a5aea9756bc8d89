//! Durability of writes: the database file is in place, its disk has space, and whether the last write failed.

use super::database_file::DatabaseFile;
use super::migrate::APPLIED_STEPS;
use super::revocations::UnstoredRevocations;
use super::{Store, StoreError};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// The state of the storage of a database.
#[derive(Debug, Default)]
pub(super) struct Durability {
    /// The file of a SQLite database; none for PostgreSQL and for a database in memory.
    file: Option<DatabaseFile>,
    /// Whether a write has failed and none has succeeded since.
    is_failing: AtomicBool,
    /// Held during a test write; concurrent checks do not start another one.
    probe_lock: Mutex<()>,
    pub(super) revocations: UnstoredRevocations,
}

impl Durability {
    pub(super) fn for_file(file: DatabaseFile) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    /// Checks that the database file was not moved away, which would lose writes.
    ///
    /// # Errors
    /// As [`DatabaseFile::check_in_place`].
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        self.file.as_ref().map_or(Ok(()), DatabaseFile::check_in_place)
    }

    /// Records whether a write succeeded.
    pub(super) fn record(&self, written: &Result<(), StoreError>) {
        match written {
            Ok(()) => self.is_failing.store(false, Ordering::Relaxed),
            Err(StoreError::NotWritable(cause)) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%cause, "cannot write to the database");
                }
            }
            Err(_) => {}
        }
    }
}

impl Store {
    /// Checks that the database is writable: its file is in place, its disk has space, and if the last write failed, a
    /// test write succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritable`] with the cause.
    pub(super) async fn check_writable(&self) -> Result<(), StoreError> {
        self.durability.check_in_place()?;
        if let Some(file) = &self.durability.file {
            file.check_free_space()?;
        }
        if !self.durability.is_failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let last_write_failed = || StoreError::NotWritable("the last write failed".to_owned());
        let _probing = self.durability.probe_lock.try_lock().map_err(|_| last_write_failed())?;
        let written = self.write_test_row().await;
        self.durability.record(&written);
        written
    }

    /// Changes a value and changes it back, which writes a page.
    async fn write_test_row(&self) -> Result<(), StoreError> {
        let work = self.begin(super::AuditActor::service(crate::types::Clock::system().now())).await?;
        for difference in [1, -1] {
            let mut update = Query::update();
            update.table(APPLIED_STEPS).value("applied_at", Expr::col("applied_at").add(difference));
            work.tx.execute(&update).await?;
        }
        work.commit().await
    }
}
