//! The active and the confirmed policy version, in one row that all processes share.

use super::{Store, StoreError, UnitOfWork};
use crate::types::Timestamp;
use sea_orm::sea_query::{CaseStatement, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, FromQueryResult};

/// The policy versions in the database.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct PolicyState {
    /// The version that became active last; empty before the first one.
    pub version: String,
    /// The inventory of that version (its forbids and files) as JSON; empty before the first one.
    pub inventory: String,
    /// The version that was confirmed last; cleared when another version becomes active.
    pub confirmed_version: Option<String>,
    /// The inventory that the confirmed version had, as JSON: the version does not cover the policy tests.
    pub confirmed_inventory: Option<String>,
    /// When it was confirmed.
    pub confirmed_at: Option<Timestamp>,
}

impl PolicyState {
    /// Whether these policies were confirmed, with all of their files.
    pub fn is_confirmed(&self, version: &str, inventory: &str) -> bool {
        self.confirmed_version.as_deref() == Some(version)
            && self.confirmed_inventory.as_deref() == Some(inventory)
    }
}

const TABLE: &str = "policy_state";

/// The columns of a confirmation.
const CONFIRMATION: [&str; 3] = ["confirmed_version", "confirmed_inventory", "confirmed_at"];

/// The key of the only row.
const SINGLETON_ID: i32 = 1;

impl Store {
    /// Returns the active and the confirmed version; none before the first start.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn policy_state(&self) -> Result<Option<PolicyState>, StoreError> {
        let mut select = Query::select();
        select
            .columns(["version", "inventory"].into_iter().chain(CONFIRMATION))
            .from(TABLE)
            .and_where(Expr::col("id").eq(SINGLETON_ID));
        let row = self.db.query_one(&select).await?;
        Ok(row.map(|row| PolicyState::from_query_result(&row, "")).transpose()?)
    }
}

impl UnitOfWork {
    /// Records the active version. A confirmation of another version is cleared, since it was given for the change from the
    /// previous one.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn record_active_policies(&self, version: &str, inventory: &str) -> Result<(), StoreError> {
        let mut update = OnConflict::column("id");
        update.update_columns(["version", "inventory"]);
        for column in CONFIRMATION {
            update.value(column, keep_if_version_unchanged(version, column));
        }
        let mut insert = Query::insert();
        insert
            .into_table(TABLE)
            .columns(["id", "version", "inventory"])
            .values_panic([SINGLETON_ID.into(), version.into(), inventory.into()])
            .on_conflict(update);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Records that a version was confirmed to become active, with the files of this inventory.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn confirm_policies(
        &self,
        version: &str,
        inventory: &str,
        time: Timestamp,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table(TABLE)
            .columns(["id", "version", "inventory"].into_iter().chain(CONFIRMATION))
            .values_panic([
                SINGLETON_ID.into(),
                "".into(),
                "".into(),
                version.into(),
                inventory.into(),
                time.into(),
            ])
            .on_conflict(OnConflict::column("id").update_columns(CONFIRMATION).to_owned());
        self.tx.execute(&insert).await?;
        Ok(())
    }
}

/// Returns the expression that keeps a column if `version` is the confirmed one, else null.
fn keep_if_version_unchanged(version: &str, column: &'static str) -> Expr {
    let is_confirmed = Expr::col((TABLE, "confirmed_version")).eq(version);
    CaseStatement::new().case(is_confirmed, Expr::col((TABLE, column))).into()
}
