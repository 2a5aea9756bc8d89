//! An index of the inactive organizations. Every lookup of an account asks whether the organization of the user or one above
//! it is inactive.

use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Both databases have partial indexes in this syntax; the builder has not.
        let sql = "CREATE INDEX organizations_inactive_idx ON organizations (path) WHERE status = 'inactive'";
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}
