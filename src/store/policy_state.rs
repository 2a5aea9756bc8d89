//! The active and the confirmed policy version, in one row that all processes share.

use super::policy_versions::Activation;
use super::{Store, StoreError, UnitOfWork};
use crate::authz::SnapshotFile;
use crate::types::{Id, Timestamp};
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
    /// The user who confirmed it.
    pub confirmed_by: Option<Id>,
    /// The kind of that user's credential, or `terminal`.
    pub confirmed_credential: Option<String>,
}

/// A version that becomes active.
#[derive(Debug, Clone, Copy)]
pub struct ActiveVersion<'a> {
    /// The version.
    pub version: &'a str,
    /// The inventory, as JSON.
    pub inventory: &'a str,
    /// The files that the version covers.
    pub(crate) files: &'a [SnapshotFile],
    /// Why it became active, and on whose request.
    pub activation: &'a Activation,
    /// How many versions the archive keeps.
    pub max_versions: u32,
}

const TABLE: &str = "policy_state";

/// The columns of a confirmation.
const CONFIRMATION: [&str; 5] =
    ["confirmed_version", "confirmed_inventory", "confirmed_at", "confirmed_by", "confirmed_credential"];

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
    /// Records the active version, and keeps its files in the archive. A confirmation of another version is cleared, since it
    /// was given for the change from the previous one.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn record_active_policies(&self, active: ActiveVersion<'_>) -> Result<(), StoreError> {
        let ActiveVersion { version, inventory, files, activation, max_versions } = active;
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
        // Locks the row until the commit.
        self.tx.execute(&insert).await?;
        self.archive_policies(version, files, activation, max_versions).await
    }

    /// Records that the actor has confirmed a version to become active, with the files of this inventory.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn confirm_policies(&self, version: &str, inventory: &str) -> Result<(), StoreError> {
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
                self.actor.time.into(),
                self.actor.user.into(),
                self.actor.credential.into(),
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
