//! The stored signing keys. Each has the next number; a unique constraint on the number serializes concurrent rotations by
//! several processes.

use super::cache::RowCache;
use super::{AuditEntry, Event, Store, StoreError, UnitOfWork};
use crate::config::TokenAlgorithm;
use crate::resource::column::text_column;
use crate::types::{RowVersion, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, TryGetable};
use std::sync::PoisonError;

text_column!(TokenAlgorithm);

/// A signing key.
#[derive(Clone, PartialEq, Eq, FromQueryResult)]
pub struct SigningKeyRow {
    /// The key id, as in the header of the tokens that it signs.
    pub kid: String,
    /// The position in the key ring.
    pub number: i64,
    /// The only algorithm that the key is used with (RFC 8725, section 3.1).
    pub algorithm: TokenAlgorithm,
    /// The key material, in hex.
    pub secret: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The time from which the key signs.
    pub signs_from: Timestamp,
}

// Not derived, so that the secret is not printed.
impl std::fmt::Debug for SigningKeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKeyRow").field("kid", &self.kid).finish_non_exhaustive()
    }
}

const COLUMNS: [&str; 6] = ["kid", "number", "algorithm", "secret", "created_at", "signs_from"];

impl Store {
    /// Returns the version of the signing keys, for what is read of them from now on. It changes when this process, or another
    /// one that notifies it, writes a key.
    pub fn signing_keys_version(&self) -> RowVersion {
        self.cache.signing_keys_version()
    }

    /// Returns the signing keys in ascending order of their numbers.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKeyRow>, StoreError> {
        let mut select = Query::select();
        select.columns(COLUMNS).from("signing_keys").order_by("number", Order::Asc);
        let rows = self.db.query_all(&select).await?;
        Ok(rows.iter().map(|row| SigningKeyRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }
}

impl UnitOfWork {
    fn mark_signing_keys_written(&self) {
        RowCache::add_signing_keys(&mut self.write_set.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Inserts a signing key. Returns false if another key has its number.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn insert_signing_key(&self, key: &SigningKeyRow) -> Result<bool, StoreError> {
        self.mark_signing_keys_written();
        let mut insert = Query::insert();
        insert
            .into_table("signing_keys")
            .columns(COLUMNS)
            .values_panic([
                key.kid.as_str().into(),
                key.number.into(),
                key.algorithm.into(),
                key.secret.as_str().into(),
                key.created_at.into(),
                key.signs_from.into(),
            ])
            .on_conflict(OnConflict::column("number").do_nothing().to_owned());
        Ok(self.tx.execute(&insert).await?.rows_affected() == 1)
    }

    /// Deletes expired signing keys and adds an audit entry for each that existed.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delete_signing_keys(&self, kids: &[String]) -> Result<(), StoreError> {
        self.mark_signing_keys_written();
        let mut delete = Query::delete();
        delete.from_table("signing_keys").and_where(Expr::col("kid").is_in(kids)).returning_col("kid");
        for row in self.tx.query_all(&delete).await? {
            let kid = String::try_get(&row, "", "kid").map_err(DbErr::from)?;
            self.audit(AuditEntry::new(Event::SigningKeyDeleted).with("kid", kid));
        }
        Ok(())
    }

    /// Deletes all signing keys except this one.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delete_other_signing_keys(&self, kid: &str) -> Result<(), StoreError> {
        self.mark_signing_keys_written();
        let mut delete = Query::delete();
        delete.from_table("signing_keys").and_where(Expr::col("kid").ne(kid));
        self.tx.execute(&delete).await?;
        Ok(())
    }
}
