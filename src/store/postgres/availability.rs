//! Detection of PostgreSQL outages. A slow operation starts a probe; if the probe fails, all operations fail at once
//! with its cause until a later probe succeeds.

use super::{error_message, is_connection_failure, unavailable};
use sea_orm::DbErr;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Connection, Error, Executor};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

/// A probe starts when an operation has had no answer for this time.
const SUSPECT_AFTER: Duration = Duration::from_millis(300);
/// The timeouts of a probe on an idle and on a new connection. Together with `SUSPECT_AFTER`, an outage is reported within a
/// second.
const IDLE_LIMIT: Duration = Duration::from_millis(200);
const CONNECT_LIMIT: Duration = Duration::from_millis(400);
/// The time between probes during an outage.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Detects outages of the server and limits the duration of operations.
#[derive(Debug)]
pub(super) struct Availability {
    /// The cause of the current outage; none if there is none.
    outage: watch::Sender<Option<Arc<str>>>,
    is_probing: AtomicBool,
    /// The number of successful operations: a failed probe while operations succeed is not an outage.
    successes: AtomicU64,
    options: PgConnectOptions,
    pools: Vec<PgPool>,
}

/// Permits the next probe when dropped, also if the runtime ends during this one.
struct ProbeGuard(Weak<Availability>);

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(availability) = self.0.upgrade() {
            availability.outage.send_replace(None);
            availability.is_probing.store(false, Ordering::Release);
        }
    }
}

impl Availability {
    pub(super) fn new(options: PgConnectOptions, pools: Vec<PgPool>) -> Arc<Self> {
        Arc::new(Self {
            outage: watch::Sender::new(None),
            is_probing: AtomicBool::new(false),
            successes: AtomicU64::new(0),
            options,
            pools,
        })
    }

    /// Awaits an operation, at most until `deadline` or an outage.
    ///
    /// # Errors
    /// The cause of the outage, or that the deadline has passed. An error of the operation itself is in the inner result.
    pub(super) async fn run<T>(
        self: &Arc<Self>,
        deadline: Instant,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, DbErr> {
        let mut outage = self.outage.subscribe();
        let cause = outage.borrow().clone();
        if let Some(cause) = cause {
            return Err(unavailable(&cause));
        }
        let mut operation = pin!(operation);
        let result = match timeout(SUSPECT_AFTER, &mut operation).await {
            Ok(result) => result,
            Err(_) => {
                self.start_probing();
                tokio::select! {
                    result = &mut operation => result,
                    cause = cause_of_outage(&mut outage) => return Err(unavailable(&cause)),
                    () = sleep_until(deadline.into()) => {
                        return Err(unavailable("the deadline of the unit of work has passed"));
                    }
                }
            }
        };
        match &result {
            Ok(_) => drop(self.successes.fetch_add(1, Ordering::AcqRel)),
            Err(error) if is_connection_failure(error) => self.start_probing(),
            Err(_) => {}
        }
        Ok(result)
    }

    /// Starts a probe unless one is running.
    fn start_probing(self: &Arc<Self>) {
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Self::monitor_outage(ProbeGuard(Arc::downgrade(self))));
        }
    }

    /// Probes once, and if that fails, until a probe succeeds.
    async fn monitor_outage(probing: ProbeGuard) {
        let Some(availability) = probing.0.upgrade() else { return };
        let successes = availability.successes.load(Ordering::Acquire);
        let Err(cause) = availability.probe().await else { return };
        if availability.successes.load(Ordering::Acquire) != successes {
            return;
        }
        tracing::error!(cause, "the database is unavailable");
        let started = Instant::now();
        availability.outage.send_replace(Some(cause.into()));
        availability.close_idle();
        drop(availability);
        loop {
            sleep(PROBE_INTERVAL).await;
            let Some(availability) = probing.0.upgrade() else { return };
            match availability.probe().await {
                Ok(()) => break,
                Err(cause) => drop(availability.outage.send_replace(Some(cause.into()))),
            }
        }
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(milliseconds, "the database is available again");
    }

    /// Checks that an idle connection answers, or else a new one.
    async fn probe(&self) -> Result<(), String> {
        // Existing connections work even if the server accepts no new ones.
        if let Some(mut connection) = self.pools.iter().find_map(PgPool::try_acquire) {
            if matches!(timeout(IDLE_LIMIT, (&mut *connection).execute("SELECT 1")).await, Ok(Ok(_))) {
                return Ok(());
            }
            connection.close_on_drop();
        }
        let connect = async {
            let mut connection = self.options.connect().await?;
            connection.execute("SELECT 1").await?;
            connection.close().await
        };
        match timeout(CONNECT_LIMIT, connect).await {
            Ok(Ok(())) => Ok(()),
            // Too many connections: the server is available.
            Ok(Err(Error::Database(error))) if error.code().as_deref() == Some("53300") => Ok(()),
            Ok(Err(error)) => Err(error_message(&error)),
            Err(_) => Err(format!("no answer within {} ms", CONNECT_LIMIT.as_millis())),
        }
    }

    /// Closes the idle connections, since a request would first have to detect that such a connection is lost.
    fn close_idle(&self) {
        for pool in &self.pools {
            while let Some(mut connection) = pool.try_acquire() {
                connection.close_on_drop();
            }
        }
    }
}

/// Waits for an outage and returns its cause.
async fn cause_of_outage(outage: &mut watch::Receiver<Option<Arc<str>>>) -> Arc<str> {
    // The sender lives as long as the operation that waits.
    outage.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone()).unwrap_or_default()
}
