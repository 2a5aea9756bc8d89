//! Sessions and their refresh-token families: a login begins one, and each refresh extends it (see "Refresh-token rotation" in
//! docs/decisions.md; RFC 9700, section 4.14.2).

use super::login_throttle::{LoginAttempt, VerifiedAttempt};
use super::{AppState, Credential, Error, ErrorKind};
use crate::authn::{Claims, IssuedToken, RefreshToken};
use crate::authz::ScopeSet;
use crate::store::{
    Account, AuditActor, AuditEntry, EndReason, Event, NewRefreshToken, Origin, Outcome, Session,
    SessionSelection, UnitOfWork,
};
use crate::types::{Email, Id, Timestamp};
use secrecy::{ExposeSecret, SecretString};

/// The name of the credential of a session and of its access tokens.
pub const SESSION_CREDENTIAL: &str = Credential::Session(Id::NIL).as_str();
/// The code of the error of a refresh for scopes that the user does not have.
pub const INVALID_SCOPE: &str = "invalid_scope";
/// The code of the error of a refresh with an invalid token.
pub const INVALID_REFRESH_TOKEN: &str = "invalid_refresh_token";
/// The name of a refresh token as a credential.
pub const REFRESH_TOKEN_CREDENTIAL: &str = "refreshToken";

/// The tokens of a login or a refresh.
#[derive(Debug)]
pub struct TokenPair {
    /// The access token.
    pub access: IssuedToken,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// The scope of the access token.
    pub scope: ScopeSet,
}

/// Who requests tokens, and which.
#[derive(Debug, Clone, Copy)]
pub struct TokenClient<'a> {
    /// The origin of the request.
    pub origin: &'a Origin,
    /// The URL of the service that the client uses.
    pub url: &'a str,
    /// The requested scopes of the access token; none for the role of the user.
    pub scopes: Option<&'a ScopeSet>,
}

/// Logs in with a password and begins a session.
///
/// # Errors
/// `invalid_credentials`, with an audit entry; `too_many_attempts` if the login throttle requires a wait; others if the
/// database or the password workers are unavailable.
pub async fn log_in(
    state: &AppState,
    client: TokenClient<'_>,
    email: Email,
    password: SecretString,
) -> Result<TokenPair, Error> {
    let origin = client.origin;
    let account = state.store.account_by_email(&email).await?;
    let user = account.as_ref().map(|account| account.id);
    let attempt = LoginAttempt::begin(state, &email, user, origin.address).await?;
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let verified = attempt.verify_password(password, hash.clone()).await?;
    let login_failed = |account: Option<&Account>, reason: &str| {
        let actor = AuditActor::unauthenticated(origin, state.clock.now());
        Error::unauthenticated("invalid_credentials", "Invalid email or password")
            .with_audit(actor, failed_login(account, reason))
    };
    match (account, verified) {
        (Some(account), Some(verified)) if account.is_active() => {
            let begun = begin_session(state, client, &account, &verified).await?;
            begun.ok_or_else(|| login_failed(Some(&account), "changed_meanwhile"))
        }
        (Some(account), verified) => {
            let reason = match verified {
                None => "wrong_password",
                Some(_) if account.is_organization_active => "blocked",
                Some(_) => "organization_inactive",
            };
            Err(login_failed(Some(&account), reason))
        }
        (None, _) => Err(login_failed(None, "unknown_account")),
    }
}

/// Begins a session for an account whose password was verified; none if the account has changed since.
async fn begin_session(
    state: &AppState,
    client: TokenClient<'_>,
    account: &Account,
    verified: &VerifiedAttempt<'_>,
) -> Result<Option<TokenPair>, Error> {
    let origin = client.origin;
    let id = Id::new(&state.clock);
    let actor = AuditActor::unauthenticated(origin, state.clock.now()).with_credential(
        account.id,
        SESSION_CREDENTIAL,
        id,
    );
    let work = state.store.begin(actor).await?;
    verified.record_success(&work).await?;
    // An operation that ended the user's sessions while the password was verified would not have ended this one.
    let current = work.account(account.id).await?;
    let is_unchanged =
        |current: &Account| current.is_active() && current.password_changed_at == account.password_changed_at;
    let Some(current) = current.filter(is_unchanged) else { return Ok(None) };
    if let (Some(old), Some(new)) = (&account.password_hash, &verified.new_hash) {
        work.replace_password_hash(account.id, old, new).await?;
    }
    let now = state.clock.now();
    let session = new_session(state, id, account.id, origin, now);
    work.insert_session(&session).await?;
    let refresh = RefreshToken::new(account.id).map_err(Error::internal)?;
    let token = new_refresh_token(state, &session, &refresh, None, now);
    work.insert_refresh_token(session.id, &token, now).await?;
    let pair = issue_pair(state, &work, client, &current, &session, refresh, now).await?;
    work.audit(session_event(Event::LoginSucceeded, &current, session.id));
    work.commit().await?;
    Ok(Some(pair))
}

fn new_session(state: &AppState, id: Id, user: Id, origin: &Origin, now: Timestamp) -> Session {
    let address = origin.address.map(|address| address.to_string());
    Session {
        id,
        user,
        created_at: now,
        created_address: address.clone(),
        created_agent: origin.agent.clone(),
        last_used_at: now,
        used_address: address,
        used_agent: origin.agent.clone(),
        expires_at: now.plus_seconds(state.request_config.session_ttl),
        last_token_expiry: now,
        ended_at: None,
    }
}

/// Returns the audit entry of a failed login. An unknown email address is not recorded, because people type passwords into
/// that field.
fn failed_login(account: Option<&Account>, reason: &str) -> AuditEntry {
    let entry = AuditEntry::new(Event::LoginFailed).outcome(Outcome::Failed).with("reason", reason);
    match account {
        Some(account) => entry.target_user(account.id).in_organization(&account.path),
        None => entry,
    }
}

/// Returns the audit entry of an event of a session.
fn session_event(event: Event, account: &Account, session: Id) -> AuditEntry {
    AuditEntry::new(event)
        .target_user(account.id)
        .in_organization(&account.path)
        .with("session", session.to_string())
}

/// Spends a refresh token of an account that is `expected`, and returns the next pair of its family.
///
/// A retry with the direct predecessor within the grace period returns the same successor, as long as that is unspent: clients
/// race and lose responses. Any other reuse ends the session, since the token may have been stolen.
///
/// # Errors
/// `invalid_refresh_token`; others if the database is unavailable.
pub async fn rotate(
    state: &AppState,
    client: TokenClient<'_>,
    token: &SecretString,
    expected: impl Fn(&Account) -> bool,
) -> Result<TokenPair, Error> {
    let token: RefreshToken = token.expose_secret().parse().map_err(|_| refused())?;
    let account = state.store.account(token.user()).await?;
    let account = account.filter(|account| account.is_active() && expected(account)).ok_or_else(refused)?;
    if client.scopes.is_some_and(|scopes| !can_grant(state, &account, scopes)) {
        let message = "The requested scope exceeds the role of the user.";
        return Err(Error::new(ErrorKind::InvalidInput, INVALID_SCOPE, message));
    }
    let hash = token.hash();
    let session = state.store.session_by_refresh_token(&hash).await?.ok_or_else(refused)?;

    let actor = AuditActor::unauthenticated(client.origin, state.clock.now()).with_credential(
        account.id,
        REFRESH_TOKEN_CREDENTIAL,
        session.id,
    );
    let work = state.store.begin(actor).await?;
    // This locks the session: refreshes of it are serialized from here on.
    let session = work.session(session.id).await?;
    let now = state.clock.now();
    let session =
        session.filter(|session| session.user == account.id && session.is_live(now)).ok_or_else(refused)?;
    let Some((refresh, is_retry)) = successor(state, &work, &token, &session, now).await? else {
        return end_reused_family(work, &account, session.id, now).await;
    };
    let pair = issue_pair(state, &work, client, &account, &session, refresh, now).await?;
    work.audit(session_event(Event::TokenRefreshed, &account, session.id).with("retry", is_retry));
    work.commit().await?;
    Ok(pair)
}

/// Whether these scopes are among those of the user's role.
fn can_grant(state: &AppState, account: &Account, scopes: &ScopeSet) -> bool {
    let granted = state.policies.current().effective_scopes(&ScopeSet::from(account.role), account.role);
    granted.is_some_and(|granted| scopes.iter().all(|scope| granted.iter().any(|other| other == scope)))
}

/// Returns the error of a failed refresh. Its message is none of those that make clients refresh again (see "Expired token" in
/// docs/decisions.md).
fn refused() -> Error {
    Error::unauthenticated(INVALID_REFRESH_TOKEN, "Invalid refresh token")
}

/// Spends a refresh token. Returns its successor and whether this is a retry; none if the token was reused.
///
/// # Errors
/// `invalid_refresh_token` if the token has expired unspent.
async fn successor(
    state: &AppState,
    work: &UnitOfWork,
    token: &RefreshToken,
    session: &Session,
    now: Timestamp,
) -> Result<Option<(RefreshToken, bool)>, Error> {
    let hash = token.hash();
    if work.spend_refresh_token(&hash, now).await? {
        let salt = RefreshToken::new_salt().map_err(Error::internal)?;
        let refresh = token.successor(&salt);
        let next = new_refresh_token(state, session, &refresh, Some((hash, salt)), now);
        work.insert_refresh_token(session.id, &next, now).await?;
        return Ok(Some((refresh, false)));
    }
    // Neither spent now nor before: it has expired.
    let spent = work.spent_token(&hash).await?.ok_or_else(refused)?;
    let grace = state.request_config.refresh_reuse_grace;
    // The second condition fails if the clock was set back by more than the grace period.
    let is_retry = now < spent.spent_at.plus_seconds(grace) && spent.spent_at < now.plus_seconds(grace);
    Ok(spent.salt.filter(|_| is_retry).map(|salt| (token.successor(&salt), true)))
}

/// Ends a session whose refresh token was reused, and returns the error of the request. The end is committed although the
/// request fails.
async fn end_reused_family(
    work: UnitOfWork,
    account: &Account,
    session: Id,
    now: Timestamp,
) -> Result<TokenPair, Error> {
    work.audit(session_event(Event::TokenReused, account, session).outcome(Outcome::Denied));
    work.end_sessions(account.id, SessionSelection::One(session), EndReason::Reuse, now).await?;
    work.commit().await?;
    tracing::warn!(user = %account.id, %session, "refresh token reuse detected; session revoked");
    Err(refused())
}

/// Returns the row of a refresh token, which does not outlive its session.
fn new_refresh_token(
    state: &AppState,
    session: &Session,
    token: &RefreshToken,
    predecessor: Option<(String, String)>,
    now: Timestamp,
) -> NewRefreshToken {
    let expires_at = now.plus_seconds(state.request_config.refresh_ttl).min(session.expires_at);
    NewRefreshToken { hash: token.hash(), expires_at, predecessor }
}

/// Issues the access token of a refresh token. It does not outlive its session either.
async fn issue_pair(
    state: &AppState,
    work: &UnitOfWork,
    client: TokenClient<'_>,
    account: &Account,
    session: &Session,
    refresh: RefreshToken,
    now: Timestamp,
) -> Result<TokenPair, Error> {
    let config = &state.request_config;
    let scope = client.scopes.cloned().unwrap_or_else(|| ScopeSet::from(account.role));
    let claims = Claims { id: account.id, scope: scope.clone(), sid: session.id };
    let ttl = config.access_ttl.min(now.seconds_until(session.expires_at));
    let access = state.signing_keys.issue(&claims, client.url, now, ttl).map_err(Error::internal)?;
    let last_expiry = now.plus_seconds(config.access_ttl.max(config.refresh_ttl)).min(session.expires_at);
    work.record_session_refresh(session.id, client.origin, last_expiry.max(session.last_token_expiry), now)
        .await?;
    Ok(TokenPair { access, refresh, scope })
}
