//! The state of the application: policies, store, caches and limits, without HTTP.

use super::audit::PendingAudit;
use super::caller_cache::CallerCache;
use super::change_feed::ChangeFeed;
use super::idempotency::RequestsInProgress;
use super::login_throttle::LoginThrottle;
use super::rate_limits::RateLimits;
use super::refusals::RefusalAggregator;
use super::signing_keys::SigningKeys;
use crate::authn::PasswordService;
use crate::authz::PolicyHandle;
use crate::decision_log::DecisionLog;
use crate::store::{Activation, CleanupCounts, ResourceTypes, Store, StoreError};
use crate::types::{Clock, Id};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state, as a worker thread holds it.
///
/// The outer `Arc` belongs to one worker. If all workers counted their references in one place, each request would wait for
/// the cache line of that counter.
pub type SharedState = Arc<Arc<AppState>>;

/// The state of the application.
#[derive(Debug)]
pub struct AppState {
    /// The active policies.
    pub policies: PolicyHandle,
    /// The database.
    pub store: Store,
    /// The resource types that the store has.
    pub resource_types: ResourceTypes,
    /// The callers and users that were loaded recently.
    pub caller_cache: CallerCache,
    /// Issues and verifies access tokens.
    pub signing_keys: SigningKeys,
    /// Hashes and verifies passwords.
    pub passwords: PasswordService,
    /// Delays login attempts after failures.
    pub login_throttle: LoginThrottle,
    /// The limits on requests by user and address.
    pub rate_limits: RateLimits,
    /// Held while `last_used_at` of a credential is written, so that these writes take one database connection at most.
    pub last_used_lock: tokio::sync::Mutex<()>,
    /// The changes of resources.
    pub change_feed: ChangeFeed,
    /// The requests with an idempotency key that are executed.
    pub requests_in_progress: RequestsInProgress,
    /// Audit events that could not be written yet.
    pub pending_audit: PendingAudit,
    /// Refusals that are counted, and not in the audit log yet.
    pub refusals: RefusalAggregator,
    /// Why the active policy version became active, until the database has recorded it.
    pub last_activation: Mutex<Activation>,
    /// The decision log.
    pub decision_log: DecisionLog,
    /// The clock.
    pub clock: Clock,
    /// The settings that requests depend on.
    pub request_config: RequestConfig,
}

impl AppState {
    /// Why the active policy version became active.
    pub(super) fn last_activation(&self) -> MutexGuard<'_, Activation> {
        self.last_activation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many seconds an expired API key remains visible to its owner: 30 days.
    const EXPIRED_KEY_RETENTION: u64 = 30 * 86_400;

    /// Deletes expired rows, and updates the statistics of the database. Ended sessions are kept for the lifetime of an access
    /// token, so that a reused refresh token is recognized.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn clean_up(&self) -> Result<CleanupCounts, StoreError> {
        let before = |seconds| self.clock.now().minus_seconds(seconds);
        let counts = self.store.delete_expired(
            before(self.request_config.access_ttl),
            before(Self::EXPIRED_KEY_RETENTION),
            self.clock.now(),
        );
        let changes = self.store.delete_changes(self.request_config.changes_retention);
        let counts = CleanupCounts { changes: changes.await?, ..counts.await? };
        self.store.update_statistics().await?;
        Ok(counts)
    }
}

/// The settings that requests depend on, those of HTTP aside.
#[derive(Debug, Clone)]
pub struct RequestConfig {
    /// The lifetime of an access token, in seconds.
    pub access_ttl: u64,
    /// The lifetime of a refresh token, in seconds.
    pub refresh_ttl: u64,
    /// For how many seconds a retry with the predecessor of a refresh token returns the same successor.
    pub refresh_reuse_grace: u64,
    /// The maximum lifetime of a session, in seconds.
    pub session_ttl: u64,
    /// Whether an expired access token is answered with 403 instead of 401.
    pub is_expired_token_forbidden: bool,
    /// The maximum number of questions in a batch.
    pub access_batch_limit: usize,
    /// For how many seconds changes are kept.
    pub changes_retention: u64,
    /// The number of seconds after which an event stream without events sends a comment.
    pub changes_heartbeat: u64,
    /// How many policy versions are kept with their files.
    pub policy_versions_kept: u32,
    /// The API keys that may administer identities: `context.provisioning` in the policies.
    pub provisioning_keys: Vec<Id>,
    /// The `iss` and `aud` of access tokens: the public URL. None if they are the URL of the request that a token is issued to.
    pub issuer: Option<String>,
}
