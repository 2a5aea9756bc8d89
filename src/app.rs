//! Puts the parts together. The service and the tests both start here; whatever is expensive is made here, once.

use crate::api;
use crate::api::organizations::Organization;
use crate::api::policy_reload;
use crate::api::users;
use crate::authn::{PasswordError, PasswordRules, Passwords, SecretError, random_password};
use crate::authz::{Bundle, BundleError, Live, ReloadRules, Sources, Undecided};
use crate::config::{Config, ConfigError, PolicyReload, PolicyTests};
use crate::decision_log::{DecisionLog, Settings};
use crate::http::budget::BodyBudget;
use crate::http::connection::Deadlines;
use crate::http::connections::{Connections, within_file_limit};
use crate::http::cors::CorsLayer;
use crate::http::docs::{self, Document};
use crate::http::forward::Table;
use crate::http::guessing::Guessing;
use crate::http::limits::Limits;
use crate::http::metrics::Metrics;
use crate::http::parts::{Held, Rules};
use crate::http::server::{Transport, listen};
use crate::http::tls::Certificates;
use crate::http::token_keys::TokenKeysError;
use crate::http::{Caller, Gate, Parts, Problem, TokenKeys, edge, routes};
use crate::resource::{self, Stamp};
use crate::store::{Entry, Event, Store, StoreError};
use crate::values::{Clock, Email, Id, Invalid, OrgPath};
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

impl From<Invalid> for StartError {
    fn from(error: Invalid) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<TokenKeysError> for StartError {
    fn from(error: TokenKeysError) -> Self {
        match error {
            TokenKeysError::Store(error) => Self::Store(error),
            other => Self::Failed(other.to_string()),
        }
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
pub type Announce = fn(&FirstAdmin) -> Result<(), String>;

/// What the parts of the service are opened for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// To serve requests.
    Serve(Announce),
    /// For a command that may create the database.
    CreatingCommand(Announce),
    /// For a command on a database that exists.
    Command,
}

/// The service, ready to serve.
#[derive(Debug)]
pub struct App {
    /// Its parts.
    pub parts: Arc<Parts>,
    /// The admin that was made at this start.
    pub first_admin: Option<FirstAdmin>,
    /// The certificates, where it speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    workers: Option<usize>,
    cors_origins: Vec<String>,
    deadlines: Deadlines,
    /// Whether `/metrics` is served by a listener of its own.
    has_management: bool,
}

/// The connections of the management listener: those of probes and of a few collectors of metrics.
const MANAGEMENT_CONNECTIONS: usize = 64;

/// Where the policies are that the settings name.
fn sources(config: &Config) -> Sources {
    let stored = api::kinds().iter().map(|kind| kind.name).collect();
    Sources { schema: config.schema.clone(), policies: config.policies.clone(), stored }
}

/// The policies that the settings name.
pub fn read_policies(config: &Config) -> Result<Bundle, BundleError> {
    Bundle::read(&sources(config))
}

/// The policies that the settings name, validated and tested as for serving.
pub fn open_policies(config: &Config) -> Result<Live, BundleError> {
    Live::open(sources(config), ReloadRules { mode: config.policy_reload, tests: config.policy_tests })
}

/// Checks the settings that only their use would check otherwise: those of the first admin, and the TLS files.
///
/// The password of the first admin is checked here only where there is no database yet: one that has users does not need it.
pub fn check_settings(config: &Config) -> Result<(), StartError> {
    let email = admin_email(config)?;
    if Store::is_missing(config) {
        check_admin_password(config, &email)?;
    }
    certificates(config).map(drop)
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
fn certificates(config: &Config) -> Result<Option<Arc<Certificates>>, StartError> {
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
        announce: Announce,
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
        announce: Announce,
    ) -> Result<Self, StartError> {
        Self::open_for(Purpose::CreatingCommand(announce), config, clock).await
    }

    async fn open_for(purpose: Purpose, config: &Config, clock: Clock) -> Result<Self, StartError> {
        check_settings(config)?;
        let policies = match purpose {
            Purpose::Serve(_) => open_policies(config)?,
            // A command makes no decision for others.
            _ => Live::open(
                sources(config),
                ReloadRules { mode: PolicyReload::Auto, tests: PolicyTests::Off },
            )?,
        };
        let file = config.forward_routes.as_deref();
        let forward = Table::read(file, &api::all(), &policies.current())
            .map_err(|error| ConfigError::new("forward_routes", error))?;
        let store = match purpose {
            Purpose::Command => Store::open_existing(config, &clock).await?,
            _ => Store::open(config, &clock).await?,
        };
        if matches!(purpose, Purpose::Serve(_)) {
            policy_reload::check_start(&policies, &store).await?.map_err(StartError::Unconfirmed)?;
        }
        let public_url = config.public_address()?;
        let rules = Rules {
            access_batch_limit: config.access_batch_limit,
            list_max_bytes: config.list_max_bytes,
            access_ttl: config.access_ttl,
            trusted_proxies: config.trusted_proxies.clone(),
            provisioning_keys: config.provisioning_keys.clone(),
            refresh_ttl: config.refresh_ttl,
            refresh_grace: config.refresh_grace,
            session_ttl: config.session_ttl,
            expired_status: StatusCode::from_u16(config.expired_status).unwrap_or(StatusCode::FORBIDDEN),
            has_tls: config.tls_cert.is_some(),
            is_secure: config.tls_cert.is_some()
                || public_url.as_deref().is_some_and(|url| url.starts_with("https:")),
            issuer: public_url.clone().unwrap_or_else(|| "cedargate".to_owned()),
            public_url,
        };
        let certificates = certificates(config)?;
        let decision_log = match purpose {
            Purpose::Serve(_) => DecisionLog::open(&Settings::from(config))
                .map_err(|error| ConfigError::new("decision_log_to", error))?,
            _ => DecisionLog::off(),
        };
        let tokens = TokenKeys::open(config, &rules.issuer, &store, &clock).await?;
        let parts = Arc::new(Parts {
            policies,
            forward,
            decision_log,
            metrics: Metrics::new(&api::all()),
            connections: connections(config),
            budget: BodyBudget::new(config.body_budget),
            is_ending: AtomicBool::new(false),
            noting: Default::default(),
            untold: Default::default(),
            refusals: Default::default(),
            kinds: api::kinds(),
            callers: Default::default(),
            tokens,
            passwords: Passwords::new(config)?,
            guessing: Guessing::new(config.guessing_wait_max),
            limits: Limits::new(config),
            store,
            clock,
            rules,
        });
        let first_admin = match purpose {
            Purpose::Serve(announce) | Purpose::CreatingCommand(announce) => {
                first_admin(&parts, config, announce).await?
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
        Ok(Self { parts, first_admin, workers, cors_origins, certificates, deadlines, has_management })
    }

    /// A gate for whoever sits at the terminal.
    pub async fn terminal(&self, action: &'static str) -> Result<Gate, StartError> {
        terminal(&self.parts, action).await
    }

    /// Serves on this listener until the server is told to stop; then it finishes what it has begun. Tokens are signed as
    /// the settings say from here on.
    pub async fn serve(&self, listener: TcpListener) -> Result<Server, StartError> {
        self.parts.tokens.adopt().await?;
        policy_reload::record_active(&self.parts).await?;
        let parts = Arc::clone(&self.parts);
        let mut all = api::all();
        if self.has_management {
            all = all.into_iter().map(|routes| routes.without("/metrics")).collect();
        }
        let all = Arc::new(all);
        let document = Document::new(Arc::clone(&all));
        let origins = self.cors_origins.clone();
        let tls = match &self.certificates {
            Some(certificates) => {
                let config = Arc::clone(certificates).server_config().map_err(StartError::Failed)?;
                Some(TlsAcceptor::from(Arc::new(config)))
            }
            None => None,
        };
        let connections = Arc::clone(&self.parts.connections);
        let mut server = builder(&connections);
        if let Some(workers) = self.workers {
            server = server.workers(workers);
        }
        let transport = Transport { tls, connections, deadlines: self.deadlines };
        let server = listen(server, listener, transport, move || {
            actix_web::App::new()
                .app_data(Held::new(Arc::clone(&parts)))
                .configure(|server| routes::mount(&all, server))
                .configure(|server| docs::mount(server, &document))
                .default_service(web::to(routes::no_route))
                .wrap(middleware::from_fn(edge::edge))
                // Outermost: errors that the others answer with have the CORS headers, too.
                .wrap(CorsLayer::new(&origins))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }

    /// Serves `/health/*` and `/metrics` on this listener, with a thread and connections of its own: it answers while
    /// all others are taken.
    pub fn serve_management(&self, listener: TcpListener) -> Result<Server, StartError> {
        let connections = Connections::new(MANAGEMENT_CONNECTIONS, 0, Vec::new());
        let server = builder(&connections).workers(1);
        let transport = Transport { tls: None, connections, deadlines: self.deadlines };
        let parts = Arc::clone(&self.parts);
        let server = listen(server, listener, transport, move || {
            actix_web::App::new()
                .app_data(Held::new(Arc::clone(&parts)))
                .configure(|server| routes::mount(&[api::health::routes()], server))
                .default_service(web::to(routes::no_route))
                .wrap(middleware::from_fn(edge::edge))
        });
        server.map(ServerBuilder::run).map_err(|error| StartError::Failed(error.to_string()))
    }
}

/// A server that ends as it is told, and leaves it to `connections` how many there are.
fn builder(connections: &Connections) -> ServerBuilder {
    // A worker that had reached its own limit would leave new connections waiting instead of refusing them.
    let never = connections.max().saturating_add(1);
    ServerBuilder::new().shutdown_timeout(10).disable_signals().max_concurrent_connections(never)
}

/// The connections that the settings and the limit on open files allow.
fn connections(config: &Config) -> Arc<Connections> {
    let max = within_file_limit(config.max_connections);
    if max < config.max_connections {
        tracing::warn!(max, "the limit on open files leaves room for fewer connections than max_connections");
    }
    Connections::new(max, config.max_connections_per_address, config.trusted_proxies.clone())
}

async fn terminal(parts: &Arc<Parts>, action: &'static str) -> Result<Gate, StartError> {
    let root = parts.store.root().await?;
    let root = root.ok_or_else(|| StartError::Failed("the database has no root organization".into()))?;
    Ok(Gate::new(Arc::clone(parts), Caller::at_terminal(&parts.policies.current(), root), action))
}

/// Makes the root organization and an admin in a database without users. Cedar is asked about both.
async fn first_admin(
    parts: &Arc<Parts>,
    config: &Config,
    announce: Announce,
) -> Result<Option<FirstAdmin>, StartError> {
    let email = admin_email(config)?;
    let checked = check_admin_password(config, &email);
    if parts.store.has_users().await? {
        if let Err(error) = checked {
            tracing::warn!(%error, "the password of the first admin is not used: the database has users");
        }
        return Ok(None);
    }
    checked?;
    if parts.store.root().await?.is_none() {
        make_root(parts).await?;
    }
    let (password, random) = match &config.admin_password {
        Some(password) => (password.clone(), None),
        None => {
            let password = SecretString::from(random_password()?);
            (password.clone(), Some(password))
        }
    };
    let gate = terminal(parts, "createUser").await?;
    let fields = json!({ "email": email, "password": password.expose_secret(), "role": "admin" });
    let admin = FirstAdmin { email, random_password: random };
    let mut unshown = None;
    let added = users::add_shown(&gate, resource::object(&fields)?, |_| {
        announce(&admin).map_err(|error| Problem::internal(unshown.insert(error)))
    });
    match added.await {
        Ok(_) => Ok(Some(admin)),
        Err(_) if let Some(error) = unshown => {
            Err(StartError::Failed(format!("the first admin was not created: {error}")))
        }
        // Another process that starts on the same database has just made it.
        Err(problem) if problem.status == StatusCode::CONFLICT => Ok(None),
        Err(problem) => Err(StartError::Failed(format!("the first admin cannot be made: {problem}"))),
    }
}

async fn make_root(parts: &Arc<Parts>) -> Result<(), StartError> {
    let id = Id::new(&parts.clock);
    let path = OrgPath::root(id);
    let fields =
        json!({ "name": "root", "status": "active", "tags": [], "meta": {}, "path": path, "level": 0 });
    let stamp = Stamp { id, organization: id, now: parts.clock.now() };
    let mut row = resource::object(&fields)?;
    for name in ["displayName", "email", "url", "country", "logo", "industry", "parent"] {
        row.insert(name.into(), serde_json::Value::Null);
    }
    let row: Organization = resource::compose(&row, stamp)?;
    let gate = Gate::new(
        Arc::clone(parts),
        Caller::at_terminal(&parts.policies.current(), path.clone()),
        "createOrganization",
    );
    let failed =
        |problem: Problem| StartError::Failed(format!("the root organization cannot be made: {problem}"));
    let row = gate.decide_new(&path, Undecided::new(row, path.clone())).map_err(failed)?;
    let work = parts.store.begin(gate.cause()).await?;
    work.audit(Entry::new(Event::OrganizationCreated).subject("Organization", id).within(row.path()));
    match work.insert(row).await {
        Ok(_) => Ok(work.commit().await?),
        // Another process that starts on the same database has just made it.
        Err(StoreError::Duplicate(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
