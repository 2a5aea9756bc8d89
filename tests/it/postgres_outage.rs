//! A PostgreSQL server that is unreachable, frozen, locked or stopped, and replicas that freeze while they hold locks.

use crate::cluster::Cluster;
use crate::command_line::client;
use crate::lifecycle::send_signal;
use crate::multi_process::{TIMEOUT, cached_client, log_in, serve_with};
use crate::support::{ADMIN, Client, Database, PASSWORD, TestApp};
use futures_util::future::join_all;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Requests are rejected within a second during an outage. A busy machine may take longer.
const PROMPT_RESPONSE: Duration = Duration::from_millis(2_500);

/// A TCP proxy that accepts connections and forwards nothing while it is silent. Connections from that time stay silent.
struct Relay {
    address: SocketAddr,
    is_silent: watch::Sender<bool>,
}

impl Relay {
    async fn start_to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_silent = watch::Sender::new(false);
        let silence = is_silent.clone();
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let mut silence = silence.subscribe();
                tokio::spawn(async move {
                    let forward = async {
                        // A stopped server refuses the connection.
                        let Ok(mut outer) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                        drop(tokio::io::copy_bidirectional(&mut inner, &mut outer).await);
                    };
                    let silenced = async { drop(silence.wait_for(|is_silent| *is_silent).await) };
                    let is_silenced = tokio::select! {
                        biased;
                        () = silenced => true,
                        () = forward => false,
                    };
                    if is_silenced {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, is_silent }
    }
}

fn database_at(url: String) -> Database {
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
    if std::env::var("TEST_POSTGRES_URL").is_err() {
        return;
    }
    let server = Cluster::new();
    let relay = Relay::start_to(server.port()).await;
    let url = server.url.replace(&format!(":{}/", server.port()), &format!(":{}/", relay.address.port()));
    let app = TestApp::start_on(database_at(url)).await;
    let admin = app.admin().await;
    for how in ["silent", "frozen", "stopped"] {
        wait_until_available(&app, &admin).await;
        // Opens several connections, which are idle when the outage begins.
        join_all((0..8).map(|_| admin.get("/v2/forms"))).await;
        match how {
            "silent" => drop(relay.is_silent.send_replace(true)),
            "frozen" => server.signal("-STOP"),
            _ => server.stop("immediate"),
        }
        let refused = expect_unavailable(&app, &admin).await;
        match how {
            "silent" => drop(relay.is_silent.send_replace(false)),
            "frozen" => server.signal("-CONT"),
            _ => server.start(),
        }
        let recovered = wait_until_available(&app, &admin).await;
        println!("{how}: refused after {refused:?}, recovered after {recovered:?}");
    }
}

/// Holds a lock on its own connection.
async fn lock(url: &str, statement: &str) -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new(url);
    let connection = sea_orm::Database::connect(options.max_connections(1).to_owned()).await.unwrap();
    connection.execute_unprepared(&format!("BEGIN; {statement}")).await.unwrap();
    connection
}

async fn unlock(connection: DatabaseConnection) {
    connection.execute_unprepared("ROLLBACK").await.unwrap();
    connection.close().await.unwrap();
}

/// Waits until this number of sessions of the database wait for a lock.
async fn wait_for_lock_waiters(url: &str, sessions: i64) {
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let started = Instant::now();
    while crate::multi_process::count(url, waiting).await < sessions {
        assert!(started.elapsed() < TIMEOUT, "no session waits for the lock");
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
        let lock_holder = lock(app.url(), "LOCK TABLE forms IN ACCESS EXCLUSIVE MODE").await;
        let blocked = tokio::spawn({
            let admin = admin.clone();
            async move { join_all((0..8).map(|_| admin.get("/v2/forms"))).await }
        });
        wait_for_lock_waiters(app.url(), 2).await;
        app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
        for reply in blocked.await.unwrap() {
            reply.expect_problem(503, "database_unavailable");
        }
        unlock(lock_holder).await;
        admin.get("/v2/forms").await.expect(StatusCode::OK);

        // More blocked units of work than connections for them.
        let lock_holder = lock(app.url(), "LOCK TABLE audit IN SHARE MODE").await;
        let blocked = tokio::spawn({
            let admin = admin.clone();
            let make = move |index| {
                let (admin, body) = (admin.clone(), json!({ "email": format!("user{index}@example.com") }));
                async move { admin.post("/v2/users", body).await }
            };
            async move { join_all((0..8).map(make)).await }
        });
        wait_for_lock_waiters(app.url(), 2).await;
        app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
        admin.get("/v2/forms").await.expect(StatusCode::OK);
        for reply in blocked.await.unwrap() {
            reply.expect_problem(503, "database_unavailable");
        }
        unlock(lock_holder).await;
        admin.post("/v2/users", json!({ "email": "user@example.com" })).await.expect(StatusCode::CREATED);
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
    let lock_holder = lock(&database.url, "LOCK TABLE audit IN SHARE MODE").await;
    let base = frozen.base.clone();
    let login = tokio::spawn(async move {
        client(&base).post("/v2/auth/token", json!({ "email": ADMIN, "password": PASSWORD })).await
    });
    wait_for_lock_waiters(&database.url, 1).await;
    send_signal("-STOP", frozen.id());
    unlock(lock_holder).await;
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

    let lock_holder = lock(&database.url, &format!("SELECT 1 FROM forms WHERE id = '{id}' FOR UPDATE")).await;
    let change = tokio::spawn({
        let path = path.clone();
        async move { there.patch(&path, json!({ "name": "frozen" })).await }
    });
    wait_for_lock_waiters(&database.url, 1).await;
    send_signal("-STOP", frozen.id());
    unlock(lock_holder).await;
    let started = Instant::now();
    admin.patch(&path, json!({ "name": "other" })).await.expect(StatusCode::OK);
    let changed = started.elapsed();
    assert!(changed < Duration::from_secs(5), "{changed:?}");
    send_signal("-CONT", frozen.id());
    change.await.unwrap().expect_problem(503, "database_unavailable");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["name"], "other");
    println!("another replica changed the row after {changed:?}");
}
