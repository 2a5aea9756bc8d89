//! The migrations of a Cedargate database, the same for SQLite and PostgreSQL. A released migration is never changed; new
//! ones are appended.
//!
//! The service runs each migration in a transaction with the row that records it. `PRAGMA foreign_keys` has no effect inside
//! a transaction: a migration that rebuilds a table in SQLite uses `PRAGMA defer_foreign_keys = ON` instead.

use sea_orm_migration::prelude::*;

mod m0001_resources;
mod m0002_credentials;
mod m0003_families;
mod m0004_keyring;
mod m0005_attempts;
mod m0006_audit;
mod m0007_audit_archives;
mod m0008_policy_state;
mod m0009_inactive_organizations;
mod m0010_policy_versions;
mod m0011_lists;
mod m0012_changes;
mod m0014_row_policies;

/// The migrations in their order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_resources::Migration),
            Box::new(m0002_credentials::Migration),
            Box::new(m0003_families::Migration),
            Box::new(m0004_keyring::Migration),
            Box::new(m0005_attempts::Migration),
            Box::new(m0006_audit::Migration),
            Box::new(m0007_audit_archives::Migration),
            Box::new(m0008_policy_state::Migration),
            Box::new(m0009_inactive_organizations::Migration),
            Box::new(m0010_policy_versions::Migration),
            Box::new(m0011_lists::Migration),
            Box::new(m0012_changes::Migration),
            Box::new(m0014_row_policies::Migration),
        ]
    }
}

/// Returns a column for an id.
fn id(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.string_len(24);
    column
}

/// Returns a column for a time, in milliseconds since 1970.
fn time(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.big_integer();
    column
}

/// Returns a column for a text; the service checks its length.
fn text(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.text();
    column
}

/// Returns a foreign key from `table.column` to `other.id`.
fn reference(
    table: &'static str,
    column: &'static str,
    other: &'static str,
    on_delete: ForeignKeyAction,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(format!("{table}_{column}_fkey"))
        .from(table, column)
        .to(other, "id")
        .on_delete(on_delete)
        .to_owned()
}

/// Returns an index over columns of a table.
fn index(table: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(format!("{table}_{}_idx", columns.join("_"))).table(table);
    for column in columns {
        index.col(*column);
    }
    index
}
