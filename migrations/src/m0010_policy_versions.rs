//! The archive of policy versions: their files, when they became active and on whose request; and who confirmed a version.

use super::{id, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let number = |name: &'static str| ColumnDef::new(name).big_integer().not_null().to_owned();
        let versions = Table::create()
            .table("policy_versions")
            .col(text("version").not_null().primary_key())
            .col(time("first_activated_at").not_null())
            .col(number("files"))
            .col(number("bytes"))
            // The last activation, with which the versions are sorted and listed.
            .col(number("last_activation").unique_key())
            .col(time("last_activated_at").not_null())
            .col(text("trigger").not_null())
            .col(id("actor"))
            .col(text("credential"))
            .to_owned();
        manager.create_table(versions).await?;
        let activations = Table::create()
            .table("policy_activations")
            .col(number("number").primary_key())
            .col(text("version").not_null())
            .col(time("time").not_null())
            .col(text("trigger").not_null())
            // The actor may be deleted later, so there is no foreign key.
            .col(id("actor"))
            .col(text("credential"))
            .to_owned();
        manager.create_table(activations).await?;
        manager.create_index(super::index("policy_activations", &["version", "number"])).await?;
        let files = Table::create()
            .table("policy_version_files")
            .col(text("version").not_null())
            .col(number("position"))
            .col(text("kind").not_null())
            .col(text("path").not_null())
            .col(text("text").not_null())
            .primary_key(Index::create().col("version").col("position"))
            .to_owned();
        manager.create_table(files).await?;
        for column in [id("confirmed_by"), text("confirmed_credential")] {
            let alter = Table::alter().table("policy_state").add_column(column).to_owned();
            manager.alter_table(alter).await?;
        }
        Ok(())
    }
}
