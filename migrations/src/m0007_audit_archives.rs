//! Archives of the audit log: which entries were exported to a file and deleted. Triggers reject the deletion of an entry
//! that no archive covers, and an archive that does not continue the previous one or whose hash is not that of its last
//! entry. Login attempts get a column for their account, so that one account can be unlocked.

use super::{index, text, time};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const APPEND_ONLY: &str = "the audit log is append-only";
const NOT_NEXT: &str = "an audit archive must continue the previous one and end with an existing entry";

/// The condition that a new archive is rejected. An archive starts at the oldest entry and never includes the newest one,
/// whose hash the next entry needs.
const IS_NOT_NEXT: &str = "NEW.first_seq <> COALESCE((SELECT MAX(last_seq) FROM audit_archives), 0) + 1 \
     OR NEW.first_seq <> (SELECT MIN(seq) FROM audit) \
     OR NEW.last_seq < NEW.first_seq \
     OR NEW.last_seq >= (SELECT MAX(seq) FROM audit) \
     OR NOT EXISTS (SELECT 1 FROM audit WHERE seq = NEW.last_seq AND hash = NEW.hash)";

const IS_NOT_ARCHIVED: &str = "OLD.seq > COALESCE((SELECT MAX(last_seq) FROM audit_archives), 0)";

fn postgres_triggers() -> Vec<String> {
    let function = |name: &str, body: &str| {
        format!("CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    };
    vec![
        "DROP TRIGGER audit_append_only ON audit".to_owned(),
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR TRUNCATE ON audit \
         FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
            .to_owned(),
        function(
            "audit_deletes_archived_only",
            &format!("IF {IS_NOT_ARCHIVED} THEN RAISE EXCEPTION '{APPEND_ONLY}'; END IF; RETURN OLD;"),
        ),
        "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit \
         FOR EACH ROW EXECUTE FUNCTION audit_deletes_archived_only()"
            .to_owned(),
        function(
            "audit_archives_in_order",
            &format!("IF {IS_NOT_NEXT} THEN RAISE EXCEPTION '{NOT_NEXT}'; END IF; RETURN NEW;"),
        ),
        "CREATE TRIGGER audit_archives_in_order BEFORE INSERT ON audit_archives \
         FOR EACH ROW EXECUTE FUNCTION audit_archives_in_order()"
            .to_owned(),
        "CREATE TRIGGER audit_archives_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_archives \
         FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
            .to_owned(),
    ]
}

fn sqlite_triggers() -> Vec<String> {
    let trigger = |name: &str, event: &str, when: &str, message: &str| {
        format!("CREATE TRIGGER {name} BEFORE {event} {when} BEGIN SELECT RAISE(ABORT, '{message}'); END")
    };
    vec![
        "DROP TRIGGER audit_no_delete".to_owned(),
        trigger("audit_no_delete", "DELETE ON audit", &format!("WHEN {IS_NOT_ARCHIVED}"), APPEND_ONLY),
        trigger(
            "audit_archives_in_order",
            "INSERT ON audit_archives",
            &format!("WHEN {IS_NOT_NEXT}"),
            NOT_NEXT,
        ),
        trigger("audit_archives_no_update", "UPDATE ON audit_archives", "", APPEND_ONLY),
        trigger("audit_archives_no_delete", "DELETE ON audit_archives", "", APPEND_ONLY),
    ]
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let number = |name: &'static str| ColumnDef::new(name).big_integer().not_null().to_owned();
        let mut first = number("first_seq");
        let mut last = number("last_seq");
        let archives = Table::create()
            .table("audit_archives")
            .col(last.primary_key())
            .col(first.unique_key())
            // The hash of the last entry.
            .col(text("hash").not_null())
            .col(text("file").not_null())
            // The SHA-256 of the file.
            .col(text("digest").not_null())
            .col(time("archived_at").not_null())
            .to_owned();
        manager.create_table(archives).await?;
        let triggers = match manager.get_database_backend() {
            DbBackend::Postgres => postgres_triggers(),
            _ => sqlite_triggers(),
        };
        for trigger in triggers {
            manager.get_connection().execute_unprepared(&trigger).await?;
        }
        // A hash of the account; null for attempts counted by address, and for earlier ones.
        let account = Table::alter().table("attempts").add_column(text("account")).to_owned();
        manager.alter_table(account).await?;
        manager.create_index(index("attempts", &["account"])).await
    }
}
