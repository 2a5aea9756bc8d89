//! Users: email addresses and names, passwords, changes of the own user, and deletion.

use crate::resources::{create_resource, unique_email};
use crate::support::{Client, PASSWORD, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "an0ther-s3cret";

async fn log_in(app: &TestApp, email: &str, password: &str) -> Reply {
    app.anonymous().post("/v2/auth/token", json!({ "email": email, "password": password })).await
}

async fn fetch_own_user(client: &Client) -> Value {
    client.get("/v2/users/me").await.expect(StatusCode::OK)
}

#[tokio::test]
async fn email_addresses_are_unique_ignoring_case() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    create_resource(&admin, "/v2/users", json!({ "email": "Ada@Example.com" })).await;
    let other = create_resource(&admin, "/v2/users", json!({ "email": "other@example.com" })).await;
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
async fn concurrent_creations_with_one_email_create_one_user() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = unique_email();
    let creates = (0..20).map(|index| {
        let (admin, email) =
            (admin.clone(), if index % 2 == 0 { email.clone() } else { email.to_uppercase() });
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
async fn concurrent_updates_all_succeed() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let other = create_resource(&admin, "/v2/users", json!({ "email": unique_email() })).await;
    let organization = create_resource(&admin, "/v2/organizations", json!({ "name": "target" })).await;
    let mut changes = Vec::new();
    for _ in 0..20 {
        let id = create_resource(&admin, "/v2/conversations", json!({})).await;
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
    let body = json!({ "email": unique_email(), "givenName": "Ada", "familyName": "Lovelace" });
    let created = admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    assert_eq!(created["name"], "Ada Lovelace");
    let user = format!("/v2/users/{}", created["id"].as_str().unwrap());
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
async fn deleting_a_user_ends_its_keys_and_sessions() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = unique_email();
    let body = json!({ "email": email, "password": PASSWORD, "role": "admin" });
    let id = create_resource(&admin, "/v2/users", body).await;
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
    // The email is available again, and its next user inherits nothing.
    create_resource(&admin, "/v2/users", json!({ "email": email })).await;
    user.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    log_in(&app, &email, PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn resources_survive_the_deletion_of_their_author() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let agent = app.user(Scope::Agent).await;
    let conversation =
        create_resource(&agent, "/v2/conversations", json!({ "messages": [{ "text": "Hello" }] })).await;
    admin.delete(&format!("/v2/users/{}", agent.id)).await.expect(StatusCode::NO_CONTENT);
    let path = format!("/v2/conversations/{conversation}");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["participants"][0]["user"], agent.id.as_str());
    // A reference to a deleted user does not prevent other changes.
    admin.patch(&path, json!({ "name": "About nothing" })).await.expect(StatusCode::OK);
    let messages = admin.get(&format!("/v2/messages?conversation={conversation}")).await;
    assert_eq!(messages.expect(StatusCode::OK)[0]["user"], agent.id.as_str());
}

#[tokio::test]
async fn no_response_contains_a_password() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = unique_email();
    let created = admin.post("/v2/users", json!({ "email": email, "password": PASSWORD })).await;
    let user = format!("/v2/users/{}", created.id());
    let replies = [
        created,
        admin.get(&user).await,
        admin.get("/v2/users").await,
        admin.patch(&user, json!({ "password": NEW_PASSWORD })).await,
        admin.get("/v2/users/me").await,
        admin.patch("/v2/users/me", json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD })).await,
        log_in(&app, &email, NEW_PASSWORD).await,
        // Rejected requests, too.
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
        let refused = admin.post("/v2/users", json!({ "email": unique_email(), "password": password })).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
        let patch = json!({ "password": password, "currentPassword": PASSWORD });
        let refused = admin.patch("/v2/users/me", patch).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
    }
    assert_eq!(admin.get("/v2/users").await.header("x-total-count"), "1");
    app.log_in(crate::support::ADMIN).await;
}

#[tokio::test]
async fn changing_the_own_password_requires_the_current_one() {
    let app = TestApp::start().await;
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        let email = fetch_own_user(&user).await["email"].as_str().unwrap().to_owned();
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
        assert_eq!(fetch_own_user(&user).await["givenName"], Value::Null);
        log_in(&app, &email, NEW_PASSWORD).await.expect_problem(401, "invalid_credentials");

        let patch = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD, "givenName": "Ada" });
        let changed = user.patch("/v2/users/me", patch).await.expect(StatusCode::OK);
        assert_eq!(changed["givenName"], "Ada");
        log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
        log_in(&app, &email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn a_password_is_not_changed_if_another_field_is_invalid() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = fetch_own_user(&user).await["email"].as_str().unwrap().to_owned();
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
    let email = fetch_own_user(&user).await["email"].as_str().unwrap().to_owned();
    let path = format!("/v2/users/{}", user.id);
    admin.patch(&path, json!({ "password": NEW_PASSWORD })).await.expect(StatusCode::OK);
    log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
    let bot = app.user(Scope::Bot).await;
    bot.patch(&path, json!({ "password": PASSWORD })).await.expect_problem(403, "forbidden");
    log_in(&app, &email, NEW_PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn only_admins_change_their_own_role_organization_or_status() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let below = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        let before = fetch_own_user(&user).await;
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
        assert_eq!(fetch_own_user(&user).await, before, "{scope}");
    }
    // An admin may, and it takes effect with the next request.
    let user = app.user(Scope::Admin).await;
    user.patch("/v2/users/me", json!({ "role": "guest" })).await.expect(StatusCode::OK);
    user.get("/v2/users").await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_key_of_a_lower_scope_cannot_change_the_role_of_its_user() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    for scope in [Scope::Guest, Scope::Agent, Scope::Bot] {
        let key = app.bearer(&user.key(&[scope]).await);
        key.patch("/v2/users/me", json!({ "role": "bot" })).await.expect_problem(403, "forbidden");
        key.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    }
    assert_eq!(fetch_own_user(&user).await["role"], "admin");
}
