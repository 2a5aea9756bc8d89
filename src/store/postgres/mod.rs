//! PostgreSQL: connections, timeouts, TLS, poolers.

mod address;
mod availability;
mod session;

use super::{StoreError, error};
use crate::config::Config;
use crate::types::random_u128;
use address::{describe, parse};
use availability::Availability;
pub(super) use availability::Outage;
use sea_orm::{DbErr, RuntimeErr};
use secrecy::ExposeSecret;
pub(super) use session::PgSession;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection, Error, Row};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// The timeout of connecting at start, and of the connection for notifications.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long an idle connection may take to answer before use; after that another one is opened.
const IDLE_LIMIT: Duration = Duration::from_millis(500);
/// The resolution of time limits that count only the time in which this process runs.
const TICK: Duration = Duration::from_millis(50);
/// The custom setting by which a session is recognized.
const SESSION: &str = "cedargate.session";

/// Timeouts and numbers of connections.
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
    /// The settings that a connection gets when it is opened.
    fn session_settings(&self) -> Vec<(&'static str, String)> {
        // Three probes per interval: the server drops a vanished client after twice the interval.
        let interval = self.keepalive.div_ceil(3);
        let settings = [
            ("lock_timeout", self.lock),
            ("statement_timeout", self.statement),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction),
            ("tcp_keepalives_idle", self.keepalive),
            ("tcp_keepalives_interval", interval),
            ("tcp_keepalives_count", 3),
            ("tcp_user_timeout", self.tcp_user),
        ];
        settings.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }

    /// Returns the statements that begin a transaction and set its timeouts, for a connection that clients share.
    fn pooled_begin_statement(&self) -> String {
        format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            self.lock, self.statement, self.idle_in_transaction
        )
    }
}

/// The address of a database, and how to connect to it.
#[derive(Debug, Clone)]
pub(super) struct ConnectTarget {
    pub(super) options: PgConnectOptions,
    /// Whether a pooler in transaction mode is in between, so that session state does not persist.
    pub(super) is_pooled: bool,
}

/// The connection pools of a database.
#[derive(Debug)]
pub(super) struct Pools {
    writes: PgPool,
    reads: PgPool,
    /// One reserved connection, so that readiness checks do not depend on the load.
    health: PgPool,
    availability: Arc<Availability>,
    limits: Limits,
    begin: String,
    is_pooled: bool,
}

/// The purpose of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Write,
    Read,
    Health,
}

impl ConnectTarget {
    /// Connects once and detects a pooler in transaction mode: it rejects or ignores the settings of a session.
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

    /// Returns the target of the configured database.
    ///
    /// # Errors
    /// The URL is invalid, the server is unreachable, or it refuses the connection.
    pub(super) async fn for_database(config: &Config) -> Result<Self, StoreError> {
        Self::probe(config.database_url.expose_secret(), &Limits::from(config)).await
    }

    /// Returns the target for notifications, which must be the server itself.
    ///
    /// # Errors
    /// As [`Self::for_database`].
    pub(super) async fn for_notifications(config: &Config) -> Result<Self, StoreError> {
        let url = config.database_listen_url.as_ref().unwrap_or(&config.database_url);
        Self::probe(url.expose_secret(), &Limits::from(config)).await
    }

    /// Opens a pool with a single connection, for migrations.
    ///
    /// # Errors
    /// The server is unreachable, or refuses the connection.
    pub(super) async fn connect_once(&self) -> Result<PgPool, StoreError> {
        self.connect().await.map_err(|error| connect_error(&self.options, &error))
    }

    async fn connect(&self) -> Result<PgPool, Error> {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_LIMIT);
        pool.max_lifetime(None).idle_timeout(None).connect_with(self.options.clone()).await
    }

    /// Opens a connection that receives the notifications of a channel.
    ///
    /// # Errors
    /// The server is unreachable, refuses the connection, or does not answer.
    pub(super) async fn listen(&self, channel: &str) -> Result<PgListener, Error> {
        let listen = async {
            let mut listener = PgListener::connect_with(&self.connect().await?).await?;
            listener.ignore_pool_close_event(true);
            // With automatic reconnection, the loss would be reported only once the database is back, if at all.
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok(listener)
        };
        with_timeout(CONNECT_LIMIT, listen).await
    }
}

/// Returns whether a new connection has the session setting that it was opened with.
async fn has_session(options: &PgConnectOptions, session: &str) -> Result<bool, Error> {
    let mut connection = options.connect().await?;
    let query = format!("SELECT current_setting('{SESSION}', true)");
    // The simple query protocol: behind a pooler, the steps of the extended one may run on different connections.
    let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(&mut connection).await?;
    let found: Option<String> = row.try_get(0)?;
    connection.close().await?;
    Ok(found.as_deref() == Some(session))
}

async fn with_timeout<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    within(limit, work).await.unwrap_or_else(|| {
        let message = format!("no answer within {limit:?}");
        Err(Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message)))
    })
}

/// Returns the result of the work; none if it takes longer than the limit.
///
/// A tick that is late, because the process was paused or got no CPU time, counts once: work that only this process delays does
/// not time out.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut remaining = limit;
    while !remaining.is_zero() {
        if let Ok(result) = timeout(TICK, &mut work).await {
            return Some(result);
        }
        remaining = remaining.saturating_sub(TICK);
    }
    None
}

impl Pools {
    /// Creates the pools. The connection of `single` is reserved for probes; others are opened on demand.
    ///
    /// # Errors
    /// The connection of `single` does not answer.
    pub(super) async fn open(
        target: &ConnectTarget,
        single: &PgPool,
        config: &Config,
    ) -> Result<Self, StoreError> {
        let reserved =
            single.acquire().await.map_err(|error| connect_error(&target.options, &error))?.detach();
        let limits = Limits::from(config);
        let pool =
            |connections| pool_options(connections, limits.acquire).connect_lazy_with(target.options.clone());
        let (writes, reads, health) = (pool(limits.writes), pool(limits.reads), pool(1));
        let pools = [&health, &reads, &writes].map(PgPool::clone);
        Ok(Self {
            availability: Availability::new(target.options.clone(), pools, reserved),
            begin: if target.is_pooled { limits.pooled_begin_statement() } else { "BEGIN".to_owned() },
            is_pooled: target.is_pooled,
            writes,
            reads,
            health,
            limits,
        })
    }

    /// Returns a connection for one query; behind a pooler in a transaction, which has the timeouts.
    ///
    /// # Errors
    /// There is no connection in time, or the transaction cannot begin.
    pub(super) async fn session(&self, purpose: Purpose) -> Result<PgSession, DbErr> {
        let session = self.acquire(purpose).await?;
        if self.is_pooled { session.begin(&self.begin).await } else { Ok(session) }
    }

    /// Returns a connection in a transaction, for a unit of work.
    ///
    /// # Errors
    /// As [`Self::session`].
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

    /// Returns the current outage and its changes.
    pub(super) fn outage(&self) -> watch::Receiver<Outage> {
        self.availability.subscribe()
    }

    /// Returns whether there is an outage. If none was detected, this opens a connection.
    pub(super) async fn check_outage(&self) -> bool {
        self.availability.check_outage().await
    }

    /// Awaits an operation on another connection, and detects an outage while it has no answer.
    pub(super) async fn probe_if_slow<T>(&self, operation: impl Future<Output = T>) -> T {
        self.availability.probe_if_slow(operation).await
    }

    /// Returns the number of connections, and how many of them are idle.
    pub(super) fn count(&self) -> (u32, usize) {
        let pools = [&self.writes, &self.reads, &self.health];
        pools.iter().fold((0, 0), |(size, idle), pool| (size + pool.size(), idle + pool.num_idle()))
    }
}

/// Returns options for a pool that pings a connection before each use. The library waits for the reply without a limit, so that
/// a silent network would occupy all connections; [`PgSession`] limits the wait after a use.
fn pool_options(connections: u32, acquire: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire)
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move { with_timeout(IDLE_LIMIT, connection.ping()).await.map(|()| true) })
        })
}

/// Returns the cause of an error without the text that the library adds.
pub(super) fn error_message(error: &Error) -> String {
    match error {
        Error::Io(error) if is_tls_error(error) => format!("TLS: {error}"),
        Error::Io(error) => error.to_string(),
        Error::Tls(error) => format!("TLS: {error}"),
        Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

/// Returns whether an I/O error is a TLS error; those of a handshake arrive in this form.
fn is_tls_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<rustls::Error>())
}

/// Returns the error of a failed connection at start, with a hint.
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

/// Returns whether the connection failed, rather than the server returning an error for a query.
fn is_connection_failure(error: &Error) -> bool {
    match error {
        Error::Database(error) => error.code().is_some_and(|code| error::is_connection_code(&code)),
        error => error::is_connection_error(error),
    }
}
