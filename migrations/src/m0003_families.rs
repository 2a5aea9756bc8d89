//! Refresh-token families: the predecessor of each token, and when and why a session ended. A session ends at `expires_at`,
//! however it is used; the last of its tokens expires at `last_token_expiry`.

use super::{index, text, time};
use sea_orm_migration::prelude::*;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// The duration of existing sessions from their login, in milliseconds: 90 days.
const SESSION_MILLIS: i64 = 90 * 86_400_000;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns: [(&'static str, ColumnDef); 10] = [
            ("sessions", time("expires_at").not_null().default(0).to_owned()),
            ("sessions", time("last_token_expiry").not_null().default(0).to_owned()),
            ("sessions", time("ended_at")),
            ("sessions", text("end_reason")),
            ("sessions", text("created_address")),
            ("sessions", text("created_agent")),
            ("sessions", text("used_address")),
            ("sessions", text("used_agent")),
            // The hash of the predecessor, and the salt by which this token was derived from it.
            ("refresh_tokens", text("predecessor")),
            ("refresh_tokens", text("salt")),
        ];
        for (table, column) in columns {
            manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await?;
        }
        let mut ends = Query::update();
        let end = || Expr::col("created_at").add(SESSION_MILLIS);
        ends.table("sessions").value("expires_at", end()).value("last_token_expiry", end());
        manager.execute(ends).await?;
        // At most one successor per token.
        let mut successor = Index::create();
        successor.name("refresh_tokens_predecessor_key").table("refresh_tokens").col("predecessor").unique();
        manager.create_index(successor).await?;
        for (table, column) in
            [("sessions", "last_token_expiry"), ("refresh_tokens", "expires_at"), ("api_keys", "expires_at")]
        {
            manager.create_index(index(table, &[column])).await?;
        }
        Ok(())
    }
}
