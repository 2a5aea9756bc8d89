//! Indexes for the usual orders and filters of lists, and the time of the last message of a conversation.

use super::{index, time};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// Indexes on columns, the same in both databases.
const INDEXES: [(&str, &[&str]); 16] = [
    ("conversations", &["organization", "created_at", "id"]),
    ("conversations", &["created_at", "id"]),
    ("conversations", &["organization", "updated_at"]),
    ("conversations", &["updated_at"]),
    ("messages", &["organization", "created_at", "id"]),
    ("messages", &["created_at", "id"]),
    ("messages", &["conversation", "created_at", "id"]),
    ("contacts", &["organization", "created_at", "id"]),
    ("contacts", &["created_at", "id"]),
    ("contacts", &["organization", "updated_at"]),
    ("users", &["organization", "created_at", "id"]),
    ("users", &["created_at", "id"]),
    ("kbitems", &["organization", "created_at", "id"]),
    ("kbitems", &["organization", "updated_at"]),
    ("forms", &["organization", "created_at", "id"]),
    ("services", &["organization", "created_at", "id"]),
];

/// Rows without a value are last in a list; descending indexes of SQLite have this order by themselves.
const SQLITE: [&str; 4] = [
    "CREATE INDEX conversations_organization_last_message_at_idx ON conversations (organization, last_message_at)",
    "CREATE INDEX conversations_last_message_at_idx ON conversations (last_message_at)",
    "CREATE INDEX contacts_profile_email_idx ON contacts (json_extract(profile, '$.\"email\"'))",
    "CREATE INDEX contacts_profile_telephone_idx ON contacts (json_extract(profile, '$.\"telephone\"'))",
];

const POSTGRES: [&str; 7] = [
    "CREATE INDEX conversations_organization_last_message_at_idx ON conversations \
     (organization, last_message_at DESC NULLS LAST)",
    "CREATE INDEX conversations_last_message_at_idx ON conversations (last_message_at DESC NULLS LAST)",
    "CREATE INDEX contacts_profile_email_idx ON contacts ((CAST(profile AS jsonb) ->> 'email'))",
    "CREATE INDEX contacts_profile_telephone_idx ON contacts ((CAST(profile AS jsonb) ->> 'telephone'))",
    "CREATE INDEX conversations_participants_idx ON conversations USING gin \
     (CAST(replace(participants, '\\u0000', '\\ufffd') AS jsonb) jsonb_path_ops)",
    "CREATE INDEX conversations_meta_idx ON conversations USING gin \
     (CAST(replace(meta, '\\u0000', '\\ufffd') AS jsonb) jsonb_path_ops)",
    "CREATE INDEX contacts_meta_idx ON contacts USING gin \
     (CAST(replace(meta, '\\u0000', '\\ufffd') AS jsonb) jsonb_path_ops)",
];

/// The time of the last message of the conversations that exist.
const LAST_MESSAGES: &str = "UPDATE conversations SET last_message_at = \
     (SELECT MAX(created_at) FROM messages WHERE messages.conversation = conversations.id)";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = Table::alter().table("conversations").add_column(time("last_message_at")).to_owned();
        manager.alter_table(column).await?;
        manager.get_connection().execute_unprepared(LAST_MESSAGES).await?;
        for (table, columns) in INDEXES {
            manager.create_index(index(table, columns)).await?;
        }
        // The index above has the conversation as its first column, too.
        let redundant = Index::drop().name("messages_conversation_id_idx").table("messages").to_owned();
        manager.drop_index(redundant).await?;
        let statements: &[&str] =
            if manager.get_database_backend() == DbBackend::Postgres { &POSTGRES } else { &SQLITE };
        for sql in statements {
            manager.get_connection().execute_unprepared(sql).await?;
        }
        Ok(())
    }
}
