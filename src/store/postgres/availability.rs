//! Detection of PostgreSQL outages. A slow operation starts a probe; if the probe fails, all operations fail at once
//! with its cause until a later probe succeeds.
//!
//! A busy server is not an outage: probes have a reserved connection, which neither locks nor the load of this process keep
//! from answering, and their limits count only the time in which this process runs.

use super::{error_message, is_connection_failure, unavailable, within};
use sea_orm::DbErr;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Error, Executor};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

/// A probe starts when an operation has had no answer for this time, and again each time the second one has passed.
const SUSPECT_AFTER: Duration = Duration::from_millis(300);
const SUSPECT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The limit of a probe. Together with `SUSPECT_AFTER`, an outage is reported within a second.
const PROBE_LIMIT: Duration = Duration::from_millis(600);
/// A probe opens a new connection when the reserved one has not answered for this time.
const CONNECT_AFTER: Duration = Duration::from_millis(200);
/// The time between probes during an outage.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// The limit of further probes during an outage: a server that accepts connections slowly is available as well.
const PATIENT_LIMIT: Duration = Duration::from_secs(5);

/// The statement of a probe; pg_stat_activity shows it.
const PROBE: &str = "/* probe */ SELECT 1";

/// Detects outages of the server and limits the duration of operations.
#[derive(Debug)]
pub(super) struct Availability {
    outage: watch::Sender<Outage>,
    is_probing: AtomicBool,
    /// The number of answers of the server: a failed probe while operations are answered is not an outage.
    answers: AtomicU64,
    options: PgConnectOptions,
    pools: [PgPool; 3],
    /// The idle connection of probes; none while a probe uses it or after it was lost.
    reserved: Mutex<Option<PgConnection>>,
}

/// The cause of the current outage; none if there is none.
pub(in crate::store) type Outage = Option<Arc<str>>;

/// Permits the next probe when dropped, also if the runtime ends during this one.
struct ProbeGuard(Weak<Availability>);

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(availability) = self.0.upgrade() {
            availability.is_probing.store(false, Ordering::Release);
        }
    }
}

/// Ends the outage when dropped.
struct OutageGuard(Weak<Availability>);

impl Drop for OutageGuard {
    fn drop(&mut self) {
        if let Some(availability) = self.0.upgrade() {
            availability.outage.send_replace(None);
        }
    }
}

impl Availability {
    pub(super) fn new(options: PgConnectOptions, pools: [PgPool; 3], reserved: PgConnection) -> Arc<Self> {
        Arc::new(Self {
            outage: watch::Sender::new(None),
            is_probing: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            options,
            pools,
            reserved: Mutex::new(Some(reserved)),
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
        let mut outage = self.subscribe();
        let cause = outage.borrow().clone();
        if let Some(cause) = cause {
            return Err(unavailable(&cause));
        }
        let result = tokio::select! {
            biased;
            result = self.probe_if_slow(operation) => result,
            cause = cause_of_outage(&mut outage) => return Err(unavailable(&cause)),
            () = sleep_until(deadline.into()) => {
                return Err(unavailable("the deadline of the unit of work has passed"));
            }
        };
        match &result {
            Err(error) if is_connection_failure(error) => self.start_probing(),
            // An error of a statement is an answer as well.
            Ok(_) | Err(_) => drop(self.answers.fetch_add(1, Ordering::AcqRel)),
        }
        Ok(result)
    }

    /// Awaits an operation, and starts probes while it has no answer.
    pub(super) async fn probe_if_slow<T>(self: &Arc<Self>, operation: impl Future<Output = T>) -> T {
        let mut operation = pin!(operation);
        let mut pause = SUSPECT_AFTER;
        loop {
            if let Ok(result) = timeout(pause, &mut operation).await {
                return result;
            }
            self.start_probing();
            pause = SUSPECT_AGAIN_AFTER;
        }
    }

    /// Returns the current outage and its changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Outage> {
        self.outage.subscribe()
    }

    /// Returns whether there is an outage: one was detected, or the server refuses a new connection, as it does at the beginning
    /// of a shutdown, when it may still answer on others.
    pub(super) async fn check_outage(self: &Arc<Self>) -> bool {
        let mut outage = self.subscribe();
        // A server that does not answer is detected by probes meanwhile.
        let connect = self.probe_if_slow(within(PATIENT_LIMIT, self.connect()));
        tokio::select! {
            biased;
            _ = cause_of_outage(&mut outage) => true,
            answer = connect => match answer {
                Some(Err(cause)) => {
                    self.begin_outage(cause);
                    true
                }
                Some(Ok(())) | None => false,
            },
        }
    }

    /// Starts a probe unless one is running.
    fn start_probing(self: &Arc<Self>) {
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Self::detect_outage(ProbeGuard(Arc::downgrade(self))));
        }
    }

    async fn detect_outage(probing: ProbeGuard) {
        let Some(availability) = probing.0.upgrade() else { return };
        let answers = availability.answers.load(Ordering::Acquire);
        let Err(cause) = availability.probe().await else { return };
        if availability.answers.load(Ordering::Acquire) == answers {
            availability.begin_outage(cause);
        }
    }

    /// Rejects all operations until the server accepts a connection.
    fn begin_outage(self: &Arc<Self>, cause: String) {
        let is_new = self.outage.send_if_modified(|outage| {
            let is_new = outage.is_none();
            if is_new {
                *outage = Some(cause.as_str().into());
            }
            is_new
        });
        if is_new {
            tracing::error!(cause, "the database is unavailable");
            self.close_idle();
            tokio::spawn(Self::wait_for_recovery(OutageGuard(Arc::downgrade(self))));
        }
    }

    async fn wait_for_recovery(outage: OutageGuard) {
        let started = Instant::now();
        // Short attempts notice at once that a silent network is back, patient ones that a slow server is.
        tokio::select! {
            () = Self::wait_until_connected(&outage.0, PROBE_LIMIT) => {}
            () = Self::wait_until_connected(&outage.0, PATIENT_LIMIT) => {}
        }
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(milliseconds, "the database is available again");
    }

    /// Tries to connect, with this limit for each attempt, until it succeeds or the pools are dropped.
    async fn wait_until_connected(availability: &Weak<Self>, limit: Duration) {
        loop {
            sleep(PROBE_INTERVAL).await;
            let Some(availability) = availability.upgrade() else { return };
            match within(limit, availability.connect()).await {
                Some(Ok(())) => return,
                Some(Err(cause)) => drop(availability.outage.send_replace(Some(cause.into()))),
                None => {}
            }
        }
    }

    /// Checks that the reserved connection answers, or else a new one.
    async fn probe(&self) -> Result<(), String> {
        let no_answer = || Err(format!("no answer within {} ms", PROBE_LIMIT.as_millis()));
        within(PROBE_LIMIT, self.ping_or_connect()).await.unwrap_or_else(no_answer)
    }

    async fn ping_or_connect(&self) -> Result<(), String> {
        // An existing connection works even if the server accepts no new ones, or accepts them slowly.
        let mut ping = pin!(self.ping());
        match within(CONNECT_AFTER, &mut ping).await {
            Some(true) => Ok(()),
            Some(false) => self.connect().await,
            None => tokio::select! {
                true = ping => Ok(()),
                connected = self.connect() => connected,
            },
        }
    }

    /// Returns whether the reserved connection answers; if not, it is closed.
    async fn ping(&self) -> bool {
        let Some(mut connection) = self.reserved().take() else { return false };
        let is_alive = connection.execute(PROBE).await.is_ok();
        if is_alive {
            *self.reserved() = Some(connection);
        }
        is_alive
    }

    /// Opens a connection and reserves it.
    async fn connect(&self) -> Result<(), String> {
        let connect = async {
            let mut connection = self.options.connect().await?;
            connection.execute(PROBE).await?;
            Ok(connection)
        };
        match connect.await {
            Ok(connection) => {
                *self.reserved() = Some(connection);
                Ok(())
            }
            // Too many connections: the server is available.
            Err(Error::Database(error)) if error.code().as_deref() == Some("53300") => Ok(()),
            Err(error) => Err(error_message(&error)),
        }
    }

    fn reserved(&self) -> MutexGuard<'_, Option<PgConnection>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections, since a request would first have to detect that such a connection is lost.
    fn close_idle(&self) {
        for pool in &self.pools {
            while let Some(connection) = pool.try_acquire() {
                drop(connection.detach());
            }
        }
    }
}

/// Waits for an outage and returns its cause.
async fn cause_of_outage(outage: &mut watch::Receiver<Outage>) -> Arc<str> {
    // The sender lives as long as the operation that waits.
    outage.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone()).unwrap_or_default()
}
