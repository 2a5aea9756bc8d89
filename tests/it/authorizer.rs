//! The authorizer: every request is authorized, and the policies decide.

use crate::support::{Client, PASSWORD, TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::server::App;
use cedargate::types::Clock;
use reqwest::StatusCode;
use serde_json::json;

/// Starts the service with an additional policy.
async fn start_with_policy(text: &str) -> TestApp {
    let more = tempfile::tempdir().unwrap();
    std::fs::write(more.path().join("more.cedar"), text).unwrap();
    TestApp::start_with(|config| config.policies.push(more.path().to_owned())).await
}

#[tokio::test]
async fn a_failing_forbid_policy_denies() {
    // Cedar ignores a policy whose evaluation fails, so that this forbid would have no effect.
    let policy = r#"@id("overflow") forbid (principal, action == Action::"listForms", resource)
        when { resource has level && resource.level + 9223372036854775807 + 1 == 0 };"#;
    let app = start_with_policy(policy).await;
    let admin = app.admin().await;
    admin.get("/v2/forms").await.expect_problem(403, "forbidden");
    admin.get("/v2/services").await.expect(StatusCode::OK);
    let organization = admin.get("/v2/users/me").await.json["organization"].clone();
    let question = json!({
        "action": { "name": "listForms" }, "resource": { "type": "Organization", "id": organization }
    });
    let answer = admin.post("/v2/authorize", question).await.expect(StatusCode::OK);
    assert_eq!(answer["decision"], false);
    assert_eq!(answer["context"]["error"]["code"], "undecidable");
}

#[tokio::test]
async fn a_self_update_is_authorized_on_the_updated_attributes() {
    let policy = r#"@id("domain") forbid (principal, action == Action::"updateUser", resource)
        unless { resource has email && resource.email like "*@example.com" };"#;
    let app = start_with_policy(policy).await;
    for scope in [Scope::Guest, Scope::Admin] {
        let user = app.user(scope).await;
        user.patch("/v2/users/me", json!({ "email": "me@elsewhere.org" }))
            .await
            .expect_problem(403, "forbidden");
        let email = format!("{scope}.too@example.com");
        user.patch("/v2/users/me", json!({ "email": email })).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn policies_may_read_credential_address_time_and_attributes() {
    let policy = r#"@id("local") forbid (principal, action == Action::"updateForm", resource)
        when { context has ip && context.ip.isLoopback() && context has changes && context.changes.contains(Field::"name") };
        @id("keys") forbid (principal, action == Action::"listServices", resource)
        when { context has credential && context.credential == Credential::"apiKey" };
        @id("late") forbid (principal, action == Action::"listContacts", resource)
        when { context has now && context.now >= datetime("2026-02-01T00:00:00Z") };
        @id("support") forbid (principal, action == Action::"updateConversation", resource)
        when { resource has category && resource.category == "support" };"#;
    let app = start_with_policy(policy).await;
    let admin = app.admin().await;
    let form = format!("/v2/forms/{}", admin.post("/v2/forms", json!({ "name": "a" })).await.id());
    admin.patch(&form, json!({ "name": "b" })).await.expect_problem(403, "forbidden");
    // Setting a field to its current value is not a change.
    admin.patch(&form, json!({ "name": "a", "meta": {} })).await.expect(StatusCode::OK);

    admin.get("/v2/services").await.expect(StatusCode::OK);
    app.bearer(&admin.key(&[Scope::Admin]).await).get("/v2/services").await.expect_problem(403, "forbidden");

    let created = admin.post("/v2/conversations", json!({ "category": "sales" })).await;
    let conversation = format!("/v2/conversations/{}", created.id());
    admin.patch(&conversation, json!({ "status": "open" })).await.expect(StatusCode::OK);
    // An update is authorized on the changed resource, too.
    admin.patch(&conversation, json!({ "category": "support" })).await.expect_problem(403, "forbidden");

    admin.get("/v2/contacts").await.expect(StatusCode::OK);
    app.clock.advance(86_400_000 - 1);
    app.admin().await.get("/v2/contacts").await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn an_api_key_cannot_escalate_by_changing_the_password_of_its_user() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    // A user without a password, and one with a password.
    let created = admin.post("/v2/users", json!({ "email": "machine@example.com", "role": "admin" })).await;
    let path = format!("/v2/users/{}/keys", created.id());
    let key = admin.post(&path, json!({ "name": "leaked", "scopes": ["guest"] })).await.json["key"].clone();
    let machine = app.bearer(key.as_str().unwrap());
    let person = app.bearer(&admin.key(&[Scope::Guest]).await);
    for client in [&machine, &person] {
        for change in [
            json!({ "password": "an0ther-s3cret" }),
            json!({ "password": "an0ther-s3cret", "currentPassword": PASSWORD }),
            json!({ "email": "mine@example.com" }),
        ] {
            client.patch("/v2/users/me", change).await.expect_problem(403, "forbidden");
        }
        client.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    }
    let login = json!({ "email": "machine@example.com", "password": "an0ther-s3cret" });
    app.anonymous().post("/v2/auth/token", login).await.expect_problem(401, "invalid_credentials");
    // The caller cannot remove what restricts it either.
    let keys = machine.get("/v2/users/me/keys").await.expect(StatusCode::OK);
    let key = format!("/v2/users/me/keys/{}", keys[0]["id"].as_str().unwrap());
    machine.delete(&key).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn messages_move_with_their_conversation() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (one, here) = app.tenant("one").await;
    let (two, there) = app.tenant("two").await;
    let body = json!({ "organization": one, "messages": [{ "text": "a" }, { "text": "b" }] });
    let conversation = admin.post("/v2/conversations", body).await.id();
    let path = format!("/v2/messages?conversation={conversation}");
    let count =
        async |client: &Client| client.get(&path).await.expect(StatusCode::OK).as_array().unwrap().len();
    assert_eq!((count(&here).await, count(&there).await), (2, 0));
    let moved =
        admin.patch(&format!("/v2/conversations/{conversation}"), json!({ "organization": two })).await;
    moved.expect(StatusCode::OK);
    assert_eq!((count(&here).await, count(&there).await), (0, 2));
    // Nothing remains that would prevent the deletion of the organization.
    let users = admin.get(&format!("/v2/users?organization={one}")).await.json;
    admin.delete(&format!("/v2/users/{}", users[0]["id"].as_str().unwrap())).await;
    assert_eq!(admin.delete(&format!("/v2/organizations/{one}")).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_question_does_not_disclose_whether_a_resource_exists() {
    let app = TestApp::start().await;
    let service = app.admin().await.post("/v2/services", json!({ "name": "secret" })).await.id();
    for scope in [Scope::Guest, Scope::Agent, Scope::Bot] {
        let client = app.user(scope).await;
        let mut answers = Vec::new();
        for id in [service.as_str(), "599e1fcd9da1c72645c95886", "no id"] {
            let question =
                json!({ "action": { "name": "fetchService" }, "resource": { "type": "Service", "id": id } });
            answers.push(client.post("/v2/authorize", question).await.expect_decisions(StatusCode::OK));
        }
        assert_eq!(answers[0]["decision"], false);
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_starts_create_one_root_organization() {
    let database = crate::support::Database::new().await;
    // SQLite creates the file only once. Concurrent starts matter on PostgreSQL.
    let several = if database.url.starts_with("postgres") { 4 } else { 1 };
    let starts = (0..several).map(|_| {
        let config = cedargate::config::Config {
            database_url: database.url.clone().into(),
            database_connections: 2,
            policies: vec![project_file("policies")],
            schema: vec![project_file("schema")],
            admin_password: Some(PASSWORD.into()),
            // Policy tests would block the single thread of this test for seconds.
            policy_tests: cedargate::config::PolicyTests::Off,
            ..Default::default()
        };
        tokio::spawn(async move { App::open(&config, Clock::system()).await })
    });
    let starts: Vec<_> = starts.collect();
    let mut roots = std::collections::BTreeSet::new();
    let mut admins = 0;
    for start in starts {
        let app = start.await.unwrap().unwrap();
        roots.insert(app.state.store.root().await.unwrap().unwrap().to_string());
        admins += usize::from(app.first_admin.is_some());
    }
    assert_eq!((roots.len(), admins), (1, 1));
}
