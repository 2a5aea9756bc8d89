//! A PostgreSQL server that is unreachable, frozen, locked or stopped, and replicas that freeze while they hold locks.

use crate::cluster::Cluster;
use crate::command_line::client;
use crate::lifecycle::send_signal;
use crate::multi_process::{TIMEOUT, cached_client, log_in, serve_with};
use crate::relay::Relay;
use crate::support::{ADMIN, Client, Database, PASSWORD, TestApp};
use futures_util::future::join_all;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::json;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Requests are rejected within a second during an outage. A busy machine may take longer; the limits of the settings are longer
/// still.
const PROMPT_RESPONSE: Duration = Duration::from_secs(5);

pub(crate) fn database_at(url: String) -> Database {
    Database { url, directory: TempDir::new().unwrap(), server: None }
}

/// Asserts that requests are rejected promptly. Returns how long the first one took.
async fn expect_unavailable(app: &TestApp, admin: &Client) -> Duration {
    let login = || async {
        app.anonymous().post("/v2/auth/token", json!({ "email": ADMIN, "password": PASSWORD })).await
    };
    let started = Instant::now();
    let list = admin.get("/v2/forms").await;
    let first = started.elapsed();
    list.expect_problem(503, "database_unavailable");
    assert_eq!(list.header("retry-after"), "1");
    assert!(first < PROMPT_RESPONSE, "{first:?}");
    // From now on requests fail without waiting.
    let started = Instant::now();
    app.anonymous().get("/health/ready").await.expect_problem(503, "database_unavailable");
    login().await.expect_problem(503, "database_unavailable");
    admin.post("/v2/forms", json!({ "name": "form" })).await.expect_problem(503, "database_unavailable");
    assert!(started.elapsed() < PROMPT_RESPONSE, "{:?}", started.elapsed());
    first
}

/// Waits until the service is available again. Returns how long that took.
async fn wait_until_available(app: &TestApp, admin: &Client) -> Duration {
    let started = Instant::now();
    for path in ["/health/ready", "/v2/forms"] {
        while admin.get(path).await.status != StatusCode::OK {
            assert!(started.elapsed() < TIMEOUT, "{path}: the service does not recover");
        }
    }
    let recovered = started.elapsed();
    admin.post("/v2/forms", json!({ "name": "form" })).await.expect(StatusCode::CREATED);
    app.admin().await;
    recovered
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_fail_fast_and_recover_from_a_silent_frozen_or_stopped_server() {
    if crate::without_database::postgres_server().is_none() {
        return;
    }
    let server = Cluster::new();
    let relay = Relay::start_to(&server.url).await;
    let app = TestApp::start_on(database_at(relay.url_of(&server.url))).await;
    let admin = app.admin().await;
    for how in ["silent", "frozen", "stopped"] {
        wait_until_available(&app, &admin).await;
        // Opens several connections, which are idle when the outage begins.
        join_all((0..8).map(|_| admin.get("/v2/forms"))).await;
        match how {
            "silent" => relay.fall_silent(),
            "frozen" => server.signal("-STOP"),
            _ => server.stop("immediate"),
        }
        let refused = expect_unavailable(&app, &admin).await;
        match how {
            "silent" => relay.recover(),
            "frozen" => server.signal("-CONT"),
            _ => server.start(),
        }
        let recovered = wait_until_available(&app, &admin).await;
        println!("{how}: refused after {refused:?}, recovered after {recovered:?}");
    }
}

/// A transaction on its own connection, which holds locks.
pub(crate) struct LockHolder {
    connection: DatabaseConnection,
    url: String,
    process: i64,
}

impl LockHolder {
    /// Takes a lock with this statement.
    pub(crate) async fn lock(url: &str, statement: &str) -> Self {
        let mut options = sea_orm::ConnectOptions::new(url);
        let connection = sea_orm::Database::connect(options.max_connections(1).to_owned()).await.unwrap();
        connection.execute_unprepared(&format!("BEGIN; {statement}")).await.unwrap();
        let process = "SELECT pg_backend_pid()::bigint";
        let process = Statement::from_string(connection.get_database_backend(), process);
        let process = connection.query_one_raw(process).await.unwrap().unwrap();
        Self { url: url.to_owned(), process: process.try_get_by_index(0).unwrap(), connection }
    }

    /// Waits until this number of sessions wait for the locks.
    pub(crate) async fn wait_for_waiters(&self, sessions: i64) {
        let waiting = format!(
            "SELECT COUNT(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND {} = ANY(pg_blocking_pids(pid))",
            self.process
        );
        let started = Instant::now();
        while crate::multi_process::count(&self.url, &waiting).await < sessions {
            assert!(started.elapsed() < TIMEOUT, "no session waits for the lock");
        }
    }

    pub(crate) async fn unlock(self) {
        self.connection.execute_unprepared("ROLLBACK").await.unwrap();
        self.connection.close().await.unwrap();
    }
}

/// Pauses a process, and waits until all of its threads are stopped.
fn pause(process: u32) {
    send_signal("-STOP", process);
    let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status"));
        status.is_ok_and(|status| status.contains("State:\tT"))
    };
    let started = Instant::now();
    while !std::fs::read_dir(format!("/proc/{process}/task")).unwrap().all(is_stopped) {
        assert!(started.elapsed() < TIMEOUT, "the process does not stop");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_fails_only_the_requests_that_need_it() {
    for (lock_timeout, statement_timeout) in [(1_000, 60_000), (60_000, 1_000)] {
        let app = TestApp::start_with(|config| {
            config.database_lock_timeout_ms = lock_timeout;
            config.database_statement_timeout_ms = statement_timeout;
        })
        .await;
        if app.postgres().is_none() {
            return;
        }
        let admin = app.admin().await;
        // More blocked reads than connections for reads.
        let lock_holder = LockHolder::lock(app.url(), "LOCK TABLE forms IN ACCESS EXCLUSIVE MODE").await;
        let blocked = tokio::spawn({
            let admin = admin.clone();
            async move { join_all((0..8).map(|_| admin.get("/v2/forms"))).await }
        });
        lock_holder.wait_for_waiters(2).await;
        app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
        for reply in blocked.await.unwrap() {
            reply.expect_problem(503, "database_unavailable");
        }
        lock_holder.unlock().await;
        admin.get("/v2/forms").await.expect(StatusCode::OK);

        // More blocked units of work than connections for them.
        let lock_holder = LockHolder::lock(app.url(), "LOCK TABLE audit IN SHARE MODE").await;
        let blocked = tokio::spawn({
            let admin = admin.clone();
            let make = move |index| {
                let (admin, body) = (admin.clone(), json!({ "email": format!("user{index}@example.com") }));
                async move { admin.post("/v2/users", body).await }
            };
            async move { join_all((0..8).map(make)).await }
        });
        // The first one holds the lock of the audit log, for which the others wait.
        lock_holder.wait_for_waiters(1).await;
        app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
        admin.get("/v2/forms").await.expect(StatusCode::OK);
        for reply in blocked.await.unwrap() {
            reply.expect_problem(503, "database_unavailable");
        }
        lock_holder.unlock().await;
        admin.post("/v2/users", json!({ "email": "user@example.com" })).await.expect(StatusCode::CREATED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_connections_slowly_is_available() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let relay = Relay::start_to(&database.url).await;
    let app = TestApp::start_on_with(database_at(relay.url_of(&database.url)), |config| {
        config.database_connections = 1;
        config.database_read_connections = 1;
        // Longer than the locks are held on a busy machine.
        config.database_lock_timeout_ms = 20_000;
        config.database_statement_timeout_ms = 20_000;
        config.database_acquire_timeout_ms = 20_000;
        config.database_work_timeout_ms = 30_000;
    })
    .await;
    let admin = app.admin().await;
    admin.get("/v2/forms").await.expect(StatusCode::OK);

    // All connections wait for a lock, and a new one takes longer than a probe.
    relay.delay_new_connections(Duration::from_millis(1_500));
    let held = LockHolder::lock(&database.url, "LOCK TABLE forms, audit IN ACCESS EXCLUSIVE MODE").await;
    let blocked = tokio::spawn({
        let admin = admin.clone();
        let body = json!({ "email": "user@example.com" });
        async move { tokio::join!(admin.get("/v2/forms"), admin.post("/v2/users", body)) }
    });
    held.wait_for_waiters(2).await;
    app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
    held.unlock().await;
    let (read, written) = blocked.await.unwrap();
    read.expect(StatusCode::OK);
    written.expect(StatusCode::CREATED);

    // Nor does it stay unavailable after an outage.
    relay.fall_silent();
    expect_unavailable(&app, &admin).await;
    relay.recover();
    wait_until_available(&app, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_at_any_moment_are_replaced() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let relay = Relay::start_to(&database.url).await;
    let app = TestApp::start_on_with(database_at(relay.url_of(&database.url)), |config| {
        config.database_connections = 1;
        config.database_read_connections = 1;
    })
    .await;
    let admin = app.admin().await;
    for _ in 0..4 {
        // Just after they were given back.
        admin.post("/v2/forms", json!({ "name": "form" })).await.expect(StatusCode::CREATED);
        relay.fall_silent();
        expect_unavailable(&app, &admin).await;
        relay.recover();
        wait_until_available(&app, &admin).await;

        // While both wait for an answer.
        let held = LockHolder::lock(&database.url, "LOCK TABLE forms IN ACCESS EXCLUSIVE MODE").await;
        let blocked = tokio::spawn({
            let (admin, body) = (admin.clone(), json!({ "name": "form" }));
            async move { tokio::join!(admin.get("/v2/forms"), admin.post("/v2/forms", body)) }
        });
        held.wait_for_waiters(2).await;
        relay.fall_silent();
        let (read, written) = blocked.await.unwrap();
        read.expect_problem(503, "database_unavailable");
        written.expect_problem(503, "database_unavailable");
        held.unlock().await;
        relay.recover();
        wait_until_available(&app, &admin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_frozen_during_an_audit_append_blocks_no_other_replica() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let (frozen, other) = (serve_with(&database, &[]), serve_with(&database, &[]));
    let tokens = log_in(&other.base, ADMIN).await;
    let admin = cached_client(&other.base, tokens["token"].as_str().unwrap()).await;

    // The replica waits for the table in the middle of an append, while it holds the lock of the audit log.
    let lock_holder = LockHolder::lock(&database.url, "LOCK TABLE audit IN SHARE MODE").await;
    let base = frozen.base.clone();
    let login = tokio::spawn(async move {
        client(&base).post("/v2/auth/token", json!({ "email": ADMIN, "password": PASSWORD })).await
    });
    lock_holder.wait_for_waiters(1).await;
    pause(frozen.id());
    lock_holder.unlock().await;
    let started = Instant::now();
    let email = "user@example.com";
    let body = json!({ "email": email, "password": PASSWORD });
    admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    log_in(&other.base, email).await;
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    let appended = started.elapsed();
    assert!(appended < Duration::from_secs(5), "{appended:?}");

    // The append that it had begun was committed.
    send_signal("-CONT", frozen.id());
    login.await.unwrap().expect(StatusCode::OK);
    println!("another replica appended after {appended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_frozen_with_a_row_lock_loses_it_after_the_idle_timeout() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let (frozen, other) = (serve_with(&database, &[]), serve_with(&database, &[]));
    let tokens = log_in(&other.base, ADMIN).await;
    let admin = cached_client(&other.base, tokens["token"].as_str().unwrap()).await;
    let there = cached_client(&frozen.base, tokens["token"].as_str().unwrap()).await;
    let id = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let path = format!("/v2/forms/{id}");

    let lock_holder =
        LockHolder::lock(&database.url, &format!("SELECT 1 FROM forms WHERE id = '{id}' FOR UPDATE")).await;
    let change = tokio::spawn({
        let path = path.clone();
        async move { there.patch(&path, json!({ "name": "frozen" })).await }
    });
    lock_holder.wait_for_waiters(1).await;
    pause(frozen.id());
    lock_holder.unlock().await;
    let started = Instant::now();
    admin.patch(&path, json!({ "name": "other" })).await.expect(StatusCode::OK);
    let changed = started.elapsed();
    assert!(changed < Duration::from_secs(5), "{changed:?}");
    send_signal("-CONT", frozen.id());
    change.await.unwrap().expect_problem(503, "database_unavailable");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["name"], "other");
    println!("another replica changed the row after {changed:?}");
}
