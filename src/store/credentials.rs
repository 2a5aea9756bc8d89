//! What proves who is calling: passwords, sessions with their refresh tokens, API keys. (The keys that sign are next door.) A secret that a
//! client holds is here as a hash only.

use super::{Store, StoreError, Work};
use crate::authz::{Permitted, ScopeSet};
use crate::resource::Resource;
use crate::values::{Id, Name, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use sea_orm::{ConnectionTrait, FromQueryResult};

/// A login that is being opened or refreshed.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The session, which is also the family of its refresh tokens.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// The hash of its first refresh token.
    pub refresh_hash: String,
    /// Until when that token is good.
    pub refresh_expires_at: Timestamp,
}

/// A session, as a spent refresh token names it.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Session {
    /// The session.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
}

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

impl Work {
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
    pub async fn renew_password(&self, user: Id, old: &str, new: &str) -> Result<(), StoreError> {
        let mut update = Query::update();
        update
            .table("passwords")
            .value("hash", new)
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("hash").eq(old));
        self.tx.execute(&update).await?;
        Ok(())
    }

    /// Opens a session with its first refresh token.
    pub async fn open_session(&self, session: &NewSession, now: Timestamp) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert.into_table("sessions").columns(["id", "user", "created_at", "last_used_at"]).values_panic([
            session.id.into(),
            session.user.into(),
            now.into(),
            now.into(),
        ]);
        self.tx.execute(&insert).await?;
        self.insert_refresh_token(session, now).await
    }

    /// Gives a session its next refresh token.
    pub async fn insert_refresh_token(&self, session: &NewSession, now: Timestamp) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table("refresh_tokens")
            .columns(["hash", "session", "issued_at", "expires_at"])
            .values_panic([
                session.refresh_hash.as_str().into(),
                session.id.into(),
                now.into(),
                session.refresh_expires_at.into(),
            ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Spends a refresh token of this user: true for exactly one caller, however many try at once.
    pub async fn spend_refresh_token(&self, hash: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut spend = Query::update();
        spend
            .table("refresh_tokens")
            .value("spent_at", now)
            .and_where(Expr::col("hash").eq(hash))
            .and_where(Expr::col("spent_at").is_null())
            .and_where(Expr::col("expires_at").gt(now));
        Ok(self.tx.execute(&spend).await?.rows_affected() == 1)
    }

    /// Notes that a session was used.
    pub async fn touch_session(&self, session: Id, now: Timestamp) -> Result<(), StoreError> {
        let mut touch = Query::update();
        touch.table("sessions").value("last_used_at", now).and_where(Expr::col("id").eq(session));
        self.tx.execute(&touch).await?;
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
        Ok(())
    }

    /// Ends a user's key: false where the user has no such key.
    pub async fn delete_api_key<U: Resource>(
        &self,
        user: &Permitted<U>,
        key: Id,
    ) -> Result<bool, StoreError> {
        // Whoever calls with it is remembered as its user.
        self.wrote("User", user.id());
        let mut delete = Query::delete();
        delete
            .from_table("api_keys")
            .and_where(Expr::col("id").eq(key))
            .and_where(Expr::col("user").eq(user.id()));
        Ok(self.tx.execute(&delete).await?.rows_affected() == 1)
    }
}

impl Store {
    /// The session that a refresh token belongs to, spent or not.
    pub async fn session_of(&self, refresh_hash: &str) -> Result<Option<Session>, StoreError> {
        let mut select = Query::select();
        select
            .columns([("sessions", "id"), ("sessions", "user")])
            .from("refresh_tokens")
            .inner_join("sessions", Expr::col(("sessions", "id")).equals(("refresh_tokens", "session")))
            .and_where(Expr::col(("refresh_tokens", "hash")).eq(refresh_hash));
        let found = self.db.query_one(&select).await?;
        Ok(found.map(|row| Session::from_query_result(&row, "")).transpose()?)
    }

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
            .order_by("id", Order::Asc);
        let found = self.db.query_all(&select).await?;
        Ok(found.iter().map(|row| ApiKeyRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Notes that a key was used.
    pub async fn touch_api_key(&self, key: Id, now: Timestamp) -> Result<(), StoreError> {
        let mut touch = Query::update();
        touch.table("api_keys").value("last_used_at", now).and_where(Expr::col("id").eq(key));
        self.db.execute(&touch).await?;
        Ok(())
    }
}
