//! Indexes for lists and searches that policies filter by the attributes of rows.
//!
//! The index of a list has the attributes, too, so that the rows of an organization are counted without reading them. A search
//! for the rows with one value of an attribute finds them in the order of their ids.

use super::index;
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// The tables whose rows have attributes, with the columns of these.
const LISTS: [(&str, &[&str]); 5] = [
    ("conversations", &["type", "status", "category"]),
    ("messages", &["type", "user", "is_backchannel"]),
    ("users", &["role", "status"]),
    ("kbitems", &["status", "kbase"]),
    ("services", &["type"]),
];

/// The columns by which a policy may select few of many rows.
const SEARCHES: [(&str, &str); 8] = [
    ("conversations", "status"),
    ("conversations", "category"),
    ("messages", "user"),
    ("users", "role"),
    ("users", "status"),
    ("kbitems", "status"),
    ("kbitems", "kbase"),
    ("services", "type"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, attributes) in LISTS {
            let mut list = Index::create();
            list.name(format!("{table}_list_idx")).table(table);
            for column in ["organization", "created_at", "id"].iter().chain(attributes) {
                list.col(*column);
            }
            manager.create_index(list).await?;
            // The new index begins with the same columns.
            let narrow = format!("{table}_organization_created_at_id_idx");
            manager.drop_index(Index::drop().name(narrow).table(table).to_owned()).await?;
        }
        for (table, column) in SEARCHES {
            // With the organization, so that a tenant's search reads the index only.
            manager.create_index(index(table, &[column, "id", "organization"])).await?;
        }
        Ok(())
    }
}
