//! Passwords and API keys. (Sessions and signing keys are in their own modules.) Secrets that a client holds are stored as
//! hashes only.

use super::list::ListedTable;
use super::revocations::RevocationTarget;
use super::{AuditEntry, EndReason, Event, ListQuery, Page, Store, StoreError, UnitOfWork, full_order};
use crate::authz::{Permitted, ScopeSet};
use crate::resource::Resource;
use crate::types::{Id, Name, Timestamp};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, TryGetable};

/// An API key, without its secret.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ApiKeyRow {
    /// The id of the key.
    pub id: Id,
    /// The user it belongs to.
    pub user: Id,
    /// The name that its owner gave it.
    pub name: Name,
    /// The hash of the secret.
    pub hash: String,
    /// The first characters of the secret, by which its owner recognizes it.
    pub hint: String,
    /// The scopes granted at creation.
    pub scopes: ScopeSet,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; never if none.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, accurate to the minute.
    pub last_used_at: Option<Timestamp>,
}

const KEY_COLUMNS: [&str; 9] =
    ["id", "user", "name", "hash", "hint", "scopes", "created_at", "expires_at", "last_used_at"];

impl UnitOfWork {
    /// Sets the password of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
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

    /// Replaces the hash of an unchanged password by a stronger one. Does nothing if the stored hash is no longer `old`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
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

    /// Creates an API key of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
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

    /// Returns the number of API keys of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn count_api_keys(&self, user: Id) -> Result<usize, StoreError> {
        let mut select = Query::select();
        select.column("id").from("api_keys").and_where(Expr::col("user").eq(user));
        Ok(self.tx.query_all(&select).await?.len())
    }

    /// Returns whether a user still has this API key.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn has_api_key(&self, user: Id, key: Id) -> Result<bool, StoreError> {
        let mut select = Query::select();
        select
            .column("id")
            .from("api_keys")
            .and_where(Expr::col("id").eq(key))
            .and_where(Expr::col("user").eq(user));
        Ok(self.tx.query_one(&select).await?.is_some() && !self.is_key_revoked(user, key))
    }

    /// Deletes an API key of a user. Returns false if the user has no such key.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. [`StoreError::RevocationNotStored`] if the revocation could not be stored.
    pub async fn delete_api_key<U: Resource>(
        &self,
        user: &Permitted<U>,
        key: Id,
    ) -> Result<bool, StoreError> {
        self.delete_matching_keys(user.id(), Some(key), EndReason::Deleted, None).await
    }

    /// Deletes all API keys of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. [`StoreError::RevocationNotStored`] if the revocation could not be stored.
    pub async fn delete_api_keys<U: Resource>(
        &self,
        user: &Permitted<U>,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        self.delete_matching_keys(user.id(), None, reason, None).await?;
        Ok(())
    }

    /// Deletes an API key at the request of its bearer. Returns false if it has just been deleted.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. [`StoreError::RevocationNotStored`] if the revocation could not be stored.
    pub async fn revoke_api_key(&self, key: &ApiKeyRow) -> Result<bool, StoreError> {
        self.delete_matching_keys(key.user, Some(key.id), EndReason::Revoked, None).await
    }

    /// Deletes one or all API keys of a user and returns whether there were any. With `until`, keys created later stay.
    ///
    /// Every deletion of a key before its expiry goes through here, except that of keys of a deleted user.
    ///
    /// # Errors
    /// The database is unavailable or does not accept writes.
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
        // Caches identify callers with one of the keys as this user.
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
    /// Returns the API key with this hash.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn api_key(&self, hash: &str) -> Result<Option<ApiKeyRow>, StoreError> {
        let mut select = Query::select();
        select.columns(KEY_COLUMNS).from("api_keys").and_where(Expr::col("hash").eq(hash));
        let row = self.db.query_one(&select).await?;
        Ok(row.map(|row| ApiKeyRow::from_query_result(&row, "")).transpose()?)
    }

    /// Returns a page of the API keys of a user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn api_keys<U: Resource>(
        &self,
        user: &Permitted<U>,
        query: &ListQuery,
    ) -> Result<Page<ApiKeyRow>, StoreError> {
        let table = ListedTable {
            name: "api_keys",
            columns: KEY_COLUMNS.map(str::to_owned).to_vec(),
            texts: &["name"],
            nullable: &["expires_at", "last_used_at"],
        };
        let rows = Condition::all().add(Expr::col("user").eq(user.id()));
        table.page(&self.db, rows, &full_order(&query.sort), query).await
    }

    /// Records that an API key was used.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn record_api_key_use(&self, key: Id, now: Timestamp) -> Result<(), StoreError> {
        let mut update = Query::update();
        update.table("api_keys").value("last_used_at", now).and_where(Expr::col("id").eq(key));
        self.db.execute(&update).await?;
        Ok(())
    }
}
