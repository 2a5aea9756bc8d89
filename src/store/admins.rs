//! The admins of the root organization. One of them must stay active, because only they can create another one.

use super::org_tree::owner_org;
use super::{StoreError, UnitOfWork};
use crate::authz::Scope;
use crate::types::{Id, UserStatus};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, TryGetable};

impl UnitOfWork {
    /// Returns whether the root organization has an active admin other than `user`.
    ///
    /// Locks the root organization until the unit of work ends. Of two concurrent requests that each remove one of the
    /// last two admins, the second one counts after the first has committed.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn has_other_root_admin(&self, user: Id) -> Result<bool, StoreError> {
        self.lock_tree().await?;
        let root =
            owner_org::Entity::find().filter(owner_org::Column::Parent.is_null()).one(&self.tx).await?;
        let Some(root) = root else { return Ok(false) };
        let mut count = Query::select();
        count
            .expr_as(Expr::col("id").count(), "others")
            .from("users")
            .and_where(Expr::col("organization").eq(root.id))
            .and_where(Expr::col("role").eq(Scope::Admin.as_str()))
            .and_where(Expr::col("status").eq(UserStatus::Active))
            .and_where(Expr::col("id").ne(user));
        let others = match self.tx.query_one(&count).await? {
            Some(row) => i64::try_get(&row, "", "others").map_err(DbErr::from)?,
            None => 0,
        };
        Ok(others > 0)
    }

    /// Invalidates the caches of all processes when the unit of work commits.
    pub fn invalidate_all(&self) {
        self.mark_all_written();
    }
}
