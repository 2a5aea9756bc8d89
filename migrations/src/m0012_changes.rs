//! The answers to requests with an idempotency key, and the changes of all resources, which triggers record.

use super::{id, index, reference, text, time};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// The tables of the resources: table, Cedar entity type, column with the owning organization.
const TABLES: [(&str, &str, &str); 9] = [
    ("organizations", "Organization", "id"),
    ("orggroups", "OrganizationGroup", "organization"),
    ("users", "User", "organization"),
    ("conversations", "Conversation", "organization"),
    ("messages", "Message", "organization"),
    ("contacts", "Contact", "organization"),
    ("kbitems", "KnowledgeItem", "organization"),
    ("forms", "Form", "organization"),
    ("services", "Service", "organization"),
];

const COLUMNS: &str = "xid, kind, resource, organization, operation, time";

/// Returns the function of the triggers of PostgreSQL, which record all rows of a statement at once. An organization does not
/// change its owner, itself.
fn postgres_function(name: &str, owner: &str) -> String {
    let insert = |operation: &str, rows: &str| {
        format!(
            "INSERT INTO changes ({COLUMNS}) SELECT x, TG_ARGV[0], r.id, r.{owner}, '{operation}', t FROM {rows} r"
        )
    };
    let moved =
        "(SELECT o.* FROM old_rows o JOIN new_rows n ON n.id = o.id WHERE n.organization <> o.organization)";
    let moved = if owner == "id" { String::new() } else { format!("{};", insert("deleted", moved)) };
    format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE x bigint := pg_current_xact_id()::text::bigint; \
         t bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint; \
         BEGIN \
         IF TG_OP = 'INSERT' THEN {created}; \
         ELSIF TG_OP = 'UPDATE' THEN {moved} {changed}; \
         ELSE {deleted}; \
         END IF; RETURN NULL; END $$",
        created = insert("created", "new_rows"),
        changed = insert("changed", "new_rows"),
        deleted = insert("deleted", "old_rows"),
    )
}

fn postgres_statements() -> Vec<String> {
    let mut statements = vec![
        "CREATE TABLE changes (xid bigint NOT NULL, seq bigint GENERATED ALWAYS AS IDENTITY, kind text NOT NULL, \
         resource varchar(24) NOT NULL, organization varchar(24) NOT NULL, operation text NOT NULL, time bigint NOT NULL, \
         PRIMARY KEY (xid, seq))"
            .to_owned(),
        postgres_function("record_changes", "organization"),
        postgres_function("record_organization_changes", "id"),
    ];
    for (table, kind, owner) in TABLES {
        let function = if owner == "id" { "record_organization_changes" } else { "record_changes" };
        for (verb, rows) in [
            ("INSERT", "NEW TABLE AS new_rows"),
            ("UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
            ("DELETE", "OLD TABLE AS old_rows"),
        ] {
            let name = format!("{table}_changes_{}", verb.to_lowercase());
            statements.push(format!(
                "CREATE TRIGGER {name} AFTER {verb} ON {table} REFERENCING {rows} FOR EACH STATEMENT \
                 EXECUTE FUNCTION {function}('{kind}')"
            ));
        }
    }
    statements
}

fn sqlite_statements() -> Vec<String> {
    let mut statements = vec![
        "CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, xid bigint NOT NULL, kind text NOT NULL, \
         resource varchar(24) NOT NULL, organization varchar(24) NOT NULL, operation text NOT NULL, time bigint NOT NULL)"
            .to_owned(),
    ];
    for (table, kind, owner) in TABLES {
        let insert = |operation: &str, row: &str, condition: &str| {
            format!(
                "INSERT INTO changes ({COLUMNS}) SELECT 0, '{kind}', {row}.id, {row}.{owner}, '{operation}', \
                 CAST(unixepoch('subsec') * 1000 AS INTEGER) {condition};"
            )
        };
        let moved = insert("deleted", "OLD", &format!("WHERE OLD.{owner} <> NEW.{owner}"));
        for (verb, actions) in [
            ("INSERT", insert("created", "NEW", "")),
            ("UPDATE", format!("{moved} {}", insert("changed", "NEW", ""))),
            ("DELETE", insert("deleted", "OLD", "")),
        ] {
            let name = format!("{table}_changes_{}", verb.to_lowercase());
            statements.push(format!("CREATE TRIGGER {name} AFTER {verb} ON {table} BEGIN {actions} END"));
        }
    }
    statements
}

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
        manager.create_index(index("idempotent_answers", &["expires_at"])).await?;
        // One row: the secret that encrypts cursors, and the position of the last change that was deleted.
        let feed = Table::create()
            .table("change_feed")
            .col(text("secret").not_null())
            .col(ColumnDef::new("xid").big_integer().not_null())
            .col(ColumnDef::new("seq").big_integer().not_null())
            .col(id("resource").not_null())
            .to_owned();
        manager.create_table(feed).await?;
        let is_postgres = manager.get_database_backend() == DbBackend::Postgres;
        let secret = match is_postgres {
            true => "replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')",
            false => "lower(hex(randomblob(32)))",
        };
        let nil = "0".repeat(24);
        let start =
            format!("INSERT INTO change_feed (secret, xid, seq, resource) VALUES ({secret}, 0, 0, '{nil}')");
        let statements = if is_postgres { postgres_statements() } else { sqlite_statements() };
        for sql in [start].iter().chain(&statements) {
            manager.get_connection().execute_unprepared(sql).await?;
        }
        Ok(())
    }
}
