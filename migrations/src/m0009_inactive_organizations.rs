//! An index of the inactive organizations. Every query of an account checks whether the organization of the user or one of
//! its ancestors is inactive.

use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // The query builder does not support partial indexes; this syntax works in both databases.
        let sql = "CREATE INDEX organizations_inactive_idx ON organizations (path) WHERE status = 'inactive'";
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}
