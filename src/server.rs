//! Puts the parts together. The service and the tests both start here; whatever is expensive is made here, once.

use crate::api;
use crate::api::organizations::Organization;
use crate::api::policy_reload;
use crate::api::users;
use crate::application::login_throttle::LoginThrottle;
use crate::application::rate_limits::RateLimits;
use crate::application::signing_keys::SigningKeysError;
use crate::application::state::RequestConfig;
use crate::application::{AppState, Authorizer, Caller, Error, SigningKeys};
use crate::authn::{PasswordError, PasswordRules, PasswordService, SecretError, random_password};
use crate::authz::{Bundle, BundleError, PolicyHandle, ReloadConfig, Sources, Unchecked};
use crate::config::{Config, ConfigError, PolicyReload, PolicyTests};
use crate::decision_log::{DecisionLog, Settings};
use crate::http::body_budget::BodyBudget;
use crate::http::connection::Deadlines;
use crate::http::connection_limiter::{ConnectionLimiter, cap_by_file_limit};
use crate::http::cors::CorsLayer;
use crate::http::docs::{self, OpenApiDocument};
use crate::http::forward_auth::ForwardRoutes;
use crate::http::metrics::Metrics;
use crate::http::server::{Transport, listen};
use crate::http::state::{HttpConfig, HttpState};
use crate::http::tls::Certificates;
use crate::http::{Problem, WorkerState, openapi, request_middleware, routes};
use crate::resource::{self, CreationInfo};
use crate::store::{AuditEntry, Event, Store, StoreError};
use crate::types::{Clock, Email, Id, InvalidValue, OrgPath};
use actix_server::ServerBuilder;
use actix_web::dev::Server;
use actix_web::http::StatusCode;
use actix_web::{middleware, web};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policies, the schema or the data are.
    #[error("the policies cannot be used:\n{0}")]
    Policies(#[from] BundleError),
    /// They need a confirmation.
    #[error("the policies are not activated: {0}")]
    Unconfirmed(String),
    /// The database does not do.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
    /// It cannot listen there.
    #[error("{0}")]
    Listen(ConfigError),
    /// Something that should not happen.
    #[error("{0}")]
    Failed(String),
}

impl From<InvalidValue> for StartError {
    fn from(error: InvalidValue) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SigningKeysError> for StartError {
    fn from(error: SigningKeysError) -> Self {
        match error {
            SigningKeysError::Store(error) => Self::Store(error),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Failed(error.message)
    }
}

impl From<Problem> for StartError {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem.detail)
    }
}

impl From<SecretError> for StartError {
    fn from(error: SecretError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<PasswordError> for StartError {
    fn from(error: PasswordError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The first admin of a database that had no users.
#[derive(Debug)]
pub struct FirstAdmin {
    /// What to log in with.
    pub email: Email,
    /// Its password, where it is a random one that nobody has seen yet.
    pub random_password: Option<SecretString>,
}

/// Shows the first admin before it is stored. An error, which says why it could not be shown, prevents that.
pub type AnnounceFirstAdmin = fn(&FirstAdmin) -> Result<(), String>;

/// What the parts of the service are opened for.
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
    /// The admin that was made at this start.
    pub first_admin: Option<FirstAdmin>,
    /// The certificates, where it speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    workers: Option<usize>,
    cors_origins: Vec<String>,
    deadlines: Deadlines,
    /// Whether `/metrics` is served by a listener of its own.
    has_management_listener: bool,
}

/// The connections of the management listener: those of probes and of a few collectors of metrics.
const MAX_MANAGEMENT_CONNECTIONS: usize = 64;

/// Where the policies are that the settings name.
fn policy_sources(config: &Config) -> Sources {
    let stored = api::resource_types().iter().map(|kind| kind.name).collect();
    Sources { schema: config.schema.clone(), policies: config.policies.clone(), stored }
}

/// The policies that the settings name.
pub fn read_policies(config: &Config) -> Result<Bundle, BundleError> {
    Bundle::read(&policy_sources(config))
}

/// The policies that the settings name, validated and tested as for serving.
pub fn open_policies(config: &Config) -> Result<PolicyHandle, BundleError> {
    PolicyHandle::open(
        policy_sources(config),
        ReloadConfig { mode: config.policy_reload, tests: config.policy_tests },
    )
}

/// Checks the settings that only their use would check otherwise: those of the first admin, and the TLS files.
///
/// The password of the first admin is checked here only where there is no database yet: one that has users does not need it.
pub fn check_settings(config: &Config) -> Result<(), StartError> {
    let email = admin_email(config)?;
    if Store::is_missing(config) {
        check_admin_password(config, &email)?;
    }
    load_certificates(config).map(drop)
}

/// The email address of the first admin.
fn admin_email(config: &Config) -> Result<Email, ConfigError> {
    config.admin_email.parse().map_err(|error| ConfigError::new("admin_email", error))
}

/// Checks the password that the settings give the first admin.
fn check_admin_password(config: &Config, email: &Email) -> Result<(), ConfigError> {
    let Some(password) = &config.admin_password else { return Ok(()) };
    PasswordRules::new(config.password_profile)
        .check(password, &[email.to_string()])
        .map_err(|error| ConfigError::new("admin_password", error))
}

/// The certificates that the settings name.
fn load_certificates(config: &Config) -> Result<Option<Arc<Certificates>>, StartError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    Ok(Some(Certificates::read(cert, key).map_err(|error| ConfigError::new("tls_cert", error))?))
}

impl App {
    /// Opens everything that serving needs: reads and tests the policies, opens and migrates the database, and creates the
    /// first organization and admin if there are none.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Self::open_to_serve(config, clock, |_| Ok(())).await
    }

    /// The same, but calls `announce` before the first admin is stored, which it is not where that fails.
    pub async fn open_to_serve(
        config: &Config,
        clock: Clock,
        announce: AnnounceFirstAdmin,
    ) -> Result<Self, StartError> {
        Self::open_for(Purpose::Serve(announce), config, clock).await
    }

    /// Opens what a command needs, without the decision log, which belongs to the running service. The database must exist.
    pub async fn open_for_command(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Self::open_for(Purpose::Command, config, clock).await
    }

    /// The same, but creates the database with the first organization and admin where there is none.
    pub async fn open_for_creating_command(
        config: &Config,
        clock: Clock,
        announce: AnnounceFirstAdmin,
    ) -> Result<Self, StartError> {
        Self::open_for(Purpose::CreatingCommand(announce), config, clock).await
    }

    async fn open_for(purpose: Purpose, config: &Config, clock: Clock) -> Result<Self, StartError> {
        check_settings(config)?;
        let policies = match purpose {
            Purpose::Serve(_) => open_policies(config)?,
            // A command makes no decision for others.
            _ => PolicyHandle::open(
                policy_sources(config),
                ReloadConfig { mode: PolicyReload::Auto, tests: PolicyTests::Off },
            )?,
        };
        let file = config.forward_routes.as_deref();
        let forward = ForwardRoutes::read(file, &api::all_routes(), &policies.current())
            .map_err(|error| ConfigError::new("forward_routes", error))?;
        let store = match purpose {
            Purpose::Command => Store::open_existing(config, &clock).await?,
            _ => Store::open(config, &clock).await?,
        };
        if matches!(purpose, Purpose::Serve(_)) {
            policy_reload::check_startup_version(&policies, &store)
                .await?
                .map_err(StartError::Unconfirmed)?;
        }
        let public_url = config.public_address()?;
        let request_config = RequestConfig {
            access_batch_limit: config.access_batch_limit,
            access_ttl: config.access_ttl,
            provisioning_keys: config.provisioning_keys.clone(),
            refresh_ttl: config.refresh_ttl,
            refresh_grace: config.refresh_grace,
            session_ttl: config.session_ttl,
            is_expired_token_forbidden: config.expired_status == 403,
            issuer: public_url.clone().unwrap_or_else(|| "cedargate".to_owned()),
        };
        let http_config = HttpConfig {
            list_max_bytes: config.list_max_bytes,
            trusted_proxies: config.trusted_proxies.clone(),
            has_tls: config.tls_cert.is_some(),
            is_secure: config.tls_cert.is_some()
                || public_url.as_deref().is_some_and(|url| url.starts_with("https:")),
            public_url,
        };
        let certificates = load_certificates(config)?;
        let decision_log = match purpose {
            Purpose::Serve(_) => DecisionLog::open(&Settings::from(config))
                .map_err(|error| ConfigError::new("decision_log_to", error))?,
            _ => DecisionLog::off(),
        };
        let signing_keys = SigningKeys::open(config, &request_config.issuer, &store, &clock).await?;
        let state = Arc::new(AppState {
            policies,
            decision_log,
            last_used_lock: Default::default(),
            pending_audit: Default::default(),
            refusals: Default::default(),
            resource_types: api::resource_types(),
            caller_cache: Default::default(),
            signing_keys,
            passwords: PasswordService::new(config)?,
            login_throttle: LoginThrottle::new(config.guessing_wait_max),
            rate_limits: RateLimits::new(config),
            store,
            clock,
            request_config,
        });
        let http = Arc::new(HttpState {
            forward_auth: forward,
            metrics: Metrics::new(&api::all_routes()),
            connection_limiter: connection_limiter(config),
            body_budget: BodyBudget::new(config.body_budget),
            is_shutting_down: AtomicBool::new(false),
            config: http_config,
        });
        let first_admin = match purpose {
            Purpose::Serve(announce) | Purpose::CreatingCommand(announce) => {
                ensure_first_admin(&state, config, announce).await?
            }
            Purpose::Command => None,
        };
        let (workers, cors_origins) = (config.workers, config.cors_origins.clone());
        let deadlines = Deadlines {
            head: Duration::from_secs(config.header_timeout),
            body: Duration::from_secs(config.body_timeout),
            write: Duration::from_secs(config.write_timeout),
            min_rate: config.min_transfer_rate,
        };
        let has_management = config.management_listen.is_some();
        Ok(Self {
            state,
            http,
            first_admin,
            workers,
            cors_origins,
            certificates,
            deadlines,
            has_management_listener: has_management,
        })
    }

    /// A gate for whoever sits at the terminal.
    pub async fn terminal_authorizer(&self, action: &'static str) -> Result<Authorizer, StartError> {
        terminal_authorizer(&self.state, action).await
    }

    /// Serves on this listener until the server is told to stop; then it finishes what it has begun. Tokens are signed as
    /// the settings say from here on.
    pub async fn serve(&self, listener: TcpListener) -> Result<Server, StartError> {
        self.state.signing_keys.ensure_algorithm().await?;
        policy_reload::record_active(&self.state).await?;
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
                .configure(|server| routes::mount(&all, server))
                .configure(|server| docs::mount(server, &document))
                .default_service(web::to(routes::handle_unmatched))
                .wrap(middleware::from_fn(request_middleware::request_middleware))
                // Outermost: errors that the others answer with have the CORS headers, too.
                .wrap(CorsLayer::new(&origins))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }

    /// Serves `/health/*` and `/metrics` on this listener, with a thread and connections of its own: it answers while
    /// all others are taken.
    pub fn serve_management(&self, listener: TcpListener) -> Result<Server, StartError> {
        let connections = ConnectionLimiter::new(MAX_MANAGEMENT_CONNECTIONS, 0, Vec::new());
        let server = server_builder(&connections).workers(1);
        let transport = Transport { tls: None, connection_limiter: connections, deadlines: self.deadlines };
        let (state, http) = (Arc::clone(&self.state), Arc::clone(&self.http));
        let server = listen(server, listener, transport, move || {
            actix_web::App::new()
                .app_data(WorkerState::new(&state, &http))
                .configure(|server| routes::mount(&[api::health::routes()], server))
                .default_service(web::to(routes::handle_unmatched))
                .wrap(middleware::from_fn(request_middleware::request_middleware))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }
}

/// Runs a future to its end on the runtime of the server.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(future)
}

/// Returns the OpenAPI document of all routes as JSON.
pub fn openapi_json() -> String {
    openapi::document_json(&openapi::document(&api::all_routes()))
}

/// A server that ends as it is told, and leaves it to `connections` how many there are.
fn server_builder(connections: &ConnectionLimiter) -> ServerBuilder {
    // A worker that had reached its own limit would leave new connections waiting instead of refusing them.
    let above_limit = connections.max().saturating_add(1);
    ServerBuilder::new().shutdown_timeout(10).disable_signals().max_concurrent_connections(above_limit)
}

/// The connections that the settings and the limit on open files allow.
fn connection_limiter(config: &Config) -> Arc<ConnectionLimiter> {
    let max = cap_by_file_limit(config.max_connections);
    if max < config.max_connections {
        tracing::warn!(max, "the limit on open files leaves room for fewer connections than max_connections");
    }
    ConnectionLimiter::new(max, config.max_connections_per_address, config.trusted_proxies.clone())
}

async fn terminal_authorizer(state: &Arc<AppState>, action: &'static str) -> Result<Authorizer, StartError> {
    let root = state.store.root().await?;
    let root = root.ok_or_else(|| StartError::Failed("the database has no root organization".into()))?;
    Ok(Authorizer::new(Arc::clone(state), Caller::for_terminal(&state.policies.current(), root), action))
}

/// Makes the root organization and an admin in a database without users. Cedar is asked about both.
async fn ensure_first_admin(
    state: &Arc<AppState>,
    config: &Config,
    announce: AnnounceFirstAdmin,
) -> Result<Option<FirstAdmin>, StartError> {
    let email = admin_email(config)?;
    let checked = check_admin_password(config, &email);
    if state.store.has_users().await? {
        if let Err(error) = checked {
            tracing::warn!(%error, "the password of the first admin is not used: the database has users");
        }
        return Ok(None);
    }
    checked?;
    if state.store.root().await?.is_none() {
        create_root_organization(state).await?;
    }
    let (password, random) = match &config.admin_password {
        Some(password) => (password.clone(), None),
        None => {
            let password = SecretString::from(random_password()?);
            (password.clone(), Some(password))
        }
    };
    let authorizer = terminal_authorizer(state, "createUser").await?;
    let fields = json!({ "email": email, "password": password.expose_secret(), "role": "admin" });
    let admin = FirstAdmin { email, random_password: random };
    let mut announce_error = None;
    let added = users::create_user_with(&authorizer, resource::to_json_object(&fields)?, |_| {
        announce(&admin).map_err(|error| Error::internal(announce_error.insert(error)))
    });
    match added.await {
        Ok(_) => Ok(Some(admin)),
        Err(_) if let Some(error) = announce_error => {
            Err(StartError::Failed(format!("the first admin was not created: {error}")))
        }
        // Another process that starts on the same database has just made it.
        Err(problem) if problem.status == StatusCode::CONFLICT => Ok(None),
        Err(problem) => Err(StartError::Failed(format!("the first admin cannot be created: {problem}"))),
    }
}

async fn create_root_organization(state: &Arc<AppState>) -> Result<(), StartError> {
    let id = Id::new(&state.clock);
    let path = OrgPath::root(id);
    let fields =
        json!({ "name": "root", "status": "active", "tags": [], "meta": {}, "path": path, "level": 0 });
    let creation = CreationInfo { id, organization: id, now: state.clock.now() };
    let mut row = resource::to_json_object(&fields)?;
    for name in ["displayName", "email", "url", "country", "logo", "industry", "parent"] {
        row.insert(name.into(), serde_json::Value::Null);
    }
    let row: Organization = resource::build_row(&row, creation)?;
    let authorizer = Authorizer::new(
        Arc::clone(state),
        Caller::for_terminal(&state.policies.current(), path.clone()),
        "createOrganization",
    );
    let failed =
        |error: Error| StartError::Failed(format!("the root organization cannot be created: {error}"));
    let row = authorizer.authorize_new(&path, Unchecked::new(row, path.clone())).map_err(failed)?;
    let work = state.store.begin(authorizer.audit_actor()).await?;
    work.audit(
        AuditEntry::new(Event::OrganizationCreated).target("Organization", id).in_organization(row.path()),
    );
    match work.insert(row).await {
        Ok(_) => Ok(work.commit().await?),
        // Another process that starts on the same database has just made it.
        Err(StoreError::Duplicate(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
