//! Backups of a SQLite database, and the users with credentials in a database.

use super::database_file::create_private;
use super::{Store, StoreError, is_shared_database};
use crate::types::{Id, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query, UnionType};
use sea_orm::{ConnectionTrait, TryGetable};
use std::io::ErrorKind;
use std::path::Path;

impl Store {
    /// Copies a snapshot of the database to a new file that only its owner may read. Readers and writers are not blocked.
    ///
    /// # Errors
    ///
    /// If the database is PostgreSQL, the file exists or cannot be created, or the copy fails.
    pub async fn back_up(&self, file: &Path) -> Result<(), StoreError> {
        if is_shared_database(&self.db) {
            return Err(StoreError::Misconfigured("back up a PostgreSQL database with pg_dump".into()));
        }
        let name = file
            .to_str()
            .ok_or_else(|| StoreError::Misconfigured("the file name is not valid UTF-8".into()))?;
        create_private(file).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::AlreadyExists => "already exists".to_owned(),
                _ => format!("cannot be created: {error}"),
            };
            StoreError::Misconfigured(format!("{name} {error}"))
        })?;
        // `VACUUM INTO` takes no parameter; a quote in a string literal is doubled.
        let copy = format!("VACUUM INTO '{}'", name.replace('\'', "''"));
        let copied = self.db.execute_unprepared(&copy).await;
        if copied.is_err() {
            let _ = std::fs::remove_file(file);
        }
        copied?;
        Ok(())
    }

    /// Returns users that have a session with a token that may still be valid, or an API key; by id, at most `limit`
    /// after `after`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn users_with_credentials(
        &self,
        after: Option<Id>,
        now: Timestamp,
        limit: u64,
    ) -> Result<Vec<Id>, StoreError> {
        let users_in = |table: &'static str| {
            let mut select = Query::select();
            select.column("user").from(table);
            if let Some(after) = after {
                select.and_where(Expr::col("user").gt(after));
            }
            select
        };
        let mut sessions = users_in("sessions");
        sessions.and_where(Expr::col("ended_at").is_null()).and_where(Expr::col("last_token_expiry").gt(now));
        let mut all = sessions.union(UnionType::Distinct, users_in("api_keys")).to_owned();
        all.order_by("user", Order::Asc).limit(limit);
        let rows = self.db.query_all(&all).await?;
        Ok(rows
            .iter()
            .map(|row| Id::try_get_by(row, 0))
            .collect::<Result<_, _>>()
            .map_err(sea_orm::DbErr::from)?)
    }
}
