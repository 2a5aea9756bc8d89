//! What every request needs, made once.

use super::audit::PendingAudit;
use super::body_budget::BodyBudget;
use super::caller::CallerCache;
use super::connection_limiter::ConnectionLimiter;
use super::refusals::RefusalAggregator;
use super::{Problem, SigningKeys};
use crate::authn::PasswordService;
use crate::authz::PolicyHandle;
use crate::decision_log::DecisionLog;
use crate::http::forward_auth::ForwardRoutes;
use crate::http::login_throttle::LoginThrottle;
use crate::http::metrics::Metrics;
use crate::http::rate_limits::RateLimits;
use crate::store::{CleanupCounts, ResourceTypes, Store, StoreError};
use crate::types::{Clock, Id};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use ipnet::IpNet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The parts of the service as a worker holds them. It alone counts its copies: were they all counted in one place, each
/// request would wait until another core has written there.
pub type SharedState = web::Data<Arc<AppState>>;

/// The parts of the service.
#[derive(Debug)]
pub struct AppState {
    /// The policies in force.
    pub policies: PolicyHandle,
    /// Keeps.
    pub store: Store,
    /// The kinds of things that the store keeps.
    pub resource_types: ResourceTypes,
    /// What the requests mean that proxies ask about.
    pub forward_auth: ForwardRoutes,
    /// The callers that are known already.
    pub caller_cache: CallerCache,
    /// Signs and checks access tokens.
    pub signing_keys: SigningKeys,
    /// Hashes and checks passwords.
    pub passwords: PasswordService,
    /// Keeps those waiting who guess passwords.
    pub login_throttle: LoginThrottle,
    /// How many requests somebody may make.
    pub rate_limits: RateLimits,
    /// Counts requests.
    pub metrics: Metrics,
    /// Counts the client connections.
    pub connection_limiter: Arc<ConnectionLimiter>,
    /// Bounds the memory of the bodies of requests and responses.
    pub body_budget: Arc<BodyBudget>,
    /// Whether the process has been told to end: it answers still, and asks for no more.
    pub is_shutting_down: AtomicBool,
    /// Held while the use of a credential is noted: that must not keep all connections waiting for a place to write.
    pub last_used_lock: tokio::sync::Mutex<()>,
    /// What the audit trail is still to be told.
    pub pending_audit: PendingAudit,
    /// Refusals that are counted, and not in the audit log yet.
    pub refusals: RefusalAggregator,
    /// Where decisions are recorded.
    pub decision_log: DecisionLog,
    /// Tells the time.
    pub clock: Clock,
    /// What the settings say.
    pub request_config: RequestConfig,
}

impl AppState {
    /// How long an expired API key is shown to its owner, in seconds: 30 days.
    const EXPIRED_KEY_RETENTION: u64 = 30 * 86_400;

    /// The parts of the service, from a request.
    pub fn from_request(request: &HttpRequest) -> Result<SharedState, Problem> {
        Self::get(request).cloned().ok_or_else(|| Problem::internal("the service has no parts"))
    }

    /// The parts of the service, from a request, if it has any.
    pub fn get(request: &HttpRequest) -> Option<&SharedState> {
        request.app_data()
    }

    /// Deletes what is of no use any more. What has ended is kept as long as an access token lives, so that what comes
    /// again is known for what it is.
    pub async fn clean_up(&self) -> Result<CleanupCounts, StoreError> {
        let before = |seconds| self.clock.now().minus_seconds(seconds);
        self.store
            .delete_expired(before(self.request_config.access_ttl), before(Self::EXPIRED_KEY_RETENTION))
            .await
    }
}

/// The settings that requests depend on.
#[derive(Debug, Clone)]
pub struct RequestConfig {
    /// How long an access token is good, in seconds.
    pub access_ttl: u64,
    /// How long a refresh token is good, in seconds.
    pub refresh_ttl: u64,
    /// How long the predecessor of a refresh token gets the same one again, in seconds.
    pub refresh_grace: u64,
    /// How long a session lasts at most, in seconds.
    pub session_ttl: u64,
    /// What an expired access token is answered with.
    pub expired_status: StatusCode,
    /// The setting `public_url` without a slash at its end.
    pub public_url: Option<String>,
    /// How many questions a batch may have.
    pub access_batch_limit: usize,
    /// The most bytes of one page of a list.
    pub list_max_bytes: usize,
    /// The proxies that are believed whom they speak for.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the service speaks TLS itself.
    pub has_tls: bool,
    /// The API keys that may administer identities: `context.provisioning` of the policies.
    pub provisioning_keys: Vec<Id>,
    /// Whether clients reach the service by TLS only.
    pub is_secure: bool,
    /// The `iss` and `aud` of the access tokens.
    pub issuer: String,
}
