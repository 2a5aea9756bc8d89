//! The composition root: builds the state, mounts the routes, starts the listeners. The service and the tests start here, and
//! expensive objects are built here once.

mod error;

pub use crate::application::bootstrap::{AnnounceFirstAdmin, FirstAdmin};
pub use error::StartError;

use crate::api;
use crate::application::bootstrap::{self, admin_email, check_admin_password, ensure_first_admin};
use crate::application::caller_cache::CallerCache;
use crate::application::change_feed::ChangeFeed;
use crate::application::change_feed::waiting::WaitingLimits;
use crate::application::login_throttle::LoginThrottle;
use crate::application::policy_reload;
use crate::application::rate_limits::RateLimits;
use crate::application::state::RequestConfig;
use crate::application::verification;
use crate::application::{AppState, Authorizer, SigningKeys};
use crate::authn::PasswordService;
use crate::authz::{
    Bundle, BundleDiagnostic, BundleError, PolicyHandle, ReloadConfig, Snapshot, Sources, StoredType, cases,
};
use crate::config::{CacheName, Config, ConfigError, PolicyReload, PolicyTests};
use crate::decision_log::{DecisionLog, Settings};
use crate::http::body_budget::BodyBudget;
use crate::http::connection::Deadlines;
use crate::http::connection_limiter::{ConnectionLimiter, cap_by_file_limit};
use crate::http::cors::CorsLayer;
use crate::http::docs::{self, OpenApiDocument};
use crate::http::export_limiter::ExportLimiter;
use crate::http::forward_auth::ForwardRoutes;
use crate::http::metrics::Metrics;
use crate::http::server::{Transport, listen};
use crate::http::state::{HttpConfig, HttpState};
use crate::http::tls::Certificates;
use crate::http::{WorkerState, compression, mount, openapi, request_middleware, routes};
use crate::store::{Activation, ActivationTrigger, Store};
use crate::types::Clock;
use actix_server::ServerBuilder;
use actix_web::dev::Server;
use actix_web::{middleware, web};
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// What the service is opened for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// To serve requests.
    Serve(AnnounceFirstAdmin),
    /// For a command that may create the database.
    CreatingCommand(AnnounceFirstAdmin),
    /// For a command on a database that exists.
    Command,
}

/// The service, ready to serve.
#[derive(Debug)]
pub struct App {
    /// The state of the application.
    pub state: Arc<AppState>,
    /// The state of the HTTP layer.
    pub http: Arc<HttpState>,
    /// The admin that was created at this start.
    pub first_admin: Option<FirstAdmin>,
    /// The certificates; none without TLS.
    pub certificates: Option<Arc<Certificates>>,
    workers: Option<usize>,
    cors_origins: Vec<String>,
    deadlines: Deadlines,
    /// Whether a separate listener serves `/metrics`.
    has_management_listener: bool,
}

/// The maximum number of connections of the management listener, which serves probes and a few metric collectors.
const MAX_MANAGEMENT_CONNECTIONS: usize = 64;

/// Returns the locations of the configured policies.
pub fn policy_sources(config: &Config) -> Sources {
    let stored = api::resource_types().iter().map(StoredType::from).collect();
    Sources { schema: config.schema.clone(), policies: config.policies.clone(), stored }
}

/// Reads the configured policies.
///
/// # Errors
/// They are invalid or cannot be read.
pub fn read_policies(config: &Config) -> Result<Bundle, BundleError> {
    Bundle::read(&policy_sources(config))
}

/// Reads the configured policies as if there were no files of claims.
///
/// # Errors
/// They are invalid or cannot be read.
pub fn read_policies_without_claims(config: &Config) -> Result<Bundle, BundleError> {
    Bundle::read_without_claims(&policy_sources(config))
}

/// The result of a check of the configured policies.
#[derive(Debug)]
pub struct CheckedPolicies {
    /// The files; none if one of them cannot be read.
    pub snapshot: Option<Snapshot>,
    /// The policies; none if there are errors.
    pub bundle: Option<Bundle>,
    /// All errors and warnings.
    pub diagnostics: Vec<BundleDiagnostic>,
}

/// Reads and validates the configured policies, and runs their tests unless the settings turn them off.
pub fn check_policies(config: &Config) -> CheckedPolicies {
    let sources = policy_sources(config);
    match Snapshot::read(&sources) {
        Ok(snapshot) => {
            let (bundle, mut diagnostics) = Bundle::check(&snapshot, &sources.stored);
            if config.policy_tests != PolicyTests::Off {
                diagnostics.extend(cases::check(bundle.as_ref(), &snapshot));
            }
            CheckedPolicies { snapshot: Some(snapshot), bundle, diagnostics }
        }
        Err(BundleError(diagnostics)) => CheckedPolicies { snapshot: None, bundle: None, diagnostics },
    }
}

/// Reads, validates and tests the configured policies, as the start of the service does.
///
/// # Errors
/// They are invalid, cannot be read, or fail their tests.
pub fn open_policies(config: &Config) -> Result<PolicyHandle, BundleError> {
    PolicyHandle::open(
        policy_sources(config),
        ReloadConfig {
            mode: config.policy_reload,
            tests: config.policy_tests,
            is_decision_cache_on: config.is_cache_on(CacheName::Decisions),
            verify_every: config.verify_every,
        },
    )
}

/// Checks the settings of the first admin, which are otherwise checked on first use.
///
/// The password of the first admin is checked only if there is no database yet, because one with users does not need it.
///
/// # Errors
/// A setting is invalid.
fn check_admin_settings(config: &Config) -> Result<(), StartError> {
    let email = admin_email(config)?;
    if Store::is_missing(config) {
        check_admin_password(config, &email)?;
    }
    Ok(())
}

/// Loads the configured certificates; none without TLS.
fn load_certificates(config: &Config) -> Result<Option<Arc<Certificates>>, StartError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    Ok(Some(Certificates::read(cert, key).map_err(|error| ConfigError::new("tls_cert", error))?))
}

/// The files that the settings name: policies, routes of other services and certificates. They are read, and with them all
/// settings checked, before anything is opened or created.
#[derive(Debug)]
pub struct Inputs {
    policies: PolicyHandle,
    forward_auth: ForwardRoutes,
    certificates: Option<Arc<Certificates>>,
}

impl Inputs {
    /// Checks the settings, and reads the files for the service.
    ///
    /// # Errors
    /// A setting or a file is invalid, or a policy test fails.
    pub fn read_to_serve(config: &Config) -> Result<Self, StartError> {
        Self::read(config, open_policies)
    }

    /// Checks the settings, and reads the files for a command. A command answers no questions, so it runs no policy tests.
    ///
    /// # Errors
    /// A setting or a file is invalid.
    fn read_for_command(config: &Config) -> Result<Self, StartError> {
        let (mode, tests) = (PolicyReload::Auto, PolicyTests::Off);
        Self::read(config, |config| {
            let reload_config = ReloadConfig { mode, tests, is_decision_cache_on: false, verify_every: 0 };
            PolicyHandle::open(policy_sources(config), reload_config)
        })
    }

    fn read(
        config: &Config,
        open_policies: impl FnOnce(&Config) -> Result<PolicyHandle, BundleError>,
    ) -> Result<Self, StartError> {
        check_admin_settings(config)?;
        let certificates = load_certificates(config)?;
        let policies = open_policies(config)?;
        let file = config.forward_routes.as_deref();
        let forward_auth = ForwardRoutes::read(file, &api::all_routes(), &policies.current())
            .map_err(|error| ConfigError::new("forward_routes", error))?;
        Ok(Self { policies, forward_auth, certificates })
    }
}

impl App {
    /// Opens the service: reads and tests the policies, opens and migrates the database, and creates the root organization and
    /// the first admin if there are none.
    ///
    /// # Errors
    /// A setting or the policies are invalid, or the database is unavailable.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Self::open_to_serve(Inputs::read_to_serve(config)?, config, clock, |_| Ok(())).await
    }

    /// Opens the service, and calls `announce` before the first admin is stored. If that fails, the admin is not created.
    ///
    /// # Errors
    /// As [`App::open`].
    pub async fn open_to_serve(
        inputs: Inputs,
        config: &Config,
        clock: Clock,
        announce: AnnounceFirstAdmin,
    ) -> Result<Self, StartError> {
        Self::open_for(Purpose::Serve(announce), inputs, config, clock).await
    }

    /// Opens an existing database for a command, without the decision log, which belongs to the running service.
    ///
    /// # Errors
    /// As [`App::open`], or there is no database.
    pub async fn open_for_command(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Self::open_for(Purpose::Command, Inputs::read_for_command(config)?, config, clock).await
    }

    /// Opens the database for a command, and creates it with the root organization and the first admin if there is none.
    ///
    /// # Errors
    /// As [`App::open`].
    pub async fn open_for_creating_command(
        config: &Config,
        clock: Clock,
        announce: AnnounceFirstAdmin,
    ) -> Result<Self, StartError> {
        let inputs = Inputs::read_for_command(config)?;
        Self::open_for(Purpose::CreatingCommand(announce), inputs, config, clock).await
    }

    async fn open_for(
        purpose: Purpose,
        inputs: Inputs,
        config: &Config,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let Inputs { policies, forward_auth, certificates } = inputs;
        let state = Arc::new(open_state(purpose, config, clock, policies).await?);
        let http = Arc::new(http_state(config, forward_auth)?);
        let first_admin = match purpose {
            Purpose::Serve(announce) | Purpose::CreatingCommand(announce) => {
                ensure_first_admin(&state, config, announce).await?
            }
            Purpose::Command => None,
        };
        Ok(Self {
            state,
            http,
            first_admin,
            workers: config.workers,
            cors_origins: config.cors_origins.clone(),
            certificates,
            deadlines: Deadlines {
                head: Duration::from_secs(config.header_timeout),
                body: Duration::from_secs(config.body_timeout),
                write: Duration::from_secs(config.write_timeout),
                min_rate: config.min_transfer_rate,
            },
            has_management_listener: config.management_listen.is_some(),
        })
    }

    /// Returns an authorizer for the command line.
    ///
    /// # Errors
    /// The database is unavailable or has no root organization.
    pub async fn terminal_authorizer(&self, action: &'static str) -> Result<Authorizer, StartError> {
        Ok(bootstrap::terminal_authorizer(&self.state, action).await?)
    }

    /// Serves on this listener until the server is stopped; running requests are then completed. Tokens are signed with the
    /// configured algorithm from now on.
    ///
    /// # Errors
    /// The database is unavailable, or the listener or the certificates cannot be used.
    pub async fn serve(&self, listener: TcpListener) -> Result<Server, StartError> {
        self.state.signing_keys.ensure_algorithm().await?;
        policy_reload::record_active(&self.state).await?;
        verification::spawn_recorder(&self.state);
        let (state, http) = (Arc::clone(&self.state), Arc::clone(&self.http));
        let mut all = api::all_routes();
        if self.has_management_listener {
            all = all.into_iter().map(|group| group.without_path("/metrics")).collect();
        }
        let all = Arc::new(all);
        let document = OpenApiDocument::new(Arc::clone(&all));
        let origins = self.cors_origins.clone();
        let tls = match &self.certificates {
            Some(certificates) => {
                let config = Arc::clone(certificates).server_config().map_err(StartError::Failed)?;
                Some(TlsAcceptor::from(Arc::new(config)))
            }
            None => None,
        };
        let connections = Arc::clone(&self.http.connection_limiter);
        let mut server = server_builder(&connections);
        if let Some(workers) = self.workers {
            server = server.workers(workers);
        }
        let transport = Transport { tls, connection_limiter: connections, deadlines: self.deadlines };
        let server = listen(server, listener, transport, move || {
            actix_web::App::new()
                .app_data(WorkerState::new(&state, &http))
                .configure(|server| mount::mount(&all, server))
                .configure(|server| docs::mount(server, &document))
                .default_service(web::to(routes::handle_unmatched))
                .wrap(middleware::from_fn(request_middleware::request_middleware))
                .wrap(middleware::from_fn(compression::compress))
                // Outermost, so that errors of the other middleware have the CORS headers, too.
                .wrap(CorsLayer::new(&origins))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }

    /// Serves `/health/*` and `/metrics` on this listener, with a thread and connections of its own, so that they are available
    /// while all other connections are in use.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub fn serve_management(&self, listener: TcpListener) -> Result<Server, StartError> {
        let connections = ConnectionLimiter::new(MAX_MANAGEMENT_CONNECTIONS, 0, Vec::new());
        let server = server_builder(&connections).workers(1);
        let transport = Transport { tls: None, connection_limiter: connections, deadlines: self.deadlines };
        let (state, http) = (Arc::clone(&self.state), Arc::clone(&self.http));
        let server = listen(server, listener, transport, move || {
            actix_web::App::new()
                .app_data(WorkerState::new(&state, &http))
                .configure(|server| mount::mount(&[api::health::routes()], server))
                .default_service(web::to(routes::handle_unmatched))
                .wrap(middleware::from_fn(request_middleware::request_middleware))
                .wrap(middleware::from_fn(compression::compress))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }
}

/// Opens the database and the decision log, and builds the state of the application.
async fn open_state(
    purpose: Purpose,
    config: &Config,
    clock: Clock,
    policies: PolicyHandle,
) -> Result<AppState, StartError> {
    let decision_log = match purpose {
        Purpose::Serve(_) => DecisionLog::open(&Settings::from(config))
            .map_err(|error| ConfigError::new("decision_log_path", error))?,
        _ => DecisionLog::off(),
    };
    let store = match purpose {
        Purpose::Command => Store::open_existing(config, &clock).await?,
        _ => Store::open(config, &clock).await?,
    };
    if matches!(purpose, Purpose::Serve(_)) {
        policy_reload::check_startup_version(&policies, &store).await?.map_err(StartError::Unconfirmed)?;
    }
    let request_config = RequestConfig {
        access_batch_limit: config.access_batch_limit,
        access_ttl: config.access_ttl,
        policy_versions_kept: config.policy_versions_kept,
        changes_retention: config.changes_retention,
        changes_heartbeat: config.changes_heartbeat,
        provisioning_keys: config.provisioning_keys.clone(),
        refresh_ttl: config.refresh_ttl,
        refresh_reuse_grace: config.refresh_reuse_grace,
        session_ttl: config.session_ttl,
        is_expired_token_forbidden: config.expired_token_status == 403,
        issuer: config.public_address()?,
    };
    let signing_keys = SigningKeys::open(config, request_config.issuer.as_deref(), &store, &clock).await?;
    Ok(AppState {
        policies,
        decision_log,
        last_used_lock: Default::default(),
        change_feed: ChangeFeed::new(WaitingLimits {
            total: config.changes_streams,
            per_user: config.changes_streams_per_user,
        }),
        requests_in_progress: Default::default(),
        pending_audit: Default::default(),
        refusals: Default::default(),
        last_activation: Mutex::new(Activation::by_service(ActivationTrigger::Start)),
        resource_types: api::resource_types(),
        caller_cache: CallerCache::new(config),
        signing_keys,
        passwords: PasswordService::new(config)?,
        login_throttle: LoginThrottle::new(config.login_backoff_max),
        rate_limits: RateLimits::new(config),
        store,
        clock,
        request_config,
    })
}

/// Builds the state of the HTTP layer.
fn http_state(config: &Config, forward_auth: ForwardRoutes) -> Result<HttpState, StartError> {
    let public_url = config.public_address()?;
    let has_tls = config.tls_cert.is_some();
    Ok(HttpState {
        forward_auth,
        metrics: Metrics::new(&api::all_routes()),
        connection_limiter: connection_limiter(config),
        body_budget: BodyBudget::new(config.body_budget),
        exports: ExportLimiter::new(config.max_exports),
        is_shutting_down: AtomicBool::new(false),
        config: HttpConfig {
            list_max_bytes: config.list_max_bytes,
            trusted_proxies: config.trusted_proxies.clone(),
            has_tls,
            is_secure: has_tls || public_url.as_deref().is_some_and(|url| url.starts_with("https:")),
            public_url,
        },
    })
}

/// Runs a future to its end on the runtime of the server.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(future)
}

/// Runs a future to its end, as [`block_on`], unless SIGINT or SIGTERM arrives first: then the future is dropped, and the result
/// is none.
///
/// # Errors
/// The signals cannot be received.
pub fn block_on_until_signal<T>(future: impl Future<Output = T>) -> std::io::Result<Option<T>> {
    use actix_web::rt::signal::unix::{SignalKind, signal};
    block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            result = future => Ok(Some(result)),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    })
}

/// Returns the OpenAPI document of all routes as JSON.
pub fn openapi_json() -> String {
    openapi::document_json(&openapi::document(&api::all_routes()))
}

/// Returns a server without signal handlers, whose connections only `connections` limits.
fn server_builder(connections: &ConnectionLimiter) -> ServerBuilder {
    // A worker at its own limit would let new connections wait instead of refusing them.
    let above_limit = connections.max().saturating_add(1);
    ServerBuilder::new().shutdown_timeout(10).disable_signals().max_concurrent_connections(above_limit)
}

/// Returns the connection limit of the settings, reduced to what the limit on open files permits.
fn connection_limiter(config: &Config) -> Arc<ConnectionLimiter> {
    let max = cap_by_file_limit(config.max_connections);
    if max < config.max_connections {
        tracing::warn!(max, "max_connections exceeds the limit on open files and is reduced");
    }
    ConnectionLimiter::new(max, config.max_connections_per_address, config.trusted_proxies.clone())
}

#[cfg(test)]
mod tests;
