//! The keys that sign follow one another: each has a number, and a moment from which on it signs.

use super::time;
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // The key that is there already, if any, is the first one and signs from the beginning.
        for column in [
            ColumnDef::new("number").big_integer().not_null().default(1).to_owned(),
            time("signs_from").not_null().default(0).to_owned(),
        ] {
            manager.alter_table(Table::alter().table("signing_keys").add_column(column).to_owned()).await?;
        }
        // A key has one successor, however many processes make one at once.
        let mut number = Index::create();
        number.name("signing_keys_number_key").table("signing_keys").col("number").unique();
        manager.create_index(number).await
    }
}
