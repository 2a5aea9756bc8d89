//! Sessions: their list, and what ends them.

use crate::lists::fetch_all_pages;
use crate::refresh::{expect_refresh_rejected, refresh, refresh_token};
use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp, decode_jwt};
use crate::token_families::{access_token, expect_session_ended};
use crate::tokens::{email, request_token, update_user};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "b3tt3rTh4nB3f0r3";

fn sid(token: &str) -> String {
    decode_jwt(token).1["sid"].as_str().unwrap().to_owned()
}

fn sid_of(client: &Client) -> String {
    sid(client.bearer.as_deref().unwrap())
}

async fn list_sessions(client: &Client, user: &str) -> Vec<Value> {
    let reply = client.get(&format!("/v2/users/{user}/sessions")).await.expect(StatusCode::OK);
    reply.as_array().unwrap().clone()
}

/// Logs in or refreshes with this `User-Agent`.
async fn authenticate_with_user_agent(app: &TestApp, agent: &str, body: Value) -> Value {
    let headers = [("content-type", "application/json"), ("user-agent", agent)];
    let body = Some(body.to_string().into_bytes());
    let reply = app.anonymous().send(Method::POST, "/v2/auth/token", &headers, body).await;
    reply.expect(StatusCode::OK)
}

#[tokio::test]
async fn sessions_are_listed_with_time_address_and_user_agent() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = email(&user).await;
    let start = app.clock.now();
    app.clock.advance(60_000);
    let long = format!("agent/1.0 {}", "x".repeat(400));
    let tokens =
        authenticate_with_user_agent(&app, &long, json!({ "email": email, "password": PASSWORD })).await;
    app.clock.advance(60_000);
    let body = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    authenticate_with_user_agent(&app, "agent/2.0", body).await;

    let sessions = list_sessions(&user, "me").await;
    let expected = json!({
        "id": sid(access_token(&tokens)), "current": false,
        "createdAt": start.plus_seconds(60).to_string(),
        "createdFrom": { "address": "127.0.0.1", "userAgent": long[..256] },
        "lastUsedAt": start.plus_seconds(120).to_string(),
        "lastUsedFrom": { "address": "127.0.0.1", "userAgent": "agent/2.0" },
        "expiresAt": start.plus_seconds(60 + 90 * 86_400).to_string(),
    });
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0], expected, "the most recently used session comes first");
    assert_eq!((&sessions[1]["current"], &sessions[1]["id"]), (&json!(true), &json!(sid_of(&user))));
    let own = list_sessions(&app.bearer(access_token(&tokens)), &user.id).await;
    assert_eq!(own[0]["current"], true);
    assert_eq!(own[1]["current"], false);
    // A key lists the sessions too, but none of them is current.
    let keyed = list_sessions(&app.bearer(&user.key(&[Scope::Guest]).await), "me").await;
    assert!(keyed.len() == 2 && keyed.iter().all(|session| session["current"] == false));
}

#[tokio::test]
async fn fully_expired_sessions_are_not_listed() {
    let app = TestApp::start_with(|config| config.refresh_ttl = 7 * 86_400).await;
    let user = app.user(Scope::Guest).await;
    let key = app.bearer(&user.key(&[Scope::Guest]).await);
    app.clock.advance(7 * 86_400_000 - 1);
    assert_eq!(list_sessions(&key, "me").await.len(), 1);
    app.clock.advance(1);
    assert_eq!(list_sessions(&key, "me").await.len(), 0);
}

#[tokio::test]
async fn deleting_a_session_ends_only_that_session() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = email(&user).await;
    let other = app.log_in(&email).await;
    let client = app.bearer(access_token(&other));
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    let path = format!("/v2/users/me/sessions/{}", sid(access_token(&other)));
    user.delete(&path).await.expect(StatusCode::NO_CONTENT);
    expect_session_ended(&client.get("/v2/users/me").await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&other), &email).await);
    assert_eq!(list_sessions(&user, "me").await.len(), 1);
    user.delete(&path).await.expect_problem(404, "not_found");
    for nothing in ["599e1fcd9da1c72645c95886", "no-id", "me"] {
        let reply = user.delete(&format!("/v2/users/me/sessions/{nothing}")).await;
        reply.expect_problem(404, "not_found");
    }
    // The client's own session, too.
    user.delete(&format!("/v2/users/me/sessions/{}", sid_of(&user))).await.expect(StatusCode::NO_CONTENT);
    expect_session_ended(&user.get("/v2/users/me").await);
}

#[tokio::test]
async fn all_other_sessions_can_be_ended() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let (email, key) = (email(&user).await, app.bearer(&user.key(&[Scope::Agent]).await));
    let others = [app.client(&email).await, app.client(&email).await];
    let bystander = app.user(Scope::Agent).await;
    user.delete("/v2/users/me/sessions").await.expect(StatusCode::NO_CONTENT);
    for other in &others {
        expect_session_ended(&other.get("/v2/users/me").await);
    }
    for client in [&user, &key, &bystander] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    let left = list_sessions(&user, "me").await;
    assert!(left.len() == 1 && left[0]["current"] == true);
    // For an admin, none of a user's sessions is current.
    let admin = app.admin().await;
    admin.delete(&format!("/v2/users/{}/sessions", user.id)).await.expect(StatusCode::NO_CONTENT);
    expect_session_ended(&user.get("/v2/users/me").await);
    for client in [&admin, &key] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn logout_ends_the_session_of_the_token() {
    let app = TestApp::start().await;
    for role in Scope::ALL {
        let user = app.user(role).await;
        let email = email(&user).await;
        let tokens = app.log_in(&email).await;
        let next = refresh(&app, &refresh_token(&tokens), &email).await.expect(StatusCode::OK);
        let reply = app.bearer(access_token(&tokens)).call(Method::POST, "/v2/auth/logout", None).await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NO_CONTENT, ""));
        for tokens in [&tokens, &next] {
            let client = app.bearer(access_token(tokens));
            expect_session_ended(&client.get("/v2/users/me").await);
            let again = client.call(Method::POST, "/v2/auth/logout", None).await;
            assert_eq!(again.status, StatusCode::NO_CONTENT, "a logout is idempotent");
        }
        expect_refresh_rejected(&refresh(&app, &refresh_token(&next), &email).await);
        user.get("/v2/users/me").await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn logout_accepts_an_expired_access_token_with_a_valid_signature() {
    let app = TestApp::start_with(|config| config.access_ttl = 60).await;
    let user = app.user(Scope::Guest).await;
    let email = email(&user).await;
    let tokens = app.log_in(&email).await;
    app.clock.advance(61_000);
    let expired = app.bearer(access_token(&tokens));
    expired.get("/v2/users/me").await.expect_problem(403, "token_expired");
    let log_out = async |client: &Client| client.call(Method::POST, "/v2/auth/logout", None).await;
    // Neither another signature nor other claims under the same one.
    let token = access_token(&tokens);
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = app.log_in(&email).await;
    let other_claims = access_token(&other).split('.').nth(1).unwrap();
    for forged in [
        format!("{head}.{claims}.{}", signature.chars().rev().collect::<String>()),
        format!("{head}.{other_claims}.{signature}"),
        format!("{head}.{claims}."),
    ] {
        assert_eq!(log_out(&app.bearer(&forged)).await.status, StatusCode::UNAUTHORIZED, "{forged}");
    }
    app.bearer(access_token(&other)).get("/v2/users/me").await.expect(StatusCode::OK);
    // Several at once, and again later.
    let all = futures_util::future::join_all((0..6).map(|_| log_out(&expired))).await;
    assert!(all.iter().all(|reply| reply.status == StatusCode::NO_CONTENT), "{all:?}");
    assert_eq!(log_out(&expired).await.status, StatusCode::NO_CONTENT);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&tokens), &email).await);
    app.bearer(access_token(&other)).get("/v2/users/me").await.expect(StatusCode::OK);
    let ended = "SELECT count(*) FROM audit WHERE event = 'session.ended'";
    assert_eq!(app.count(ended).await, 1, "one session has ended once");
}

#[tokio::test]
async fn sessions_are_listed_in_pages_like_other_lists() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = email(&user).await;
    for _ in 0..4 {
        app.clock.advance(1_000);
        app.log_in(&email).await;
    }
    let path = "/v2/users/me/sessions";
    let all = user.get(path).await;
    assert_eq!(all.header("x-total-count"), "5");
    assert!(!all.headers.contains_key("link"));
    let all = all.expect(StatusCode::OK);
    let ids: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    for query in ["limit=2", "limit=2&offset=0", "limit=2&total=false", "limit=2&sort=-lastUsedAt"] {
        let pages = fetch_all_pages(&user, &format!("{path}?{query}")).await;
        let listed = pages.iter().flat_map(|page| page.as_array().unwrap());
        let listed: Vec<&str> = listed.map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(listed, ids, "{query}");
    }
    let reversed = user.get(&format!("{path}?sort=createdAt")).await.expect(StatusCode::OK);
    assert_eq!(reversed[0]["id"], ids[4]);
    let uncounted = user.get(&format!("{path}?total=false&limit=1")).await;
    assert!(!uncounted.headers.contains_key("x-total-count"));
    assert!(uncounted.header("link").contains("after="), "{}", uncounted.header("link"));
    let since = all[1]["createdAt"].as_str().unwrap();
    let recent = user.get(&format!("{path}?createdAt=>={since}")).await.expect(StatusCode::OK);
    assert_eq!(recent.as_array().unwrap().len(), 2);
    for (query, field) in [("limit=0", "limit"), ("sort=userAgent", "sort"), ("after=x", "after")] {
        assert_eq!(user.get(&format!("{path}?{query}")).await.expect_problem(400, "invalid_fields"), [field]);
    }
}

#[tokio::test]
async fn an_api_key_cannot_end_sessions_or_log_out() {
    let app = TestApp::start().await;
    let admin = app.user(Scope::Admin).await;
    let other = app.user(Scope::Guest).await;
    let key = app.bearer(&admin.key(&[Scope::Admin]).await);
    for (method, path) in [
        (Method::DELETE, "/v2/users/me/sessions".to_owned()),
        (Method::DELETE, format!("/v2/users/me/sessions/{}", sid_of(&admin))),
        (Method::DELETE, format!("/v2/users/{}/sessions", other.id)),
        (Method::POST, "/v2/auth/logout".to_owned()),
    ] {
        key.call(method, &path, None).await.expect_problem(403, "forbidden");
    }
    for client in [&admin, &other, &key] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn only_admins_above_a_user_see_its_sessions() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let their_sid = sid_of(&theirs);
    let without_id = |reply: &Reply| {
        let mut body = reply.json.clone();
        for id in ["requestId", "evaluation_id"] {
            body.as_object_mut().unwrap().remove(id);
        }
        (reply.status, body)
    };
    let guest = app.user(Scope::Guest).await;
    let bot = app.user(Scope::Bot).await;
    for client in [&ours, &guest, &bot] {
        // As for a user that does not exist.
        let path = format!("/v2/users/{}/sessions", theirs.id);
        let missing = "/v2/users/599e1fcd9da1c72645c95886/sessions";
        for (method, below) in
            [(Method::GET, ""), (Method::DELETE, ""), (Method::DELETE, &format!("/{their_sid}") as &str)]
        {
            let missing_user = client.call(method.clone(), &format!("{missing}{below}"), None).await;
            assert!([403, 404].contains(&missing_user.status.as_u16()), "{}", missing_user.text);
            let reply = client.call(method, &format!("{path}{below}"), None).await;
            assert_eq!(without_id(&reply), without_id(&missing_user));
        }
        // Another user's session is not found under the caller's own path.
        let own = client.delete(&format!("/v2/users/me/sessions/{their_sid}")).await;
        own.expect_problem(404, "not_found");
    }
    theirs.get("/v2/users/me").await.expect(StatusCode::OK);
    // The admins of the user's organization and of the root manage them.
    assert_eq!(list_sessions(&app.admin().await, &theirs.id).await.len(), 1);
    let path = format!("/v2/users/{}/sessions/{their_sid}", theirs.id);
    app.admin().await.delete(&path).await.expect(StatusCode::NO_CONTENT);
    expect_session_ended(&theirs.get("/v2/users/me").await);
}

#[tokio::test]
async fn a_password_change_ends_the_other_sessions_of_the_user() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let (key, other) = (app.bearer(&user.key(&[Scope::Agent]).await), app.log_in(&email).await);
    let client = app.bearer(access_token(&other));
    // Failed requests end nothing, nor do changes of other fields.
    let wrong = json!({ "password": NEW_PASSWORD, "currentPassword": "wrong password" });
    user.patch("/v2/users/me", wrong).await.expect_problem(400, "invalid_fields");
    user.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    client.get("/v2/users/me").await.expect(StatusCode::OK);

    let body = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD });
    user.patch("/v2/users/me", body).await.expect(StatusCode::OK);
    expect_session_ended(&client.get("/v2/users/me").await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&other), &email).await);
    for client in [&user, &key] {
        client.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    // A password change by another user ends all sessions.
    update_user(&app, &user.id, json!({ "password": PASSWORD })).await;
    expect_session_ended(&user.get("/v2/users/me").await);
    app.client(&email).await.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn blocking_a_user_ends_its_sessions_and_keys_permanently() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let (key, tokens) = (app.bearer(&user.key(&[Scope::Agent]).await), app.log_in(&email).await);
    let bystander = app.user(Scope::Agent).await;
    update_user(&app, &user.id, json!({ "status": "blocked" })).await;
    let body = json!({ "name": "while blocked", "scopes": ["guest"] });
    let path = format!("/v2/users/{}/keys", user.id);
    app.admin().await.post(&path, body).await.expect_problem(409, "conflict");
    for step in ["blocked", "active"] {
        update_user(&app, &user.id, json!({ "status": step })).await;
        for client in [&user, &key, &app.bearer(access_token(&tokens))] {
            expect_session_ended(&client.get("/v2/users/me").await);
        }
        expect_refresh_rejected(&refresh(&app, &refresh_token(&tokens), &email).await);
    }
    assert_eq!(app.admin().await.get(&path).await.expect(StatusCode::OK), json!([]));
    bystander.get("/v2/users/me").await.expect(StatusCode::OK);
    app.client(&email).await.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn deleting_a_user_deletes_its_sessions_and_keys() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let key = app.bearer(&user.key(&[Scope::Agent]).await);
    app.admin().await.delete(&format!("/v2/users/{}", user.id)).await.expect(StatusCode::NO_CONTENT);
    for client in [&user, &key] {
        expect_session_ended(&client.get("/v2/users/me").await);
    }
    for table in ["sessions", "api_keys"] {
        let left = format!("SELECT COUNT(*) FROM {table} WHERE \"user\" = '{}'", user.id);
        assert_eq!(app.count(&left).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_cached_token_needs_no_query_and_is_revalidated() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
    // Changed directly in the database, without a notification: the cached caller is still accepted.
    app.sql("UPDATE sessions SET ended_at = 1").await;
    if app.postgres().is_none() {
        admin.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    // The cache entry expires after a while.
    app.clock.advance(60_000);
    expect_session_ended(&admin.get("/v2/users/me").await);
    // A replica has no cached caller.
    expect_session_ended(
        &app.start_replica(|_| ()).await.bearer(admin.bearer.as_deref().unwrap()).get("/v2/users/me").await,
    );
    request_token(&app, json!({ "email": ADMIN, "password": PASSWORD })).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_credential_revoked_during_a_request_cannot_change_data() {
    let app = TestApp::start().await;
    for credential in ["session", "key"] {
        let user = app.user(Scope::Admin).await;
        let other = app.user(Scope::Guest).await;
        let created = json!({ "name": "key", "scopes": ["guest"] });
        let created = user.post("/v2/users/me/keys", created).await.expect(StatusCode::CREATED);
        let key = app.bearer(&user.key(&[Scope::Admin]).await);
        let client = if credential == "session" { &user } else { &key };
        let of_other = format!("/v2/users/{}", other.id);
        let rename = (Method::PATCH, of_other.clone(), json!({ "givenName": "Ada" }));
        // An API key never administers identities, so only this request can be tried with one.
        let mut cases = vec![rename];
        if credential == "session" {
            let new = json!({ "email": "new@example.com", "password": PASSWORD });
            let password = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD });
            let own_key = format!("/v2/users/me/keys/{}", created["id"].as_str().unwrap());
            cases.extend([
                (Method::POST, "/v2/users".to_owned(), new),
                (Method::PATCH, of_other.clone(), json!({ "role": "admin" })),
                (Method::DELETE, of_other, Value::Null),
                (Method::PATCH, "/v2/users/me".to_owned(), password),
                (Method::POST, "/v2/users/me/keys".to_owned(), json!({ "name": "key", "scopes": ["guest"] })),
                (Method::DELETE, own_key, Value::Null),
                (Method::DELETE, format!("/v2/users/{}/sessions", other.id), Value::Null),
            ]);
        }
        client.get("/v2/users/me").await.expect(StatusCode::OK);
        // Changed directly in the database: the caller is cached, as it is for a request that takes a long time.
        app.sql(&format!("UPDATE sessions SET ended_at = 1 WHERE \"user\" = '{}'", user.id)).await;
        app.sql(&format!("DELETE FROM api_keys WHERE \"user\" = '{}'", user.id)).await;
        for (method, path, body) in cases {
            let reply = client.call(method.clone(), &path, Some(body).filter(|body| !body.is_null())).await;
            assert_eq!(
                reply.status,
                StatusCode::UNAUTHORIZED,
                "{credential} {method} {path}: {}",
                reply.text
            );
            expect_session_ended(&reply);
        }
        for who in [&user, &other] {
            app.client(&email_of(&app, &who.id).await).await.get("/v2/users/me").await.expect(StatusCode::OK);
        }
    }
}

/// The email of a user, as an admin sees it.
async fn email_of(app: &TestApp, user: &str) -> String {
    let user = app.admin().await.get(&format!("/v2/users/{user}")).await.expect(StatusCode::OK);
    user["email"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_last_use_of_a_session_is_recorded_to_the_minute() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let key = app.bearer(&user.key(&[Scope::Guest]).await);
    let mut expected = app.clock.now();
    for (wait, is_recorded) in [
        (0, false),
        (59_999, false),
        (1, true),
        (30_000, false),
        (29_999, false),
        (1, true),
        (3_600_000, true),
    ] {
        app.clock.advance(wait);
        let agent = format!("agent/{}", app.clock.now().millis());
        for _ in 0..3 {
            let headers = [("user-agent", agent.as_str())];
            user.send(Method::GET, "/v2/users/me", &headers, None).await.expect(StatusCode::OK);
        }
        let session = &list_sessions(&key, "me").await[0];
        if is_recorded {
            expected = app.clock.now();
            assert_eq!(session["lastUsedFrom"], json!({ "address": "127.0.0.1", "userAgent": agent }));
        }
        assert_eq!(session["lastUsedAt"], expected.to_string(), "after {wait} ms");
    }
    // Introspecting a token does not count as its use.
    app.clock.advance(3_600_000);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("token={}", user.bearer.as_deref().unwrap()).into_bytes();
    let admin = app.admin().await;
    let introspection = admin.send(Method::POST, "/v2/auth/introspect", &form, Some(body)).await;
    assert_eq!(introspection.expect(StatusCode::OK)["active"], true);
    assert_eq!(list_sessions(&key, "me").await[0]["lastUsedAt"], expected.to_string());
}
