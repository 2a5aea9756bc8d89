//! Credentials: passwords, sessions with their refresh tokens, API keys, and signing keys. Secrets that a client holds are
//! stored as hashes.

use super::{id, index, reference, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let passwords = Table::create()
            .table("passwords")
            .col(id("user").not_null().primary_key())
            .col(text("hash").not_null())
            .col(time("changed_at").not_null())
            .foreign_key(&mut reference("passwords", "user", "users", ForeignKeyAction::Cascade))
            .to_owned();
        // One login. Its refresh tokens are a family: all except the last are spent.
        let sessions = Table::create()
            .table("sessions")
            .col(id("id").not_null().primary_key())
            .col(id("user").not_null())
            .col(time("created_at").not_null())
            .col(time("last_used_at").not_null())
            .foreign_key(&mut reference("sessions", "user", "users", ForeignKeyAction::Cascade))
            .to_owned();
        let refresh_tokens = Table::create()
            .table("refresh_tokens")
            .col(text("hash").not_null().primary_key())
            .col(id("session").not_null())
            .col(time("issued_at").not_null())
            .col(time("expires_at").not_null())
            .col(time("spent_at"))
            .foreign_key(&mut reference("refresh_tokens", "session", "sessions", ForeignKeyAction::Cascade))
            .to_owned();
        let api_keys = Table::create()
            .table("api_keys")
            .col(id("id").not_null().primary_key())
            .col(id("user").not_null())
            .col(text("name").not_null())
            .col(text("hash").not_null().unique_key())
            .col(text("hint").not_null())
            .col(text("scopes").not_null())
            .col(time("created_at").not_null())
            .col(time("expires_at"))
            .col(time("last_used_at"))
            .foreign_key(&mut reference("api_keys", "user", "users", ForeignKeyAction::Cascade))
            .to_owned();
        let signing_keys = Table::create()
            .table("signing_keys")
            .col(text("kid").not_null().primary_key())
            .col(text("algorithm").not_null())
            .col(text("secret").not_null())
            .col(time("created_at").not_null())
            .to_owned();
        for table in [passwords, sessions, refresh_tokens, api_keys, signing_keys] {
            manager.create_table(table).await?;
        }
        for (table, columns) in [
            ("sessions", &["user", "id"] as &[&str]),
            ("refresh_tokens", &["session"]),
            ("api_keys", &["user", "id"]),
        ] {
            manager.create_index(index(table, columns)).await?;
        }
        Ok(())
    }
}
