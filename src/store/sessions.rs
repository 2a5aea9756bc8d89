//! Sessions: one login is one session, and its refresh tokens are one family, of which each but the last one is spent. A
//! token is here as a hash only, with the salt by which it follows from the one before: neither this nor that token alone
//! gives the next one away.

use super::revocations::RevocationTarget;
use super::{Event, Store, StoreError, UnitOfWork};
use crate::types::{Id, Timestamp, string_enum};
use sea_orm::sea_query::{Expr, ExprTrait, LockType, Order, Query, UpdateStatement};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, JoinType, TryGetable};
use std::net::IpAddr;

/// From where somebody calls, as far as it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its address.
    pub address: Option<IpAddr>,
    /// What it says it is: its `User-Agent`.
    pub agent: Option<String>,
    /// The id of its request.
    pub request: Option<String>,
}

/// A session.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Session {
    /// The session, which is also the family of its refresh tokens.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// When its user logged in.
    pub created_at: Timestamp,
    /// From which address.
    pub created_address: Option<String>,
    /// And with what.
    pub created_agent: Option<String>,
    /// When it was last refreshed, or opened, or an access token of it was used; this to the minute.
    pub last_used_at: Timestamp,
    /// From which address.
    pub used_address: Option<String>,
    /// And with what.
    pub used_agent: Option<String>,
    /// When it ends, however it is used.
    pub expires_at: Timestamp,
    /// Until when any of its tokens can be good.
    #[sea_orm(from_alias = "good_until")]
    pub last_token_expiry: Timestamp,
    /// When it was ended before its time.
    pub ended_at: Option<Timestamp>,
}

impl Session {
    /// Whether it has neither been ended nor come to its end.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && now < self.expires_at
    }
}

/// A refresh token that is being issued.
#[derive(Debug, Clone)]
pub struct NewRefreshToken {
    /// Its hash.
    pub hash: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// The hash of the token that it follows, and the salt, in hex, by which it follows from that; none for the first.
    pub predecessor: Option<(String, String)>,
}

/// What became of a spent refresh token.
#[derive(Debug, Clone, FromQueryResult)]
pub struct SpentToken {
    /// When it was spent.
    pub spent_at: Timestamp,
    /// The salt of its successor, as long as that has not been spent itself.
    pub salt: Option<String>,
}

string_enum!(
    /// Why a session, or a key, ended before its time.
    EndReason {
        Logout = "logout",
        Deleted = "deleted",
        Revoked = "revoked",
        Reuse = "reuse",
        Password = "password",
        Blocked = "blocked",
    }
);

/// Which sessions of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSelection {
    /// All of them.
    All,
    /// This one.
    One(Id),
    /// All but this one.
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
    "good_until",
    "ended_at",
];

/// A session is used now, from there.
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
    /// Opens a session.
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

    /// A session, kept from other writers until the work ends. Whoever changes a family goes through here first.
    pub async fn session(&self, id: Id) -> Result<Option<Session>, StoreError> {
        let mut select = Query::select();
        select.columns(COLUMNS).from("sessions").and_where(Expr::col("id").eq(id)).lock(LockType::Update);
        let found = self.tx.query_one(&select).await?;
        let found = found.map(|row| Session::from_query_result(&row, "")).transpose()?;
        Ok(found.map(|session| match self.is_session_revoked(session.user, session.id) {
            true => Session { ended_at: Some(session.last_used_at), ..session },
            false => session,
        }))
    }

    /// Whether a user has this session still, and it is live at `now`.
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

    /// Notes that a session was used, and until when its tokens can be good now.
    pub async fn record_session_refresh(
        &self,
        session: Id,
        origin: &Origin,
        good_until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.tx.execute(last_use_update(session, origin, now).value("good_until", good_until)).await?;
        Ok(())
    }

    /// Ends sessions of a user that have not ended yet, and gives their number; the audit trail tells of each. Every session that ends before its time
    /// ends here, with its refresh tokens and its access tokens; only those of a deleted user go with that.
    pub async fn end_sessions(
        &self,
        user: Id,
        selection: SessionSelection,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.end_sessions_opened_until(user, selection, reason, now, None).await
    }

    /// The same, of the sessions that were opened until then, where a time is given.
    pub(super) async fn end_sessions_opened_until(
        &self,
        user: Id,
        selection: SessionSelection,
        reason: EndReason,
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<u64, StoreError> {
        self.note_revocation(user, RevocationTarget::Sessions(selection), reason, now);
        // Whoever calls with one of them is remembered as its user.
        self.mark_written(user);
        let mut update = Query::update();
        update
            .table("sessions")
            .value("ended_at", now)
            .value("ended_because", reason)
            .value("good_until", now)
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("ended_at").is_null())
            .and_where(Expr::col("good_until").gt(now));
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

    /// Gives a session its next refresh token. The database takes one successor of a token and no second one.
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

    /// Spends a refresh token that has not expired: true for exactly one caller, however many try at once. From now on it
    /// follows from nothing any more.
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

    /// What became of a refresh token; none where it has not been spent.
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
        let found = self.tx.query_one(&select).await?;
        Ok(found.map(|row| SpentToken::from_query_result(&row, "")).transpose()?)
    }
}

impl Store {
    /// The session that a refresh token belongs to, spent or not.
    pub async fn session_by_refresh_token(&self, refresh_hash: &str) -> Result<Option<Session>, StoreError> {
        let mut select = Query::select();
        select
            .columns(COLUMNS.map(|column| ("sessions", column)))
            .from("refresh_tokens")
            .inner_join("sessions", Expr::col(("sessions", "id")).equals(("refresh_tokens", "session")))
            .and_where(Expr::col(("refresh_tokens", "hash")).eq(refresh_hash));
        let found = self.db.query_one(&select).await?;
        Ok(found.map(|row| Session::from_query_result(&row, "")).transpose()?)
    }

    /// When an unspent refresh token was issued and until when it is good; none where it is not good at `now`.
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

    /// Notes that an access token of a session was used, unless it was used later.
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

    /// At most `limit` sessions of a user of which something can be good still, those last used first.
    pub async fn sessions(&self, user: Id, limit: u64, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let mut select = Query::select();
        select
            .columns(COLUMNS)
            .from("sessions")
            .and_where(Expr::col("user").eq(user))
            .and_where(Expr::col("ended_at").is_null())
            .and_where(Expr::col("good_until").gt(now))
            .order_by("last_used_at", Order::Desc)
            .order_by("created_at", Order::Desc)
            .order_by("id", Order::Desc)
            .limit(limit);
        let found = self.db.query_all(&select).await?;
        Ok(found.iter().map(|row| Session::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }
}
