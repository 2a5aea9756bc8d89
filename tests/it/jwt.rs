//! Invalid access tokens: every manipulation is a 401 with a challenge (see "Signature algorithm" and "Expired token" in
//! docs/decisions.md).

use crate::support::{ADMIN, TestApp, decode_jwt, from_base64, to_base64};
use cedargate::config::TokenAlgorithm;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The signing key of the service in these tests.
const SECRET: &str = "a key for tests: 0123456789abcdef";
/// A key that the service does not have.
const UNKNOWN_SECRET: &str = "another key for tests: fedcba987654";

async fn start() -> TestApp {
    TestApp::start_with(|config| config.jwt_secret = Some(SECRET.into())).await
}

/// A token with this header and these claims, signed with this key.
fn sign_token(header: &Value, claims: &Value, secret: &str, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode_part(header), encode_part(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn encode_part(part: &Value) -> String {
    to_base64(part.to_string().as_bytes())
}

/// The object with one member changed, or removed if the value is none.
fn with(object: &Value, name: &str, value: impl Into<Option<Value>>) -> Value {
    let mut object = object.clone();
    match value.into() {
        Some(value) => object[name] = value,
        None => drop(object.as_object_mut().unwrap().remove(name).unwrap()),
    }
    object
}

/// Asserts that a token is rejected as invalid, and returns the message.
async fn expect_invalid_token(app: &TestApp, what: &str, token: &str) -> String {
    let reply = app.bearer(token).get("/v2/users/me").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}: {}", reply.text);
    reply.expect_problem(401, "invalid_token");
    let challenge = reply.header("www-authenticate");
    assert!(challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert!(token.len() < 20 || !reply.text.contains(token), "{what}: the response contains the token");
    reply.json["error"]["message"].as_str().unwrap().to_owned()
}

/// An access token of the admin with its header and claims.
async fn issue_token(app: &TestApp) -> (String, Value, Value) {
    let token = app.log_in(ADMIN).await["token"].as_str().unwrap().to_owned();
    let (header, claims) = decode_jwt(&token);
    (token, header, claims)
}

#[tokio::test]
async fn a_token_signed_by_the_test_helper_is_accepted() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    let copy = sign_token(&header, &claims, SECRET, Algorithm::HS256);
    app.bearer(&copy).get("/v2/users/me").await.expect(StatusCode::OK);
    // A valid control token: the tokens of the other tests are invalid only because of their single change.
    let later = with(&claims, "exp", json!(claims["exp"].as_i64().unwrap() + 60));
    let copy = sign_token(&header, &later, SECRET, Algorithm::HS256);
    app.bearer(&copy).get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_token_signed_with_another_key_has_an_invalid_signature() {
    let app = start().await;
    let (token, header, claims) = issue_token(&app).await;
    let parts: Vec<&str> = token.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let raised = encode_part(&with(&claims, "exp", json!(4_102_444_800_i64)));
    let renamed = encode_part(&with(&claims, "_id", json!("599e1fcd9da1c72645c95886")));
    let half = to_base64(&from_base64(signature)[..16]);
    let longer = to_base64(&[from_base64(signature), vec![0]].concat());
    for (what, token) in [
        ("signed with a foreign key", sign_token(&header, &claims, UNKNOWN_SECRET, Algorithm::HS256)),
        ("a later expiry", format!("{head}.{raised}.{signature}")),
        ("another user", format!("{head}.{renamed}.{signature}")),
        ("another signature", format!("{head}.{body}.{other}{}", &signature[1..])),
        ("half a signature", format!("{head}.{body}.{half}")),
        ("a longer signature", format!("{head}.{body}.{longer}")),
        ("the header as the signature", format!("{head}.{body}.{head}")),
    ] {
        assert_eq!(expect_invalid_token(&app, what, &token).await, "invalid signature", "{what}");
    }
}

#[tokio::test]
async fn a_key_accepts_only_its_own_algorithm() {
    let app = start().await;
    let (token, header, claims) = issue_token(&app).await;
    let signature = token.rsplit('.').next().unwrap();
    let mut wrong = Vec::new();
    for name in ["none", "None", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256"] {
        let header = with(&header, "alg", json!(name));
        let message = format!("{}.{}", encode_part(&header), encode_part(&claims));
        wrong.push((format!("{name}, unsigned"), format!("{message}.")));
        wrong.push((format!("{name}, with no third part"), message.clone()));
        wrong.push((format!("{name}, with the signature of another"), format!("{message}.{signature}")));
        // This token would be valid if the algorithm in its header were used.
        wrong.push((
            format!("{name}, signed with HS256"),
            sign_token(&header, &claims, SECRET, Algorithm::HS256),
        ));
    }
    for (name, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
        let header = with(&header, "alg", json!(name));
        for secret in [SECRET, UNKNOWN_SECRET] {
            wrong.push((format!("{name}, signed so"), sign_token(&header, &claims, secret, algorithm)));
        }
    }
    wrong.push(("HS256, signed with HS384".into(), sign_token(&header, &claims, SECRET, Algorithm::HS384)));
    let no_algorithm = with(&header, "alg", None);
    wrong.push(("no algorithm".into(), sign_token(&no_algorithm, &claims, SECRET, Algorithm::HS256)));
    for (what, token) in wrong {
        let message = expect_invalid_token(&app, &what, &token).await;
        assert!(["invalid signature", "invalid token"].contains(&message.as_str()), "{what}: {message}");
    }
}

#[tokio::test]
async fn a_missing_or_unknown_kid_is_rejected() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    for kid in [None, Some(json!("foreign")), Some(json!("")), Some(json!(1)), Some(json!(["configured"]))] {
        let header = with(&header, "kid", kid.clone());
        let what = format!("kid {kid:?}");
        let token = sign_token(&header, &claims, SECRET, Algorithm::HS256);
        let message = expect_invalid_token(&app, &what, &token).await;
        assert!(["invalid signature", "invalid token"].contains(&message.as_str()), "{what}: {message}");
    }
}

#[tokio::test]
async fn invalid_claims_are_rejected_despite_a_valid_signature() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    for (name, value) in [
        ("iss", Some(json!("https://elsewhere.example"))),
        ("iss", None),
        ("aud", Some(json!("https://elsewhere.example"))),
        ("aud", Some(json!([]))),
        ("aud", None),
        ("exp", None),
        ("exp", Some(json!("4102444800"))),
        ("exp", Some(json!("never"))),
        ("exp", Some(json!([4_102_444_800_i64]))),
        ("exp", Some(json!(true))),
        ("exp", Some(json!(-1))),
        ("exp", Some(json!(1e300))),
        ("exp", Some(Value::Null)),
        ("iat", None),
        ("iat", Some(json!("1503620624"))),
        ("jti", None),
        ("jti", Some(json!(1))),
        ("sid", None),
        ("sid", Some(json!("session"))),
        ("iss", Some(json!(["cedargate", "https://elsewhere.example"]))),
        ("iss", Some(json!("CEDARGATE"))),
        ("aud", Some(json!(["cedargate", "https://elsewhere.example"]))),
        ("scope", None),
        ("scope", Some(json!(""))),
        ("scope", Some(json!("owner"))),
        ("scope", Some(json!("admin owner"))),
        ("scope", Some(json!(["admin"]))),
        ("_id", None),
        ("sub", Some(json!("admin"))),
        ("sub", Some(json!("599e1fcd9da1c72645c95886"))),
        ("_id", Some(json!("admin"))),
        ("_id", Some(json!("599e1fcd9da1c72645c95886"))),
        ("_id", Some(json!("000000000000000000000000"))),
    ] {
        let what = format!("{name}: {value:?}");
        let token = sign_token(&header, &with(&claims, name, value), SECRET, Algorithm::HS256);
        assert_eq!(expect_invalid_token(&app, &what, &token).await, "invalid token", "{what}");
    }
    // The same claims, signed with an unknown key.
    for name in ["iss", "aud"] {
        let claims = with(&claims, name, json!("https://elsewhere.example"));
        let token = sign_token(&header, &claims, UNKNOWN_SECRET, Algorithm::HS256);
        assert_eq!(expect_invalid_token(&app, name, &token).await, "invalid signature");
    }
}

#[tokio::test]
async fn keys_in_the_header_are_ignored_and_critical_extensions_are_rejected() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    let jwk = json!({ "kty": "oct", "k": to_base64(UNKNOWN_SECRET.as_bytes()), "alg": "HS256", "kid": "configured" });
    // A key in the header is ignored (RFC 8725, section 3.10) ...
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("https://elsewhere.example/jwks.json")),
        ("x5u", json!("https://elsewhere.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = with(&header, name, value);
        let token = sign_token(&header, &claims, UNKNOWN_SECRET, Algorithm::HS256);
        assert_eq!(expect_invalid_token(&app, name, &token).await, "invalid signature", "{name}");
    }
    // ... and a `kid` is never used as a path or query.
    for kid in ["../../dev/null", "configured' OR '1'='1", "configured\u{0}", " configured", "CONFIGURED"] {
        let header = with(&header, "kid", json!(kid));
        assert_eq!(
            expect_invalid_token(&app, kid, &sign_token(&header, &claims, "", Algorithm::HS256)).await,
            "invalid signature"
        );
        assert_eq!(
            expect_invalid_token(&app, kid, &sign_token(&header, &claims, SECRET, Algorithm::HS256)).await,
            "invalid signature"
        );
    }
    // Critical extensions are not supported (RFC 7515, section 4.1.11), even with a valid signature.
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!("exp"), json!([1])] {
        let header = with(&with(&header, "crit", crit.clone()), "b64", json!(true));
        let token = sign_token(&header, &claims, SECRET, Algorithm::HS256);
        assert_eq!(expect_invalid_token(&app, &crit.to_string(), &token).await, "invalid token", "{crit}");
    }
}

#[tokio::test]
async fn oversized_tokens_are_rejected() {
    let app = start().await;
    let (token, header, claims) = issue_token(&app).await;
    let long = json!("x".repeat(8_000));
    for (what, token) in [
        ("a long kid", sign_token(&with(&header, "kid", long.clone()), &claims, SECRET, Algorithm::HS256)),
        (
            "a long claim",
            sign_token(&header, &with(&claims, "jti", long.clone()), UNKNOWN_SECRET, Algorithm::HS256),
        ),
        ("a long scope", sign_token(&header, &with(&claims, "scope", long), SECRET, Algorithm::HS256)),
        ("a long tail", format!("{token}{}", "A".repeat(16_000))),
    ] {
        expect_invalid_token(&app, what, &token).await;
    }
    // A token that exceeds the limit of a request head is rejected before it is parsed.
    let huge = app.bearer(&"A".repeat(400_000)).http.get(format!("{}/v2/users/me", app.base));
    let answer = huge.bearer_auth("A".repeat(400_000)).send().await;
    assert!(answer.is_err() || answer.unwrap().status().is_client_error());
    app.bearer(&token).get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_public_key_is_not_accepted_as_an_hmac_secret() {
    let app = TestApp::start_with(|config| config.token_algorithm = TokenAlgorithm::EdDsa).await;
    let (token, header, claims) = issue_token(&app).await;
    let text = app.anonymous().get("/.well-known/jwks.json").await.text;
    let keys: Value = serde_json::from_str(&text).unwrap();
    let key = &keys["keys"][0];
    let x = key["x"].as_str().unwrap();
    let public = from_base64(x);
    // A SubjectPublicKeyInfo of Ed25519 (RFC 8410, section 4).
    let der = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], public.as_slice()]
        .concat();
    let padded = |bytes: &[u8]| {
        let text = to_base64(bytes).replace('-', "+").replace('_', "/");
        format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))
    };
    let hex: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", padded(&der));
    let secrets: Vec<Vec<u8>> = vec![
        public.clone(),
        der.clone(),
        x.into(),
        padded(&public).into(),
        padded(&der).into(),
        to_base64(&der).into(),
        hex.clone().into(),
        hex.to_uppercase().into(),
        pem.clone().into(),
        format!("{pem}\n").into(),
        format!("{pem}\n").replace('\n', "\r\n").into(),
        key.to_string().into(),
        text.into(),
        key["kid"].as_str().unwrap().into(),
        vec![],
    ];
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let as_hmac = with(&header, "alg", serde_json::to_value(algorithm).unwrap());
        for secret in &secrets {
            for header in [&as_hmac, &header] {
                let message = format!("{}.{}", encode_part(header), encode_part(&claims));
                let signature =
                    crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), algorithm).unwrap();
                let what = format!("{header} with {}", String::from_utf8_lossy(secret));
                assert_eq!(
                    expect_invalid_token(&app, &what, &format!("{message}.{signature}")).await,
                    "invalid signature"
                );
            }
        }
    }
    // Neither does another algorithm in the header, or another key of the same kind.
    let (_, rest) = token.split_once('.').unwrap();
    for name in ["none", "HS256", "ES256", "RS256", "Ed25519", "ed25519", "eddsa", ""] {
        let header = encode_part(&with(&header, "alg", json!(name)));
        let message = expect_invalid_token(&app, name, &format!("{header}.{rest}")).await;
        assert!(["invalid signature", "invalid token"].contains(&message.as_str()), "{name}: {message}");
    }
    let other = TestApp::start_with(|config| config.token_algorithm = TokenAlgorithm::EdDsa).await;
    let (foreign, foreign_header, _) = issue_token(&other).await;
    assert_eq!(expect_invalid_token(&app, "an unknown kid", &foreign).await, "invalid signature");
    let (_, rest) = foreign.split_once('.').unwrap();
    assert_ne!(foreign_header["kid"], header["kid"]);
    let token = format!("{}.{rest}", encode_part(&header));
    assert_eq!(
        expect_invalid_token(&app, "an unknown key with a known kid", &token).await,
        "invalid signature"
    );
}

#[tokio::test]
async fn a_token_is_rejected_before_its_nbf() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    let now = app.clock.now().seconds();
    let with_nbf = |nbf: Value| {
        let mut claims = claims.clone();
        claims["nbf"] = nbf;
        sign_token(&header, &claims, SECRET, Algorithm::HS256)
    };
    for nbf in [json!(now), json!(now - 60), json!(0)] {
        app.bearer(&with_nbf(nbf)).get("/v2/users/me").await.expect(StatusCode::OK);
    }
    let later = with_nbf(json!(now + 10));
    for token in [&later, &with_nbf(json!(i64::MAX)), &with_nbf(json!("soon"))] {
        assert_eq!(expect_invalid_token(&app, "nbf", token).await, "invalid token");
    }
    app.clock.advance(9_999);
    assert_eq!(expect_invalid_token(&app, "a millisecond before", &later).await, "invalid token");
    app.clock.advance(1);
    app.bearer(&later).get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn malformed_tokens_are_rejected() {
    let app = start().await;
    let (token, ..) = issue_token(&app).await;
    let parts: Vec<&str> = token.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    // The last of 43 characters carries four bits of the signature. Another character with the same four bits is not canonical.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(token.chars().last().unwrap()).unwrap();
    let twin = alphabet.chars().nth(last ^ 1).unwrap();
    let mut wrong = vec![
        format!("{token}x"),
        format!("{token}="),
        format!("{token}."),
        format!("{token}.x"),
        format!("{token}%00"),
        format!("{token} x"),
        format!(".{token}"),
        format!("x{token}"),
        format!("{head}.{body}"),
        format!("{head}..{signature}"),
        format!(".{body}.{signature}"),
        format!("{body}.{head}.{signature}"),
        format!("{head}.{body}.{signature}.{head}.{signature}"),
        format!("{}{twin}", &token[..token.len() - 1]),
        format!("{head}=.{body}.{signature}"),
        format!("{}.{body}.{signature}", to_base64(b"not json")),
        format!("{}.{body}.{signature}", to_base64(b"[]")),
        app.log_in(ADMIN).await["refreshToken"].as_str().unwrap().to_owned(),
        "x".repeat(3_000),
    ];
    wrong.extend([1, 10, token.len() / 2, token.len() - 1].map(|length| token[..length].to_owned()));
    for token in wrong {
        let message = expect_invalid_token(&app, &token, &token).await;
        assert!(["invalid signature", "invalid token"].contains(&message.as_str()), "{token}: {message}");
    }
    app.bearer(&token).get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn the_signature_is_checked_before_the_expiry() {
    let app = start().await;
    let (token, header, claims) = issue_token(&app).await;
    let foreign = sign_token(&header, &claims, UNKNOWN_SECRET, Algorithm::HS256);
    app.clock.advance(25 * 3_600_000);
    let expired = app.bearer(&token).get("/v2/users/me").await;
    expired.expect_problem(403, "token_expired");
    assert_eq!(expired.json["error"]["message"], "jwt expired");
    assert_eq!(expect_invalid_token(&app, "unknown key and expired", &foreign).await, "invalid signature");
}

#[tokio::test]
async fn the_scope_hierarchy_applies_to_every_scope_of_a_token() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    // Each of several space-delimited scopes includes those below it. The role of the user is the upper limit.
    for (scope, lists_messages, lists_services) in
        [("guest", false, false), ("guest bot", true, false), ("agent admin", true, true)]
    {
        let token = sign_token(&header, &with(&claims, "scope", json!(scope)), SECRET, Algorithm::HS256);
        let client = app.bearer(&token);
        for (path, expected) in [("/v2/messages", lists_messages), ("/v2/services", lists_services)] {
            let reply = client.get(path).await;
            assert_eq!(reply.status == StatusCode::OK, expected, "{scope} {path}: {}", reply.text);
            assert!([200, 403].contains(&reply.status.as_u16()));
        }
    }
}

#[tokio::test]
async fn expiry_has_no_leeway() {
    let app = start().await;
    let (_, header, claims) = issue_token(&app).await;
    let now = app.clock.now().seconds();
    for (exp, status) in [(now + 1, 200), (now, 403), (now - 1, 403)] {
        let token = sign_token(&header, &with(&claims, "exp", json!(exp)), SECRET, Algorithm::HS256);
        let reply = app.bearer(&token).get("/v2/users/me").await;
        assert_eq!(reply.status.as_u16(), status, "{exp}: {}", reply.text);
    }
}
