//! Token revocation (RFC 7009) and introspection (RFC 7662).

use crate::refresh::{expect_refresh_rejected, refresh, refresh_token};
use crate::support::{ADMIN, Client, Reply, TestApp, decode_jwt};
use crate::token_families::{access_token, expect_session_ended};
use crate::tokens::{email, update_user};
use cedargate::authz::Scope;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const REVOKE: &str = "/v2/auth/revoke";
const INTROSPECT: &str = "/v2/auth/introspect";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Posts a form.
async fn send(client: &Client, path: &str, pairs: &[(&str, &str)]) -> Reply {
    let mut url = reqwest::Url::parse("http://host").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    let body = url.query().unwrap_or_default().as_bytes().to_vec();
    client.send(Method::POST, path, &[FORM], Some(body)).await
}

/// Revokes a token without credentials.
pub(crate) async fn revoke(app: &TestApp, token: &str) {
    let reply = send(&app.anonymous(), REVOKE, &[("token", token)]).await;
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.expect(StatusCode::OK), json!({}));
}

/// Introspects a token as this client.
async fn introspect(client: &Client, token: &str) -> Value {
    let reply = send(client, INTROSPECT, &[("token", token), ("token_type_hint", "access_token")]).await;
    assert_eq!(reply.header("cache-control"), "no-store");
    let body = reply.expect(StatusCode::OK);
    if body["active"] == false {
        assert_eq!(body, json!({ "active": false }), "no other fields");
    }
    body
}

fn is_active(body: &Value) -> bool {
    body["active"].as_bool().unwrap()
}

#[tokio::test]
async fn revoking_any_token_ends_its_session() {
    let app = TestApp::start().await;
    // The first refresh token, which has been used, the last one, and both access tokens.
    for which in 0..4 {
        let first = app.log_in(ADMIN).await;
        let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
        let other = app.admin().await;
        let clients = [&first, &second].map(|tokens| app.bearer(access_token(tokens)));
        for client in &clients {
            client.get("/v2/users/me").await.expect(StatusCode::OK);
        }
        let tokens = [
            refresh_token(&first),
            refresh_token(&second),
            access_token(&first).into(),
            access_token(&second).into(),
        ];
        revoke(&app, &tokens[which]).await;
        for client in &clients {
            expect_session_ended(&client.get("/v2/users/me").await);
        }
        expect_refresh_rejected(&refresh(&app, &refresh_token(&second), ADMIN).await);
        other.get("/v2/users/me").await.expect(StatusCode::OK);
        // Revoking a token again is not an error (RFC 7009, section 2.2).
        for token in &tokens {
            revoke(&app, token).await;
        }
    }
}

#[tokio::test]
async fn revoking_an_api_key_ends_it() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let (leaked, kept) = (user.key(&[Scope::Agent]).await, user.key(&[Scope::Agent]).await);
    let (leaked_client, kept_client) = (app.bearer(&leaked), app.bearer(&kept));
    for client in [&leaked_client, &kept_client] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    revoke(&app, &leaked).await;
    expect_session_ended(&leaked_client.get("/v2/users/me").await);
    for client in [&user, &kept_client] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    revoke(&app, &leaked).await;
}

#[tokio::test]
async fn revoking_an_invalid_token_succeeds_without_effect() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let (token, bearer) = (refresh_token(&tokens), access_token(&tokens));
    let cut = &token[..token.len() - 1];
    let (start, end) = token.split_at(token.len() - 1);
    let other = format!("{start}{}", if end == "0" { "1" } else { "0" });
    let tampered = format!("{}.AAAA", bearer.rsplit_once('.').unwrap().0);
    let stranger = app.user(Scope::Guest).await.id;
    let renamed = token.replace(tokens["user"].as_str().unwrap(), &stranger);
    for wrong in [
        "garbage",
        " ",
        cut,
        &other,
        &tampered,
        &renamed,
        ADMIN,
        "94c70d470e391bdc16a8d8363b5d4891",
        "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac",
    ] {
        revoke(&app, wrong).await;
    }
    app.bearer(bearer).get("/v2/users/me").await.expect(StatusCode::OK);
    // An expired access token is not proof of possession.
    app.clock.advance(86_400_000);
    revoke(&app, bearer).await;
    refresh(&app, &token, ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn revocation_and_introspection_requests_follow_the_rfcs() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for path in [REVOKE, INTROSPECT] {
        for (pairs, parameter) in [
            (&[] as &[(&str, &str)], "token"),
            (&[("token", "")], "token"),
            (&[("token_type_hint", "access_token")], "token"),
            (&[("token", "a"), ("token", "b")], "token"),
            (&[("token", "a"), ("token_type_hint", "b"), ("token_type_hint", "c")], "token_type_hint"),
        ] {
            let error = send(&admin, path, pairs).await.expect(StatusCode::BAD_REQUEST);
            assert_eq!(error["error"], "invalid_request", "{pairs:?}");
            let description = error["error_description"].as_str().unwrap();
            assert!(description.starts_with(&format!("{parameter}: ")), "{description}");
        }
        // Unknown hints and parameters are ignored (RFC 7009, section 2.2.1; RFC 6749, section 3.1).
        let more =
            [("token", "a"), ("token_type_hint", "unknown"), ("client_id", "x"), ("client_secret", "y")];
        send(&admin, path, &more).await.expect(StatusCode::OK);
        let json = admin.post(path, json!({ "token": "a" })).await;
        json.expect_problem(415, "unsupported_media_type");
        let bare = admin.call(Method::POST, path, None).await;
        bare.expect_problem(415, "unsupported_media_type");
        let query = admin.send(Method::POST, &format!("{path}?token=a"), &[FORM], None).await;
        assert_eq!(query.expect(StatusCode::BAD_REQUEST)["error"], "invalid_request");
        let long = format!("token={}", "x".repeat(16 * 1024));
        let long = admin.send(Method::POST, path, &[FORM], Some(long.into_bytes())).await;
        assert_eq!(long.expect(StatusCode::PAYLOAD_TOO_LARGE)["error"], "invalid_request");
        let typed = ("content-type", "Application/X-WWW-Form-URLEncoded; charset=utf-8");
        let reply = admin.send(Method::POST, path, &[typed], Some(b"token=a".to_vec())).await;
        reply.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn introspection_returns_the_current_state_of_a_token() {
    let app = TestApp::start().await;
    let service = app.bearer(&app.user(Scope::Bot).await.key(&[Scope::Bot]).await);
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let now = app.clock.now();
    let tokens = app.log_in(&email).await;
    let (_, claims) = decode_jwt(access_token(&tokens));
    let expected_access = json!({
        "active": true, "scope": "guest agent", "username": email, "token_type": "Bearer",
        "exp": claims["exp"], "iat": claims["iat"], "sub": user.id, "aud": claims["aud"], "iss": claims["iss"],
        "jti": claims["jti"], "sid": claims["sid"],
    });
    assert_eq!(introspect(&service, access_token(&tokens)).await, expected_access);
    let refresh = introspect(&service, &refresh_token(&tokens)).await;
    let expected = json!({
        "active": true, "scope": "guest agent", "username": email, "token_type": "refresh_token",
        "exp": now.seconds() + 30 * 86_400, "iat": now.seconds(), "sub": user.id, "iss": claims["iss"],
        "sid": claims["sid"],
    });
    assert_eq!(refresh, expected);

    let end = now.plus_seconds(3_600);
    let body = json!({ "name": "key", "scopes": ["guest"], "expiresAt": end.to_string() });
    let key = user.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
    let expected = json!({
        "active": true, "scope": "guest", "username": email, "token_type": "Bearer", "exp": end.seconds(),
        "iat": now.seconds(), "sub": user.id, "iss": claims["iss"], "jti": key["id"],
    });
    assert_eq!(introspect(&service, key["key"].as_str().unwrap()).await, expected);
    let lasting = introspect(&service, &user.key(&[Scope::Agent]).await).await;
    assert!(is_active(&lasting) && lasting.get("exp").is_none(), "{lasting}");

    // The current role limits the scope of a token.
    update_user(&app, &user.id, json!({ "role": "guest" })).await;
    for token in [access_token(&tokens), &refresh_token(&tokens)] {
        assert_eq!(introspect(&service, token).await["scope"], "guest");
    }
}

#[tokio::test]
async fn inactive_tokens_are_reported_as_inactive_only() {
    let app = TestApp::start().await;
    let service = app.bearer(&app.user(Scope::Bot).await.key(&[Scope::Bot]).await);
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let fresh = async || app.log_in(&email).await;
    let inactive = async |tokens: &[&str]| {
        for token in tokens {
            assert!(!is_active(&introspect(&service, token).await), "{token}");
        }
    };
    inactive(&["garbage", "a.b.c", "94c70d470e391bdc16a8d8363b5d4891", ADMIN]).await;

    let first = fresh().await;
    let second = refresh(&app, &refresh_token(&first), &email).await.expect(StatusCode::OK);
    inactive(&[&refresh_token(&first)]).await;
    assert!(is_active(&introspect(&service, &refresh_token(&second)).await));
    revoke(&app, &refresh_token(&second)).await;
    inactive(&[&refresh_token(&second), access_token(&first), access_token(&second)]).await;

    let tokens = fresh().await;
    app.clock.advance(86_400_000);
    inactive(&[access_token(&tokens)]).await;
    assert!(is_active(&introspect(&service, &refresh_token(&tokens)).await));
    app.clock.advance(29 * 86_400_000);
    inactive(&[&refresh_token(&tokens)]).await;

    let end = app.clock.now().plus_seconds(60).to_string();
    let body = json!({ "name": "key", "scopes": ["guest"], "expiresAt": end });
    let owner = app.client(&email).await;
    let key = owner.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
    assert!(is_active(&introspect(&service, key["key"].as_str().unwrap()).await));
    app.clock.advance(60_000);
    inactive(&[key["key"].as_str().unwrap()]).await;

    let (tokens, key) = (fresh().await, owner.key(&[Scope::Guest]).await);
    update_user(&app, &user.id, json!({ "status": "blocked" })).await;
    inactive(&[access_token(&tokens), &refresh_token(&tokens), &key]).await;
}

#[tokio::test]
async fn users_introspect_their_own_tokens_and_bots_those_of_their_subtree() {
    let app = TestApp::start().await;
    let (organization, theirs) = app.tenant("theirs").await;
    let (_, strangers) = app.tenant("strangers").await;
    let body = json!({ "email": "bot@theirs.example", "password": crate::support::PASSWORD, "role": "bot",
        "organization": organization });
    theirs.post("/v2/users", body).await.expect(StatusCode::CREATED);
    let their_bot = app.client("bot@theirs.example").await;
    let tokens = app.log_in("bot@theirs.example").await;
    let key = their_bot.key(&[Scope::Guest]).await;
    for token in [access_token(&tokens), &refresh_token(&tokens), &key] {
        for (client, expected) in [
            (&their_bot, true),
            (&app.bearer(&key), true),
            (&theirs, true),
            (&app.admin().await, true),
            (&app.user(Scope::Bot).await, true),
            (&app.user(Scope::Agent).await, false),
            (&app.user(Scope::Guest).await, false),
            (&strangers, false),
        ] {
            assert_eq!(is_active(&introspect(client, token).await), expected, "{}", client.id);
        }
        let unauthenticated = send(&app.anonymous(), INTROSPECT, &[("token", token)]).await;
        unauthenticated.expect_problem(401, "missing_token");
    }
    // A caller cannot introspect tokens of an organization above its own.
    let above = app.log_in(ADMIN).await;
    assert!(!is_active(&introspect(&their_bot, access_token(&above)).await));
}

#[tokio::test]
async fn random_forms_cause_no_server_error_and_are_not_echoed() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let tokens = app.log_in(ADMIN).await;
    let (refresh, bearer) = (refresh_token(&tokens), access_token(&tokens).to_owned());
    let token = prop_oneof![
        2 => any::<String>(),
        2 => "[0-9a-f]{24}\\.[0-9a-f]{78,82}",
        2 => "(cg_)?[0-9a-f]{30,42}",
        2 => "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}",
        1 => (0..refresh.len()).prop_map(move |index| refresh[..index].to_owned()),
        1 => (0..bearer.len()).prop_map(move |index| bearer[..index].to_owned()),
    ];
    let name = prop::sample::select(vec!["token", "token", "token_type_hint", "client_id", "", "Token"]);
    let pairs = prop::collection::vec((name, token), 0..4);
    let raw = prop::collection::vec(any::<u8>(), 0..60);
    let mut runner = TestRunner::deterministic();
    for _ in 0..ProptestConfig::default().cases {
        let (pairs, raw) = (&pairs, &raw).new_tree(&mut runner).unwrap().current();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for path in [REVOKE, INTROSPECT] {
            for reply in [
                send(&admin, path, &pairs).await,
                admin.send(Method::POST, path, &[FORM], Some(raw.clone())).await,
            ] {
                assert!([200, 400].contains(&reply.status.as_u16()), "{pairs:?}: {}", reply.text);
                let text = reply.text.clone();
                assert!(pairs.iter().all(|(_, value)| value.len() < 30 || !text.contains(value)), "{text}");
            }
        }
    }
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
    app.bearer(access_token(&tokens)).get("/v2/users/me").await.expect(StatusCode::OK);
}
