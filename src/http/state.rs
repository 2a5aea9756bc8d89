//! The state of the HTTP layer: metrics, connections, memory for bodies, and its settings.

use super::Problem;
use super::body_budget::BodyBudget;
use super::connection_limiter::ConnectionLimiter;
use super::export_limiter::ExportLimiter;
use super::forward_auth::ForwardRoutes;
use super::metrics::Metrics;
use crate::application::{AppState, SharedState};
use actix_web::HttpRequest;
use ipnet::IpNet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The state of the HTTP layer.
#[derive(Debug)]
pub struct HttpState {
    /// The routes of forward authentication.
    pub forward_auth: ForwardRoutes,
    /// Counts requests.
    pub metrics: Metrics,
    /// Counts and limits the client connections.
    pub connection_limiter: Arc<ConnectionLimiter>,
    /// Limits the memory of request and response bodies.
    pub body_budget: Arc<BodyBudget>,
    /// Limits and counts the exports of lists.
    pub exports: Arc<ExportLimiter>,
    /// Whether the service drains: it still responds, but is not ready and closes connections.
    pub is_shutting_down: AtomicBool,
    /// The settings.
    pub config: HttpConfig,
}

/// The settings of the HTTP layer.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The setting `public_url` without a trailing slash.
    pub public_url: Option<String>,
    /// The maximum size of a page of a list, in bytes.
    pub list_max_bytes: usize,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the service terminates TLS itself.
    pub has_tls: bool,
    /// Whether clients reach the service by TLS only.
    pub is_secure: bool,
}

/// The state of both layers, as a worker thread holds it.
#[derive(Debug, Clone)]
pub struct WorkerState {
    /// The state of the application, counted for this worker only.
    pub app: SharedState,
    /// The state of the HTTP layer.
    pub http: Arc<HttpState>,
}

impl WorkerState {
    /// Creates the state of one worker.
    pub fn new(app: &Arc<AppState>, http: &Arc<HttpState>) -> Self {
        Self { app: SharedState::new(Arc::clone(app)), http: Arc::clone(http) }
    }

    /// Returns the state that a request has.
    ///
    /// # Errors
    /// 500 if the server was mounted without it.
    pub fn from_request(request: &HttpRequest) -> Result<&Self, Problem> {
        Self::get(request).ok_or_else(|| Problem::internal("the server has no state"))
    }

    /// Returns the state that a request has; none if the server was mounted without it.
    pub fn get(request: &HttpRequest) -> Option<&Self> {
        request.app_data()
    }
}
