//! Requirements for new passwords wherever they are set, and password hashes.

use crate::command_line::start;
use crate::support::{ADMIN, PASSWORD, TestApp, slow_hashing};
use cedargate::authz::Scope;
use cedargate::config::{Config, PasswordProfile};
use cedargate::server::App;
use cedargate::store::AuditActor;
use reqwest::StatusCode;
use sea_orm::ConnectionTrait;
use serde_json::json;

/// The password hash of the only user that has one.
async fn stored_hash(app: &TestApp) -> String {
    let connection = sea_orm::Database::connect(app.url()).await.unwrap();
    let mut hashes = sea_orm::sea_query::Query::select();
    hashes.column("hash").from("passwords");
    let rows = connection.query_all(&hashes).await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(rows.len(), 1);
    rows[0].try_get("", "hash").unwrap()
}

#[tokio::test]
async fn a_guessable_password_is_rejected_everywhere() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.user(Scope::Guest).await;
    for password in [
        "password",
        "iloveyou2",
        "qwertyuiop",
        "aaaaaaaaaaaaaaaaa",
        "Password1!",
        // Words from the user's own data.
        "babbage1791",
        "charles.babbage@engine.example",
    ] {
        let about = json!({
            "email": "charles.babbage@engine.example", "givenName": "Charles", "familyName": "Babbage",
        });
        let mut new = about.clone();
        new["password"] = json!(password);
        let mut change = json!({ "givenName": "Charles", "familyName": "Babbage", "password": password });
        let others = format!("/v2/users/{}", user.id);
        let mut refused = vec![admin.post("/v2/users", new).await];
        if !password.contains('@') {
            refused.push(admin.patch(&others, change.clone()).await);
            change["currentPassword"] = json!(PASSWORD);
            refused.push(user.patch("/v2/users/me", change).await);
        }
        for refused in refused {
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
            assert_eq!(refused.json["errors"][0]["code"], "too_weak", "{}", refused.text);
            assert!(
                !refused.text.to_lowercase().contains(&password.to_lowercase()) || password == "password"
            );
        }
    }
    let me = user.get("/v2/users/me").await.json["email"].clone();
    app.log_in(me.as_str().unwrap()).await;
}

#[tokio::test]
async fn there_are_no_composition_rules() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (count, password) in
        ["grumpy otter lantern", "туман мосты шестерёнка", "   x7kq9zw   "].iter().enumerate()
    {
        let email = format!("user{count}@example.com");
        let body = json!({ "email": email, "password": password });
        admin.post("/v2/users", body.clone()).await.expect(StatusCode::CREATED);
        app.anonymous().post("/v2/auth/token", body).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn a_stricter_profile_applies_to_new_passwords_only() {
    let app = TestApp::start().await;
    let strict = app.start_replica(|config| {
        config.password_profile = PasswordProfile::Strict;
        config.admin_password = None;
    });
    let strict = strict.await;
    let admin = strict.admin().await;
    let make = async |email: &str, password: &str| {
        admin.post("/v2/users", json!({ "email": email, "password": password })).await
    };
    let refused = make("one@example.com", PASSWORD).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
    assert_eq!(refused.json["errors"][0]["code"], "too_short", "{}", refused.text);
    let refused = make("one@example.com", "qwertyuiop12345").await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["password"]);
    make("one@example.com", "grumpy otter lantern").await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_weak_first_admin_password_aborts_the_start() {
    let database = crate::support::Database::new().await;
    for (password, profile) in [("password1", PasswordProfile::Standard), (PASSWORD, PasswordProfile::Strict)]
    {
        let config = Config {
            database_url: database.url.clone().into(),
            policies: vec![crate::support::project_file("policies")],
            schema: vec![crate::support::project_file("schema")],
            admin_password: Some(password.into()),
            password_profile: profile,
            ..Config::default()
        };
        let clock = cedargate::types::Clock::system();
        let error = App::open(&config, clock).await.unwrap_err().to_string();
        assert!(error.contains("CEDARGATE_ADMIN_PASSWORD"), "{error}");
        assert!(!error.contains(password), "{error}");
    }
}

#[tokio::test]
async fn a_weak_first_admin_password_is_ignored_if_users_exist() {
    let app = TestApp::start().await;
    let again = app.start_replica(|config| config.admin_password = Some("short".into())).await;
    again.log_in(ADMIN).await;

    // Without users, the password would be used. The SQLite file already exists, so that only the rows count.
    again.sql("DELETE FROM users").await;
    let error = App::open(&again.config, again.clock.clone()).await.unwrap_err().to_string();
    assert!(error.contains("CEDARGATE_ADMIN_PASSWORD"), "{error}");
    assert_eq!(again.count("SELECT COUNT(*) FROM users").await, 0);
}

#[test]
fn an_unused_weak_first_admin_password_is_logged_as_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path(), &[("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0")]).stop();
    for (password, is_weak) in [("short", true), (PASSWORD, false)] {
        let settings = [("CEDARGATE_ADMIN_PASSWORD", password), ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0")];
        let log = start(directory.path(), &settings).stop();
        let warning = log.lines().find(|line| line.contains("CEDARGATE_ADMIN_PASSWORD"));
        assert_eq!(warning.is_some_and(|line| line.contains("WARN")), is_weak, "{log}");
    }
}

#[tokio::test]
async fn a_login_rehashes_the_password_with_the_current_parameters() {
    let app = TestApp::start_with(slow_hashing).await;
    let usual = stored_hash(&app).await;
    assert!(usual.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{usual}");
    app.log_in(ADMIN).await;
    assert_eq!(stored_hash(&app).await, usual, "the hash must not change without new parameters");

    let better = app.start_replica(|config| config.argon2_iterations = 3).await;
    let wrong = json!({ "email": ADMIN, "password": "not-the-s3cret-at-all" });
    better.anonymous().post("/v2/auth/token", wrong).await.expect_problem(401, "invalid_credentials");
    assert_eq!(stored_hash(&app).await, usual, "a wrong password must not change the hash");
    better.log_in(ADMIN).await;
    let renewed = stored_hash(&app).await;
    assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=3,p=1$"), "{renewed}");
    // The new hash replaces the old one, in both processes, and persists.
    for app in [&app, &better] {
        app.log_in(ADMIN).await;
        assert_eq!(stored_hash(app).await, renewed);
    }
}

#[tokio::test]
async fn rehashing_does_not_overwrite_a_changed_password() {
    let app = TestApp::start().await;
    let old = stored_hash(&app).await;
    let admin = app.admin().await;
    let user = admin.id.parse().unwrap();
    let patch = json!({ "password": "an0ther-s3cret", "currentPassword": PASSWORD });
    admin.patch("/v2/users/me", patch).await.expect(StatusCode::OK);
    let changed = stored_hash(&app).await;
    let unit_of_work = app.state.store.begin(AuditActor::service(app.clock.now())).await.unwrap();
    unit_of_work.replace_password_hash(user, &old, "another hash of the old one").await.unwrap();
    unit_of_work.commit().await.unwrap();
    assert_eq!(stored_hash(&app).await, changed);
}
