//! Refresh-token families (see "Refresh-token rotation" in docs/decisions.md): a retry gets the same successor, any other reuse
//! revokes the family, and no token outlives the session.

use crate::multi_process::TIMEOUT;
use crate::refresh::{expect_refresh_rejected, refresh, refresh_as, refresh_token};
use crate::support::{ADMIN, PASSWORD, Reply, TestApp, decode_jwt, slow_hashing};
use crate::token_family_model::DAY;
use crate::tokens::email;
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Instant;

/// The access token of a token response.
pub(crate) fn access_token(tokens: &Value) -> &str {
    tokens["token"].as_str().unwrap()
}

/// Asserts that an access token is rejected because its session has ended.
#[track_caller]
pub(crate) fn expect_session_ended(reply: &Reply) {
    reply.expect_problem(401, "invalid_token");
    assert_eq!(reply.json["error"]["message"], "invalid token");
}

#[tokio::test]
async fn a_reused_refresh_token_revokes_its_session() {
    let app = TestApp::start().await;
    for by_get in [false, true] {
        let first = app.log_in(ADMIN).await;
        let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
        let third = refresh(&app, &refresh_token(&second), ADMIN).await.expect(StatusCode::OK);
        let other = app.admin().await;
        let members = [&first, &second, &third].map(|tokens| app.bearer(access_token(tokens)));
        for member in &members {
            member.get("/v2/users/me").await.expect(StatusCode::OK);
        }
        let reuse = refresh_token(&first);
        let reply =
            if by_get { refresh_as(&members[2], &reuse).await } else { refresh(&app, &reuse, ADMIN).await };
        expect_refresh_rejected(&reply);
        // Its access tokens are revoked too, although the service has cached them, and so is the last refresh token.
        for member in &members {
            expect_session_ended(&member.get("/v2/users/me").await);
        }
        for tokens in [&first, &second, &third] {
            expect_refresh_rejected(&refresh(&app, &refresh_token(tokens), ADMIN).await);
        }
        other.get("/v2/users/me").await.expect(StatusCode::OK);
        // A restart does not reactivate the session.
        let again = app.start_replica(|_| ()).await;
        expect_refresh_rejected(&refresh(&again, &refresh_token(&third), ADMIN).await);
        expect_session_ended(&again.bearer(access_token(&third)).get("/v2/users/me").await);
    }
}

#[tokio::test]
async fn a_retry_within_the_grace_period_returns_the_same_successor() {
    let app = TestApp::start().await;
    let first = app.log_in(ADMIN).await;
    let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
    let mut jtis = HashSet::from([decode_jwt(access_token(&second)).1["jti"].to_string()]);
    for wait in [0, 15_000, 14_999] {
        app.clock.advance(wait);
        for by_get in [false, true] {
            let client = app.bearer(access_token(&second));
            let token = refresh_token(&first);
            let reply =
                if by_get { refresh_as(&client, &token).await } else { refresh(&app, &token, ADMIN).await };
            let again = reply.expect(StatusCode::OK);
            assert_eq!(refresh_token(&again), refresh_token(&second));
            assert!(
                jtis.insert(decode_jwt(access_token(&again)).1["jti"].to_string()),
                "a retry must issue a new access token"
            );
            app.bearer(access_token(&again)).get("/v2/users/me").await.expect(StatusCode::OK);
        }
    }
    // The grace period begins at the first refresh. A retry does not extend it.
    app.clock.advance(1);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), ADMIN).await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&second), ADMIN).await);
}

#[tokio::test]
async fn a_retry_after_its_successor_was_used_is_reuse_even_within_the_grace_period() {
    let app = TestApp::start().await;
    let first = app.log_in(ADMIN).await;
    let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
    let third = refresh(&app, &refresh_token(&second), ADMIN).await.expect(StatusCode::OK);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), ADMIN).await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&third), ADMIN).await);
}

#[tokio::test]
async fn the_grace_period_is_configurable_and_may_be_zero() {
    let app = TestApp::start_with(|config| config.refresh_reuse_grace = 0).await;
    let first = app.log_in(ADMIN).await;
    let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), ADMIN).await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&second), ADMIN).await);
}

#[tokio::test]
async fn a_used_token_with_a_wrong_client_id_or_bearer_revokes_nothing() {
    let app = TestApp::start().await;
    let other = app.user(Scope::Admin).await;
    let first = app.log_in(ADMIN).await;
    let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
    app.clock.advance(60_000);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), "nobody@example.com").await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), &email(&other).await).await);
    expect_refresh_rejected(&refresh_as(&other, &refresh_token(&first)).await);
    app.bearer(access_token(&second)).get("/v2/users/me").await.expect(StatusCode::OK);
    refresh(&app, &refresh_token(&second), ADMIN).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn no_token_outlives_its_session() {
    let app = TestApp::start_with(|config| {
        (config.access_ttl, config.refresh_ttl, config.session_ttl) = (3_600, 3_600, 9_000);
    })
    .await;
    let start = app.clock.now();
    let mut tokens = app.log_in(ADMIN).await;
    for _ in 0..2 {
        app.clock.advance(3_000_000);
        tokens = refresh(&app, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
    }
    app.clock.advance(2_000_000);
    let last = refresh(&app, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
    assert_eq!(
        last["expiresAt"],
        start.plus_seconds(9_000).to_string(),
        "limited by the session, not an hour from now"
    );
    app.clock.advance(999_999);
    let client = app.bearer(access_token(&last));
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1);
    client.get("/v2/users/me").await.expect_problem(403, "token_expired");
    expect_refresh_rejected(&refresh(&app, &refresh_token(&last), ADMIN).await);
}

#[tokio::test]
async fn the_successor_cannot_be_derived_from_the_database_or_a_used_token() {
    let app = TestApp::start().await;
    let first = app.log_in(ADMIN).await;
    let second = refresh(&app, &refresh_token(&first), ADMIN).await.expect(StatusCode::OK);
    let stored = app.dump().await;
    for tokens in [&first, &second] {
        assert!(!stored.contains(refresh_token(tokens).split_once('.').unwrap().1));
    }
    // The salt from which a successor is derived is kept only while a retry is permitted.
    let salts = async || app.count("SELECT COUNT(*) FROM refresh_tokens WHERE salt IS NOT NULL").await;
    assert_eq!(salts().await, 1);
    refresh(&app, &refresh_token(&second), ADMIN).await.expect(StatusCode::OK);
    assert_eq!(salts().await, 1, "only the salt of the third token");
}

/// Refreshes one token this often concurrently, at two replicas in turn. Asserts that all get the same successor.
async fn race_refreshes(apps: &[&TestApp; 2], times: usize) {
    let token = refresh_token(&apps[0].log_in(ADMIN).await);
    let replies = join_all((0..times).map(|index| refresh(apps[index % 2], &token, ADMIN))).await;
    let mut successors = HashSet::new();
    for reply in replies {
        successors.insert(refresh_token(&reply.expect(StatusCode::OK)));
    }
    assert_eq!(successors.len(), 1);
    let successor = successors.into_iter().next().unwrap();
    assert_ne!(successor, token);
    let unspent = "SELECT COUNT(*) FROM refresh_tokens WHERE spent_at IS NULL AND session = \
        (SELECT MAX(id) FROM sessions)";
    assert_eq!(apps[0].count(unspent).await, 1);
    refresh(apps[1], &successor, ADMIN).await.expect(StatusCode::OK);
    expect_refresh_rejected(&refresh(apps[0], &token, ADMIN).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refreshes_with_one_token_get_the_same_successor() {
    let app = TestApp::start().await;
    let replica = app.start_replica(|_| ()).await;
    race_refreshes(&[&app, &replica], 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_concurrent_refreshes_are_consistent() {
    let app = TestApp::start().await;
    let replica = app.start_replica(|_| ()).await;
    for _ in 0..50 {
        race_refreshes(&[&app, &replica], 24).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_concurrent_with_a_logout_leaves_an_ended_session() {
    let app = TestApp::start().await;
    for _ in 0..20 {
        let tokens = app.log_in(ADMIN).await;
        let (client, token) = (app.bearer(access_token(&tokens)), refresh_token(&tokens));
        let (refreshed, ended) =
            tokio::join!(refresh(&app, &token, ADMIN), client.post("/v2/auth/logout", json!({})));
        assert_eq!(ended.status, StatusCode::NO_CONTENT, "{}", ended.text);
        if refreshed.status == StatusCode::OK {
            expect_session_ended(&app.bearer(access_token(&refreshed.json)).get("/v2/users/me").await);
            expect_refresh_rejected(&refresh(&app, &refresh_token(&refreshed.json), ADMIN).await);
        } else {
            expect_refresh_rejected(&refreshed);
        }
    }
}

#[tokio::test]
async fn the_janitor_deletes_expired_rows_only() {
    let app = TestApp::start_with(|config| config.refresh_ttl = 7 * 86_400).await;
    let user = app.user(Scope::Guest).await;
    let soon = app.clock.now().plus_seconds(86_400).to_string();
    for end in [json!(soon), Value::Null] {
        let body = json!({ "name": "key", "scopes": ["guest"], "expiresAt": end });
        user.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
    }
    let ended = app.admin().await;
    ended.post("/v2/auth/logout", json!({})).await.expect(StatusCode::NO_CONTENT);
    let mut tokens = app.log_in(ADMIN).await;
    let first = refresh_token(&tokens);
    for table in ["sessions", "refresh_tokens", "api_keys"] {
        let swept = app.state.clean_up().await.unwrap();
        assert_eq!(swept, Default::default(), "{table}");
    }
    let mut swept = cedargate::store::CleanupCounts::default();
    for _ in 0..8 {
        app.clock.advance(5 * 86_400_000);
        tokens = refresh(&app, &refresh_token(&tokens), ADMIN).await.expect(StatusCode::OK);
        // Concurrent cleanups delete each row once.
        let others = join_all((0..3).map(|_| app.state.clean_up())).await;
        for one in others {
            let one = one.unwrap();
            swept.sessions += one.sessions;
            swept.api_keys += one.api_keys;
        }
    }
    // All logins but the last, and the expired key. Everything of the last login that may still be presented is kept.
    let count = async |table: &str| app.count(&format!("SELECT COUNT(*) FROM {table}")).await;
    assert_eq!((count("sessions").await, count("api_keys").await), (1, 1));
    assert_eq!(count("refresh_tokens").await, 9);
    assert!(swept.sessions >= 3 && swept.api_keys == 1, "{swept}");
    app.bearer(access_token(&tokens)).get("/v2/users/me").await.expect(StatusCode::OK);
    // Also the very first token, which expired weeks ago.
    expect_refresh_rejected(&refresh(&app, &first, ADMIN).await);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&tokens), ADMIN).await);
    expect_session_ended(&app.bearer(access_token(&tokens)).get("/v2/users/me").await);
    // With its session, everything is deleted.
    app.clock.advance(DAY + 1);
    app.state.clean_up().await.unwrap();
    assert_eq!((count("sessions").await, count("refresh_tokens").await), (0, 0));
    expect_refresh_rejected(&refresh(&app, &first, ADMIN).await);
}

#[tokio::test]
async fn a_login_concurrent_with_a_password_change_or_a_block_is_revoked() {
    let app = TestApp::start_with(slow_hashing).await;
    let user = app.user(Scope::Guest).await;
    let (email, admin) = (email(&user).await, app.admin().await);
    let path = format!("/v2/users/{}", user.id);
    let mut password = PASSWORD.to_owned();
    for change in [json!({ "password": "b3tt3rTh4nB3f0r3" }), json!({ "status": "blocked" })] {
        for before in 0..6 {
            // Long enough for earlier failed attempts to be forgotten.
            app.clock.advance(6_800_000);
            let anonymous = app.anonymous();
            let login = json!({ "email": email, "password": password });
            // The change begins after some of the logins, and ends before others.
            let logins = join_all((0..6).map(|_| anonymous.post("/v2/auth/token", login.clone())));
            let changed = async {
                for _ in 0..before {
                    anonymous.get("/health/live").await;
                }
                app.clock.advance(1);
                admin.patch(&path, change.clone()).await.expect(StatusCode::OK);
            };
            let (logins, ()) = tokio::join!(logins, changed);
            let back = json!({ "status": "active" });
            admin.patch(&path, back).await.expect(StatusCode::OK);
            for login in logins.iter().filter(|login| login.status == StatusCode::OK) {
                expect_session_ended(&app.bearer(access_token(&login.json)).get("/v2/users/me").await);
            }
            if let Some(new) = change["password"].as_str() {
                admin.patch(&path, json!({ "password": PASSWORD })).await.expect(StatusCode::OK);
                assert_ne!(new, password);
            }
            password = PASSWORD.to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_is_rejected_if_its_password_or_session_changed_meanwhile() {
    // Slow enough for the second change to come between the verification of the old password and the update.
    let app = TestApp::start_with(|config| {
        slow_hashing(config);
        config.argon2_iterations = 10;
    })
    .await;
    let (admin, mut refused) = (app.admin().await, 0);
    for how in ["password", "sessions", "blocked"] {
        for _ in 0..4 {
            let user = app.user(Scope::Agent).await;
            let (email, path) = (email(&user).await, format!("/v2/users/{}", user.id));
            let body = json!({ "password": "m1n3-t0-k33p-s3cret", "currentPassword": PASSWORD });
            let changing = tokio::spawn({
                let user = user.clone();
                async move { user.patch("/v2/users/me", body).await }
            });
            wait_for_password_hashing(&app).await;
            app.clock.advance(1);
            let last = match how {
                "password" => "0f-th3-4dm1n-s3cret",
                _ => PASSWORD,
            };
            match how {
                "password" => {
                    drop(admin.patch(&path, json!({ "password": last })).await.expect(StatusCode::OK));
                }
                "sessions" => {
                    drop(admin.delete(&format!("{path}/sessions")).await.expect(StatusCode::NO_CONTENT));
                }
                _ => {
                    admin.patch(&path, json!({ "status": "blocked" })).await.expect(StatusCode::OK);
                    admin.patch(&path, json!({ "status": "active" })).await.expect(StatusCode::OK);
                }
            }
            let changed = changing.await.unwrap();
            if changed.status == StatusCode::OK && how != "password" {
                continue; // It was done before.
            }
            refused += usize::from(changed.status == StatusCode::UNAUTHORIZED);
            let login = json!({ "email": email, "password": last });
            app.anonymous().post("/v2/auth/token", login).await.expect(StatusCode::OK);
        }
    }
    assert!(refused >= 6, "only {refused} of 12 were rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_password_changes_set_one_password() {
    let app = TestApp::start_with(slow_hashing).await;
    for _ in 0..3 {
        let user = app.user(Scope::Agent).await;
        let (email, anonymous) = (email(&user).await, app.anonymous());
        let passwords = ["m1n3-t0-k33p-s3cret", "0f-th3-4dm1n-s3cret", "b3tt3rTh4nB3f0r3"];
        let changes = passwords.map(|password| {
            user.patch("/v2/users/me", json!({ "password": password, "currentPassword": PASSWORD }))
        });
        let mut set = Vec::new();
        for (password, changed) in passwords.iter().zip(join_all(changes).await) {
            if changed.status == StatusCode::OK {
                set.push(*password);
            } else {
                assert_eq!(changed.expect_problem(400, "invalid_fields"), ["currentPassword"]);
            }
        }
        let [set] = set.as_slice() else { panic!("expected one value, got {set:?}") };
        anonymous
            .post("/v2/auth/token", json!({ "email": email, "password": set }))
            .await
            .expect(StatusCode::OK);
    }
}

/// Waits until the service hashes a password.
async fn wait_for_password_hashing(app: &TestApp) {
    let started = Instant::now();
    loop {
        let metrics = app.anonymous().get("/metrics").await.text;
        if metrics
            .lines()
            .any(|line| line.starts_with("cedargate_password_hash_queue_depth ") && !line.ends_with(" 0"))
        {
            return;
        }
        assert!(started.elapsed() < TIMEOUT, "no password is being hashed");
    }
}
