//! Families: a login begins one, and every refresh goes on with it (decision 8, RFC 9700, 4.14.2).

use crate::authn::{Claims, Issued, RefreshToken};
use crate::authz::ScopeSet;
use crate::http::guessing::Attempt;
use crate::http::{Credential, Parts, Problem};
use crate::store::{
    Account, Cause, Ending, Entry, Event, NewRefreshToken, Origin, Outcome, Session, Sessions, Work,
};
use crate::values::{Email, Id, Timestamp};
use secrecy::{ExposeSecret, SecretString};

/// The word for the credential of a login, and of the access tokens that come of it.
pub const LOGIN: &str = Credential::Session(Id::NONE).as_str();
/// The word for a refresh token.
pub const REFRESH: &str = "refreshToken";

/// What a login or a refresh gives.
#[derive(Debug)]
pub struct Pair {
    /// The access token.
    pub access: Issued,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// What the access token says it is for.
    pub scope: ScopeSet,
}

/// Begins a family for whoever has this password.
pub async fn log_in(
    parts: &Parts,
    origin: &Origin,
    email: Email,
    password: SecretString,
) -> Result<Pair, Problem> {
    let refused = || Problem::refused("invalid_credentials", "Invalid email or password");
    let account = parts.store.account_by_email(&email).await?;
    let user = account.as_ref().map(|account| account.id);
    let attempt = Attempt::begin(parts, &email, user, origin.address).await?;
    let hash = account.as_ref().and_then(|account| account.hash.clone());
    let passed = attempt.check(password, hash.clone()).await?;
    let failed = |account: Option<&Account>, reason: &str| {
        let cause = Cause::stranger(origin, parts.clock.now());
        refused().told(cause, failed_login(account, reason))
    };
    let (account, passed) = match (account, passed) {
        (Some(account), Some(passed)) if account.is_active() => (account, passed),
        (Some(account), passed) => {
            let reason = match passed {
                None => "wrong_password",
                Some(_) if account.is_organization_active => "blocked",
                Some(_) => "organization_inactive",
            };
            return Err(failed(Some(&account), reason));
        }
        (None, _) => return Err(failed(None, "unknown_account")),
    };
    let id = Id::new(&parts.clock);
    let cause = Cause::stranger(origin, parts.clock.now()).by(account.id, LOGIN, id);
    let work = parts.store.begin(cause).await?;
    passed.settle(&work).await?;
    // Whatever ended the sessions of this user while the password was checked would not have ended this one.
    let now_found = work.account(account.id).await?;
    let now_found = now_found.filter(|found| found.is_active() && found.changed_at == account.changed_at);
    let account = now_found.ok_or_else(|| failed(Some(&account), "changed_meanwhile"))?;
    if let (Some(old), Some(new)) = (&hash, &passed.renewed) {
        work.renew_password(account.id, old, new).await?;
    }
    let now = parts.clock.now();
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
        expires_at: now.plus_seconds(parts.rules.session_ttl),
        good_until: now,
        ended_at: None,
    };
    work.open_session(&session).await?;
    let refresh = RefreshToken::new(account.id).map_err(Problem::internal)?;
    let token = issued(parts, &session, &refresh, None, now);
    work.insert_refresh_token(session.id, &token, now).await?;
    let pair = pair(parts, &work, origin, &account, &session, refresh, now).await?;
    work.audit(about(Event::LoginSucceeded, &account, session.id));
    work.commit().await?;
    Ok(pair)
}

/// What the audit trail tells of a login that failed. Of an account that is not there it does not keep the address: people
/// type passwords there.
fn failed_login(account: Option<&Account>, reason: &str) -> Entry {
    let entry = Entry::new(Event::LoginFailed).outcome(Outcome::Failed).with("reason", reason);
    match account {
        Some(account) => entry.user(account.id).within(&account.path),
        None => entry,
    }
}

/// An entry of the audit trail about a session of this user.
fn about(event: Event, account: &Account, session: Id) -> Entry {
    Entry::new(event).user(account.id).within(&account.path).with("session", session.to_string())
}

/// Spends a refresh token, if its account is `expected`, and gives the next pair of its family. Its direct predecessor gets
/// the same refresh token again within the grace, as long as that is unspent: clients race, and lose answers. Any other
/// spent token ends the family, since one of those who have it stole it.
pub async fn rotate(
    parts: &Parts,
    origin: &Origin,
    token: &SecretString,
    expected: impl Fn(&Account) -> bool,
) -> Result<Pair, Problem> {
    // None of the messages by which clients know that a refresh would help: it would not (decision 5).
    let refused = || Problem::refused("invalid_refresh_token", "Invalid refresh token");
    let token: RefreshToken = token.expose_secret().parse().map_err(|_| refused())?;
    let account = parts.store.account(token.user()).await?;
    let account = account.filter(|account| account.is_active() && expected(account)).ok_or_else(refused)?;
    let hash = token.hash();
    let session = parts.store.session_of(&hash).await?.ok_or_else(refused)?;

    let cause = Cause::stranger(origin, parts.clock.now()).by(account.id, REFRESH, session.id);
    let work = parts.store.begin(cause).await?;
    // From here on one after the other.
    let session = work.session(session.id).await?;
    let now = parts.clock.now();
    let session =
        session.filter(|session| session.user == account.id && session.is_live(now)).ok_or_else(refused)?;
    let (refresh, is_retry) = if work.spend_refresh_token(&hash, now).await? {
        let salt = RefreshToken::salt().map_err(Problem::internal)?;
        let refresh = token.successor(&salt);
        let next = issued(parts, &session, &refresh, Some((hash, salt)), now);
        work.insert_refresh_token(session.id, &next, now).await?;
        (refresh, false)
    } else {
        // Neither spent now nor before: it has expired.
        let spent = work.spent_token(&hash).await?.ok_or_else(refused)?;
        let grace = parts.rules.refresh_grace;
        // Neither longer ago than the grace period, nor so much later: the clock was set back.
        let is_retry = now < spent.at.plus_seconds(grace) && spent.at < now.plus_seconds(grace);
        match spent.salt.filter(|_| is_retry) {
            Some(salt) => (token.successor(&salt), true),
            None => {
                work.audit(about(Event::TokenReused, &account, session.id).outcome(Outcome::Denied));
                work.end_sessions(account.id, Sessions::One(session.id), Ending::Reuse, now).await?;
                // What fails is the request, and not the end of the family.
                work.commit().await?;
                tracing::warn!(user = %account.id, session = %session.id, "a spent refresh token came again");
                return Err(refused());
            }
        }
    };
    let pair = pair(parts, &work, origin, &account, &session, refresh, now).await?;
    work.audit(about(Event::TokenRefreshed, &account, session.id).with("retry", is_retry));
    work.commit().await?;
    Ok(pair)
}

/// A refresh token as it is kept. It does not outlive its session.
fn issued(
    parts: &Parts,
    session: &Session,
    token: &RefreshToken,
    follows: Option<(String, String)>,
    now: Timestamp,
) -> NewRefreshToken {
    let expires_at = now.plus_seconds(parts.rules.refresh_ttl).min(session.expires_at);
    NewRefreshToken { hash: token.hash(), expires_at, follows }
}

/// A new access token, which does not outlive its session either, to go with this refresh token.
async fn pair(
    parts: &Parts,
    work: &Work,
    origin: &Origin,
    account: &Account,
    session: &Session,
    refresh: RefreshToken,
    now: Timestamp,
) -> Result<Pair, Problem> {
    let rules = &parts.rules;
    let scope = ScopeSet::from(account.role);
    let claims = Claims { id: account.id, scope: scope.clone(), sid: session.id };
    let ttl = rules.access_ttl.min(now.seconds_until(session.expires_at));
    let access = parts.tokens.issue(&claims, now, ttl).map_err(Problem::internal)?;
    let good_until = now.plus_seconds(rules.access_ttl.max(rules.refresh_ttl)).min(session.expires_at);
    work.use_session(session.id, origin, good_until.max(session.good_until), now).await?;
    Ok(Pair { access, refresh, scope })
}
