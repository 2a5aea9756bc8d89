//! The examples of the specification, in the order of the document: requests and responses as shown there.

use crate::support::{ADMIN, PASSWORD, Reply, TestApp, decode_jwt, from_base64, project_file};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const DAY: i64 = 86_400;

fn specification() -> String {
    std::fs::read_to_string(project_file("tests/fixtures/seed.txt")).unwrap()
}

/// The members of the JSON object after a line of the specification, which shows them without braces.
fn sample(heading: &str) -> Vec<Value> {
    let seed = specification();
    let sections = seed.split(heading).skip(1);
    sections
        .map(|section| {
            let members: Vec<&str> = section
                .lines()
                .map(str::trim)
                .skip_while(|line| !line.starts_with('"'))
                .take_while(|line| line.starts_with('"'))
                .collect();
            serde_json::from_str(&format!("{{{}}}", members.join("\n"))).unwrap()
        })
        .collect()
}

/// The response of the specification's example.
fn sample_answer() -> Value {
    let mut answers = sample("Response: 200 OK");
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// The paths of the specification's requests with this method.
fn sample_paths(method: &str) -> Vec<String> {
    let start = format!("Request: {method} ");
    specification().lines().filter_map(|line| line.strip_prefix(&start).map(str::to_owned)).collect()
}

fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Asserts what the specification and the design decisions require of a token response, and returns its body.
#[track_caller]
fn check_tokens(reply: Reply, user: &str, scope: &str, issued: i64) -> Value {
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("content-type"), "application/json");
    let body = reply.expect(StatusCode::OK);
    let sample = sample_answer();
    let expected: Vec<&str> = names(&sample).into_iter().chain(["expiresAt"]).collect();
    let mut expected = expected.clone();
    expected.sort_unstable();
    assert_eq!(names(&body), expected);
    assert_eq!(body["tokenType"], sample["tokenType"]);
    assert_eq!(body["user"], user);
    assert_eq!(body["scope"], scope);

    let refresh = body["refreshToken"].as_str().unwrap();
    let (owner, secret) = refresh.split_once('.').unwrap();
    assert_eq!(owner, user);
    assert!(is_hex(owner, 24) && is_hex(secret, 80), "{refresh}");

    let token = body["token"].as_str().unwrap();
    let (header, claims) = decode_jwt(token);
    assert_eq!((&header["alg"], &header["typ"]), (&json!("HS256"), &json!("JWT")));
    assert!(header["kid"].as_str().is_some_and(|kid| !kid.is_empty()), "{header}");
    assert_eq!(from_base64(token.rsplit('.').next().unwrap()).len(), 32, "HS256 signs with 256 bits");
    assert_eq!(names(&claims), ["_id", "aud", "exp", "iat", "iss", "jti", "scope", "sid", "sub"]);
    assert_eq!(claims["_id"], user);
    assert_eq!(claims["scope"], scope);
    assert_eq!(claims["iat"], issued);
    assert_eq!(claims["exp"], issued + DAY);
    for name in ["iss", "aud", "jti", "sid"] {
        assert!(claims[name].as_str().is_some_and(|claim| !claim.is_empty()), "{name} of {claims}");
    }
    let until: cedargate::types::Timestamp = body["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(until.seconds(), issued + DAY);
    body
}

#[test]
fn the_sample_response_has_the_expected_fields() {
    let sample = sample_answer();
    assert_eq!(names(&sample), ["refreshToken", "scope", "token", "tokenType", "user"]);
    let (owner, secret) = sample["refreshToken"].as_str().unwrap().split_once('.').unwrap();
    assert!(owner == sample["user"] && is_hex(owner, 24) && is_hex(secret, 80));
    let (header, claims) = decode_jwt(sample["token"].as_str().unwrap());
    assert_eq!(header, json!({ "alg": "HS256", "typ": "JWT" }));
    assert_eq!(names(&claims), ["_id", "exp", "iat", "scope"]);
    assert_eq!((&claims["_id"], &claims["scope"]), (&sample["user"], &sample["scope"]));
    assert_eq!(sample_paths("POST"), ["/v2/auth/token", "/v2/auth/token"]);
}

#[tokio::test]
async fn the_examples_of_the_specification_work_in_order() {
    let app = TestApp::start().await;
    let anonymous = app.anonymous();
    let start = app.clock.now().seconds();

    // "All API requests are made on behalf of a registered User, using a bearer authentication token."
    anonymous.get("/v2/users/me").await.expect_problem(401, "missing_token");

    // "Create an access token": the body of the example, with an email, which the specification leaves empty.
    let mut body = sample("Request: POST /v2/auth/token").remove(0);
    assert_eq!(names(&body), ["email", "password"]);
    assert_eq!(body["password"], PASSWORD);
    body["email"] = json!(ADMIN);
    let path = sample_paths("POST").remove(0);
    let reply = anonymous.post(&path, body).await;
    let user = reply.json["user"].as_str().unwrap().to_owned();
    let first = check_tokens(reply, &user, "admin", start);

    // "We can make protected api calls with the accessToken."
    let client = app.bearer(first["token"].as_str().unwrap());
    let me = client.get("/v2/users/me").await.expect(StatusCode::OK);
    assert_eq!((me["id"].as_str(), me["email"].as_str()), (Some(user.as_str()), Some(ADMIN)));

    // "Before an access token has expired": GET with the bearer. The sample token is truncated and therefore rejected; a complete
    // one replaces it.
    app.clock.advance((DAY - 1) * 1_000);
    let cut = sample_paths("GET").remove(0);
    let refused = client.get(&cut).await;
    refused.expect_problem(401, "invalid_refresh_token");
    assert_eq!(refused.json["error"]["message"], "Invalid refresh token");
    let (path, _) = cut.split_once('=').unwrap();
    let path = format!("{path}={}", first["refreshToken"].as_str().unwrap());
    let second = check_tokens(client.get(&path).await, &user, "admin", start + DAY - 1);
    assert_ne!(second["token"], first["token"]);
    assert_ne!(second["refreshToken"], first["refreshToken"]);

    // "The result will be the same as the token creation response; the new access token and refresh token should be used."
    let client = app.bearer(second["token"].as_str().unwrap());
    client.get("/v2/users/me").await.expect(StatusCode::OK);

    // "Tokens that expire after 24 hours. After that, API requests will result in 403 Permission Denied responses."
    app.clock.advance((DAY - 1) * 1_000);
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1_000);
    let expired = client.get("/v2/users/me").await;
    expired.expect_problem(403, "token_expired");
    assert_eq!(expired.json["error"]["message"], "jwt expired");

    // "After an access token has already expired, we need to POST to the endpoint without an Authorization header." This sample
    // is truncated, too.
    let mut body = sample("Request: POST /v2/auth/token").remove(1);
    assert_eq!(names(&body), ["clientId", "refreshToken"]);
    body["clientId"] = json!(ADMIN);
    let path = sample_paths("POST").remove(1);
    anonymous.post(&path, body.clone()).await.expect_problem(401, "invalid_refresh_token");
    body["refreshToken"] = second["refreshToken"].clone();
    let third = check_tokens(anonymous.post(&path, body).await, &user, "admin", start + 2 * DAY - 1);
    app.bearer(third["token"].as_str().unwrap()).get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn login_tokens_have_the_scope_of_the_role_of_the_user() {
    let app = TestApp::start().await;
    for role in Scope::ALL {
        let user = app.user(role).await;
        let email = user.get("/v2/users/me").await.expect(StatusCode::OK)["email"].clone();
        let body = json!({ "email": email, "password": PASSWORD });
        let reply = app.anonymous().post("/v2/auth/token", body).await;
        let tokens = check_tokens(reply, &user.id, role.as_str(), app.clock.now().seconds());
        // "A clientId being the user or bot email."
        let body = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
        let reply = app.anonymous().post("/v2/auth/token", body).await;
        check_tokens(reply, &user.id, role.as_str(), app.clock.now().seconds());
    }
}

#[tokio::test]
async fn the_curl_example_works_with_a_key_of_the_same_format() {
    let app = TestApp::start().await;
    let seed = specification();
    let header = seed.split("curl -H \"").nth(1).unwrap().split('"').next().unwrap();
    let (name, value) = header.split_once(": ").unwrap();
    let example = value.strip_prefix("Bearer ").unwrap();
    assert!(name == "Authorization" && is_hex(example, 32), "{header}");
    let as_it_stands = app.anonymous().send(Method::GET, "/v2/users/me", &[(name, value)], None).await;
    as_it_stands.expect_problem(401, "invalid_token");

    let body = json!({ "name": "as in the seed", "scopes": ["guest"], "format": "hex" });
    let created = app.admin().await.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
    let key = created["key"].as_str().unwrap();
    assert!(is_hex(key, example.len()), "{key}");
    let value = value.replace(example, key);
    let reply = app.anonymous().send(Method::GET, "/v2/users/me", &[(name, &value)], None).await;
    assert_eq!(reply.expect(StatusCode::OK)["email"], ADMIN);
}

#[tokio::test]
async fn the_token_of_the_specification_is_rejected() {
    let app = TestApp::start().await;
    let token = sample_answer()["token"].as_str().unwrap().to_owned();
    let reply = app.bearer(&token).get("/v2/users/me").await;
    // The sample token has also expired, but its signature is checked first.
    reply.expect_problem(401, "invalid_token");
    assert_eq!(reply.json["error"]["message"], "invalid signature");
}

#[tokio::test]
async fn every_token_has_its_own_jti_and_the_tokens_of_one_login_share_a_sid() {
    let app = TestApp::start().await;
    let first = app.log_in(ADMIN).await;
    let body = json!({ "refreshToken": first["refreshToken"], "clientId": ADMIN });
    let refreshed = app.anonymous().post("/v2/auth/token", body).await.expect(StatusCode::OK);
    let other = app.log_in(ADMIN).await;
    let [first, refreshed, other] =
        [first, refreshed, other].map(|tokens| decode_jwt(tokens["token"].as_str().unwrap()).1);
    assert_eq!(first["sid"], refreshed["sid"]);
    assert_ne!(first["sid"], other["sid"]);
    assert_ne!(first["jti"], refreshed["jti"]);
    assert_ne!(first["jti"], other["jti"]);
}

#[tokio::test]
async fn the_lifetime_of_an_access_token_is_configurable() {
    let app = TestApp::start_with(|config| config.access_ttl = 90).await;
    let tokens = app.log_in(ADMIN).await;
    let (_, claims) = decode_jwt(tokens["token"].as_str().unwrap());
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 90);
    let client = app.bearer(tokens["token"].as_str().unwrap());
    app.clock.advance(89_999);
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1);
    client.get("/v2/users/me").await.expect_problem(403, "token_expired");
}
