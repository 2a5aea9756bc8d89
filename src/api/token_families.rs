//! Families: a login begins one, and every refresh goes on with it (decision 8, RFC 9700, 4.14.2).

use crate::authn::{Claims, IssuedToken, RefreshToken};
use crate::authz::ScopeSet;
use crate::http::login_throttle::LoginAttempt;
use crate::http::{AppState, Credential, Problem};
use crate::store::{
    Account, AuditActor, AuditEntry, EndReason, Event, NewRefreshToken, Origin, Outcome, Session,
    SessionSelection, UnitOfWork,
};
use crate::types::{Email, Id, Timestamp};
use secrecy::{ExposeSecret, SecretString};

/// The word for the credential of a login, and of the access tokens that come of it.
pub const SESSION_CREDENTIAL: &str = Credential::Session(Id::NIL).as_str();
/// The word for a refresh token.
pub const REFRESH_TOKEN_CREDENTIAL: &str = "refreshToken";

/// What a login or a refresh gives.
#[derive(Debug)]
pub struct TokenPair {
    /// The access token.
    pub access: IssuedToken,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// What the access token says it is for.
    pub scope: ScopeSet,
}

/// Begins a family for whoever has this password.
pub async fn log_in(
    state: &AppState,
    origin: &Origin,
    email: Email,
    password: SecretString,
) -> Result<TokenPair, Problem> {
    let refused = || Problem::unauthenticated("invalid_credentials", "Invalid email or password");
    let account = state.store.account_by_email(&email).await?;
    let user = account.as_ref().map(|account| account.id);
    let attempt = LoginAttempt::begin(state, &email, user, origin.address).await?;
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let verified = attempt.verify_password(password, hash.clone()).await?;
    let login_failed = |account: Option<&Account>, reason: &str| {
        let actor = AuditActor::unauthenticated(origin, state.clock.now());
        refused().with_audit(actor, failed_login(account, reason))
    };
    let (account, verified) = match (account, verified) {
        (Some(account), Some(verified)) if account.is_active() => (account, verified),
        (Some(account), verified) => {
            let reason = match verified {
                None => "wrong_password",
                Some(_) if account.is_organization_active => "blocked",
                Some(_) => "organization_inactive",
            };
            return Err(login_failed(Some(&account), reason));
        }
        (None, _) => return Err(login_failed(None, "unknown_account")),
    };
    let id = Id::new(&state.clock);
    let actor = AuditActor::unauthenticated(origin, state.clock.now()).with_credential(
        account.id,
        SESSION_CREDENTIAL,
        id,
    );
    let work = state.store.begin(actor).await?;
    verified.record_success(&work).await?;
    // Whatever ended the sessions of this user while the password was checked would not have ended this one.
    let reread = work.account(account.id).await?;
    let reread = reread
        .filter(|current| current.is_active() && current.password_changed_at == account.password_changed_at);
    let account = reread.ok_or_else(|| login_failed(Some(&account), "changed_meanwhile"))?;
    if let (Some(old), Some(new)) = (&hash, &verified.new_hash) {
        work.replace_password_hash(account.id, old, new).await?;
    }
    let now = state.clock.now();
    let address = origin.address.map(|address| address.to_string());
    let session = Session {
        id,
        user: account.id,
        created_at: now,
        created_address: address.clone(),
        created_agent: origin.agent.clone(),
        last_used_at: now,
        used_address: address,
        used_agent: origin.agent.clone(),
        expires_at: now.plus_seconds(state.request_config.session_ttl),
        last_token_expiry: now,
        ended_at: None,
    };
    work.insert_session(&session).await?;
    let refresh = RefreshToken::new(account.id).map_err(Problem::internal)?;
    let token = new_refresh_token(state, &session, &refresh, None, now);
    work.insert_refresh_token(session.id, &token, now).await?;
    let pair = issue_pair(state, &work, origin, &account, &session, refresh, now).await?;
    work.audit(session_event(Event::LoginSucceeded, &account, session.id));
    work.commit().await?;
    Ok(pair)
}

/// What the audit trail tells of a login that failed. Of an account that is not there it does not keep the address: people
/// type passwords there.
fn failed_login(account: Option<&Account>, reason: &str) -> AuditEntry {
    let entry = AuditEntry::new(Event::LoginFailed).outcome(Outcome::Failed).with("reason", reason);
    match account {
        Some(account) => entry.target_user(account.id).in_organization(&account.path),
        None => entry,
    }
}

/// An entry of the audit trail about a session of this user.
fn session_event(event: Event, account: &Account, session: Id) -> AuditEntry {
    AuditEntry::new(event)
        .target_user(account.id)
        .in_organization(&account.path)
        .with("session", session.to_string())
}

/// Spends a refresh token, if its account is `expected`, and gives the next pair of its family. Its direct predecessor gets
/// the same refresh token again within the grace, as long as that is unspent: clients race, and lose answers. Any other
/// spent token ends the family, since one of those who have it stole it.
pub async fn rotate(
    state: &AppState,
    origin: &Origin,
    token: &SecretString,
    expected: impl Fn(&Account) -> bool,
) -> Result<TokenPair, Problem> {
    // None of the messages by which clients know that a refresh would help: it would not (decision 5).
    let refused = || Problem::unauthenticated("invalid_refresh_token", "Invalid refresh token");
    let token: RefreshToken = token.expose_secret().parse().map_err(|_| refused())?;
    let account = state.store.account(token.user()).await?;
    let account = account.filter(|account| account.is_active() && expected(account)).ok_or_else(refused)?;
    let hash = token.hash();
    let session = state.store.session_by_refresh_token(&hash).await?.ok_or_else(refused)?;

    let actor = AuditActor::unauthenticated(origin, state.clock.now()).with_credential(
        account.id,
        REFRESH_TOKEN_CREDENTIAL,
        session.id,
    );
    let work = state.store.begin(actor).await?;
    // From here on one after the other.
    let session = work.session(session.id).await?;
    let now = state.clock.now();
    let session =
        session.filter(|session| session.user == account.id && session.is_live(now)).ok_or_else(refused)?;
    let (refresh, is_retry) = if work.spend_refresh_token(&hash, now).await? {
        let salt = RefreshToken::new_salt().map_err(Problem::internal)?;
        let refresh = token.successor(&salt);
        let next = new_refresh_token(state, &session, &refresh, Some((hash, salt)), now);
        work.insert_refresh_token(session.id, &next, now).await?;
        (refresh, false)
    } else {
        // Neither spent now nor before: it has expired.
        let spent = work.spent_token(&hash).await?.ok_or_else(refused)?;
        let grace = state.request_config.refresh_grace;
        // Neither longer ago than the grace period, nor so much later: the clock was set back.
        let is_retry = now < spent.spent_at.plus_seconds(grace) && spent.spent_at < now.plus_seconds(grace);
        match spent.salt.filter(|_| is_retry) {
            Some(salt) => (token.successor(&salt), true),
            None => {
                work.audit(session_event(Event::TokenReused, &account, session.id).outcome(Outcome::Denied));
                work.end_sessions(account.id, SessionSelection::One(session.id), EndReason::Reuse, now)
                    .await?;
                // What fails is the request, and not the end of the family.
                work.commit().await?;
                tracing::warn!(user = %account.id, session = %session.id, "a spent refresh token came again");
                return Err(refused());
            }
        }
    };
    let pair = issue_pair(state, &work, origin, &account, &session, refresh, now).await?;
    work.audit(session_event(Event::TokenRefreshed, &account, session.id).with("retry", is_retry));
    work.commit().await?;
    Ok(pair)
}

/// A refresh token as it is kept. It does not outlive its session.
fn new_refresh_token(
    state: &AppState,
    session: &Session,
    token: &RefreshToken,
    follows: Option<(String, String)>,
    now: Timestamp,
) -> NewRefreshToken {
    let expires_at = now.plus_seconds(state.request_config.refresh_ttl).min(session.expires_at);
    NewRefreshToken { hash: token.hash(), expires_at, predecessor: follows }
}

/// A new access token, which does not outlive its session either, to go with this refresh token.
async fn issue_pair(
    state: &AppState,
    work: &UnitOfWork,
    origin: &Origin,
    account: &Account,
    session: &Session,
    refresh: RefreshToken,
    now: Timestamp,
) -> Result<TokenPair, Problem> {
    let rules = &state.request_config;
    let scope = ScopeSet::from(account.role);
    let claims = Claims { id: account.id, scope: scope.clone(), sid: session.id };
    let ttl = rules.access_ttl.min(now.seconds_until(session.expires_at));
    let access = state.signing_keys.issue(&claims, now, ttl).map_err(Problem::internal)?;
    let good_until = now.plus_seconds(rules.access_ttl.max(rules.refresh_ttl)).min(session.expires_at);
    work.record_session_refresh(session.id, origin, good_until.max(session.last_token_expiry), now).await?;
    Ok(TokenPair { access, refresh, scope })
}
