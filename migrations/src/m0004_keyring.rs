//! Rotation of signing keys: each has a number, and a time from which it signs.

use super::time;
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // An existing key is the first one and signs from the beginning.
        for column in [
            ColumnDef::new("number").big_integer().not_null().default(1).to_owned(),
            time("signs_from").not_null().default(0).to_owned(),
        ] {
            manager.alter_table(Table::alter().table("signing_keys").add_column(column).to_owned()).await?;
        }
        // At most one key per number, even if several processes rotate at once.
        let mut number = Index::create();
        number.name("signing_keys_number_key").table("signing_keys").col("number").unique();
        manager.create_index(number).await
    }
}
