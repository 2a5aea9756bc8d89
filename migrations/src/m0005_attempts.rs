//! Login attempts, for login throttling.

use super::{index, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // The key is a hash of what is counted: an account, an IP address, or both.
        let attempts = Table::create()
            .table("attempts")
            .col(text("key").not_null().primary_key())
            .col(time("allowed_at").not_null())
            .col(time("forgotten_at").not_null())
            .to_owned();
        manager.create_table(attempts).await?;
        manager.create_index(index("attempts", &["forgotten_at"])).await
    }
}
