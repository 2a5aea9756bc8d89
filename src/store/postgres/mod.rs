//! PostgreSQL: connections, time limits, TLS, poolers.

mod address;
mod availability;
mod session;

use super::{StoreError, error};
use crate::config::Config;
use crate::types::random_u128;
use address::{describe, parse};
use availability::Availability;
use sea_orm::{DatabaseConnection, DbErr, RuntimeErr};
use secrecy::ExposeSecret;
pub(super) use session::PgSession;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection, Error, Row};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The time limit of a connection attempt at start and of the connection that listens.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The time limit within which an idle connection has to answer before it is used, else another one is opened.
const IDLE_LIMIT: Duration = Duration::from_millis(500);
/// The same for one that was used.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
/// The setting of a session by which it is recognized.
const SESSION: &str = "cedargate.session";

/// Time limits and numbers of connections.
#[derive(Debug, Clone)]
struct Limits {
    writes: u32,
    reads: u32,
    acquire: Duration,
    work: Duration,
    lock: u64,
    statement: u64,
    idle_in_transaction: u64,
    keepalive: u64,
    tcp_user: u64,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            writes: config.database_connections,
            reads: config.database_read_connections,
            acquire: Duration::from_millis(config.database_acquire_timeout_ms),
            work: Duration::from_millis(config.database_work_timeout_ms),
            lock: config.database_lock_timeout_ms,
            statement: config.database_statement_timeout_ms,
            idle_in_transaction: config.database_idle_in_transaction_timeout_ms,
            keepalive: config.database_keepalive,
            tcp_user: config.database_tcp_user_timeout_ms,
        }
    }
}

impl Limits {
    /// The settings that a connection has from its start.
    fn session_settings(&self) -> Vec<(&'static str, String)> {
        // Three probes within the interval: the server gives up a client that vanished after twice the interval.
        let interval = self.keepalive.div_ceil(3);
        let counted = [
            ("lock_timeout", self.lock),
            ("statement_timeout", self.statement),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction),
            ("tcp_keepalives_idle", self.keepalive),
            ("tcp_keepalives_interval", interval),
            ("tcp_keepalives_count", 3),
            ("tcp_user_timeout", self.tcp_user),
        ];
        counted.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }

    /// Begins a transaction that has the limits for itself, for a connection that is shared between clients.
    fn pooled_begin_statement(&self) -> String {
        format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            self.lock, self.statement, self.idle_in_transaction
        )
    }
}

/// Where a database is, and how it is reached.
#[derive(Debug, Clone)]
pub(super) struct ConnectTarget {
    pub(super) options: PgConnectOptions,
    /// Whether a pooler in transaction mode is in between: nothing that belongs to a session lasts.
    pub(super) is_pooled: bool,
}

/// The connections to a database.
#[derive(Debug)]
pub(super) struct Pools {
    writes: PgPool,
    reads: PgPool,
    /// One connection of its own, so that readiness does not depend on how busy the others are.
    health: PgPool,
    availability: Arc<Availability>,
    limits: Limits,
    begin: String,
    is_pooled: bool,
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Write,
    Read,
    Health,
}

impl ConnectTarget {
    /// Connects once, and finds out whether a pooler in transaction mode is in between: it rejects or ignores the settings
    /// that a session would have from its start.
    async fn probe(url: &str, limits: &Limits) -> Result<Self, StoreError> {
        let options = parse(url)?;
        let session = format!("{:032x}", random_u128());
        let mut settings = limits.session_settings();
        settings.push((SESSION, session.clone()));
        let direct = options.clone().options(settings);
        let is_pooled = match with_timeout(CONNECT_LIMIT, has_session(&direct, &session)).await {
            Ok(is_kept) => !is_kept,
            // PgBouncer: "unsupported startup parameter: options", and since 1.20 "… in options: lock_timeout".
            Err(Error::Database(error)) if error.message().contains("unsupported startup parameter") => true,
            Err(error) => return Err(connect_error(&options, &error)),
        };
        let options = if is_pooled { options.statement_cache_capacity(0) } else { direct };
        if is_pooled {
            with_timeout(CONNECT_LIMIT, has_session(&options, &session))
                .await
                .map_err(|error| connect_error(&options, &error))?;
        }
        Ok(Self { options, is_pooled })
    }

    /// The database of this configuration.
    pub(super) async fn for_database(config: &Config) -> Result<Self, StoreError> {
        Self::probe(config.database_url.expose_secret(), &Limits::from(config)).await
    }

    /// Where notifications are received: directly from the server, or nowhere behind a pooler.
    pub(super) async fn for_notifications(config: &Config) -> Result<Self, StoreError> {
        let url = config.database_listen_url.as_ref().unwrap_or(&config.database_url);
        Self::probe(url.expose_secret(), &Limits::from(config)).await
    }

    /// A single connection.
    pub(super) async fn connect(&self) -> Result<PgPool, Error> {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_LIMIT);
        pool.max_lifetime(None).idle_timeout(None).connect_with(self.options.clone()).await
    }

    /// A single connection for migrations.
    pub(super) async fn connect_once(&self) -> Result<DatabaseConnection, StoreError> {
        let pool = self.connect().await.map_err(|error| connect_error(&self.options, &error))?;
        Ok(DatabaseConnection::from(pool))
    }
}

/// Whether a new connection has the session setting that it was opened with.
async fn has_session(options: &PgConnectOptions, session: &str) -> Result<bool, Error> {
    let mut connection = options.connect().await?;
    let query = format!("SELECT current_setting('{SESSION}', true)");
    // The simple query protocol: behind a pooler, the two steps of the extended one may run on different connections.
    let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(&mut connection).await?;
    let found: Option<String> = row.try_get(0)?;
    connection.close().await?;
    Ok(found.as_deref() == Some(session))
}

async fn with_timeout<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let timed_out = |_| {
        Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))
    };
    timeout(limit, work).await.map_err(timed_out)?
}

impl Pools {
    /// Pools for this target; connections are opened when they are needed.
    pub(super) fn new(target: &ConnectTarget, config: &Config) -> Self {
        let limits = Limits::from(config);
        let pool =
            |connections| pool_options(connections, limits.acquire).connect_lazy_with(target.options.clone());
        let (writes, reads, health) = (pool(limits.writes), pool(limits.reads), pool(1));
        let pools = vec![health.clone(), reads.clone(), writes.clone()];
        Self {
            availability: Availability::new(target.options.clone(), pools),
            begin: if target.is_pooled { limits.pooled_begin_statement() } else { "BEGIN".to_owned() },
            is_pooled: target.is_pooled,
            writes,
            reads,
            health,
            limits,
        }
    }

    /// A connection for one query. Behind a pooler it is a transaction, which has the time limits.
    pub(super) async fn session(&self, purpose: Purpose) -> Result<PgSession, DbErr> {
        let session = self.acquire(purpose).await?;
        if self.is_pooled { session.begin(&self.begin).await } else { Ok(session) }
    }

    /// A connection with a transaction for a unit of work.
    pub(super) async fn begin(&self) -> Result<PgSession, DbErr> {
        self.acquire(Purpose::Write).await?.begin(&self.begin).await
    }

    async fn acquire(&self, purpose: Purpose) -> Result<PgSession, DbErr> {
        let pool = match purpose {
            Purpose::Write => &self.writes,
            Purpose::Read => &self.reads,
            Purpose::Health => &self.health,
        };
        let deadline = Instant::now() + self.limits.work;
        let connection =
            self.availability.run(deadline, pool.acquire()).await?.map_err(|error| match error {
                Error::PoolTimedOut => unavailable(&format!(
                    "none of {} connections became free within {:?}",
                    pool.options().get_max_connections(),
                    self.limits.acquire
                )),
                error => unavailable(&error_message(&error)),
            })?;
        Ok(PgSession::new(connection, Arc::clone(&self.availability), deadline, self.is_pooled))
    }

    /// How many connections there are, and how many of them are idle.
    pub(super) fn count(&self) -> (u32, usize) {
        let pools = [&self.writes, &self.reads, &self.health];
        pools.iter().fold((0, 0), |(size, idle), pool| (size + pool.size(), idle + pool.num_idle()))
    }
}

/// A pool whose connections have to answer before and after they are used. The library waits for that without a limit,
/// so that a silent network would keep all connections for good.
fn pool_options(connections: u32, acquire: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire)
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move { with_timeout(IDLE_LIMIT, connection.ping()).await.map(|()| true) })
        })
        .after_release(|connection, _| {
            Box::pin(async move { with_timeout(RELEASE_LIMIT, connection.ping()).await.map(|()| true) })
        })
}

/// The first cause of an error, without the words of the library around it.
pub(super) fn error_message(error: &Error) -> String {
    match error {
        Error::Io(error) if is_tls_error(error) => format!("TLS: {error}"),
        Error::Io(error) => error.to_string(),
        Error::Tls(error) => format!("TLS: {error}"),
        Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

/// Whether an error of a handshake, which arrives as one of the socket, is one of TLS.
fn is_tls_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<rustls::Error>())
}

/// The database cannot be reached at the start.
fn connect_error(options: &PgConnectOptions, error: &Error) -> StoreError {
    let hint = match error {
        Error::Tls(error) if error.to_string().contains("does not support TLS") => {
            "; sslmode=disable permits plaintext"
        }
        Error::Io(error) if !is_tls_error(error) => "",
        Error::Io(_) | Error::Tls(_) => {
            "; sslrootcert names the certificate authority, sslmode=require encrypts without verification"
        }
        _ => "",
    };
    StoreError::Unavailable(format!("{}: {}{hint}", describe(options), error_message(error)))
}

fn unavailable(cause: &str) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(cause.to_owned()))
}

/// Whether an error is one of the connection, not an answer to a query.
fn is_connection_failure(error: &Error) -> bool {
    match error {
        Error::Database(error) => error.code().is_some_and(|code| error::is_connection_code(&code)),
        error => error::is_connection_error(error),
    }
}
