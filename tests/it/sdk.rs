//! The platform's client library, the npm package `chipchat`, as it is: `tests/npm/chipchat.mjs` has the scenarios.

use crate::packages::npm_packages;
use crate::support::{ADMIN, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::process::Command;

/// A day and a minute, after which access tokens have expired, in milliseconds.
const AFTER_EXPIRY: i64 = (24 * 60 + 1) * 60 * 1000;

/// Runs a scenario with these tokens.
async fn run(app: &TestApp, scenario: &str, email: &str, tokens: &Value) {
    let admin = app.admin().await;
    let organization = admin.get("/v2/users/me").await.expect(StatusCode::OK)["organization"].clone();
    let other = app.user(Scope::Agent).await;
    let output = Command::new("node")
        .arg(project_file("tests/npm/chipchat.mjs"))
        .arg(scenario)
        .env("PACKAGES", npm_packages("npm"))
        .env("HOST", &app.base)
        .env("TOKEN", tokens["token"].as_str().unwrap())
        .env("REFRESH_TOKEN", tokens["refreshToken"].as_str().unwrap())
        .env("EMAIL", email)
        .env("ORGANIZATION", organization.as_str().unwrap())
        .env("OTHER_USER", &other.id)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{scenario}: {}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), "passed\n", "{scenario}: {}", text(&output.stderr));
}

async fn run_as_admin(scenario: &str) {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    run(&app, scenario, ADMIN, &tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_creates_fetches_lists_updates_and_deletes_every_resource() {
    run_as_admin("resources").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_the_sdk_have_their_meaning() {
    run_as_admin("queries").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reads_lists_in_slices() {
    run_as_admin("pages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_sends_messages() {
    run_as_admin("messages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_sdk_change_their_conversation() {
    run_as_admin("commands").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reports_errors_with_their_messages() {
    run_as_admin("errors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_sends_messages_with_the_sdk() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let email = crate::tokens::email(&bot).await;
    let tokens = app.log_in(&email).await;
    run(&app, "messages", &email, &tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_refreshes_an_expired_token_if_its_status_is_401() {
    for scenario in ["refresh", "refused_refresh"] {
        let app = TestApp::start_with(|config| config.expired_token_status = 401).await;
        let tokens = app.log_in(ADMIN).await;
        app.clock.advance(AFTER_EXPIRY);
        run(&app, scenario, ADMIN, &tokens).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_refreshes_a_token_with_a_wrong_signature() {
    run_as_admin("wrong_signature").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reports_an_expired_token_with_the_default_status() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    app.clock.advance(AFTER_EXPIRY);
    run(&app, "expired", ADMIN, &tokens).await;
    let headers = [("authorization", format!("Bearer {}", tokens["token"].as_str().unwrap()))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let refused = app.anonymous().send(reqwest::Method::GET, "/v2/users/me", &headers, None).await;
    assert_eq!(refused.json["error"], json!({ "message": "jwt expired" }));
}
