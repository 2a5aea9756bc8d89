//! Administration of identities: the limits of API keys, the role ceiling, the last admin of the root organization, inactive
//! organizations, and what a password change ends.

use crate::authzen::start_with_policies;
use crate::resources::{create_resource, unique_email};
use crate::support::{Client, PASSWORD, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "an0ther-s3cret";

/// Creates an API key with this scope for a user. Returns its id and a client that uses it.
async fn api_key(app: &TestApp, user: &Client, scope: Scope) -> (String, Client) {
    let created = user.post("/v2/users/me/keys", json!({ "name": "test", "scopes": [scope] })).await;
    let created = created.expect(StatusCode::CREATED);
    let key = app.bearer(created["key"].as_str().unwrap());
    (created["id"].as_str().unwrap().to_owned(), Client { id: user.id.clone(), ..key })
}

/// A user of the root organization with a password, a session and an API key, who is administered by others.
struct ManagedUser {
    user: Client,
    email: String,
    key: String,
    session: String,
}

impl ManagedUser {
    async fn new(app: &TestApp) -> Self {
        let user = app.user(Scope::Guest).await;
        let email = user.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
        let (key, _) = api_key(app, &user, Scope::Guest).await;
        let sessions = user.get("/v2/users/me/sessions").await.expect(StatusCode::OK);
        Self { email, key, session: sessions[0]["id"].as_str().unwrap().to_owned(), user }
    }

    /// Every request that administers this user or creates another identity.
    fn administration_requests(&self, organization: &str) -> Vec<(Method, String, Option<Value>)> {
        let user = format!("/v2/users/{}", self.user.id);
        let mut requests = Vec::new();
        for change in [
            json!({ "email": unique_email() }),
            json!({ "password": NEW_PASSWORD }),
            json!({ "role": "admin" }),
            json!({ "status": "blocked" }),
            json!({ "organization": organization }),
        ] {
            requests.push((Method::PATCH, user.clone(), Some(change)));
        }
        let create = json!({ "email": unique_email(), "password": PASSWORD, "role": "admin" });
        requests.push((Method::POST, "/v2/users".into(), Some(create)));
        let status = json!({ "status": "inactive" });
        requests.push((Method::PATCH, format!("/v2/organizations/{organization}"), Some(status)));
        requests.push((Method::DELETE, format!("{user}/sessions/{}", self.session), None));
        requests.push((Method::DELETE, format!("{user}/sessions"), None));
        requests.push((Method::DELETE, format!("{user}/keys/{}", self.key), None));
        requests.push((Method::DELETE, user, None));
        requests
    }
}

#[tokio::test]
async fn an_api_key_may_not_administer_identities() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let below = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    let managed = ManagedUser::new(&app).await;
    let (own, key) = api_key(&app, &admin, Scope::Admin).await;
    let users = admin.get("/v2/users").await.expect(StatusCode::OK);
    for (method, path, body) in managed.administration_requests(&below) {
        let refused = key.call(method.clone(), &path, body.clone()).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method} {path} {body:?}: {}", refused.text);
    }
    // Neither the identities of others, nor that of its own user.
    for path in [format!("/v2/users/me/keys/{own}"), "/v2/users/me/sessions".to_owned()] {
        key.delete(&path).await.expect_problem(403, "forbidden");
    }
    key.post("/v2/auth/logout", json!({})).await.expect_problem(403, "forbidden");
    let another = json!({ "name": "another", "scopes": ["guest"] });
    key.post("/v2/users/me/keys", another).await.expect_problem(403, "forbidden");
    assert_eq!(admin.get("/v2/users").await.expect(StatusCode::OK), users);
    managed.user.get("/v2/users/me").await.expect(StatusCode::OK);
    app.log_in(&managed.email).await;

    // All other actions within its scopes stay allowed.
    let rename = json!({ "givenName": "Ada" });
    key.patch(&format!("/v2/users/{}", managed.user.id), rename).await.expect(StatusCode::OK);
    key.patch(&format!("/v2/organizations/{below}"), json!({ "name": "Below" })).await.expect(StatusCode::OK);
    key.post("/v2/services", json!({ "name": "service" })).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_provisioning_key_administers_identities_but_creates_no_api_keys() {
    let first = TestApp::start().await;
    let admin = first.admin().await;
    let (id, key) = api_key(&first, &admin, Scope::Admin).await;
    let (_, other) = api_key(&first, &admin, Scope::Admin).await;
    let app = first.start_replica(|config| config.provisioning_keys = vec![id.parse().unwrap()]).await;
    let [key, other] = [key, other].map(|client| Client { base: app.base.clone(), ..client });
    let below = create_resource(&app.admin().await, "/v2/organizations", json!({ "name": "below" })).await;
    let managed = ManagedUser::new(&app).await;
    for (method, path, body) in managed.administration_requests(&below) {
        let refused = other.call(method.clone(), &path, body.clone()).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method} {path}: {}", refused.text);
        // An earlier request may already have deleted the target.
        let done = key.call(method.clone(), &path, body.clone()).await;
        assert!(
            done.status.is_success() || done.status == StatusCode::NOT_FOUND,
            "{method} {path} {body:?}: {}",
            done.text
        );
    }
    app.admin().await.get(&format!("/v2/users/{}", managed.user.id)).await.expect_problem(404, "not_found");
    let another = json!({ "name": "another", "scopes": ["guest"] });
    key.post("/v2/users/me/keys", another).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn an_api_key_cannot_claim_to_be_a_provisioning_key() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (_, key) = api_key(&app, &admin, Scope::Admin).await;
    let target = app.user(Scope::Guest).await.id;
    for context in [json!({}), json!({ "provisioning": true }), json!({ "credential": "session" })] {
        let question = json!({
            "action": { "name": "deleteUser" }, "resource": { "type": "User", "id": target }, "context": context,
        });
        let own = key.post("/v2/authorize", question.clone()).await.expect(StatusCode::OK);
        assert_eq!(own["decision"], false, "{own}");
        assert_eq!(own["context"]["policies"][0]["id"], "key.identities");
        let mut about = question;
        about["subject"] = json!({ "token": key.bearer });
        let answer = admin.post("/v2/authorize", about).await.expect(StatusCode::OK);
        assert_eq!(answer["decision"], false, "{answer}");
    }
}

#[tokio::test]
async fn an_api_key_can_revoke_only_itself() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let managed = ManagedUser::new(&app).await;
    let (own, key) = api_key(&app, &admin, Scope::Admin).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for token in [&managed.session, &managed.key, &own] {
        let revoked = key.send(Method::POST, "/v2/auth/revoke", &form, Some(format!("token={token}").into()));
        revoked.await.expect(StatusCode::OK);
    }
    managed.user.get("/v2/users/me").await.expect(StatusCode::OK);
    key.get("/v2/users/me").await.expect(StatusCode::OK);
    let secret = key.bearer.clone().unwrap();
    let revoked = key.send(Method::POST, "/v2/auth/revoke", &form, Some(format!("token={secret}").into()));
    revoked.await.expect(StatusCode::OK);
    key.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_role_cannot_exceed_the_scope_of_the_caller() {
    let policy = r#"@id("staff") permit (principal in Scope::"agent",
        action in [Action::"createUser", Action::"updateUser"], resource);"#;
    let app = start_with_policies(policy).await;
    for scope in [Scope::Agent, Scope::Bot, Scope::Admin] {
        let caller = app.user(scope).await;
        for role in Scope::ALL {
            let created = caller.post("/v2/users", json!({ "email": unique_email(), "role": role })).await;
            if role <= scope {
                assert_eq!(created.expect(StatusCode::CREATED)["role"], json!(role));
            } else {
                created.expect_problem(403, "forbidden");
            }
        }
    }
    // The ceiling also applies if another policy permits the change of the role.
    let question = |role: &str| {
        json!({
            "action": { "name": "updateUser" }, "resource": { "type": "User", "id": "ID" },
            "context": { "role": { "type": "Scope", "id": role }, "changes": ["role"] },
        })
    };
    let agent = app.user(Scope::Agent).await;
    for (role, ceiling) in [("guest", false), ("agent", false), ("bot", true), ("admin", true)] {
        let mut question = question(role);
        question["resource"]["id"] = json!(agent.id);
        let answer = agent.post("/v2/authorize", question).await.expect(StatusCode::OK);
        let policies = answer["context"]["policies"].as_array().unwrap();
        let named = policies.iter().any(|policy| policy["id"] == "user.ceiling");
        assert_eq!((answer["decision"].as_bool(), named), (Some(false), ceiling), "{role}: {answer}");
    }
}

#[tokio::test]
async fn an_updated_role_is_authorized_with_the_new_role() {
    let policy = r#"@id("no bots") forbid (principal, action == Action::"updateUser", resource)
        when { context has role && context.role == Scope::"bot" };"#;
    let app = start_with_policies(policy).await;
    let admin = app.admin().await;
    let user = format!("/v2/users/{}", app.user(Scope::Guest).await.id);
    admin.patch(&user, json!({ "role": "bot" })).await.expect_problem(403, "forbidden");
    admin.patch(&user, json!({ "role": "agent" })).await.expect(StatusCode::OK);
    // A role in the request that does not change grants nothing.
    let bot = create_resource(&admin, "/v2/users", json!({ "email": unique_email(), "role": "bot" })).await;
    admin
        .patch(&format!("/v2/users/{bot}"), json!({ "role": "bot", "givenName": "B" }))
        .await
        .expect(StatusCode::OK);
}

/// The requests that would remove this user as an admin of the root organization.
fn removal_requests(user: &str, below: &str) -> Vec<(Method, String, Option<Value>)> {
    let path = format!("/v2/users/{user}");
    let mut removals: Vec<_> = [
        json!({ "role": "bot" }),
        json!({ "status": "blocked" }),
        json!({ "organization": below }),
        json!({ "givenName": "Ada", "role": "guest" }),
    ]
    .into_iter()
    .map(|change| (Method::PATCH, path.clone(), Some(change)))
    .collect();
    removals.push((Method::DELETE, path, None));
    removals
}

#[tokio::test]
async fn the_last_admin_of_the_root_cannot_be_removed() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let create_child = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    // Admins of other organizations, other users of the root organization, and blocked admins do not count.
    app.tenant("acme").await;
    app.user(Scope::Bot).await;
    let blocked = json!({ "email": unique_email(), "role": "admin", "status": "blocked" });
    create_resource(&admin, "/v2/users", blocked).await;
    let before = admin.get("/v2/users/me").await.expect(StatusCode::OK);
    for who in [admin.id.as_str(), "me"] {
        for (method, path, body) in removal_requests(who, &create_child) {
            admin.call(method, &path, body).await.expect_problem(409, "last_root_admin");
        }
    }
    assert_eq!(admin.get("/v2/users/me").await.expect(StatusCode::OK), before);
    admin.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);

    // With a second admin, one of them can be removed, but not both.
    for (index, (method, path, body)) in removal_requests(&admin.id, &create_child).into_iter().enumerate() {
        let second = app.user(Scope::Admin).await;
        let path = path.replace(&admin.id, &second.id);
        let done = admin.call(method, &path, body).await;
        assert!(done.status.is_success(), "{index}: {}", done.text);
    }
    admin.delete("/v2/users/me").await.expect_problem(409, "last_root_admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_removing_each_other_concurrently_leave_one() {
    let app = TestApp::start().await;
    let root = app.admin().await.get("/v2/users/me").await.json["organization"].clone();
    let create_child =
        create_resource(&app.admin().await, "/v2/organizations", json!({ "name": "below" })).await;
    let mut first = app.admin().await;
    for removal in 0..4 {
        let email = unique_email();
        create_resource(
            &first,
            "/v2/users",
            json!({ "email": email, "password": PASSWORD, "role": "admin" }),
        )
        .await;
        let second = app.client(&email).await;
        let [one, other] = [(&first, &second), (&second, &first)].map(|(caller, target)| {
            let (method, path, body) = removal_requests(&target.id, &create_child).swap_remove(removal);
            let caller = caller.clone();
            tokio::spawn(async move { caller.call(method, &path, body).await.status })
        });
        let statuses = [one.await.unwrap(), other.await.unwrap()];
        let removed = statuses.iter().filter(|status| status.is_success()).count();
        assert_eq!(removed, 1, "{removal}: {statuses:?}");
        let left = app
            .count(&format!(
                "SELECT COUNT(*) FROM users WHERE role = 'admin' AND status = 'active' AND organization = {}",
                root.to_string().replace('"', "'")
            ))
            .await;
        assert_eq!(left, 1, "{removal}");
        if statuses[1].is_success() {
            first = second;
        }
    }
}

/// Whether the password, the access token, the refresh token and the API key of a user are accepted.
async fn accepted_credentials(app: &TestApp, email: &str, tokens: &Value, key: &Client) -> [bool; 4] {
    let login = json!({ "email": email, "password": PASSWORD });
    let login = app.anonymous().post("/v2/auth/token", login).await;
    let session = app.bearer(tokens["token"].as_str().unwrap()).get("/v2/users/me").await;
    // Tests whether the refresh token is accepted, and uses it only if it is.
    let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    let refreshed = app.anonymous().post("/v2/auth/token", refresh).await;
    if !login.status.is_success() {
        login.expect_problem(401, "invalid_credentials");
        session.expect_problem(401, "invalid_token");
        refreshed.expect_problem(401, "invalid_refresh_token");
    }
    let key = key.get("/v2/users/me").await;
    [login.status, session.status, refreshed.status, key.status].map(|status| status.is_success())
}

#[tokio::test]
async fn an_inactive_organization_disables_logins_and_credentials_of_its_subtree() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let acme = create_resource(&root, "/v2/organizations", json!({ "name": "acme" })).await;
    let create_child =
        create_resource(&root, "/v2/organizations", json!({ "name": "below", "parent": acme })).await;
    let beside = create_resource(&root, "/v2/organizations", json!({ "name": "beside" })).await;
    let mut users = Vec::new();
    for organization in [&acme, &create_child, &beside] {
        let email = unique_email();
        let body =
            json!({ "email": email, "password": PASSWORD, "role": "bot", "organization": organization });
        create_resource(&root, "/v2/users", body).await;
        let tokens = app.log_in(&email).await;
        let (_, key) = api_key(&app, &app.bearer(tokens["token"].as_str().unwrap()), Scope::Bot).await;
        key.get("/v2/users").await.expect(StatusCode::OK);
        users.push((email, tokens, key));
    }
    let served = async || {
        // Failed logins are throttled. The refresh token works repeatedly: a retry within 30 s gets the same response.
        app.clock.advance(5_000);
        let mut served = Vec::new();
        for (email, tokens, key) in &users {
            served.push(accepted_credentials(&app, email, tokens, key).await);
        }
        served
    };
    let set = async |organization: &str, patch: Value| {
        root.patch(&format!("/v2/organizations/{organization}"), patch).await.expect(StatusCode::OK);
    };
    set(&acme, json!({ "status": "inactive" })).await;
    assert_eq!(served().await, [[false; 4], [false; 4], [true; 4]]);
    // A move to or from an inactive organization has the same effect as a change of the status.
    set(&create_child, json!({ "parent": beside })).await;
    assert_eq!(served().await, [[false; 4], [true; 4], [true; 4]]);
    set(&beside, json!({ "parent": acme })).await;
    assert_eq!(served().await, [[false; 4]; 3]);
    // Credentials that have not been revoked or expired are accepted again.
    set(&acme, json!({ "status": "active" })).await;
    assert_eq!(served().await, [[true; 4]; 3]);

    let own = root.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    let refused = root.patch(&format!("/v2/organizations/{own}"), json!({ "status": "inactive" })).await;
    refused.expect_problem(409, "root_organization");
    root.get("/v2/users/me").await.expect(StatusCode::OK);
    let events = root.get("/v2/audit?sort=seq").await.expect(StatusCode::OK);
    let events: Vec<&str> =
        events.as_array().unwrap().iter().filter_map(|event| event["event"].as_str()).collect();
    for event in ["organization.deactivated", "organization.activated"] {
        assert!(events.contains(&event), "{event}");
    }
}

#[tokio::test]
async fn an_admin_password_reset_revokes_api_keys_by_default() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (by_admin, end_keys, ends) in [
        (true, None, true),
        (true, Some(true), true),
        (true, Some(false), false),
        (false, None, false),
        (false, Some(true), true),
        (false, Some(false), false),
    ] {
        let user = app.user(Scope::Guest).await;
        let (_, key) = api_key(&app, &user, Scope::Guest).await;
        key.get("/v2/users/me").await.expect(StatusCode::OK);
        let mut patch = json!({ "password": NEW_PASSWORD });
        if let Some(end_keys) = end_keys {
            patch["endKeys"] = json!(end_keys);
        }
        if by_admin {
            admin.patch(&format!("/v2/users/{}", user.id), patch).await.expect(StatusCode::OK);
        } else {
            patch["currentPassword"] = json!(PASSWORD);
            user.patch("/v2/users/me", patch).await.expect(StatusCode::OK);
        }
        let after = key.get("/v2/users/me").await;
        let status = if ends { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        assert_eq!(after.status, status, "by an admin: {by_admin}, endKeys: {end_keys:?}");
    }
    // `endKeys` requires a new password and must be a boolean.
    let user = format!("/v2/users/{}", app.user(Scope::Guest).await.id);
    for patch in [
        json!({ "endKeys": true }),
        json!({ "givenName": "Ada", "endKeys": false }),
        json!({ "password": NEW_PASSWORD, "endKeys": "yes" }),
    ] {
        assert_eq!(admin.patch(&user, patch).await.expect_problem(400, "invalid_fields"), ["endKeys"]);
    }
}
