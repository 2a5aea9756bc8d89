//! The active policy version, and the version that was confirmed to replace it.

use super::{text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // A single row: the primary key has one value.
        let table = Table::create()
            .table("policy_state")
            .col(ColumnDef::new("id").integer().not_null().primary_key())
            .col(text("version").not_null())
            .col(text("inventory").not_null())
            .col(text("confirmed_version"))
            .col(text("confirmed_inventory"))
            .col(time("confirmed_at"))
            .to_owned();
        manager.create_table(table).await
    }
}
