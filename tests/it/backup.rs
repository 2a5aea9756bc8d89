//! Backups of the database, and what a restored backup must not reactivate.

use crate::command_line::{client, run, start, text};
use crate::multi_process::TIMEOUT;
use crate::support::{ADMIN, Client, PASSWORD, decode_jwt};
use crate::token_families::access_token;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

async fn log_in_admin(base: &str) -> Value {
    let login = json!({ "email": ADMIN, "password": PASSWORD });
    client(base).post("/v2/auth/token", login).await.expect(StatusCode::OK)
}

fn bearer(base: &str, token: &Value) -> Client {
    Client { bearer: Some(token.as_str().unwrap().to_owned()), ..client(base) }
}

fn kid(tokens: &Value) -> Value {
    decode_jwt(access_token(tokens)).0["kid"].clone()
}

/// Logs in until the service uses the new signing key.
async fn wait_for_new_signing_key(base: &str, tokens: &Value) -> Value {
    let started = Instant::now();
    loop {
        let later = log_in_admin(base).await;
        if kid(&later) != kid(tokens) {
            return later;
        }
        assert!(started.elapsed() < TIMEOUT, "the service still signs with the revoked key");
    }
}

#[tokio::test]
async fn a_restored_backup_keeps_data_but_no_revoked_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("CEDARGATE_ADMIN_PASSWORD", PASSWORD), ("CEDARGATE_TOKEN_ALGORITHM", "EdDSA")];
    let running = start(directory.path(), &settings);
    let tokens = log_in_admin(&running.base).await;
    let admin = bearer(&running.base, &tokens["token"]);
    let key = json!({ "name": "import", "scopes": ["agent"] });
    let key = admin.post("/v2/users/me/keys", key).await.expect(StatusCode::CREATED);
    let form = admin.post("/v2/forms", json!({ "name": "kept" })).await.id();

    let copied = run(directory.path(), &settings, &["backup", "copy.db"]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    let again = run(directory.path(), &settings, &["backup", "copy.db"]);
    assert_eq!(again.status.code(), Some(1), "an existing backup must not be overwritten");
    assert!(text(&again.stderr).contains("copy.db already exists"), "{}", text(&again.stderr));

    // After the backup: one more form, and everything revoked.
    let lost = admin.post("/v2/forms", json!({ "name": "lost" })).await.id();
    let path = format!("/v2/users/me/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(admin.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(admin.post("/v2/auth/logout", json!({})).await.status, StatusCode::NO_CONTENT);
    let rotated = run(directory.path(), &settings, &["signing-key", "rotate", "--revoke"]);
    assert!(rotated.status.success(), "{}", text(&rotated.stderr));
    let later = wait_for_new_signing_key(&running.base, &tokens).await;
    drop(running);

    // The restore procedure of the documentation.
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(directory.path().join(format!("cedargate.db{suffix}")));
    }
    std::fs::copy(directory.path().join("copy.db"), directory.path().join("cedargate.db")).unwrap();
    let revoked = run(directory.path(), &settings, &["revoke-all"]);
    let expected =
        "ended 1 sessions and all API keys of 1 users\nrevoked all signing keys and created a new one\n";
    assert_eq!(text(&revoked.stdout), expected);

    let running = start(directory.path(), &settings);
    for token in [&tokens["token"], &key["key"], &later["token"]] {
        let refused = bearer(&running.base, token).get("/v2/users/me").await;
        refused.expect_problem(401, "invalid_token");
        let is_jwt = *token != key["key"];
        assert_eq!(refused.json["error"]["message"] == "invalid signature", is_jwt, "{}", refused.text);
    }
    // The revoked keys are not published for other services either.
    let public = client(&running.base).get("/.well-known/jwks.json").await.expect(StatusCode::OK);
    let public: Vec<&Value> = public["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect();
    let fresh = log_in_admin(&running.base).await;
    assert_eq!(public, [&kid(&fresh)]);
    for tokens in [&tokens, &later] {
        let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": ADMIN });
        let answer = client(&running.base).post("/v2/auth/token", refresh).await;
        answer.expect_problem(401, "invalid_refresh_token");
    }
    let admin = bearer(&running.base, &fresh["token"]);
    assert_eq!(admin.get(&format!("/v2/forms/{form}")).await.expect(StatusCode::OK)["name"], "kept");
    assert_eq!(admin.get(&format!("/v2/forms/{lost}")).await.status, StatusCode::NOT_FOUND);
}

#[test]
fn revoke_all_names_the_setting_of_a_configured_signing_key() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("CEDARGATE_JWT_SECRET", "a key for tests: 0123456789abcdef")];
    let added = run(directory.path(), &settings, &["user", "add", "--email", "ada@example.com"]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    let revoked = run(directory.path(), &settings, &["revoke-all"]);
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    assert!(text(&revoked.stdout).contains("CEDARGATE_JWT_SECRET"), "{}", text(&revoked.stdout));
}

#[tokio::test]
async fn the_database_and_its_backups_are_accessible_to_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let settings =
        [("CEDARGATE_ADMIN_PASSWORD", PASSWORD), ("CEDARGATE_DATABASE_URL", "sqlite://data.db?mode=rwc")];
    let running = start(directory.path(), &settings);
    log_in_admin(&running.base).await;
    let copied = run(directory.path(), &settings, &["backup", "copy.db"]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    let files: BTreeMap<String, u32> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().mode() & 0o777))
        .collect();
    assert!(files.len() >= 3 && files.values().all(|mode| *mode == 0o600), "{files:?}");
    let nowhere = run(directory.path(), &settings, &["backup", "nowhere/copy.db"]);
    assert!(text(&nowhere.stderr).contains("nowhere/copy.db cannot be created"), "{}", text(&nowhere.stderr));
}
