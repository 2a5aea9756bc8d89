//! Users: their addresses and names, their passwords, what they may change of themselves, and what goes with them.

use crate::resources::{address, make};
use crate::support::{Client, PASSWORD, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "an0ther-s3cret";

async fn log_in(app: &TestApp, email: &str, password: &str) -> Reply {
    app.anonymous().post("/v2/auth/token", json!({ "email": email, "password": password })).await
}

async fn own(client: &Client) -> Value {
    client.get("/v2/users/me").await.expect(StatusCode::OK)
}

#[tokio::test]
async fn an_address_belongs_to_one_user_in_whatever_case_it_is_written() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    make(&admin, "/v2/users", json!({ "email": "Ada@Example.com" })).await;
    let other = make(&admin, "/v2/users", json!({ "email": "other@example.com" })).await;
    let (_, tenant) = app.tenant("acme").await;
    let count = admin.get("/v2/users").await.header("x-total-count").to_owned();
    for email in ["Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM"] {
        let refused = admin.post("/v2/users", json!({ "email": email })).await;
        assert_eq!(refused.expect_problem(409, "conflict"), ["email"]);
        let refused = tenant.post("/v2/users", json!({ "email": email })).await;
        assert_eq!(refused.expect_problem(409, "conflict"), ["email"]);
        let refused = admin.patch(&format!("/v2/users/{other}"), json!({ "email": email })).await;
        assert_eq!(refused.expect_problem(409, "conflict"), ["email"]);
    }
    assert_eq!(admin.get("/v2/users").await.header("x-total-count"), count);
    assert_eq!(admin.get(&format!("/v2/users/{other}")).await.json["email"], "other@example.com");
}

#[tokio::test]
async fn of_twenty_who_want_the_same_address_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = address();
    let creates = (0..20).map(|at| {
        let (admin, email) = (admin.clone(), if at % 2 == 0 { email.clone() } else { email.to_uppercase() });
        tokio::spawn(async move { admin.post("/v2/users", json!({ "email": email })).await })
    });
    let mut won = 0;
    for create in creates.collect::<Vec<_>>() {
        let reply = create.await.unwrap();
        if reply.status == StatusCode::CREATED {
            won += 1;
        } else {
            assert_eq!(reply.expect_problem(409, "conflict"), ["email"]);
        }
    }
    assert_eq!(won, 1);
    assert_eq!(admin.get(&format!("/v2/users?email={email}")).await.header("x-total-count"), "1");
}

#[tokio::test]
async fn many_changes_at_once_are_all_made() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let other = make(&admin, "/v2/users", json!({ "email": address() })).await;
    let organization = make(&admin, "/v2/organizations", json!({ "name": "target" })).await;
    let mut changes = Vec::new();
    for _ in 0..20 {
        let id = make(&admin, "/v2/conversations", json!({})).await;
        let (admin, other, organization) = (admin.clone(), other.clone(), organization.clone());
        changes.push(tokio::spawn(async move {
            let patch = json!({ "participants": [{ "user": other }], "organization": organization });
            admin.patch(&format!("/v2/conversations/{id}"), patch).await
        }));
    }
    for change in changes {
        assert_eq!(change.await.unwrap().expect(StatusCode::OK)["organization"], organization);
    }
}

#[tokio::test]
async fn the_name_of_a_user_is_its_given_and_its_family_name() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let body = json!({ "email": address(), "givenName": "Ada", "familyName": "Lovelace" });
    let made = admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    assert_eq!(made["name"], "Ada Lovelace");
    let user = format!("/v2/users/{}", made["id"].as_str().unwrap());
    for (patch, name) in [
        (json!({ "familyName": "King" }), "Ada King"),
        (json!({ "givenName": null }), "King"),
        (json!({ "givenName": "Augusta", "familyName": null }), "Augusta"),
    ] {
        assert_eq!(admin.patch(&user, patch).await.expect(StatusCode::OK)["name"], name);
        assert_eq!(admin.get(&user).await.json["name"], name);
    }
}

#[tokio::test]
async fn a_user_that_is_deleted_takes_its_keys_and_sessions_along() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = address();
    let body = json!({ "email": email, "password": PASSWORD, "role": "admin" });
    let id = make(&admin, "/v2/users", body).await;
    let tokens = app.log_in(&email).await;
    let user = app.bearer(tokens["token"].as_str().unwrap());
    let key = app.bearer(&user.key(&[Scope::Admin]).await);
    for client in [&user, &key] {
        client.get("/v2/users").await.expect(StatusCode::OK);
    }
    admin.delete(&format!("/v2/users/{id}")).await.expect(StatusCode::NO_CONTENT);
    for client in [&user, &key] {
        client.get("/v2/users").await.expect_problem(401, "invalid_token");
        client.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    }
    let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    app.anonymous().post("/v2/auth/token", refresh).await.expect_problem(401, "invalid_refresh_token");
    log_in(&app, &email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    // The address is free again, and its next owner inherits nothing.
    make(&admin, "/v2/users", json!({ "email": email })).await;
    user.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    log_in(&app, &email, PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn what_a_user_wrote_outlives_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let agent = app.user(Scope::Agent).await;
    let conversation = make(&agent, "/v2/conversations", json!({ "messages": [{ "text": "Hello" }] })).await;
    admin.delete(&format!("/v2/users/{}", agent.id)).await.expect(StatusCode::NO_CONTENT);
    let path = format!("/v2/conversations/{conversation}");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["participants"][0]["user"], agent.id.as_str());
    // Naming somebody who has gone since is no hindrance to other changes.
    admin.patch(&path, json!({ "name": "About nothing" })).await.expect(StatusCode::OK);
    let messages = admin.get(&format!("/v2/messages?conversation={conversation}")).await;
    assert_eq!(messages.expect(StatusCode::OK)[0]["user"], agent.id.as_str());
}

#[tokio::test]
async fn no_answer_shows_a_password() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = address();
    let made = admin.post("/v2/users", json!({ "email": email, "password": PASSWORD })).await;
    let user = format!("/v2/users/{}", made.id());
    let replies = [
        made,
        admin.get(&user).await,
        admin.get("/v2/users").await,
        admin.patch(&user, json!({ "password": NEW_PASSWORD })).await,
        admin.get("/v2/users/me").await,
        admin.patch("/v2/users/me", json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD })).await,
        log_in(&app, &email, NEW_PASSWORD).await,
        // Refused ones too.
        admin.post("/v2/users", json!({ "email": email, "password": PASSWORD })).await,
        admin.post("/v2/users", json!({ "email": "none", "password": PASSWORD })).await,
        admin.patch(&user, json!({ "password": [NEW_PASSWORD] })).await,
        admin
            .patch("/v2/users/me", json!({ "password": PASSWORD, "currentPassword": "t0pZ3kR3t-not" }))
            .await,
        log_in(&app, &email, "t0pZ3kR3t-not").await,
    ];
    for reply in &replies {
        for secret in [PASSWORD, NEW_PASSWORD] {
            assert!(!reply.text.contains(secret), "{reply:?}");
        }
        assert!(!reply.text.contains("$argon2"), "{reply:?}");
    }
    assert!(replies[1].json.get("password").is_none());
}

#[tokio::test]
async fn a_password_that_is_too_short_or_too_long_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for password in ["", "short", &"x".repeat(20_000)] {
        let refused = admin.post("/v2/users", json!({ "email": address(), "password": password })).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
        let patch = json!({ "password": password, "currentPassword": PASSWORD });
        let refused = admin.patch("/v2/users/me", patch).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
    }
    assert_eq!(admin.get("/v2/users").await.header("x-total-count"), "1");
    app.log_in(crate::support::ADMIN).await;
}

#[tokio::test]
async fn changing_ones_own_password_asks_for_the_current_one() {
    let app = TestApp::start().await;
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        let email = own(&user).await["email"].as_str().unwrap().to_owned();
        for path in ["/v2/users/me".to_owned(), format!("/v2/users/{}", user.id)] {
            for current in [None, Some("wrong-password"), Some("")] {
                let mut patch = json!({ "password": NEW_PASSWORD, "givenName": "Mallory" });
                if let Some(current) = current {
                    patch["currentPassword"] = json!(current);
                }
                let refused = user.patch(&path, patch).await;
                assert_eq!(refused.expect_problem(400, "invalid_fields"), ["currentPassword"], "{scope}");
            }
            log_in(&app, &email, PASSWORD).await.expect(StatusCode::OK);
        }
        assert_eq!(own(&user).await["givenName"], Value::Null);
        log_in(&app, &email, NEW_PASSWORD).await.expect_problem(401, "invalid_credentials");

        let patch = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD, "givenName": "Ada" });
        let changed = user.patch("/v2/users/me", patch).await.expect(StatusCode::OK);
        assert_eq!(changed["givenName"], "Ada");
        log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
        log_in(&app, &email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn a_password_is_not_changed_where_another_field_is_wrong() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = own(&user).await["email"].as_str().unwrap().to_owned();
    let patch = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD, "givenName": "" });
    let refused = user.patch("/v2/users/me", patch).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["givenName"]);
    log_in(&app, &email, PASSWORD).await.expect(StatusCode::OK);
    log_in(&app, &email, NEW_PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn an_admin_sets_the_password_of_another_without_knowing_the_current_one() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.user(Scope::Guest).await;
    let email = own(&user).await["email"].as_str().unwrap().to_owned();
    let path = format!("/v2/users/{}", user.id);
    admin.patch(&path, json!({ "password": NEW_PASSWORD })).await.expect(StatusCode::OK);
    log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
    let bot = app.user(Scope::Bot).await;
    bot.patch(&path, json!({ "password": PASSWORD })).await.expect_problem(403, "forbidden");
    log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn below_admin_nobody_changes_its_own_role_organization_or_status() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let below = make(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        let before = own(&user).await;
        for path in ["/v2/users/me".to_owned(), format!("/v2/users/{}", user.id)] {
            for patch in [
                json!({ "role": if scope == Scope::Admin { "bot" } else { "admin" } }),
                json!({ "organization": below }),
                json!({ "status": "blocked" }),
                json!({ "givenName": "Mallory", "role": if scope == Scope::Guest { "agent" } else { "guest" } }),
            ] {
                if scope == Scope::Admin {
                    continue;
                }
                user.patch(&path, patch).await.expect_problem(403, "forbidden");
            }
            user.patch(&path, json!({ "avatar": "https://example.com/a.png" })).await.expect(StatusCode::OK);
            user.patch(&path, json!({ "avatar": null })).await.expect(StatusCode::OK);
        }
        assert_eq!(own(&user).await, before, "{scope}");
    }
    // An admin may, and it bites at once.
    let user = app.user(Scope::Admin).await;
    user.patch("/v2/users/me", json!({ "role": "guest" })).await.expect(StatusCode::OK);
    user.get("/v2/users").await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_self_update_under_a_key_of_a_lower_scope_cannot_touch_the_role_either() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    for scope in [Scope::Guest, Scope::Agent, Scope::Bot] {
        let key = app.bearer(&user.key(&[scope]).await);
        key.patch("/v2/users/me", json!({ "role": "bot" })).await.expect_problem(403, "forbidden");
        key.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    }
    assert_eq!(own(&user).await["role"], "admin");
}
