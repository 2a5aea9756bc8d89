//! Accounts: what authentication needs to know of users, namely their credentials, role, status and organization.

use super::org_tree::is_within;
use super::{Store, StoreError, UnitOfWork};
use crate::authz::Scope;
use crate::types::{Email, Id, OrgPath, Timestamp, UserStatus};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, LockType, Order, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, JoinType, TryGetable};

/// A user with its password hash and the path of its organization.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Account {
    /// The id of the user.
    pub id: Id,
    /// The email address.
    pub email: Email,
    /// The role; it caps the scope of every credential of the user.
    pub role: Scope,
    /// Its status.
    pub status: UserStatus,
    /// Whether its organization and all ancestors of that are active.
    pub is_organization_active: bool,
    /// The path of its organization.
    pub path: OrgPath,
    /// The hash of the password; none if it has no password.
    #[sea_orm(from_alias = "hash")]
    pub password_hash: Option<String>,
    /// When the password was set.
    #[sea_orm(from_alias = "changed_at")]
    pub password_changed_at: Option<Timestamp>,
}

impl Account {
    /// Returns whether its credentials are accepted: the user is not blocked, and its organization is active.
    pub fn is_active(&self) -> bool {
        self.status == UserStatus::Active && self.is_organization_active
    }

    /// Returns the account, as blocked if a revocation that could not be stored says so.
    fn blocked_if_revoked(self, is_revoked: impl FnOnce(Id) -> bool) -> Self {
        if is_revoked(self.id) { Self { status: UserStatus::Blocked, ..self } } else { self }
    }
}

/// An inactive organization deactivates all its descendants. The literal `'inactive'` lets the databases use the
/// partial index `organizations_inactive_idx`.
const IS_ORGANIZATION_ACTIVE: &str = r#"NOT EXISTS (SELECT 1 FROM "organizations" AS "above"
    WHERE "above"."status" = 'inactive'
    AND ("organizations"."path" = "above"."path" OR "organizations"."path" LIKE "above"."path" || '#%'))"#;

fn select_accounts() -> SelectStatement {
    let mut select = Query::select();
    select
        .columns([("users", "id"), ("users", "email"), ("users", "role"), ("users", "status")])
        .column(("organizations", "path"))
        .expr_as(Expr::cust(IS_ORGANIZATION_ACTIVE), "is_organization_active")
        .columns([("passwords", "hash"), ("passwords", "changed_at")])
        .from("users")
        .join(
            JoinType::InnerJoin,
            "organizations",
            Expr::col(("organizations", "id")).equals(("users", "organization")),
        )
        .join(JoinType::LeftJoin, "passwords", Expr::col(("passwords", "user")).equals(("users", "id")));
    select
}

impl UnitOfWork {
    /// Returns the account of a user and locks its row against changes until the unit of work ends.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn account(&self, user: Id) -> Result<Option<Account>, StoreError> {
        // Lock first, as in `UnitOfWork::find`.
        let mut lock = Query::select();
        lock.column("id").from("users").and_where(Expr::col("id").eq(user)).lock(LockType::Share);
        self.tx.query_one(&lock).await?;
        let row = self.tx.query_one(select_accounts().and_where(Expr::col(("users", "id")).eq(user))).await?;
        let row = row.map(|row| Account::from_query_result(&row, "")).transpose()?;
        Ok(row.map(|account| account.blocked_if_revoked(|user| self.is_user_blocked(user))))
    }
}

impl Store {
    async fn account_where(&self, condition: Expr) -> Result<Option<Account>, StoreError> {
        let row = self.db.query_one(select_accounts().and_where(condition)).await?;
        let row = row.map(|row| Account::from_query_result(&row, "")).transpose()?;
        Ok(row.map(|account| account.blocked_if_revoked(|user| self.is_user_blocked(user))))
    }

    /// Returns the account of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn account(&self, user: Id) -> Result<Option<Account>, StoreError> {
        self.account_where(Expr::col(("users", "id")).eq(user)).await
    }

    /// Returns the account of a user and when the session was last used, if the session belongs to it and is live at `now`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn account_in_session(
        &self,
        user: Id,
        session: Id,
        now: Timestamp,
    ) -> Result<Option<(Account, Timestamp)>, StoreError> {
        let mut select = select_accounts();
        select
            .column(("sessions", "last_used_at"))
            .inner_join("sessions", Expr::col(("sessions", "user")).equals(("users", "id")))
            .and_where(Expr::col(("users", "id")).eq(user))
            .and_where(Expr::col(("sessions", "id")).eq(session))
            .and_where(Expr::col(("sessions", "ended_at")).is_null())
            .and_where(Expr::col(("sessions", "expires_at")).gt(now));
        let Some(row) = self.db.query_one(&select).await? else { return Ok(None) };
        let last_used = Timestamp::try_get(&row, "", "last_used_at").map_err(DbErr::from)?;
        if self.is_session_revoked(user, session) {
            return Ok(None);
        }
        Ok(Some((Account::from_query_result(&row, "")?, last_used)))
    }

    /// Returns the account with this email address.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn account_by_email(&self, email: &Email) -> Result<Option<Account>, StoreError> {
        self.account_where(Expr::col(("users", "email")).eq(email.clone())).await
    }

    /// Returns a page of the accounts in `top` and its descendants, by id: at most `limit`, after the id `after`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn accounts(
        &self,
        top: &OrgPath,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<Account>, StoreError> {
        let mut select = select_accounts();
        select.and_where(is_within(Expr::col(("organizations", "path")), top));
        if let Some(after) = after {
            select.and_where(Expr::col(("users", "id")).gt(after));
        }
        select.order_by(("users", "id"), Order::Asc).limit(limit);
        let rows = self.db.query_all(&select).await?;
        Ok(rows.iter().map(|row| Account::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Returns whether there is any user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        let mut any = Query::select();
        any.column(Alias::new("id")).from("users").limit(1);
        Ok(self.db.query_one(&any).await?.is_some())
    }
}
