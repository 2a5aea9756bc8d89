//! A flood of logins leaves a share of the password workers to users at known addresses.

use crate::support::{ADMIN, PASSWORD, Reply, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::sync::Arc;

/// Sends a login from this address, which the proxy reports.
async fn log_in(app: &TestApp, address: &str, email: &str, password: &str) -> Reply {
    let headers = [("content-type", "application/json"), ("x-forwarded-for", address)];
    let body = json!({ "email": email, "password": password }).to_string().into_bytes();
    app.anonymous().send(Method::POST, "/v2/auth/token", &headers, Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_flood_does_not_block_users_at_known_addresses() {
    let app = TestApp::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.password_workers = Some(1);
        // Hashing must be slow enough for the flood to outlast the logins of this test.
        config.argon2_memory_kib = 64 * 1024;
        config.argon2_iterations = 4;
    })
    .await;
    log_in(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    // Every attempt of the flood uses another account and another address, so that none is throttled.
    let app = Arc::new(app);
    let flood = (0..60).map(|at| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let address = format!("198.51.100.{at}");
            log_in(&app, &address, &format!("user{at}@example.com"), "not-the-s3cret-at-all").await
        })
    });
    let flood: Vec<_> = flood.collect();
    // Until the queue is full: one attempt is processed, and 16 wait.
    while app.state.passwords.queue_depth() < 17 {
        tokio::task::yield_now().await;
    }
    // A known pair of account and address is served in the meantime, repeatedly.
    for _ in 0..2 {
        log_in(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    }
    assert!(flood.iter().any(|attempt| !attempt.is_finished()), "the flood must not be over");
    for attempt in flood {
        let status = attempt.await.unwrap().status;
        assert!([StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE].contains(&status), "{status}");
    }
}
