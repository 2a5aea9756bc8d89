//! Sessions and their refresh tokens.
//!
//! One login is one session, and its refresh tokens are one family, in which all tokens except the last are spent.
//! Tokens are stored as hashes, with the salt by which a token was derived from its predecessor: neither the salt nor
//! the predecessor alone reveals the token.

use super::list::ListedTable;
use super::revocations::RevocationTarget;
use super::{Event, ListQuery, Page, Store, StoreError, UnitOfWork, full_order};
use crate::resource::column::text_column;
use crate::types::{Id, Timestamp, string_enum};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, Query, UpdateStatement};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, JoinType, TryGetable};
use std::net::IpAddr;

/// The origin of a request, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The IP address of the client.
    pub address: Option<IpAddr>,
    /// The `User-Agent` of the client.
    pub agent: Option<String>,
    /// The id of the request.
    pub request: Option<String>,
}

/// A session.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Session {
    /// The id of the session and of its refresh-token family.
    pub id: Id,
    /// The user that it belongs to.
    pub user: Id,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// The IP address of the login.
    pub created_address: Option<String>,
    /// The `User-Agent` of the login.
    pub created_agent: Option<String>,
    /// When it was last used, by a login, a refresh, or an access token (the latter accurate to the minute).
    pub last_used_at: Timestamp,
    /// The IP address of the last use.
    pub used_address: Option<String>,
    /// The `User-Agent` of the last use.
    pub used_agent: Option<String>,
    /// When it ends, however it is used.
    pub expires_at: Timestamp,
    /// When the last of its tokens expires.
    pub last_token_expiry: Timestamp,
    /// When it was ended early; none if it was not.
    pub ended_at: Option<Timestamp>,
}

impl Session {
    /// Returns whether it has neither been ended nor expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && now < self.expires_at
    }
}

/// A refresh token to issue.
#[derive(Debug, Clone)]
pub struct NewRefreshToken {
    /// The hash of the token.
    pub hash: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The hash of its predecessor and the salt, in hex, by which it was derived from that; none for the first of a family.
    pub predecessor: Option<(String, String)>,
}

/// A refresh token that has been spent.
#[derive(Debug, Clone, FromQueryResult)]
pub struct SpentToken {
    /// When it was spent.
    pub spent_at: Timestamp,
    /// The salt of its successor, until that is spent, too.
    pub salt: Option<String>,
}

string_enum!(
    /// Why a session or API key was ended before its expiry.
    EndReason {
        Logout = "logout",
        Deleted = "deleted",
        Revoked = "revoked",
        Reuse = "reuse",
        Password = "password",
        Blocked = "blocked",
    }
);

text_column!(EndReason);

/// A selection of the sessions of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSelection {
    /// All sessions.
    All,
    /// A single session.
    One(Id),
    /// All sessions except one.
    AllExcept(Id),
}

const COLUMNS: [&str; 11] = [
    "id",
    "user",
    "created_at",
    "created_address",
    "created_agent",
    "last_used_at",
    "used_address",
    "used_agent",
    "expires_at",
    "last_token_expiry",
    "ended_at",
];

/// Returns the update that records a use of a session.
fn last_use_update(session: Id, origin: &Origin, now: Timestamp) -> UpdateStatement {
    Query::update()
        .table("sessions")
        .value("last_used_at", now)
        .value("used_address", origin.address.map(|address| address.to_string()))
        .value("used_agent", origin.agent.clone())
        .and_where(Expr::col("id").eq(session))
        .to_owned()
}

impl UnitOfWork {
    /// Inserts a session.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn insert_session(&self, session: &Session) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert.into_table("sessions").columns(COLUMNS).values_panic([
            session.id.into(),
            session.user.into(),
            session.created_at.into(),
            session.created_address.clone().into(),
            session.created_agent.clone().into(),
            session.last_used_at.into(),
            session.used_address.clone().into(),
            session.used_agent.clone().into(),
            session.expires_at.into(),
            session.last_token_expiry.into(),
            session.ended_at.into(),
        ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Returns a session and locks it until the unit of work ends. Every change of a token family starts with this lock.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn session(&self, id: Id) -> Result<Option<Session>, StoreError> {
        let mut select = Query::select();
        select.columns(COLUMNS).from("sessions").and_where(Expr::col("id").eq(id)).lock(LockType::Update);
        let row = self.tx.query_one(&select).await?;
        let row = row.map(|row| Session::from_query_result(&row, "")).transpose()?;
        Ok(row.map(|session| match self.is_session_revoked(session.user, session.id) {
            true => Session { ended_at: Some(session.last_used_at), ..session },
            false => session,
        }))
    }

    /// Returns whether a user still has this session and it is live at `now`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn has_live_session(&self, user: Id, session: Id, now: Timestamp) -> Result<bool, StoreError> {
        let mut select = Query::select();
        select
            .column("id")
            .from("sessions")
            .and_where(Expr::col("id").eq(session))
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("ended_at").is_null())
            .and_where(Expr::col("expires_at").gt(now));
        Ok(self.tx.query_one(&select).await?.is_some() && !self.is_session_revoked(user, session))
    }

    /// Records that a session was refreshed, and when the last of its tokens expires now.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn record_session_refresh(
        &self,
        session: Id,
        origin: &Origin,
        last_token_expiry: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.tx
            .execute(last_use_update(session, origin, now).value("last_token_expiry", last_token_expiry))
            .await?;
        Ok(())
    }

    /// Ends sessions of a user that have not ended yet, adds an audit entry for each, and returns their number.
    ///
    /// This ends their refresh tokens and access tokens. Every session that is ended early goes through here, except
    /// those of a deleted user.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. [`StoreError::RevocationNotStored`] if the revocation could not be stored.
    pub async fn end_sessions(
        &self,
        user: Id,
        selection: SessionSelection,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.end_sessions_opened_until(user, selection, reason, now, None).await
    }

    /// As [`Self::end_sessions`]; with `until`, sessions opened later stay.
    ///
    /// # Errors
    /// The database is unavailable or does not accept writes.
    pub(super) async fn end_sessions_opened_until(
        &self,
        user: Id,
        selection: SessionSelection,
        reason: EndReason,
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<u64, StoreError> {
        self.note_revocation(user, RevocationTarget::Sessions(selection), reason, now);
        // Caches identify callers with one of the sessions as this user.
        self.mark_written(user);
        let mut update = Query::update();
        update
            .table("sessions")
            .value("ended_at", now)
            .value("end_reason", reason)
            .value("last_token_expiry", now)
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("ended_at").is_null())
            .and_where(Expr::col("last_token_expiry").gt(now));
        match selection {
            SessionSelection::All => {}
            SessionSelection::One(session) => drop(update.and_where(Expr::col("id").eq(session))),
            SessionSelection::AllExcept(session) => drop(update.and_where(Expr::col("id").ne(session))),
        }
        if let Some(until) = until {
            update.and_where(Expr::col("created_at").lte(until));
        }
        let ended = self
            .tx
            .query_all(update.returning_col("id"))
            .await
            .map_err(|error| self.statement_error(error))?;
        if ended.is_empty() {
            return Ok(0);
        }
        let entry = self.entry_for_user(Event::SessionEnded, user).await?.with("reason", reason.to_string());
        for row in &ended {
            let session = Id::try_get(row, "", "id").map_err(DbErr::from)?;
            self.audit(entry.clone().with("session", session.to_string()));
        }
        Ok(u64::try_from(ended.len()).unwrap_or(u64::MAX))
    }

    /// Adds the next refresh token of a session. A unique constraint permits one successor per token.
    ///
    /// # Errors
    ///
    /// [`StoreError::Duplicate`] if the predecessor has a successor already; else if the database is unavailable.
    pub async fn insert_refresh_token(
        &self,
        session: Id,
        token: &NewRefreshToken,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (predecessor, salt) = token.predecessor.clone().unzip();
        let mut insert = Query::insert();
        insert
            .into_table("refresh_tokens")
            .columns(["hash", "session", "issued_at", "expires_at", "predecessor", "salt"])
            .values_panic([
                token.hash.as_str().into(),
                session.into(),
                now.into(),
                token.expires_at.into(),
                predecessor.into(),
                salt.into(),
            ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Marks a refresh token as spent if it is neither spent nor expired. Returns true for exactly one of concurrent
    /// callers.
    ///
    /// Its own salt is deleted, so that it can no longer be derived from its predecessor.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn spend_refresh_token(&self, hash: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut spend = Query::update();
        spend
            .table("refresh_tokens")
            .value("spent_at", now)
            .value("salt", None::<String>)
            .and_where(Expr::col("hash").eq(hash))
            .and_where(Expr::col("spent_at").is_null())
            .and_where(Expr::col("expires_at").gt(now));
        Ok(self.tx.execute(&spend).await?.rows_affected() == 1)
    }

    /// Returns a spent refresh token; none if the token is unknown or not spent.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn spent_token(&self, hash: &str) -> Result<Option<SpentToken>, StoreError> {
        let mut select = Query::select();
        select
            .expr_as(Expr::col(("spent", "spent_at")), "spent_at")
            .column(("next", "salt"))
            .from_as("refresh_tokens", "spent")
            .join_as(
                JoinType::LeftJoin,
                "refresh_tokens",
                "next",
                Expr::col(("next", "predecessor")).equals(("spent", "hash")),
            )
            .and_where(Expr::col(("spent", "hash")).eq(hash))
            .and_where(Expr::col(("spent", "spent_at")).is_not_null());
        let row = self.tx.query_one(&select).await?;
        Ok(row.map(|row| SpentToken::from_query_result(&row, "")).transpose()?)
    }
}

impl Store {
    /// Returns the session of a refresh token, spent or not.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn session_by_refresh_token(&self, refresh_hash: &str) -> Result<Option<Session>, StoreError> {
        let mut select = Query::select();
        select
            .columns(COLUMNS.map(|column| ("sessions", column)))
            .from("refresh_tokens")
            .inner_join("sessions", Expr::col(("sessions", "id")).equals(("refresh_tokens", "session")))
            .and_where(Expr::col(("refresh_tokens", "hash")).eq(refresh_hash));
        let row = self.db.query_one(&select).await?;
        Ok(row.map(|row| Session::from_query_result(&row, "")).transpose()?)
    }

    /// Returns when a refresh token was issued and when it expires; none if it is unknown, spent or expired at `now`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn valid_refresh_token(
        &self,
        hash: &str,
        now: Timestamp,
    ) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        let mut select = Query::select();
        select
            .columns(["issued_at", "expires_at"])
            .from("refresh_tokens")
            .and_where(Expr::col("hash").eq(hash))
            .and_where(Expr::col("spent_at").is_null())
            .and_where(Expr::col("expires_at").gt(now));
        let Some(row) = self.db.query_one(&select).await? else { return Ok(None) };
        let read = |column: &str| Timestamp::try_get(&row, "", column).map_err(DbErr::from);
        Ok(Some((read("issued_at")?, read("expires_at")?)))
    }

    /// Records that an access token of a session was used, unless a later use is recorded.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn record_session_use(
        &self,
        session: Id,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.db
            .execute(last_use_update(session, origin, now).and_where(Expr::col("last_used_at").lt(now)))
            .await?;
        Ok(())
    }

    /// Returns a page of the sessions of a user that can still have a valid token.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn sessions(
        &self,
        user: Id,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<Page<Session>, StoreError> {
        let table = ListedTable {
            name: "sessions",
            columns: COLUMNS.map(str::to_owned).to_vec(),
            texts: &[],
            nullable: &[],
        };
        let rows = Condition::all()
            .add(Expr::col("user").eq(user))
            .add(Expr::col("ended_at").is_null())
            .add(Expr::col("last_token_expiry").gt(now));
        table.page(&self.db, rows, &full_order(&query.sort), query).await
    }
}
