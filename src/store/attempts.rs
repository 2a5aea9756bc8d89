//! Tries at passwords. Each is counted as a span of time until it is forgotten: `forgotten_at` is the moment at which
//! nothing is left of what was counted under a key, and its row is of no use any more.

use super::{Store, StoreError, UnitOfWork};
use crate::types::Timestamp;
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, OnConflict, Order, Query};
use sea_orm::{ConnectionTrait, FromQueryResult};

/// What was counted under a key.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct AttemptRow {
    /// What is counted: the hash of an account, an address, or both.
    pub key: String,
    /// When the next try is allowed.
    pub allowed_at: Timestamp,
    /// When all tries until now are forgotten.
    pub forgotten_at: Timestamp,
}

const COLUMNS: [&str; 3] = ["key", "allowed_at", "forgotten_at"];

/// How many rows that are forgotten a try takes away. It adds at most six.
const CLEANUP_BATCH: u64 = 100;

impl Store {
    /// What is counted under these keys and not forgotten.
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
        let found = self.db.query_all(&select).await?;
        Ok(found.iter().map(|row| AttemptRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }
}

impl UnitOfWork {
    /// Counts a try under each of these keys, of which the second part says in how many seconds it is forgotten, and the third
    /// to which account it belongs, and keeps them from other writers until the work ends. Gives what is counted now.
    pub async fn count_attempt(
        &self,
        keys: &[(&str, u64, Option<&str>)],
        now: Timestamp,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let mut insert = Query::insert();
        insert.into_table("attempts").columns(COLUMNS.into_iter().chain(["account"]));
        for (key, expiry_seconds, account) in keys {
            // Nothing to wait for: also for another process, whose clock is behind.
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
        let counted = self.tx.query_all(&insert).await?;
        Ok(counted.iter().map(|row| AttemptRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Sets when the next try is allowed, and when all of them are forgotten.
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

    /// Forgets whatever was counted under a key.
    pub async fn clear_attempts(&self, key: &str) -> Result<(), StoreError> {
        let mut delete = Query::delete();
        delete.from_table("attempts").and_where(Expr::col("key").eq(key));
        self.tx.execute(&delete).await?;
        Ok(())
    }

    /// Forgets whatever was counted for the accounts with these keys.
    pub async fn clear_account_attempts(&self, accounts: &[String]) -> Result<(), StoreError> {
        let accounts = || accounts.iter().map(String::as_str);
        let mut delete = Query::delete();
        // What was counted before accounts were kept has only its key.
        delete
            .from_table("attempts")
            .and_where(Expr::col("account").is_in(accounts()).or(Expr::col("key").is_in(accounts())));
        self.tx.execute(&delete).await?;
        Ok(())
    }

    /// Takes one try back that was counted under a key, and with it the wait that came of it: the next try is allowed at
    /// the second moment of the two again, where it is still the first.
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

    /// Keeps a key until then, with nothing to wait for.
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

    /// Takes rows away of which everything is forgotten, those first that have been so longest. It waits for nobody.
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
