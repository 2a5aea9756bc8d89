//! The nine resource types. Each has an id, its organization, and the times of creation and last change.

use super::{id, index, reference, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// Returns a table for a resource type that an organization owns, with the common columns.
fn held_by_organization(table: &'static str) -> TableCreateStatement {
    Table::create()
        .table(table)
        .col(id("id").not_null().primary_key())
        .col(id("organization").not_null())
        .col(text("meta").not_null())
        .col(time("created_at").not_null())
        .col(time("updated_at").not_null())
        .foreign_key(&mut reference(table, "organization", "organizations", ForeignKeyAction::Restrict))
        .to_owned()
}

fn organizations() -> TableCreateStatement {
    Table::create()
        .table("organizations")
        .col(id("id").not_null().primary_key())
        .col(id("parent"))
        .col(text("path").not_null())
        .col(ColumnDef::new("level").big_integer().not_null())
        .col(text("name").not_null())
        .col(text("display_name"))
        .col(text("email"))
        .col(text("status").not_null())
        .col(text("url"))
        .col(text("country"))
        .col(text("logo"))
        .col(text("industry"))
        .col(text("tags").not_null())
        .col(text("meta").not_null())
        .col(time("created_at").not_null())
        .col(time("updated_at").not_null())
        .foreign_key(&mut reference("organizations", "parent", "organizations", ForeignKeyAction::Restrict))
        .to_owned()
}

fn orggroups() -> TableCreateStatement {
    held_by_organization("orggroups")
        .col(text("name").not_null())
        .col(text("description"))
        .col(text("organizations").not_null())
        .to_owned()
}

fn users() -> TableCreateStatement {
    held_by_organization("users")
        .col(text("email").not_null().unique_key())
        .col(text("given_name"))
        .col(text("family_name"))
        .col(text("name").not_null())
        .col(text("avatar"))
        .col(text("role").not_null())
        .col(text("status").not_null())
        .to_owned()
}

fn conversations() -> TableCreateStatement {
    held_by_organization("conversations")
        .col(text("name"))
        .col(text("type").not_null())
        .col(text("status"))
        .col(text("category"))
        .col(text("participants").not_null())
        .to_owned()
}

fn messages() -> TableCreateStatement {
    held_by_organization("messages")
        .col(id("conversation").not_null())
        .col(text("text").not_null())
        .col(text("type").not_null())
        .col(text("role"))
        .col(id("user").not_null())
        .col(ColumnDef::new("is_backchannel").boolean().not_null())
        .col(text("actions").not_null())
        .col(ColumnDef::new("delay").big_integer())
        .foreign_key(&mut reference("messages", "conversation", "conversations", ForeignKeyAction::Cascade))
        .to_owned()
}

fn contacts() -> TableCreateStatement {
    held_by_organization("contacts")
        .col(text("profile").not_null())
        .col(id("conversation"))
        .foreign_key(&mut reference("contacts", "conversation", "conversations", ForeignKeyAction::SetNull))
        .to_owned()
}

fn kbitems() -> TableCreateStatement {
    held_by_organization("kbitems")
        .col(text("kbase"))
        .col(text("title").not_null())
        .col(text("content"))
        .col(text("status").not_null())
        .to_owned()
}

fn forms() -> TableCreateStatement {
    held_by_organization("forms").col(text("name").not_null()).col(text("fields").not_null()).to_owned()
}

fn services() -> TableCreateStatement {
    held_by_organization("services")
        .col(text("name").not_null())
        .col(text("type"))
        .col(text("url"))
        .col(text("params").not_null())
        .to_owned()
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // In the order of their references.
        let tables = [
            organizations(),
            orggroups(),
            users(),
            conversations(),
            messages(),
            contacts(),
            kbitems(),
            forms(),
            services(),
        ];
        for table in tables {
            manager.create_table(table).await?;
        }
        // Conversations and contacts refer to each other, so one of the columns is added last. The SQL is the same for both
        // databases; the query builder cannot add a column with a foreign key.
        manager
            .get_connection()
            .execute_unprepared(
                "ALTER TABLE conversations ADD COLUMN contact VARCHAR(24) REFERENCES contacts(id) ON DELETE SET NULL",
            )
            .await?;
        // A single root, even if several processes create one at the same time.
        manager
            .get_connection()
            .execute_unprepared(
                "CREATE UNIQUE INDEX organizations_root_key ON organizations ((parent IS NULL)) WHERE parent IS NULL",
            )
            .await?;
        for (table, columns) in [
            ("organizations", &["parent"] as &[&str]),
            ("organizations", &["path"]),
            ("orggroups", &["organization", "id"]),
            ("users", &["organization", "id"]),
            ("conversations", &["organization", "id"]),
            ("conversations", &["contact"]),
            ("messages", &["organization", "id"]),
            ("messages", &["conversation", "id"]),
            ("contacts", &["organization", "id"]),
            ("contacts", &["conversation"]),
            ("kbitems", &["organization", "id"]),
            ("forms", &["organization", "id"]),
            ("services", &["organization", "id"]),
        ] {
            manager.create_index(index(table, columns)).await?;
        }
        Ok(())
    }
}
