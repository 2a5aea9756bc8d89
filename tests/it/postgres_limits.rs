//! The time limits of PostgreSQL connections and units of work, and losses that are no outage.

use crate::cluster::Cluster;
use crate::multi_process::TIMEOUT;
use crate::postgres_outage::{LockHolder, database_at};
use crate::relay::Relay;
use crate::support::{Database, TestApp, wait_until};
use reqwest::StatusCode;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn requests_end_at_the_deadline_of_their_unit_of_work_and_change_nothing() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let app = TestApp::start_with(|config| {
        config.database_work_timeout_ms = 1_000;
        // The server would wait longer than the test.
        config.database_lock_timeout_ms = 60_000;
        config.database_statement_timeout_ms = 60_000;
    })
    .await;
    if app.postgres().is_none() {
        return;
    }
    let admin = app.admin().await;
    let body = json!({ "email": "user@example.com" });
    let held = LockHolder::lock(
        app.url(),
        "LOCK TABLE forms IN ACCESS EXCLUSIVE MODE; LOCK TABLE users IN SHARE MODE",
    )
    .await;
    let started = Instant::now();
    admin.post("/v2/users", body.clone()).await.expect_problem(503, "database_unavailable");
    let written = started.elapsed();
    admin.get("/v2/forms").await.expect_problem(503, "database_unavailable");
    let read = started.elapsed() - written;
    assert!(
        DEADLINE <= written && written < TIMEOUT && DEADLINE <= read && read < TIMEOUT,
        "{written:?} {read:?}"
    );
    held.unlock().await;
    // With the lock, the server detects that the clients of these statements have disconnected.
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_connection_for_notifications_rejects_no_request() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let relay = Relay::start_to(&database.url).await;
    let listen_url = relay.url_of(&database.url);
    let app = TestApp::start_on_with(database, |config| {
        config.database_listen_url = Some(listen_url.into());
        // Readiness waits for a lock until its end.
        config.database_lock_timeout_ms = 20_000;
        config.database_statement_timeout_ms = 20_000;
        config.database_work_timeout_ms = 30_000;
    })
    .await;
    let admin = app.admin().await;
    wait_for_notifications(&app).await;
    // The connection of readiness is in use, which says nothing about the database.
    let held = LockHolder::lock(app.url(), "LOCK TABLE seaql_migrations IN ACCESS EXCLUSIVE MODE").await;
    let ready = tokio::spawn({
        let anonymous = app.anonymous();
        async move { anonymous.get("/health/ready").await }
    });
    held.wait_for_waiters(1).await;
    let before = relay.accepted();
    relay.fall_silent();
    // Until the loss was detected and an attempt to connect again has failed.
    let started = Instant::now();
    while relay.accepted() < before + 2 {
        admin.get("/v2/forms").await.expect(StatusCode::OK);
        admin.post("/v2/forms", json!({ "name": "form" })).await.expect(StatusCode::CREATED);
        assert!(started.elapsed() < TIMEOUT, "the loss of the connection is not detected");
    }
    held.unlock().await;
    ready.await.unwrap().expect(StatusCode::OK);
    relay.recover();
    wait_for_notifications(&app).await;
}

/// Waits until the service has received data on its connection for notifications.
async fn wait_for_notifications(app: &TestApp) {
    app.clock.advance(60_000);
    wait_until(async || match app.state.store.time_since_contact() {
        time if time < Duration::from_secs(60) => Ok(()),
        time => Err(format!("no contact since {time:?}")),
    })
    .await;
}

/// The seconds until the next keepalive probe of each connection that this port has accepted.
fn keepalive_times(port: u16) -> Vec<u64> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let mut times = Vec::new();
    for socket in sockets.lines().skip(1) {
        let fields: Vec<&str> = socket.split_whitespace().collect();
        if fields[1].ends_with(&local) && fields[3] == ESTABLISHED {
            let (timer, hundredths) = fields[5].split_once(':').unwrap();
            // Another timer runs while the client has not acknowledged what the server sent.
            let is_keepalive = timer == KEEPALIVE;
            times.push(if is_keepalive {
                u64::from_str_radix(hundredths, 16).unwrap() / 100
            } else {
                u64::MAX
            });
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_checks_by_tcp_keepalive_whether_each_connection_is_alive() {
    if crate::without_database::postgres_server().is_none() {
        return;
    }
    let server = Cluster::new();
    let app = TestApp::start_on_with(database_at(server.url.clone()), |config| {
        config.database_keepalive = 7;
    })
    .await;
    let admin = app.admin().await;
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
    wait_for_notifications(&app).await;
    // For units of work, reads, readiness, notifications and probes.
    wait_until(async || match keepalive_times(server.port()) {
        times if times.len() >= 5 && times.iter().all(|time| *time <= 7) => Ok(()),
        times => Err(format!("{times:?}")),
    })
    .await;
}
