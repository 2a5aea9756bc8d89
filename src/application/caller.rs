//! The caller: a user with the credential of a request, and its Cedar principal.

use super::caller_cache::invalid_if;
use super::{AppState, Error};
use crate::authz::{CredentialKind, Engine, Principal, ResourceEntity, Scope, ScopeSet, UserAttributes};
use crate::decision_log;
use crate::store::{Account, Origin, UnitOfWork};
use crate::types::{Id, OrgPath, Timestamp, UserStatus, to_raw_json};
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// An access token of this session.
    Session(Id),
    /// The API key with this id.
    ApiKey(Id),
    /// The command line on the machine that holds the database.
    Terminal,
}

impl Credential {
    /// Returns its kind.
    pub const fn kind(self) -> CredentialKind {
        match self {
            Self::Session(_) => CredentialKind::Session,
            Self::ApiKey(_) => CredentialKind::ApiKey,
            Self::Terminal => CredentialKind::Terminal,
        }
    }

    /// Returns the name of its kind.
    pub const fn as_str(self) -> &'static str {
        self.kind().as_str()
    }

    /// Returns the id of the session; none for other credentials.
    pub const fn session(self) -> Option<Id> {
        match self {
            Self::Session(id) => Some(id),
            Self::ApiKey(_) | Self::Terminal => None,
        }
    }

    /// Returns the id of the session or the key.
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::Session(id) | Self::ApiKey(id) => Some(*id),
            Self::Terminal => None,
        }
    }
}

/// The caller of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The id of the user.
    pub id: Id,
    /// The path of the user's organization.
    pub organization: OrgPath,
    /// The credential of the request.
    pub credential: Credential,
    /// The Cedar principal.
    pub principal: Arc<Principal>,
    /// The effective scopes of the credential; none if it grants nothing.
    pub scopes: Option<ScopeSet>,
    /// Whether the use of the credential has been written. It is written once for each cached caller.
    is_use_recorded: Arc<AtomicBool>,
    /// The caller as the decision log has it, built on first use.
    log_json: OnceLock<Box<RawValue>>,
}

/// A user as a subject or resource of an evaluation, with all scopes of its role.
#[derive(Debug)]
pub struct UserAtFullRole {
    /// The user as a resource entity.
    pub resource: ResourceEntity,
    /// The user as a principal that has the scopes of its role; none if the user is blocked.
    pub principal: Option<Arc<Principal>>,
}

impl Caller {
    /// Builds the caller from the account as it is stored now and the scopes that its credential claims.
    ///
    /// # Errors
    /// `invalid_token` if the user is blocked or its organization inactive.
    pub(super) fn new(
        engine: &Engine,
        account: &Account,
        claimed: &ScopeSet,
        credential: Credential,
    ) -> Result<Self, Error> {
        invalid_if(!account.is_active())?;
        let scopes = engine.effective_scopes(claimed, account.role);
        let attributes = user_attributes(account);
        let principal = Principal::new(account.id, &account.path, attributes, scopes.as_ref())
            .with_claimed_scopes(claimed);
        Ok(Self {
            id: account.id,
            organization: account.path.clone(),
            credential,
            principal: Arc::new(principal),
            scopes,
            is_use_recorded: Arc::default(),
            log_json: OnceLock::new(),
        })
    }

    /// Returns the user with all scopes of its role; none if the user is blocked.
    pub fn from_account(engine: &Engine, account: &Account) -> Option<Self> {
        let scopes = ScopeSet::from(account.role);
        Self::new(engine, account, &scopes, Credential::Terminal).ok()
    }

    /// Returns the caller of the command line. The policies see `User::"000000000000000000000000"` of the root organization
    /// with the scope admin.
    pub fn for_terminal(engine: &Engine, root: OrgPath) -> Self {
        let scopes = ScopeSet::from(Scope::Admin);
        let attributes = UserAttributes {
            organization: root.org_id(),
            role: Scope::Admin,
            status: UserStatus::Active,
            email: None,
        };
        let scopes = engine.effective_scopes(&scopes, Scope::Admin);
        let principal = Arc::new(Principal::new(Id::NIL, &root, attributes, scopes.as_ref()));
        Self {
            id: Id::NIL,
            organization: root,
            credential: Credential::Terminal,
            principal,
            scopes,
            is_use_recorded: Arc::default(),
            log_json: OnceLock::new(),
        }
    }

    /// Returns the caller as the decision log has it.
    pub(super) fn log_json(&self) -> &RawValue {
        let Self { id, credential, .. } = *self;
        let (kind, credential_id) = (credential.as_str(), credential.id());
        self.log_json
            .get_or_init(|| to_raw_json(&decision_log::Caller { user: id, credential: kind, credential_id }))
    }

    pub(super) fn set_use_recorded(&self, is_recorded: bool) {
        self.is_use_recorded.store(is_recorded, Ordering::Relaxed);
    }

    /// Records that the credential was used, at most once a minute. If that fails, the request continues.
    pub async fn record_use(&self, state: &AppState, origin: impl FnOnce() -> Origin) {
        if self.is_use_recorded.load(Ordering::Relaxed) || state.store.is_stale() {
            return;
        }
        if !self.is_use_recorded.swap(true, Ordering::Relaxed) {
            // Boxed because it is rare and large: every request would otherwise reserve the memory for it.
            Box::pin(self.write_last_used(state, origin())).await;
        }
    }

    async fn write_last_used(&self, state: &AppState, origin: Origin) {
        let Ok(_lock) = state.last_used_lock.try_lock() else {
            // Another request is writing; the next request of this caller tries again.
            return self.set_use_recorded(false);
        };
        let now = state.clock.now();
        let result = match self.credential {
            Credential::Session(session) => state.store.record_session_use(session, &origin, now).await,
            Credential::ApiKey(key) => state.store.record_api_key_use(key, now).await,
            Credential::Terminal => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, id = ?self.credential, "failed to update last_used_at");
        }
    }

    /// Checks within a unit of work that the credential has not ended since the request began. Operations that give or take
    /// credentials call this with the user's row locked, so that they do not outlive the credential.
    ///
    /// # Errors
    /// `invalid_token` if the session or key has ended.
    pub async fn ensure_credential_still_valid(
        &self,
        work: &UnitOfWork,
        now: Timestamp,
    ) -> Result<(), Error> {
        let is_live = match self.credential {
            Credential::Session(session) => work.has_live_session(self.id, session, now).await?,
            Credential::ApiKey(key) => work.has_api_key(self.id, key).await?,
            Credential::Terminal => true,
        };
        invalid_if(!is_live)
    }
}

/// Returns the attributes of a user's Cedar entity.
pub(super) fn user_attributes(account: &Account) -> UserAttributes<'_> {
    UserAttributes {
        organization: account.path.org_id(),
        role: account.role,
        status: account.status,
        email: Some(&account.email),
    }
}
