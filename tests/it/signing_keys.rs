//! Signing keys: rotation, verification by other services, and revocation.

use crate::command_line::{client, run, start, text};
use crate::support::{ADMIN, Client, Database, PASSWORD, TestApp, decode_jwt, from_base64};
use cedargate::config::{Config, TokenAlgorithm};
use cedargate::server::App;
use cedargate::store::AuditActor;
use jwt_compact::alg::Ed25519;
use jwt_compact::jwk::JsonWebKey;
use jwt_compact::{Algorithm, AlgorithmExt, UntrustedToken};
use migrations::Migrator;
use reqwest::StatusCode;
use sea_orm_migration::MigratorTrait;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The maximum time that the tests wait for a condition.
const TIMEOUT: Duration = Duration::from_secs(20);
const LEAD_SECONDS: i64 = 600;
const DAY: i64 = 86_400;

fn use_eddsa(config: &mut Config) {
    config.token_algorithm = TokenAlgorithm::EdDsa;
}

async fn token(app: &TestApp) -> String {
    app.log_in(ADMIN).await["token"].as_str().unwrap().to_owned()
}

fn kid(token: &str) -> String {
    decode_jwt(token).0["kid"].as_str().unwrap().to_owned()
}

async fn status(app: &TestApp, token: &str) -> (u16, String) {
    let reply = app.bearer(token).get("/v2/users/me").await;
    (reply.status.as_u16(), reply.json["error"]["message"].as_str().unwrap_or_default().to_owned())
}

async fn public_keys(app: &TestApp) -> Vec<Value> {
    let keys = app.anonymous().get("/.well-known/jwks.json").await.expect(StatusCode::OK);
    keys["keys"].as_array().unwrap().clone()
}

async fn public_kids(app: &TestApp) -> Vec<String> {
    public_keys(app).await.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Verifies a token as another service would, with an independent JWT library and only the base URL of this service. Returns
/// the claims.
async fn verify_with_external_library(base: &str, token: &str) -> Result<Value, String> {
    let anonymous = client(base);
    let metadata = anonymous.get("/.well-known/oauth-authorization-server").await.expect(StatusCode::OK);
    let keys = anonymous.http.get(metadata["jwks_uri"].as_str().unwrap()).send().await.unwrap();
    let keys: Value = serde_json::from_str(&keys.text().await.unwrap()).unwrap();
    let untrusted = UntrustedToken::new(token).map_err(|error| error.to_string())?;
    let kid = untrusted.header().key_id.clone().ok_or("the token names no key")?;
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid.as_str());
    let key = key.ok_or(format!("there is no public key {kid}"))?.to_string();
    let key: JsonWebKey<'_> = serde_json::from_str(&key).unwrap();
    let key = <Ed25519 as Algorithm>::VerifyingKey::try_from(&key).map_err(|error| error.to_string())?;
    let checked = Ed25519.validator::<Value>(&key).validate(&untrusted).map_err(|error| error.to_string())?;
    let claims = &checked.claims().custom;
    (claims["iss"] == metadata["issuer"]).then(|| claims.clone()).ok_or("another issuer".into())
}

#[tokio::test]
async fn tokens_can_be_verified_by_another_library() {
    let app = TestApp::start_with(use_eddsa).await;
    let good = token(&app).await;
    let claims = verify_with_external_library(&app.base, &good).await.unwrap();
    assert_eq!(claims["_id"], app.admin().await.id);
    assert_eq!((&claims["scope"], &claims["aud"]), (&json!("admin"), &json!(app.base)));
    // The library rejects a manipulated token and one of another issuer.
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let raised = crate::support::to_base64(
        String::from_utf8(from_base64(body)).unwrap().replace("admin", "owner").as_bytes(),
    );
    assert!(verify_with_external_library(&app.base, &format!("{head}.{raised}.{signature}")).await.is_err());
    let other = TestApp::start_with(use_eddsa).await;
    assert!(
        verify_with_external_library(&app.base, &token(&other).await)
            .await
            .unwrap_err()
            .contains("no public key")
    );
    // This service accepts the token itself.
    assert_eq!(status(&app, &good).await.0, 200);
}

#[tokio::test]
async fn jwks_contains_eddsa_keys_and_may_be_cached() {
    let app = TestApp::start_with(use_eddsa).await;
    let reply = app.anonymous().get("/.well-known/jwks.json").await;
    assert_eq!(reply.header("cache-control"), "public, max-age=300");
    let key = &reply.json["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["use"], &key["alg"]),
        (&json!("OKP"), &json!("Ed25519"), &json!("sig"), &json!("EdDSA"))
    );
    assert_eq!(from_base64(key["x"].as_str().unwrap()).len(), 32);
    assert_eq!(key.as_object().unwrap().len(), 6, "{key}");
    let header = decode_jwt(&token(&app).await).0;
    assert_eq!(header, json!({ "typ": "JWT", "alg": "EdDSA", "kid": key["kid"] }));
}

#[tokio::test]
async fn hs256_keys_are_never_published() {
    for secret in [None, Some("a key for tests: 0123456789abcdef")] {
        let app = TestApp::start_with(|config| config.jwt_secret = secret.map(Into::into)).await;
        assert_eq!(public_keys(&app).await, [] as [Value; 0]);
        let metadata = app.anonymous().get("/.well-known/oauth-authorization-server").await;
        assert_eq!(metadata.json.get("jwks_uri"), None, "without public keys there is no jwks_uri");
    }
    // A secret key is not published beside a public one either.
    let app = TestApp::start().await;
    let secret = kid(&token(&app).await);
    let app = app.start_replica(use_eddsa).await;
    app.state.signing_keys.rotate(AuditActor::service(app.clock.now())).await.unwrap();
    let kids = public_kids(&app).await;
    assert_eq!((kids.len(), kids.contains(&secret)), (2, false));
    for key in public_keys(&app).await {
        assert_eq!((&key["kty"], key.get("k"), key.get("d")), (&json!("OKP"), None, None));
    }
}

#[tokio::test]
async fn the_metadata_list_endpoints_and_no_password_grant() {
    let app = TestApp::start_with(|config| {
        use_eddsa(config);
        config.public_url = Some("https://id.example.com/".into());
    })
    .await;
    let reply = app.anonymous().get("/.well-known/oauth-authorization-server").await;
    let metadata = reply.expect(StatusCode::OK);
    assert_eq!(metadata["issuer"], "https://id.example.com");
    assert_eq!(metadata["issuer"], decode_jwt(&token(&app).await).1["iss"]);
    assert_eq!(metadata["jwks_uri"], "https://id.example.com/.well-known/jwks.json");
    assert_eq!(metadata["token_endpoint"], "https://id.example.com/v2/auth/token");
    assert_eq!(metadata["revocation_endpoint"], "https://id.example.com/v2/auth/revoke");
    assert_eq!(metadata["introspection_endpoint"], "https://id.example.com/v2/auth/introspect");
    assert_eq!(metadata["grant_types_supported"], json!(["refresh_token"]));
    assert_eq!(metadata["response_types_supported"], json!([]));
    assert_eq!(metadata["scopes_supported"], json!(["guest", "agent", "bot", "admin"]));
    assert!(!metadata.to_string().contains("password"), "{metadata}");
}

#[tokio::test]
async fn rotation_does_not_change_the_lifetime_of_issued_tokens() {
    let app = TestApp::start_with(use_eddsa).await;
    let first = token(&app).await;
    app.state.signing_keys.rotate(AuditActor::service(app.clock.now())).await.unwrap();
    // The new key is published before it signs.
    assert_eq!(public_kids(&app).await.len(), 2);
    app.clock.advance((LEAD_SECONDS - 1) * 1_000);
    let last = token(&app).await;
    assert_eq!(kid(&last), kid(&first));
    app.clock.advance(1_000);
    let next = token(&app).await;
    assert_ne!(kid(&next), kid(&first));
    assert_eq!(public_kids(&app).await, [kid(&first), kid(&next)]);
    for good in [&first, &last, &next] {
        assert_eq!(status(&app, good).await.0, 200);
        assert!(verify_with_external_library(&app.base, good).await.is_ok());
    }
    // At LEAD + n: the first tokens expire, each in its own second and not earlier.
    app.clock.advance((DAY - LEAD_SECONDS - 1) * 1_000);
    assert_eq!(status(&app, &first).await.0, 200);
    app.clock.advance(1_000);
    assert_eq!(status(&app, &first).await, (403, "jwt expired".into()));
    app.clock.advance((LEAD_SECONDS - 2) * 1_000);
    assert_eq!(status(&app, &last).await.0, 200);
    app.clock.advance(1_000);
    assert_eq!(status(&app, &last).await, (403, "jwt expired".into()));
    app.clock.advance(1_000);
    assert_eq!(status(&app, &next).await, (403, "jwt expired".into()));
    // The old key remains for another minute, and is then deleted.
    app.clock.advance(59_000);
    app.state.signing_keys.maintain().await.unwrap();
    assert_eq!(public_kids(&app).await, [kid(&first), kid(&next)]);
    assert_eq!(status(&app, &last).await, (403, "jwt expired".into()));
    app.clock.advance(1_000);
    assert_eq!(public_kids(&app).await, [kid(&next)]);
    assert_eq!(status(&app, &last).await, (401, "invalid signature".into()));
    app.state.signing_keys.maintain().await.unwrap();
    assert_eq!(app.state.signing_keys.cached().keys().count(), 1);
    assert_eq!(status(&app, &token(&app).await).await.0, 200);
}

#[tokio::test]
async fn another_process_loads_a_new_key_on_demand_at_most_once_a_second() {
    let app = TestApp::start().await;
    let other = app.start_replica(|_| ()).await;
    app.state.signing_keys.revoke(AuditActor::service(app.clock.now())).await.unwrap();
    let new = token(&app).await;
    if app.postgres().is_none() {
        // The process has read the keys in this second, and reads them at most once per second.
        assert_eq!(status(&other, &new).await, (401, "invalid signature".into()));
    }
    app.clock.advance(1_000);
    assert_eq!(status(&other, &new).await.0, 200);
    assert_eq!(kid(&token(&other).await), kid(&new));
}

#[tokio::test]
async fn tokens_of_a_revoked_key_are_rejected_and_can_be_refreshed() {
    let app = TestApp::start_with(use_eddsa).await;
    let other = app.start_replica(|_| ()).await;
    let tokens = app.log_in(ADMIN).await;
    let old = tokens["token"].as_str().unwrap();
    let key = app.admin().await.key(&[cedargate::authz::Scope::Admin]).await;
    for app in [&app, &other] {
        // The caller is cached now.
        assert_eq!(status(app, old).await.0, 200);
        assert_eq!(status(app, &key).await.0, 200);
    }
    app.state.signing_keys.revoke(AuditActor::service(app.clock.now())).await.unwrap();
    assert_eq!(status(&app, old).await, (401, "invalid signature".into()));
    assert_eq!(status(&app, &key).await.0, 200, "API keys are independent of signing keys");
    assert_eq!(public_kids(&app).await, [kid(&token(&app).await)]);
    assert!(verify_with_external_library(&app.base, old).await.is_err());
    // What a process does every second without notifications.
    if app.postgres().is_none() {
        other.state.signing_keys.maintain().await.unwrap();
    }
    let started = Instant::now();
    while status(&other, old).await != (401, "invalid signature".into()) {
        assert!(started.elapsed() < TIMEOUT, "the other process still uses a revoked key");
    }
    let body = json!({ "refreshToken": tokens["refreshToken"], "clientId": ADMIN });
    let fresh = app.anonymous().post("/v2/auth/token", body).await.expect(StatusCode::OK);
    assert_eq!(status(&app, fresh["token"].as_str().unwrap()).await.0, 200);
}

#[tokio::test]
async fn scheduled_rotation_creates_one_key_for_all_processes() {
    let change = |config: &mut Config| {
        config.access_ttl = 60;
        config.signing_key_rotation = 3_600;
    };
    let app = TestApp::start_with(change).await;
    let other = app.start_replica(|_| ()).await;
    let newest = |app: &TestApp| app.state.signing_keys.cached().keys().next_back().unwrap().0.number;
    for round in 1..=30 {
        app.state.signing_keys.maintain().await.unwrap();
        assert_eq!(newest(&app), round, "no rotation before it is due");
        // The next key is created ten minutes before the hour is over.
        app.clock.advance((3_600 - LEAD_SECONDS) * 1_000);
        let maintenance: Vec<_> = [&app, &other, &app, &other]
            .map(|app| {
                let parts = app.state.clone();
                tokio::spawn(async move { parts.signing_keys.maintain().await })
            })
            .into();
        for one in maintenance {
            one.await.unwrap().unwrap();
        }
        other.state.signing_keys.maintain().await.unwrap();
        app.state.signing_keys.maintain().await.unwrap();
        assert_eq!((newest(&app), newest(&other)), (round + 1, round + 1));
        let old = token(&app).await;
        app.clock.advance(LEAD_SECONDS * 1_000);
        let new = token(&other).await;
        assert_ne!(kid(&old), kid(&new));
        assert_eq!((status(&app, &new).await.0, status(&other, &new).await.0), (200, 200));
        assert!(app.state.signing_keys.cached().keys().count() <= 3);
    }
    // The audit log has one entry for the creation and one for the end of each key.
    let logged = async |event: &str| {
        app.count(&format!("SELECT COUNT(*) FROM audit WHERE event = 'signing_key.{event}'")).await
    };
    assert_eq!(logged("created").await, 31);
    assert_eq!(
        logged("created").await - logged("deleted").await,
        app.count("SELECT COUNT(*) FROM signing_keys").await
    );
    assert!(logged("deleted").await >= 28);
}

#[tokio::test]
async fn changing_the_algorithm_keeps_issued_tokens_valid() {
    let app = TestApp::start().await;
    let old = token(&app).await;
    assert_eq!(decode_jwt(&old).0["alg"], "HS256");
    let moved = app.start_replica(use_eddsa).await;
    let new = token(&moved).await;
    assert_eq!(decode_jwt(&new).0["alg"], "EdDSA");
    assert_eq!((status(&moved, &old).await.0, status(&moved, &new).await.0), (200, 200));
    app.clock.advance(1_000);
    assert_eq!(status(&app, &new).await.0, 200, "a process that was already running must accept it");
    // Another start changes nothing, nor does a command with other settings. A rotation keeps the algorithm.
    let again = app.start_replica(use_eddsa).await;
    assert_eq!(kid(&token(&again).await), kid(&new));
    run(app.directory(), &[("CEDARGATE_DATABASE_URL", app.url())], &["user", "list"]);
    app.state.signing_keys.maintain().await.unwrap();
    assert_eq!(kid(&token(&app).await), kid(&new));
    app.state.signing_keys.rotate(AuditActor::service(app.clock.now())).await.unwrap();
    app.clock.advance(LEAD_SECONDS * 1_000);
    assert_eq!(decode_jwt(&token(&app).await).0["alg"], "EdDSA");
    let back = app.start_replica(|config| config.token_algorithm = TokenAlgorithm::Hs256).await;
    assert_eq!(decode_jwt(&token(&back).await).0["alg"], "HS256");
    assert_eq!(status(&back, &new).await.0, 200);
}

#[tokio::test]
async fn the_signing_key_survives_a_database_upgrade() {
    let database = Database::new().await;
    let url = if database.url.starts_with("sqlite") {
        format!("{}?mode=rwc", database.url)
    } else {
        database.url.clone()
    };
    let connection = sea_orm::Database::connect(url).await.unwrap();
    Migrator::up(&connection, Some(2)).await.unwrap();
    connection.close().await.unwrap();
    let secret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let row = format!(
        "INSERT INTO signing_keys (kid, algorithm, secret, created_at) VALUES ('1', 'HS256', '{secret}', 0)"
    );
    database.sql(&row).await;
    let app = TestApp::start_on(database).await;
    let token = token(&app).await;
    assert_eq!(decode_jwt(&token).0, json!({ "typ": "JWT", "alg": "HS256", "kid": "1" }));
    app.state.signing_keys.rotate(AuditActor::service(app.clock.now())).await.unwrap();
    app.clock.advance(LEAD_SECONDS * 1_000);
    assert_eq!(status(&app, &token).await.0, 200);
}

#[tokio::test]
async fn an_invalid_stored_key_aborts_the_start() {
    let app = TestApp::start_with(use_eddsa).await;
    app.sql("UPDATE signing_keys SET secret = 'c0ffee'").await;
    let error = App::open(&app.config, app.clock.clone()).await.unwrap_err().to_string();
    assert!(error.contains("signing key") && !error.contains("c0ffee"), "{error}");
}

#[tokio::test]
async fn the_cli_rotates_and_revokes_keys_while_the_service_runs() {
    let database = Database::new().await;
    let settings = [
        ("CEDARGATE_DATABASE_URL", database.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_TOKEN_ALGORITHM", "EdDSA"),
    ];
    let directory = database.directory.path();
    let service = start(directory, &settings);
    let command = |arguments: &[&str]| {
        let output = run(directory, &settings[..1], &[&["signing-key"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let anonymous = client(&service.base);
    let body = json!({ "email": ADMIN, "password": PASSWORD });
    let log_in = async || {
        let tokens = anonymous.post("/v2/auth/token", body.clone()).await.expect(StatusCode::OK);
        Client { bearer: Some(tokens["token"].as_str().unwrap().to_owned()), ..anonymous.clone() }
    };
    let old = log_in().await;
    let old_kid = kid(old.bearer.as_ref().unwrap());
    old.get("/v2/users/me").await.expect(StatusCode::OK);
    let list = command(&["list"]);
    assert_eq!(list, format!("{old_kid}  EdDSA  active\n"));

    let rotated = command(&["rotate"]);
    let lines: Vec<&str> = rotated.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, list.trim_end()));
    assert!(lines[1].contains("  EdDSA  active from 20"), "{rotated}");
    let wait_until = async |what: &str, condition: &dyn Fn(u16, &Value) -> bool| {
        let started = Instant::now();
        loop {
            let reply = old.get("/v2/users/me").await;
            let keys = anonymous.get("/.well-known/jwks.json").await.json;
            if condition(reply.status.as_u16(), &keys["keys"]) {
                return;
            }
            assert!(started.elapsed() < TIMEOUT, "{what}: {} {keys}", reply.text);
        }
    };
    wait_until("the new key is published", &|status, keys| {
        assert_eq!(status, 200);
        keys.as_array().unwrap().len() == 2
    })
    .await;

    let revoked = command(&["rotate", "--revoke"]);
    assert_eq!((revoked.lines().count(), revoked.contains(&old_kid)), (1, false), "{revoked}");
    assert!(revoked.ends_with("  EdDSA  active\n"), "{revoked}");
    wait_until("the old token is rejected", &|status, _| status == 401).await;
    let new = log_in().await;
    new.get("/v2/users/me").await.expect(StatusCode::OK);
    assert!(revoked.starts_with(&kid(new.bearer.as_ref().unwrap())), "{revoked}");
}

#[tokio::test]
async fn a_configured_key_cannot_be_rotated_by_the_cli() {
    let app = TestApp::start().await;
    let settings = [
        ("CEDARGATE_DATABASE_URL", app.url()),
        ("CEDARGATE_JWT_SECRET", "a key for tests: 0123456789abcdef"),
    ];
    let list = run(app.directory(), &settings, &["signing-key", "list"]);
    assert_eq!(text(&list.stdout), "configured        HS256  active\n");
    for arguments in [&["signing-key", "rotate"] as &[&str], &["signing-key", "rotate", "--revoke"]] {
        let output = run(app.directory(), &settings, arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("CEDARGATE_JWT_SECRET"), "{}", text(&output.stderr));
    }
    let both = [settings.as_slice(), &[("CEDARGATE_TOKEN_ALGORITHM", "EdDSA")]].concat();
    let output = run(app.directory(), &both, &["signing-key", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("CEDARGATE_TOKEN_ALGORITHM"), "{}", text(&output.stderr));
}
