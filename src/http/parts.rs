//! What every request needs, made once.

use super::audit::Waiting;
use super::budget::BodyBudget;
use super::caller::Callers;
use super::connections::Connections;
use super::refusals::Refusals;
use super::{Problem, TokenKeys};
use crate::authn::Passwords;
use crate::authz::Live;
use crate::decision_log::DecisionLog;
use crate::http::forward::Table;
use crate::http::guessing::Guessing;
use crate::http::limits::Limits;
use crate::http::metrics::Metrics;
use crate::store::{Kinds, Store, StoreError, Swept};
use crate::values::{Clock, Id};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use ipnet::IpNet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The parts of the service as a worker holds them. It alone counts its copies: were they all counted in one place, each
/// request would wait until another core has written there.
pub type Held = web::Data<Arc<Parts>>;

/// The parts of the service.
#[derive(Debug)]
pub struct Parts {
    /// The policies in force.
    pub policies: Live,
    /// Keeps.
    pub store: Store,
    /// The kinds of things that the store keeps.
    pub kinds: Kinds,
    /// What the requests mean that proxies ask about.
    pub forward: Table,
    /// The callers that are known already.
    pub callers: Callers,
    /// Signs and checks access tokens.
    pub tokens: TokenKeys,
    /// Hashes and checks passwords.
    pub passwords: Passwords,
    /// Keeps those waiting who guess passwords.
    pub guessing: Guessing,
    /// How many requests somebody may make.
    pub limits: Limits,
    /// Counts requests.
    pub metrics: Metrics,
    /// Counts the client connections.
    pub connections: Arc<Connections>,
    /// Bounds the memory of the bodies of requests and responses.
    pub budget: Arc<BodyBudget>,
    /// Whether the process has been told to end: it answers still, and asks for no more.
    pub is_ending: AtomicBool,
    /// Held while the use of a credential is noted: that must not keep all connections waiting for a place to write.
    pub noting: tokio::sync::Mutex<()>,
    /// What the audit trail is still to be told.
    pub untold: Waiting,
    /// Refusals that are counted, and not in the audit log yet.
    pub refusals: Refusals,
    /// Where decisions are recorded.
    pub decision_log: DecisionLog,
    /// Tells the time.
    pub clock: Clock,
    /// What the settings say.
    pub rules: Rules,
}

impl Parts {
    /// How long an expired API key is shown to its owner, in seconds: 30 days.
    const EXPIRED_KEYS: u64 = 30 * 86_400;

    /// The parts of the service, from a request.
    pub fn of(request: &HttpRequest) -> Result<Held, Problem> {
        Self::held(request).cloned().ok_or_else(|| Problem::internal("the service has no parts"))
    }

    /// The parts of the service, from a request, if it has any.
    pub fn held(request: &HttpRequest) -> Option<&Held> {
        request.app_data()
    }

    /// Deletes what is of no use any more. What has ended is kept as long as an access token lives, so that what comes
    /// again is known for what it is.
    pub async fn clean_up(&self) -> Result<Swept, StoreError> {
        let before = |seconds| self.clock.now().minus_seconds(seconds);
        self.store.sweep(before(self.rules.access_ttl), before(Self::EXPIRED_KEYS)).await
    }
}

/// The settings that requests depend on.
#[derive(Debug, Clone)]
pub struct Rules {
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
