//! What proves who is calling: passwords and API keys. (Sessions, and the keys that sign, are next door.) A secret that a
//! client holds is here as a hash only.

use super::revocations::RevocationTarget;
use super::{AuditEntry, EndReason, Event, Store, StoreError, UnitOfWork};
use crate::authz::{Permitted, ScopeSet};
use crate::resource::Resource;
use crate::types::{Id, Name, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, TryGetable};

/// An API key, without its secret.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ApiKeyRow {
    /// The key.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// What its owner calls it.
    pub name: Name,
    /// The hash of the secret.
    pub hash: String,
    /// The first characters of the secret, to tell keys apart.
    pub hint: String,
    /// What it was made for.
    pub scopes: ScopeSet,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is good; for ever where there is none.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

const KEY_COLUMNS: [&str; 9] =
    ["id", "user", "name", "hash", "hint", "scopes", "created_at", "expires_at", "last_used_at"];

impl UnitOfWork {
    /// Sets a user's password.
    pub async fn set_password<U: Resource>(
        &self,
        user: &Permitted<U>,
        hash: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table("passwords")
            .columns(["user", "hash", "changed_at"])
            .values_panic([user.id().into(), hash.into(), now.into()])
            .on_conflict(OnConflict::column("user").update_columns(["hash", "changed_at"]).to_owned());
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Keeps a password under another hash of it, where it still is the one with the old hash.
    pub async fn replace_password_hash(&self, user: Id, old: &str, new: &str) -> Result<(), StoreError> {
        let mut update = Query::update();
        update
            .table("passwords")
            .value("hash", new)
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("hash").eq(old));
        self.tx.execute(&update).await?;
        Ok(())
    }

    /// Gives a user a key.
    pub async fn insert_api_key<U: Resource>(
        &self,
        user: &Permitted<U>,
        key: &ApiKeyRow,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert.into_table("api_keys").columns(KEY_COLUMNS).values_panic([
            key.id.into(),
            user.id().into(),
            key.name.clone().into(),
            key.hash.as_str().into(),
            key.hint.as_str().into(),
            key.scopes.clone().into(),
            key.created_at.into(),
            key.expires_at.into(),
            key.last_used_at.into(),
        ]);
        self.tx.execute(&insert).await?;
        self.audit(
            AuditEntry::new(Event::KeyCreated)
                .target_user(user.id())
                .in_organization(user.path())
                .with("key", key.id.to_string())
                .with("scopes", key.scopes.to_string())
                .with("expiresAt", key.expires_at.map(|end| end.to_string())),
        );
        Ok(())
    }

    /// Whether a user has this key still.
    pub async fn has_api_key(&self, user: Id, key: Id) -> Result<bool, StoreError> {
        let mut select = Query::select();
        select
            .column("id")
            .from("api_keys")
            .and_where(Expr::col("id").eq(key))
            .and_where(Expr::col("user").eq(user));
        Ok(self.tx.query_one(&select).await?.is_some() && !self.is_key_revoked(user, key))
    }

    /// Ends a user's key: false where the user has no such key.
    pub async fn delete_api_key<U: Resource>(
        &self,
        user: &Permitted<U>,
        key: Id,
    ) -> Result<bool, StoreError> {
        self.delete_matching_keys(user.id(), Some(key), EndReason::Deleted, None).await
    }

    /// Ends all keys of a user.
    pub async fn delete_api_keys<U: Resource>(
        &self,
        user: &Permitted<U>,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        self.delete_matching_keys(user.id(), None, reason, None).await?;
        Ok(())
    }

    /// Ends the key of whoever presents it: false where somebody else has just done so.
    pub async fn revoke_api_key(&self, key: &ApiKeyRow) -> Result<bool, StoreError> {
        self.delete_matching_keys(key.user, Some(key.id), EndReason::Revoked, None).await
    }

    /// Ends keys of a user, one or all, and tells whether there were any. Every key that ends before its time ends here; only
    /// those of a deleted user go with that.
    /// Where a time is given, keys that were created later stay.
    pub(super) async fn delete_matching_keys(
        &self,
        user: Id,
        which: Option<Id>,
        reason: EndReason,
        until: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.note_revocation(
            user,
            RevocationTarget::ApiKeys(which),
            reason,
            until.unwrap_or(self.actor.time),
        );
        // Whoever calls with one of them is remembered as its user.
        self.mark_written(user);
        let mut delete = Query::delete();
        delete.from_table("api_keys").and_where(Expr::col("user").eq(user)).returning_col("id");
        if let Some(key) = which {
            delete.and_where(Expr::col("id").eq(key));
        }
        if let Some(until) = until {
            delete.and_where(Expr::col("created_at").lte(until));
        }
        let deleted = self.tx.query_all(&delete).await.map_err(|error| self.statement_error(error))?;
        if deleted.is_empty() {
            return Ok(false);
        }
        let entry = self.entry_for_user(Event::KeyDeleted, user).await?.with("reason", reason.to_string());
        for row in &deleted {
            let key = Id::try_get(row, "", "id").map_err(DbErr::from)?;
            self.audit(entry.clone().with("key", key.to_string()));
        }
        Ok(true)
    }
}

impl Store {
    /// The key with this hash.
    pub async fn api_key(&self, hash: &str) -> Result<Option<ApiKeyRow>, StoreError> {
        let mut select = Query::select();
        select.columns(KEY_COLUMNS).from("api_keys").and_where(Expr::col("hash").eq(hash));
        let found = self.db.query_one(&select).await?;
        Ok(found.map(|row| ApiKeyRow::from_query_result(&row, "")).transpose()?)
    }

    /// A user's keys, in the order of their making.
    pub async fn api_keys<U: Resource>(&self, user: &Permitted<U>) -> Result<Vec<ApiKeyRow>, StoreError> {
        let mut select = Query::select();
        select
            .columns(KEY_COLUMNS)
            .from("api_keys")
            .and_where(Expr::col("user").eq(user.id()))
            .order_by("created_at", Order::Asc)
            .order_by("id", Order::Asc);
        let found = self.db.query_all(&select).await?;
        Ok(found.iter().map(|row| ApiKeyRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Notes that a key was used.
    pub async fn record_api_key_use(&self, key: Id, now: Timestamp) -> Result<(), StoreError> {
        let mut touch = Query::update();
        touch.table("api_keys").value("last_used_at", now).and_where(Expr::col("id").eq(key));
        self.db.execute(&touch).await?;
        Ok(())
    }
}
