//! The endpoints for OAuth libraries: the refresh grant as a form, HTTP Basic with an API key, the metadata, and a real library.

use crate::support::{ADMIN, Client, Reply, TestApp, project_file};
use crate::tokens::update_user;
use base64::prelude::{BASE64_STANDARD, Engine};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::process::Command;

const TOKEN: &str = "/v2/auth/token";

/// Sends a form with these parameters.
async fn send_form(client: &Client, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Reply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let headers: Vec<(&str, &str)> =
        headers.iter().copied().chain([("content-type", "application/x-www-form-urlencoded")]).collect();
    client.send(Method::POST, path, &headers, Some(body.into_bytes())).await
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret}")))
}

async fn refresh_token(app: &TestApp, email: &str) -> String {
    app.log_in(email).await["refreshToken"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refresh_form_yields_the_members_of_rfc_6749() {
    let app = TestApp::start().await;
    let token = refresh_token(&app, ADMIN).await;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.as_str()),
        ("client_id", ADMIN),
        ("extra", "1"),
    ];
    let reply = send_form(&app.anonymous(), TOKEN, &[], &form).await;
    assert_eq!(reply.header("cache-control"), "no-store");
    let answer = reply.expect(StatusCode::OK);
    let names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["access_token", "token_type", "expires_in", "refresh_token", "scope"]);
    assert_eq!((&answer["token_type"], &answer["scope"]), (&json!("Bearer"), &json!("admin")));
    assert_eq!(answer["expires_in"], 86_400);
    let client = app.bearer(answer["access_token"].as_str().unwrap());
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    // The refresh token is used once: much later, its reuse ends the session.
    app.clock.advance(120_000);
    let reused = send_form(&app.anonymous(), TOKEN, &[], &form).await;
    assert_eq!(reused.expect(StatusCode::BAD_REQUEST)["error"], "invalid_grant");
    client.get("/v2/users/me").await.expect_problem(401, "invalid_token");
}

#[tokio::test]
async fn a_refresh_may_request_fewer_scopes() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let email = crate::tokens::email(&bot).await;
    let mut token = refresh_token(&app, &email).await;
    for (scope, status) in [
        ("guest", 200),
        ("agent guest", 200),
        ("admin", 400),
        ("agent admin", 400),
        ("agnet", 400),
        ("bot", 200),
    ] {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.as_str()),
            ("client_id", email.as_str()),
            ("scope", scope),
        ];
        let reply = send_form(&app.anonymous(), TOKEN, &[], &form).await;
        assert_eq!(reply.status, status, "{scope}: {}", reply.text);
        if status == 400 {
            assert_eq!(reply.json["error"], "invalid_scope", "{scope}");
            continue;
        }
        let client = app.bearer(reply.json["access_token"].as_str().unwrap());
        let may_list_users = client.get("/v2/users").await.status == StatusCode::OK;
        assert_eq!(may_list_users, scope == "bot", "{scope}");
        token = reply.json["refresh_token"].as_str().unwrap().to_owned();
    }
}

#[tokio::test]
async fn the_errors_of_a_form_are_those_of_rfc_6749() {
    let app = TestApp::start().await;
    let token = refresh_token(&app, ADMIN).await;
    let grant = ("grant_type", "refresh_token");
    let refresh = ("refresh_token", token.as_str());
    let client = ("client_id", ADMIN);
    for (form, error) in [
        (vec![], "invalid_request"),
        (vec![grant, client], "invalid_request"),
        (vec![grant, refresh], "invalid_request"),
        (vec![grant, refresh, refresh, client], "invalid_request"),
        (vec![grant, refresh, ("client_id", "no address")], "invalid_request"),
        (vec![("grant_type", "password"), ("username", ADMIN), ("password", "x")], "unsupported_grant_type"),
        (vec![grant, ("refresh_token", "599e1fcd"), client], "invalid_grant"),
        (vec![grant, refresh, ("client_id", "other@example.com")], "invalid_grant"),
    ] {
        let reply = send_form(&app.anonymous(), TOKEN, &[], &form).await;
        assert_eq!(reply.header("content-type"), "application/json", "{form:?}");
        let answer = reply.expect(StatusCode::BAD_REQUEST);
        assert_eq!(answer["error"], error, "{form:?}");
        let description = answer["error_description"].as_str().unwrap();
        assert!(!description.is_empty() && !description.contains(['"', '\\']), "{description}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    }
    // A wrong client does not invalidate the token.
    send_form(&app.anonymous(), TOKEN, &[], &[grant, refresh, client]).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn the_errors_of_a_token_form_are_those_of_rfc_6749() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let long = "x".repeat(5_000);
    for path in ["/v2/auth/introspect", "/v2/auth/revoke"] {
        for form in [
            vec![],
            vec![("token_type_hint", "access_token")],
            vec![("token", "")],
            vec![("token", "a"), ("token", "b")],
            vec![("token", long.as_str())],
        ] {
            let reply = send_form(&admin, path, &[], &form).await;
            assert_eq!(reply.header("content-type"), "application/json", "{path} {}", reply.text);
            let answer = reply.expect(StatusCode::BAD_REQUEST);
            assert_eq!(answer["error"], "invalid_request", "{path}");
            assert!(answer["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
            assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
        }
        let oversized = "x".repeat(1_000_000);
        let reply = send_form(&admin, path, &[], &[("token", &oversized)]).await;
        assert_eq!(reply.expect(StatusCode::PAYLOAD_TOO_LARGE)["error"], "invalid_request", "{path}");
    }
    // An API key is accepted as the password of HTTP Basic, so that the challenge offers both.
    for authorization in [None, Some("Bearer wrong")] {
        let headers: Vec<(&str, &str)> =
            authorization.map(|value| ("authorization", value)).into_iter().collect();
        let reply = send_form(&app.anonymous(), "/v2/auth/introspect", &headers, &[("token", "a")]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", reply.text);
        let challenges: Vec<&str> =
            reply.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(challenges.len(), 2, "{challenges:?}");
        assert!(challenges[0].starts_with("Bearer") && challenges[1].starts_with("Basic "), "{challenges:?}");
    }
}

#[tokio::test]
async fn clients_may_send_an_api_key_as_their_secret() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = admin.key(&[Scope::Admin]).await;
    let token = app.log_in(ADMIN).await["token"].as_str().unwrap().to_owned();
    let form = [("token", token.as_str())];
    let introspect = async |authorization: &str| {
        let headers = [("authorization", authorization)];
        send_form(&app.anonymous(), "/v2/auth/introspect", &headers, &form).await
    };
    for user in ["service", "", "a%3Ab"] {
        let answer = introspect(&basic(user, &key)).await.expect(StatusCode::OK);
        assert_eq!((&answer["active"], &answer["iss"]), (&json!(true), &json!(app.base)), "{user:?}");
        assert_eq!(answer["aud"], answer["iss"]);
    }
    let last = if key.ends_with('0') { '1' } else { '0' };
    let wrong_key = format!("{}{last}", &key[..key.len() - 1]);
    for (user, secret) in
        [("service", "cg_wrong"), ("service", &wrong_key), ("service", ""), ("service", &token)]
    {
        let reply = introspect(&basic(user, secret)).await;
        assert!(reply.header("www-authenticate").starts_with("Basic "), "{}", reply.text);
        assert_eq!(reply.expect(StatusCode::UNAUTHORIZED)["error"], "invalid_client", "{secret}");
    }
    for malformed in ["Basic", "Basic !!!", "Basic YWJj", "Digest x"] {
        assert_eq!(introspect(malformed).await.status, StatusCode::UNAUTHORIZED, "{malformed}");
    }
    // Other routes do not accept it.
    let headers = [("authorization", basic("service", &key))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = app.anonymous().send(Method::GET, "/v2/users/me", &headers, None).await;
    reply.expect_problem(401, "invalid_token");

    // Revocation: a wrong secret revokes nothing.
    let revoke = async |authorization: &str| {
        let headers = [("authorization", authorization)];
        send_form(&app.anonymous(), "/v2/auth/revoke", &headers, &form).await
    };
    let refused = revoke(&basic("service", "cg_wrong")).await;
    assert_eq!(refused.expect(StatusCode::UNAUTHORIZED)["error"], "invalid_client");
    assert_eq!(introspect(&basic("service", &key)).await.json["active"], true);
    revoke(&basic("service", &key)).await.expect(StatusCode::OK);
    assert_eq!(introspect(&basic("service", &key)).await.json["active"], false);
}

#[tokio::test]
async fn the_issuer_is_the_url_that_the_client_uses() {
    let app = TestApp::start().await;
    let issuer_at = async |host: &str| {
        let headers = [("host", host), ("content-type", "application/json")];
        let body = json!({ "email": ADMIN, "password": crate::support::PASSWORD }).to_string();
        let reply = app
            .anonymous()
            .send(Method::POST, TOKEN, &headers, Some(body.into_bytes()))
            .await
            .expect(StatusCode::OK);
        let token = reply["token"].as_str().unwrap().to_owned();
        let metadata = app
            .anonymous()
            .send(Method::GET, "/.well-known/oauth-authorization-server", &headers[..1], None)
            .await
            .expect(StatusCode::OK);
        let (_, claims) = crate::support::decode_jwt(&token);
        assert_eq!((&claims["iss"], &claims["aud"]), (&metadata["issuer"], &metadata["issuer"]));
        assert_eq!(claims["sub"], claims["_id"]);
        app.bearer(&token).get("/v2/users/me").await.expect(StatusCode::OK);
        metadata["issuer"].as_str().unwrap().to_owned()
    };
    assert_eq!(issuer_at("one.example").await, "http://one.example");
    assert_eq!(issuer_at("two.example:8080").await, "http://two.example:8080");
}

#[tokio::test]
async fn a_blocked_user_cannot_refresh_with_a_form() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let email = crate::tokens::email(&agent).await;
    let token = refresh_token(&app, &email).await;
    let id = agent.get("/v2/users/me").await.id();
    update_user(&app, &id, json!({ "status": "blocked" })).await;
    let form =
        [("grant_type", "refresh_token"), ("refresh_token", token.as_str()), ("client_id", email.as_str())];
    let refused: Value = send_form(&app.anonymous(), TOKEN, &[], &form).await.expect(StatusCode::BAD_REQUEST);
    assert_eq!(refused["error"], "invalid_grant");
}

/// `oauth4webapi` discovers the service, refreshes, introspects and revokes, and finds nothing that it does not expect.
#[tokio::test(flavor = "multi_thread")]
async fn an_oauth_library_refreshes_introspects_and_revokes() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = admin.key(&[Scope::Admin]).await;
    let token = refresh_token(&app, ADMIN).await;
    let output = Command::new("node")
        .arg(project_file("tests/npm/oauth4webapi.mjs"))
        .env("PACKAGES", crate::packages::npm_packages("npm"))
        .env("ISSUER", &app.base)
        .env("EMAIL", ADMIN)
        .env("REFRESH_TOKEN", &token)
        .env("API_KEY", &key)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let steps: Vec<&str> = text.lines().collect();
    assert_eq!(steps, ["discovered", "refreshed admin", "active", "revoked", "inactive", "invalid_grant"]);
}
