//! The audit log: events about credentials, users, organizations and policies. Each entry contains the hash of its
//! predecessor. Triggers reject changes and deletions.

use super::{id, index, text, time};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const APPEND_ONLY: &str = "the audit log is append-only";

/// Returns the statements that create the triggers.
fn triggers(backend: DbBackend) -> Vec<String> {
    if backend == DbBackend::Postgres {
        return vec![
            format!(
                "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
            ),
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit \
             FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
                .to_owned(),
        ];
    }
    let trigger = |verb: &str, name: &str| {
        format!(
            "CREATE TRIGGER audit_{name} BEFORE {verb} ON audit BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
        )
    };
    vec![trigger("UPDATE", "no_update"), trigger("DELETE", "no_delete")]
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut seq = ColumnDef::new("seq");
        let audit = Table::create()
            .table("audit")
            .col(seq.big_integer().not_null().primary_key())
            .col(time("time").not_null())
            .col(text("event").not_null())
            .col(text("outcome").not_null())
            // The actor and its credential. They may be deleted later, so there are no foreign keys.
            .col(id("actor"))
            .col(text("credential"))
            .col(id("credential_id"))
            // The target.
            .col(text("target_type"))
            .col(id("target"))
            // The organization of the event, and its path at the time.
            .col(id("organization"))
            .col(text("path"))
            .col(text("address"))
            .col(text("request"))
            .col(text("details").not_null())
            .col(text("previous").not_null())
            .col(text("hash").not_null())
            .to_owned();
        manager.create_table(audit).await?;
        for columns in [["actor", "seq"], ["target", "seq"], ["event", "seq"]] {
            manager.create_index(index("audit", &columns)).await?;
        }
        for trigger in triggers(manager.get_database_backend()) {
            manager.get_connection().execute_unprepared(&trigger).await?;
        }
        Ok(())
    }
}
