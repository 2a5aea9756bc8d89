//! The answers to requests with an idempotency key.

use super::{id, index, reference, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let answers = Table::create()
            .table("idempotent_answers")
            // The digest of the caller and its key.
            .col(text("key").not_null().primary_key())
            .col(id("caller").not_null())
            .col(text("fingerprint").not_null())
            .col(ColumnDef::new("status").big_integer().not_null())
            .col(text("headers").not_null())
            .col(text("body"))
            // The resources on which a repetition is authorized.
            .col(text("scope").not_null())
            .col(time("expires_at").not_null())
            .foreign_key(&mut reference("idempotent_answers", "caller", "users", ForeignKeyAction::Cascade))
            .to_owned();
        manager.create_table(answers).await?;
        manager.create_index(index("idempotent_answers", &["caller"])).await?;
        manager.create_index(index("idempotent_answers", &["expires_at"])).await
    }
}
