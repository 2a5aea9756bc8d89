//! Login attempts, for login throttling.
//!
//! Each attempt counts as a period of time that is added to `forgotten_at` of its key. From that time on, the key counts no
//! attempts, and its row may be deleted.

use super::{Store, StoreError, UnitOfWork};
use crate::types::Timestamp;
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, OnConflict, Order, Query};
use sea_orm::{ConnectionTrait, FromQueryResult};

/// The attempts counted under a key.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct AttemptRow {
    /// What is counted: the hash of an account, of an IP address, or of both.
    pub key: String,
    /// When the next attempt is allowed.
    pub allowed_at: Timestamp,
    /// When all attempts so far are forgotten.
    pub forgotten_at: Timestamp,
}

const COLUMNS: [&str; 3] = ["key", "allowed_at", "forgotten_at"];

/// How many expired rows an attempt deletes; it adds at most six.
const CLEANUP_BATCH: u64 = 100;

impl Store {
    /// Returns the rows of these keys that are not expired.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn attempts<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let mut select = Query::select();
        select
            .columns(COLUMNS)
            .from("attempts")
            .and_where(Expr::col("key").is_in(keys))
            .and_where(Expr::col("forgotten_at").gt(now));
        let rows = self.db.query_all(&select).await?;
        Ok(rows.iter().map(|row| AttemptRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }
}

impl UnitOfWork {
    /// Counts an attempt under each of these keys and returns the updated rows. Locks them until the unit of work ends.
    ///
    /// Each key comes with the seconds after which the attempt is forgotten, and with the account that it belongs to.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn count_attempt(
        &self,
        keys: &[(&str, u64, Option<&str>)],
        now: Timestamp,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let mut insert = Query::insert();
        insert.into_table("attempts").columns(COLUMNS.into_iter().chain(["account"]));
        for (key, expiry_seconds, account) in keys {
            // The next attempt is allowed at once, also for a process whose clock is behind.
            let at_once = Timestamp::from_millis(0);
            let forgotten_at = now.plus_seconds(*expiry_seconds);
            insert.values_panic([(*key).into(), at_once.into(), forgotten_at.into(), (*account).into()]);
        }
        let old = || Expr::col(("attempts", "forgotten_at"));
        let remaining = Expr::case(old().gt(now), old().sub(now)).finally(0i64);
        let sum = Expr::col(("excluded", "forgotten_at")).add(remaining);
        insert
            .on_conflict(OnConflict::column("key").value("forgotten_at", sum).to_owned())
            .returning(Query::returning().columns(COLUMNS));
        let rows = self.tx.query_all(&insert).await?;
        Ok(rows.iter().map(|row| AttemptRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Sets when the next attempt is allowed, and when all attempts are forgotten.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delay_attempts(&self, row: &AttemptRow) -> Result<(), StoreError> {
        let mut update = Query::update();
        update
            .table("attempts")
            .value("allowed_at", row.allowed_at)
            .value("forgotten_at", row.forgotten_at)
            .and_where(Expr::col("key").eq(row.key.as_str()));
        self.tx.execute(&update).await?;
        Ok(())
    }

    /// Deletes the attempts under a key.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn clear_attempts(&self, key: &str) -> Result<(), StoreError> {
        let mut delete = Query::delete();
        delete.from_table("attempts").and_where(Expr::col("key").eq(key));
        self.tx.execute(&delete).await?;
        Ok(())
    }

    /// Deletes the attempts of these accounts.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn clear_account_attempts(&self, accounts: &[String]) -> Result<(), StoreError> {
        let accounts = || accounts.iter().map(String::as_str);
        let mut delete = Query::delete();
        // Rows from before the column `account` existed have only the key.
        delete
            .from_table("attempts")
            .and_where(Expr::col("account").is_in(accounts()).or(Expr::col("key").is_in(accounts())));
        self.tx.execute(&delete).await?;
        Ok(())
    }

    /// Takes back one attempt under a key, which is forgotten after `expiry_seconds`.
    ///
    /// `delay` is the back-off of the attempt: when it allowed the next one, and when that was allowed before. The
    /// back-off is undone only if no other attempt has changed it.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn undo_attempt(
        &self,
        key: &str,
        expiry_seconds: u64,
        delay: Option<(Timestamp, Timestamp)>,
    ) -> Result<(), StoreError> {
        let span = i64::try_from(expiry_seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let mut update = Query::update();
        update
            .table("attempts")
            .value("forgotten_at", Expr::col("forgotten_at").sub(span))
            .and_where(Expr::col("key").eq(key));
        if let Some((new, old)) = delay {
            let allowed = || Expr::col("allowed_at");
            update.value("allowed_at", Expr::case(allowed().eq(new), old).finally(allowed()));
        }
        self.tx.execute(&update).await?;
        Ok(())
    }

    /// Stores a key until `until`, without a delay.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn set_attempt_expiry(
        &self,
        key: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table("attempts")
            .columns(COLUMNS)
            .values_panic([key.into(), now.into(), until.into()])
            .on_conflict(OnConflict::column("key").update_columns(["allowed_at", "forgotten_at"]).to_owned());
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Deletes some expired rows, the oldest first. Skips rows that are locked.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delete_expired_attempts(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut expired = Query::select();
        expired
            .column("key")
            .from("attempts")
            .and_where(Expr::col("forgotten_at").lte(now))
            .order_by("forgotten_at", Order::Asc)
            .limit(CLEANUP_BATCH)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
        let mut delete = Query::delete();
        delete.from_table("attempts").and_where(Expr::col("key").in_subquery(expired));
        self.tx.execute(&delete).await?;
        Ok(())
    }
}
