//! Refreshes: who may use a refresh token, and how often (see "Refresh-token format", "Refresh-token rotation" and "Refresh
//! requests" in docs/decisions.md).

use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp};
use crate::tokens::{REFRESHABLE_ERRORS, email, request_token};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Refreshes as clients of the specification do after the expiry: without a bearer, with refresh token and email.
pub(crate) async fn refresh(app: &TestApp, token: &str, client_id: &str) -> Reply {
    request_token(app, json!({ "refreshToken": token, "clientId": client_id })).await
}

/// Refreshes as clients of the specification do before the expiry: with the bearer.
pub(crate) async fn refresh_as(client: &Client, token: &str) -> Reply {
    client.get(&format!("/v2/auth/token?refreshToken={token}")).await
}

pub(crate) fn refresh_token(tokens: &Value) -> String {
    tokens["refreshToken"].as_str().unwrap().to_owned()
}

/// Asserts that a refresh was rejected, with a message that does not cause existing clients to refresh again.
#[track_caller]
pub(crate) fn expect_refresh_rejected(reply: &Reply) {
    reply.expect_problem(401, "invalid_refresh_token");
    assert_eq!(reply.json["error"]["message"], "Invalid refresh token");
}

#[tokio::test]
async fn a_used_refresh_token_is_rejected() {
    let app = TestApp::start().await;
    let first = refresh_token(&app.log_in(ADMIN).await);
    let second = refresh_token(&refresh(&app, &first, ADMIN).await.expect(StatusCode::OK));
    assert_ne!(first, second);
    // After the grace period, so that it is not a retry after a lost response.
    app.clock.advance(31_000);
    expect_refresh_rejected(&refresh(&app, &first, ADMIN).await);
    expect_refresh_rejected(&refresh_as(&app.admin().await, &first).await);
}

#[tokio::test]
async fn every_refresh_returns_a_new_refresh_token() {
    let app = TestApp::start().await;
    let mut tokens = app.log_in(ADMIN).await;
    let mut seen = vec![refresh_token(&tokens)];
    for round in 0..6 {
        app.clock.advance(60_000);
        let last = refresh_token(&tokens);
        let client = app.bearer(tokens["token"].as_str().unwrap());
        let reply =
            if round % 2 == 0 { refresh_as(&client, &last).await } else { refresh(&app, &last, ADMIN).await };
        tokens = reply.expect(StatusCode::OK);
        assert!(!seen.contains(&refresh_token(&tokens)));
        seen.push(refresh_token(&tokens));
    }
}

#[tokio::test]
async fn a_refresh_with_a_bearer_needs_a_bearer_of_the_same_user() {
    let app = TestApp::start().await;
    let token = refresh_token(&app.log_in(ADMIN).await);
    for other in [Scope::Guest, Scope::Admin] {
        expect_refresh_rejected(&refresh_as(&app.user(other).await, &token).await);
    }
    let without_bearer = refresh_as(&app.anonymous(), &token).await;
    assert_eq!(without_bearer.status, StatusCode::UNAUTHORIZED);
    // None of them used the token.
    refresh_as(&app.admin().await, &token).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_failed_refresh_does_not_trigger_another_refresh() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let (bearer, token) = (tokens["token"].as_str().unwrap(), refresh_token(&tokens));
    let tampered = format!("{}AAAA", bearer.rsplit_once('.').unwrap().0.to_owned() + ".");
    let mut failed = vec![
        refresh_as(&app.bearer(&tampered), &token).await,
        refresh_as(&app.bearer("garbage"), &token).await,
        refresh_as(&app.bearer("94c70d470e391bdc16a8d8363b5d4891"), &token).await,
        refresh_as(&app.anonymous(), &token).await,
        refresh_as(&app.bearer(bearer), "garbage").await,
        refresh(&app, "garbage", ADMIN).await,
        refresh(&app, bearer, ADMIN).await,
        refresh(&app, &token, "nobody@example.com").await,
    ];
    app.clock.advance(86_400_000);
    failed.push(refresh_as(&app.bearer(bearer), &token).await);
    for reply in &failed {
        assert!([401, 403].contains(&reply.status.as_u16()), "{}", reply.text);
        let message = reply.json["error"]["message"].as_str().unwrap();
        assert!(!REFRESHABLE_ERRORS.contains(&message), "{}", reply.text);
    }
    refresh(&app, &token, ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_refresh_without_a_bearer_ignores_the_authorization_header() {
    let app = TestApp::start().await;
    let mut token = refresh_token(&app.log_in(ADMIN).await);
    let expired = format!("Bearer {}", app.admin().await.bearer.unwrap());
    app.clock.advance(86_400_000);
    let other = format!("Bearer {}", app.user(Scope::Guest).await.bearer.unwrap());
    for header in ["garbage", "Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer a.b.c", "", &expired, &other] {
        let body = json!({ "refreshToken": token, "clientId": ADMIN }).to_string().into_bytes();
        let headers = [("authorization", header), ("content-type", "application/json")];
        let reply = app.anonymous().send(Method::POST, "/v2/auth/token", &headers, Some(body)).await;
        token = refresh_token(&reply.expect(StatusCode::OK));
    }
}

#[tokio::test]
async fn a_wrong_client_id_is_rejected_and_does_not_use_the_token() {
    let app = TestApp::start().await;
    let other = email(&app.user(Scope::Admin).await).await;
    let tokens = app.log_in(ADMIN).await;
    let token = refresh_token(&tokens);
    for wrong in ["nobody@example.com", &other, "admin@example.co", "xadmin@example.com"] {
        expect_refresh_rejected(&refresh(&app, &token, wrong).await);
    }
    // The `clientId` is the email, not the user id.
    let reply = refresh(&app, &token, tokens["user"].as_str().unwrap()).await;
    assert!([400, 401].contains(&reply.status.as_u16()), "{}", reply.text);
    refresh(&app, &token, ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn the_client_id_is_the_email_ignoring_case() {
    let app = TestApp::start().await;
    let token = refresh_token(&app.log_in(ADMIN).await);
    refresh(&app, &token, "ADMIN@Example.COM").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn changing_the_email_changes_the_client_id() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let old = email(&user).await;
    let token = refresh_token(&app.log_in(&old).await);
    crate::tokens::update_user(&app, &user.id, json!({ "email": "renamed@example.com" })).await;
    expect_refresh_rejected(&refresh(&app, &token, &old).await);
    refresh(&app, &token, "renamed@example.com").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_partial_refresh_token_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let token = refresh_token(&app.log_in(ADMIN).await);
    // The lengths of the specification's samples, which are truncated, and others.
    for length in [0, 24, 25, 25 + 20, 25 + 36, 25 + 40, 25 + 79] {
        expect_refresh_rejected(&refresh(&app, &token[..length], ADMIN).await);
        if length > 0 {
            expect_refresh_rejected(&refresh_as(&admin, &token[..length]).await);
        }
    }
    let (user, secret) = token.split_once('.').unwrap();
    let last = if token.ends_with('0') { "1" } else { "0" };
    let other_end = format!("{}{last}", &token[..token.len() - 1]);
    let other_user = format!("{}.{secret}", app.user(Scope::Admin).await.id);
    for wrong in [
        &format!("{token}0"),
        &format!("{token}%"),
        &format!("{user}.{}%", &secret[..79]),
        &format!(" {token}"),
        secret,
        &other_end,
        &other_user,
        "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac",
    ] {
        expect_refresh_rejected(&refresh(&app, wrong, ADMIN).await);
    }
    refresh(&app, &token, ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_refresh_token_expires() {
    let app = TestApp::start_with(|config| config.refresh_ttl = 7 * 86_400).await;
    let (early, late) = (app.log_in(ADMIN).await, app.log_in(ADMIN).await);
    app.clock.advance(7 * 86_400_000 - 1);
    let next = refresh(&app, &refresh_token(&early), ADMIN).await.expect(StatusCode::OK);
    app.clock.advance(1);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&late), ADMIN).await);
    expect_refresh_rejected(&refresh_as(&app.admin().await, &refresh_token(&late)).await);
    // The successor has its own expiry.
    refresh(&app, &refresh_token(&next), ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn refresh_tokens_and_passwords_are_stored_as_hashes_only() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let next = refresh(&app, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
    let stored = app.dump().await;
    assert!(stored.contains(ADMIN), "the search must find what is stored");
    for tokens in [tokens, next] {
        let token = refresh_token(&tokens);
        assert!(!stored.contains(token.split_once('.').unwrap().1));
        assert!(!stored.contains(tokens["token"].as_str().unwrap()));
    }
    assert!(!stored.contains(PASSWORD));
}

#[tokio::test]
async fn issued_tokens_survive_a_restart() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let key = app.admin().await.key(&[Scope::Bot]).await;
    let restarted = app.start_replica(|_| ()).await;
    for bearer in [tokens["token"].as_str().unwrap(), &key] {
        restarted.bearer(bearer).get("/v2/users/me").await.expect(StatusCode::OK);
    }
    let next = refresh(&restarted, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
    // Both use the same database: each accepts tokens of the other.
    app.bearer(next["token"].as_str().unwrap()).get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(31_000);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&tokens), ADMIN).await);
}

#[tokio::test]
async fn changing_the_secret_invalidates_access_tokens_only() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let key = app.admin().await.key(&[Scope::Bot]).await;
    let first =
        app.start_replica(|config| config.jwt_secret = Some("0123456789abcdefghijklmnopqrstuv".into())).await;
    let second =
        app.start_replica(|config| config.jwt_secret = Some("vutsrqponmlkjihgfedcba9876543210".into())).await;
    let of_first = first.admin().await.bearer.unwrap();
    for (app, token) in [
        (&first, tokens["token"].as_str().unwrap()),
        (&second, tokens["token"].as_str().unwrap()),
        (&second, of_first.as_str()),
        (&app, of_first.as_str()),
    ] {
        let reply = app.bearer(token).get("/v2/users/me").await;
        reply.expect_problem(401, "invalid_token");
        assert_eq!(reply.json["error"]["message"], "invalid signature");
    }
    first.bearer(&of_first).get("/v2/users/me").await.expect(StatusCode::OK);
    second.bearer(&key).get("/v2/users/me").await.expect(StatusCode::OK);
    refresh(&second, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
}
