//! The audit log: its events, exactly one per change, who can read them, and that changes to it are detected.

use crate::refresh::{expect_refresh_rejected, refresh, refresh_token};
use crate::reload::PolicyFiles;
use crate::revocation::revoke;
use crate::support::{ADMIN, Client, PASSWORD, TestApp, decode_jwt};
use crate::token_families::access_token;
use crate::tokens::{email, request_token};
use cedargate::application::audit;
use cedargate::authz::Scope;
use cedargate::store::ChainHead;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

const NEW_PASSWORD: &str = "b3tt3rTh4nB3f0r3";

/// The events that a client can read.
pub(crate) async fn events(client: &Client, query: &str) -> Vec<Value> {
    let reply = client.get(&format!("/v2/audit?limit=1000&{query}")).await;
    reply.expect(StatusCode::OK).as_array().unwrap().clone()
}

/// The position up to which an admin of the root organization has read the log.
struct AuditCursor {
    admin: Client,
    state: Arc<cedargate::application::AppState>,
    seen: u64,
}

impl AuditCursor {
    async fn new(app: &TestApp) -> Self {
        let admin = app.admin().await;
        let seen = events(&admin, "").await.len() as u64;
        Self { admin, state: Arc::clone(&app.state), seen }
    }

    async fn next(&mut self) -> Vec<Value> {
        audit::flush_on_shutdown(&self.state).await;
        let path = format!("/v2/audit?limit=1000&offset={}", self.seen);
        let new = self.admin.get(&path).await.expect(StatusCode::OK).as_array().unwrap().clone();
        self.seen += new.len() as u64;
        new
    }

    /// Asserts that exactly these entries were added, each as `(event, outcome, details)`, and returns them.
    #[track_caller]
    fn assert_events(new: &[Value], expected: &[(&str, &str, Value)]) {
        let got: Vec<Value> =
            new.iter().map(|one| json!([one["event"], one["outcome"], one["details"]])).collect();
        let expected: Vec<Value> =
            expected.iter().map(|(event, outcome, details)| json!([event, outcome, details])).collect();
        assert_eq!(got, expected);
    }
}

pub(crate) fn sid(tokens: &Value) -> String {
    decode_jwt(access_token(tokens)).1["sid"].as_str().unwrap().to_owned()
}

/// Asserts that the hash chain is intact, and returns its head.
pub(crate) async fn verify_chain(app: &TestApp) -> ChainHead {
    let found = app.state.store.verify_audit(None).await.unwrap();
    assert_eq!(found.faults, [] as [&str; 0]);
    assert_eq!(i64::try_from(found.entries).unwrap(), found.head.seq);
    found.head
}

#[tokio::test]
async fn the_first_start_writes_the_first_entries() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let all = events(&admin, "").await;
    let names: Vec<&str> = all.iter().map(|one| one["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["signing_key.created", "organization.created", "user.created", "login.succeeded"]);
    assert_eq!((&all[0]["seq"], &all[0]["previous"]), (&json!(1), &json!("0".repeat(64))));
    assert_eq!((&all[2]["credential"], &all[2]["actor"]), (&json!("terminal"), &Value::Null));
    assert_eq!(all[2]["details"], json!({ "password": true, "role": "admin" }));
    for pair in all.windows(2) {
        assert_eq!(pair[0]["hash"], pair[1]["previous"]);
    }
}

#[tokio::test]
async fn logins_refreshes_and_session_ends_are_logged() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let mut watch = AuditCursor::new(&app).await;

    let headers = [("content-type", "application/json"), ("x-request-id", "login-1")];
    let body = json!({ "email": email, "password": PASSWORD }).to_string().into_bytes();
    let tokens = app.anonymous().send(Method::POST, "/v2/auth/token", &headers, Some(body)).await;
    let tokens = tokens.expect(StatusCode::OK);
    let session = sid(&tokens);
    let new = watch.next().await;
    let place = app.state.store.root().await.unwrap().unwrap();
    let expected = json!({
        "seq": watch.seen, "time": app.clock.now().to_string(), "event": "login.succeeded", "outcome": "ok",
        "actor": user.id, "credential": "session", "credentialId": session,
        "targetType": "User", "target": user.id, "organization": place.org_id(), "path": place,
        "address": "127.0.0.1", "requestId": "login-1", "details": { "session": session },
        "previous": new[0]["previous"], "hash": new[0]["hash"],
    });
    assert_eq!(new, [expected]);

    let first = refresh_token(&tokens);
    let second = refresh(&app, &first, &email).await.expect(StatusCode::OK);
    refresh(&app, &first, &email).await.expect(StatusCode::OK);
    let new = watch.next().await;
    let refreshed = |retry: bool| json!({ "session": session, "retry": retry });
    AuditCursor::assert_events(
        &new,
        &[("token.refreshed", "ok", refreshed(false)), ("token.refreshed", "ok", refreshed(true))],
    );
    assert_eq!((&new[0]["credential"], &new[0]["credentialId"]), (&json!("refreshToken"), &json!(session)));

    // The request fails, and its effects persist: the family is revoked, and both entries exist.
    app.clock.advance(31_000);
    refresh(&app, &refresh_token(&second), &email).await.expect(StatusCode::OK);
    expect_refresh_rejected(&refresh(&app, &first, &email).await);
    let new = watch.next().await;
    AuditCursor::assert_events(
        &new,
        &[
            ("token.refreshed", "ok", refreshed(false)),
            ("token.reused", "denied", json!({ "session": session })),
            ("session.ended", "ok", json!({ "session": session, "reason": "reuse" })),
        ],
    );
    assert_eq!((&new[1]["actor"], &new[2]["target"]), (&json!(user.id), &json!(user.id)));
    // A request that is rejected without an effect is not audited.
    expect_refresh_rejected(&refresh(&app, &first, &email).await);
    expect_refresh_rejected(&refresh(&app, &format!("{}.{}", user.id, "0".repeat(80)), &email).await);
    assert_eq!(watch.next().await, [] as [Value; 0]);

    let [one, two] = [app.log_in(&email).await, app.log_in(&email).await];
    watch.next().await;
    for _ in 0..2 {
        revoke(&app, &refresh_token(&one)).await;
        app.bearer(access_token(&two)).call(Method::POST, "/v2/auth/logout", None).await;
    }
    AuditCursor::assert_events(
        &watch.next().await,
        &[
            ("session.ended", "ok", json!({ "session": sid(&one), "reason": "revoked" })),
            ("token.revoked", "ok", json!({ "session": sid(&one) })),
            ("session.ended", "ok", json!({ "session": sid(&two), "reason": "logout" })),
        ],
    );
}

#[tokio::test]
async fn failed_logins_are_logged_without_unknown_email_addresses() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let mut watch = AuditCursor::new(&app).await;
    let unknown_email = "my-dear-secret@example.com";
    request_token(&app, json!({ "email": email, "password": "not this one" })).await;
    request_token(&app, json!({ "email": unknown_email, "password": PASSWORD })).await;
    crate::tokens::update_user(&app, &user.id, json!({ "status": "blocked" })).await;
    let new = watch.next().await;
    let failed = |reason: &str| ("login.failed", "failed", json!({ "reason": reason }));
    AuditCursor::assert_events(&new[..2], &[failed("wrong_password"), failed("unknown_account")]);
    assert_eq!((&new[0]["target"], &new[0]["actor"]), (&json!(user.id), &Value::Null));
    assert_eq!((&new[1]["target"], &new[1]["organization"]), (&Value::Null, &Value::Null));
    assert_eq!(new[1]["address"], "127.0.0.1");
    request_token(&app, json!({ "email": email, "password": PASSWORD })).await;
    AuditCursor::assert_events(&watch.next().await, &[failed("blocked")]);
    assert!(!app.dump().await.contains("my-dear-secret"));
}

#[tokio::test]
async fn changes_of_users_and_their_keys_are_logged() {
    let app = TestApp::start().await;
    let (tenant, _) = app.tenant("ours").await;
    let mut watch = AuditCursor::new(&app).await;
    let admin = watch.admin.clone();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let id = admin.post("/v2/users", body).await.id();
    let path = format!("/v2/users/{id}");
    let root = app.state.store.root().await.unwrap().unwrap().org_id().to_string();
    let new = watch.next().await;
    AuditCursor::assert_events(&new, &[("user.created", "ok", json!({ "role": "guest", "password": true }))]);
    assert_eq!((&new[0]["actor"], &new[0]["target"]), (&json!(admin.id), &json!(id)));

    let user = app.client("ada@example.com").await;
    watch.next().await;
    // A change that affects no permission is not audited.
    admin.patch(&path, json!({ "givenName": "Ada", "role": "guest" })).await.expect(StatusCode::OK);
    assert_eq!(watch.next().await, [] as [Value; 0]);
    let change = json!({ "role": "agent", "email": "countess@example.com", "organization": tenant });
    admin.patch(&path, change).await.expect(StatusCode::OK);
    let new = watch.next().await;
    AuditCursor::assert_events(
        &new,
        &[
            ("user.moved", "ok", json!({ "from": root, "to": tenant })),
            ("user.role_changed", "ok", json!({ "from": "guest", "to": "agent" })),
            ("user.email_changed", "ok", json!({})),
        ],
    );
    assert_eq!((&new[0]["organization"], &new[1]["organization"]), (&json!(root), &json!(tenant)));

    let body = json!({ "name": "n", "scopes": ["guest"], "expiresAt": "2026-03-01T00:00:00Z" });
    let created = user.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
    // Keys are listed by creation time; the order of ids of the same time is undefined.
    app.clock.advance(1);
    let revoked_key = user.key(&[Scope::Guest]).await;
    app.clock.advance(1);
    user.key(&[Scope::Guest]).await;
    let keys = user.get("/v2/users/me/keys").await.expect(StatusCode::OK);
    let key = |index: usize| keys[index]["id"].clone();
    user.delete(&format!("/v2/users/me/keys/{}", created["id"].as_str().unwrap())).await;
    revoke(&app, &revoked_key).await;
    revoke(&app, &revoked_key).await;
    let created = |index: usize, scopes: &str, end: Value| {
        ("key.created", "ok", json!({ "key": key(index), "scopes": scopes, "expiresAt": end }))
    };
    let ended =
        |index: usize, reason: &str| ("key.deleted", "ok", json!({ "key": key(index), "reason": reason }));
    let new = watch.next().await;
    AuditCursor::assert_events(
        &new,
        &[
            created(0, "guest", json!("2026-03-01T00:00:00.000Z")),
            created(1, "guest", Value::Null),
            created(2, "guest", Value::Null),
            ended(0, "deleted"),
            ended(1, "revoked"),
            ("token.revoked", "ok", json!({ "key": key(1) })),
        ],
    );
    assert_eq!((&new[5]["credential"], &new[5]["credentialId"]), (&json!("apiKey"), &key(1)));

    // A password change ends the other sessions. Blocking ends all sessions and keys.
    let other = app.log_in("countess@example.com").await;
    watch.next().await;
    let wrong = json!({ "password": NEW_PASSWORD, "currentPassword": "wrong password" });
    user.patch("/v2/users/me", wrong).await.expect_problem(400, "invalid_fields");
    let right = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD });
    user.patch("/v2/users/me", right).await.expect(StatusCode::OK);
    admin.patch(&path, json!({ "status": "blocked" })).await.expect(StatusCode::OK);
    admin.patch(&path, json!({ "status": "blocked" })).await.expect(StatusCode::OK);
    admin.patch(&path, json!({ "status": "active" })).await.expect(StatusCode::OK);
    admin.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let own = decode_jwt(user.bearer.as_deref().unwrap()).1["sid"].clone();
    AuditCursor::assert_events(
        &watch.next().await,
        &[
            ("user.password_changed", "failed", json!({ "reason": "wrong_password" })),
            ("user.password_changed", "ok", json!({ "endKeys": false })),
            ("session.ended", "ok", json!({ "session": sid(&other), "reason": "password" })),
            ("user.blocked", "ok", json!({})),
            ("session.ended", "ok", json!({ "session": own, "reason": "blocked" })),
            ended(2, "blocked"),
            ("user.unblocked", "ok", json!({})),
            ("user.deleted", "ok", json!({})),
        ],
    );
}

#[tokio::test]
async fn changes_of_organizations_and_policies_are_logged() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let mut watch = AuditCursor::new(&app).await;
    let admin = watch.admin.clone();
    let make = async |name: &str| admin.post("/v2/organizations", json!({ "name": name })).await.id();
    let (one, two) = (make("one").await, make("two").await);
    let path = format!("/v2/organizations/{two}");
    admin.patch(&path, json!({ "displayName": "Two" })).await.expect(StatusCode::OK);
    admin.patch(&path, json!({ "parent": one })).await.expect(StatusCode::OK);
    admin.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let root = app.state.store.root().await.unwrap().unwrap();
    let moved = json!({ "from": format!("{root}#{two}"), "to": format!("{root}#{one}#{two}") });
    let new = watch.next().await;
    AuditCursor::assert_events(
        &new,
        &[
            ("organization.created", "ok", json!({})),
            ("organization.created", "ok", json!({})),
            ("organization.moved", "ok", moved.clone()),
            ("organization.moved", "ok", moved),
            ("organization.deleted", "ok", json!({})),
        ],
    );

    let reload = async || admin.post("/v2/policies/reload", json!({})).await;
    reload().await.expect(StatusCode::OK);
    files.write(
        "policies/late.cedar",
        "@id(\"late\") forbid (principal, action == Action::\"listForms\", resource);",
    );
    let version = reload().await.expect(StatusCode::OK)["version"].clone();
    files.write("policies/late.cedar", "forbid (");
    reload().await.expect_problem(409, "invalid_policies");
    let new = watch.next().await;
    AuditCursor::assert_events(&new[..1], &[("policies.reloaded", "ok", json!({ "version": version }))]);
    assert_eq!((new.len(), &new[0]["actor"]), (2, &json!(admin.id)));
    assert_eq!((&new[1]["event"], &new[1]["outcome"]), (&json!("policies.refused"), &json!("failed")));
    assert_eq!(new[1]["details"]["version"], version);
    assert!(new[1]["details"]["reason"].as_str().unwrap().contains("late.cedar"));
}

#[tokio::test]
async fn denied_administration_is_logged_and_other_denials_are_not() {
    let app = TestApp::start().await;
    let (tenant, theirs) = app.tenant("theirs").await;
    let guest = app.user(Scope::Guest).await;
    let user = json!({ "email": "new@example.com" });
    let mut watch = AuditCursor::new(&app).await;
    let admin = watch.admin.clone();
    let path = format!("/v2/users/{}", admin.id);
    for (client, method, path, body, action) in [
        (&guest, Method::POST, "/v2/users", Some(user.clone()), "createUser"),
        (&guest, Method::PATCH, &path, Some(json!({ "role": "guest" })), "updateUser"),
        (&guest, Method::PATCH, "/v2/users/me", Some(json!({ "role": "admin" })), "updateUser"),
        (&guest, Method::DELETE, &path, None, "deleteUser"),
        (&guest, Method::POST, "/v2/organizations", Some(json!({ "name": "n" })), "createOrganization"),
        (&guest, Method::DELETE, &format!("/v2/organizations/{tenant}"), None, "deleteOrganization"),
        (
            &guest,
            Method::POST,
            &format!("{path}/keys"),
            Some(json!({ "name": "n", "scopes": ["guest"] })),
            "createApiKey",
        ),
        (&guest, Method::DELETE, &format!("{path}/sessions"), None, "deleteSession"),
        (&guest, Method::POST, "/v2/policies/reload", None, "reloadPolicies"),
        (&theirs, Method::POST, "/v2/policies/reload", None, "reloadPolicies"),
        (&guest, Method::GET, "/v2/audit", None, "listAuditEvents"),
    ] as [(&Client, Method, &str, Option<Value>, &str); 11]
    {
        let reply = client.call(method, path, body).await;
        let code = if path == "/v2/users/me" {
            reply.json["code"].as_str().unwrap_or_default()
        } else {
            "forbidden"
        };
        reply.expect_problem(403, code);
        let new = watch.next().await;
        AuditCursor::assert_events(
            &new,
            &[("access.denied", "denied", json!({ "action": action, "count": 1 }))],
        );
        assert_eq!((&new[0]["actor"], &new[0]["address"]), (&json!(client.id), &json!("127.0.0.1")));
        assert_eq!(new[0]["requestId"], reply.header("x-request-id"));
        let target = path.split('/').nth(3).filter(|id| id.len() == 24);
        assert_eq!(new[0]["target"].as_str(), target, "{path}");
    }
    // Denied reads, and writes that are not administration.
    for path in ["/v2/users", "/v2/forms", &path as &str] {
        guest.get(path).await.expect_problem(403, "forbidden");
    }
    guest.post("/v2/forms", json!({ "name": "n" })).await.expect_problem(403, "forbidden");
    // Invalid requests, and requests without credentials.
    admin.post("/v2/users", json!({})).await.expect_problem(400, "invalid_fields");
    app.anonymous().post("/v2/users", user).await.expect_problem(401, "missing_token");
    assert_eq!(watch.next().await, [] as [Value; 0]);
}

#[tokio::test]
async fn denied_cross_tenant_requests_are_visible_to_neither_tenant() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (theirs, their_admin) = app.tenant("theirs").await;
    let mut watch = AuditCursor::new(&app).await;
    let missing = "599e1fcd9da1c72645c95886";
    for (organization, user, found) in
        [(theirs.as_str(), their_admin.id.as_str(), true), (missing, missing, false)]
    {
        let body = json!({ "email": "spy@example.com", "organization": organization });
        ours.delete(&format!("/v2/users/{user}")).await.expect_problem(404, "not_found");
        ours.get(&format!("/v2/audit?organization={organization}")).await.expect_problem(404, "not_found");
        ours.post("/v2/users", body).await.expect_problem(400, "invalid_fields");
        let denied = |action: &str| {
            ("access.denied", "denied", json!({ "action": action, "count": 1, "found": found }))
        };
        let new = watch.next().await;
        AuditCursor::assert_events(
            &new,
            &[denied("deleteUser"), denied("listAuditEvents"), denied("createUser")],
        );
        assert!(new.iter().all(|one| one["organization"].is_null() && one["actor"] == json!(ours.id)));
    }
    for client in [&ours, &their_admin] {
        assert_eq!(events(client, "event=access.denied").await, [] as [Value; 0]);
    }
}

#[tokio::test]
async fn a_failed_change_writes_no_entry() {
    let app = TestApp::start().await;
    let mut watch = AuditCursor::new(&app).await;
    let admin = watch.admin.clone();
    // The email is in use: the database rejects the row, in the same transaction.
    let body = json!({ "email": ADMIN, "password": PASSWORD });
    admin.post("/v2/users", body).await.expect_problem(409, "conflict");
    let user = admin.post("/v2/users", json!({ "email": "ada@example.com" })).await.id();
    watch.next().await;
    let change = json!({ "role": "admin", "email": ADMIN, "status": "blocked" });
    admin.patch(&format!("/v2/users/{user}"), change).await.expect_problem(409, "conflict");
    let root = app.state.store.root().await.unwrap().unwrap().org_id();
    admin.delete(&format!("/v2/organizations/{root}")).await.expect_problem(409, "conflict");
    assert_eq!(watch.next().await, [] as [Value; 0]);
    verify_chain(&app).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_logged_is_rolled_back() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql("DROP TABLE audit").await;
    let body = json!({ "email": "ada@example.com" });
    admin.post("/v2/users", body).await.expect_problem(500, "internal");
    request_token(&app, json!({ "email": ADMIN, "password": PASSWORD }))
        .await
        .expect_problem(500, "internal");
    assert_eq!(app.count("SELECT COUNT(*) FROM users").await, 1);
    assert_eq!(app.count("SELECT COUNT(*) FROM sessions").await, 1);
    // A denial stays a denial.
    request_token(&app, json!({ "email": ADMIN, "password": "wrong" }))
        .await
        .expect_problem(401, "invalid_credentials");
    let missing = "/v2/users/599e1fcd9da1c72645c95886";
    admin.delete(missing).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn the_audit_log_contains_no_secrets() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.user(Scope::Admin).await;
    let email = email(&user).await;
    let first = app.log_in(&email).await;
    let second = refresh(&app, &refresh_token(&first), &email).await.expect(StatusCode::OK);
    let third = refresh(&app, &refresh_token(&second), &email).await.expect(StatusCode::OK);
    let keys = [user.key(&[Scope::Admin]).await, user.key(&[Scope::Guest]).await];
    let mistyped = "an0ther-s3cret-in-the-wrong-field@example.com";
    request_token(&app, json!({ "email": mistyped, "password": "wr0ng-p4ssw0rd" })).await;
    request_token(&app, json!({ "email": email, "password": "wr0ng-p4ssw0rd" })).await;
    let wrong = json!({ "password": NEW_PASSWORD, "currentPassword": "wr0ng-p4ssw0rd" });
    user.patch("/v2/users/me", wrong).await.expect_problem(400, "invalid_fields");
    let right = json!({ "password": NEW_PASSWORD, "currentPassword": PASSWORD });
    user.patch("/v2/users/me", right).await.expect(StatusCode::OK);
    expect_refresh_rejected(&refresh(&app, &refresh_token(&first), &email).await);
    revoke(&app, &keys[0]).await;
    revoke(&app, user.bearer.as_deref().unwrap()).await;
    app.bearer(&keys[1])
        .post("/v2/users", json!({ "email": "x@example.com" }))
        .await
        .expect_problem(403, "forbidden");
    admin.delete(&format!("/v2/users/{}", user.id)).await.expect(StatusCode::NO_CONTENT);
    audit::flush_on_shutdown(&app.state).await;

    let all = Value::Array(events(&admin, "").await).to_string();
    assert!(all.contains(&user.id) && all.contains("token.revoked") && all.contains("access.denied"));
    let mut secrets: Vec<String> =
        [PASSWORD, NEW_PASSWORD, "wr0ng-p4ssw0rd", mistyped].map(str::to_owned).to_vec();
    for tokens in [&first, &second, &third] {
        let token = refresh_token(tokens);
        secrets.push(token.split_once('.').unwrap().1.to_owned());
        secrets.extend([access_token(tokens).to_owned(), token]);
        // Also the signature of the token on its own, and the identifiers in its claims.
        secrets.push(access_token(tokens).rsplit('.').next().unwrap().to_owned());
        secrets.push(decode_jwt(access_token(tokens)).1["jti"].as_str().unwrap().to_owned());
    }
    secrets.extend(keys.iter().flat_map(|key| [key.clone(), key[3..35].to_owned()]));
    secrets.extend([&admin, &user].map(|client| client.bearer.clone().unwrap()));
    for secret in secrets {
        assert!(!all.contains(&secret), "{secret}");
    }
    // Neither are the stored hashes of passwords, tokens and keys.
    let hashes =
        "SELECT COUNT(*) FROM audit, refresh_tokens WHERE details LIKE '%' || refresh_tokens.hash || '%'";
    assert_eq!(app.count(hashes).await, 0);
    assert!(!all.contains("argon2"));
}
