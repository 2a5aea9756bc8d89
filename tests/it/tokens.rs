//! Logins, the effect of changes of the user on issued tokens, and responses without a valid token (see "Tokens" in
//! docs/decisions.md).

use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp, decode_jwt, slow_hashing};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The messages after which existing clients refresh.
pub(crate) const REFRESHABLE_ERRORS: [&str; 3] = ["jwt expired", "invalid signature", "invalid token"];

/// Posts this body to the token endpoint.
pub(crate) async fn request_token(app: &TestApp, body: Value) -> Reply {
    app.anonymous().post("/v2/auth/token", body).await
}

/// The email of a client's user.
pub(crate) async fn email(client: &Client) -> String {
    client.get("/v2/users/me").await.expect(StatusCode::OK)["email"].as_str().unwrap().to_owned()
}

/// Changes a user as the first admin.
pub(crate) async fn update_user(app: &TestApp, user: &str, change: Value) {
    app.admin().await.patch(&format!("/v2/users/{user}"), change).await.expect(StatusCode::OK);
}

/// The parts of a response that must agree: everything except the request id.
fn without_id(reply: &Reply) -> (u16, Value, String) {
    let mut body = reply.json.clone();
    body.as_object_mut().unwrap().remove("requestId").unwrap();
    (reply.status.as_u16(), body, reply.header("www-authenticate").to_owned())
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_email_yield_the_same_error() {
    let app = TestApp::start().await;
    let wrong = request_token(&app, json!({ "email": ADMIN, "password": "not the password" })).await;
    let unknown = request_token(&app, json!({ "email": "nobody@example.com", "password": PASSWORD })).await;
    wrong.expect_problem(401, "invalid_credentials");
    assert_eq!(without_id(&wrong), without_id(&unknown));
    let message = wrong.json["error"]["message"].as_str().unwrap();
    assert!(!REFRESHABLE_ERRORS.contains(&message), "{message}");
}

#[tokio::test]
async fn a_user_without_a_password_cannot_log_in() {
    let app = TestApp::start().await;
    let body = json!({ "email": "silent@example.com" });
    app.admin().await.post("/v2/users", body).await.expect(StatusCode::CREATED);
    for password in ["", PASSWORD] {
        let reply = request_token(&app, json!({ "email": "silent@example.com", "password": password })).await;
        assert!([400, 401].contains(&reply.status.as_u16()), "{}", reply.text);
    }
}

#[tokio::test]
async fn email_addresses_are_case_insensitive() {
    let app = TestApp::start().await;
    let body = json!({ "email": "Admin@EXAMPLE.com", "password": PASSWORD });
    request_token(&app, body).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_blocked_user_cannot_log_in_or_use_its_credentials() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    let (email, key) = (email(&user).await, user.key(&[Scope::Guest]).await);
    let tokens = app.log_in(&email).await;
    let (bearer, keyed) = (app.bearer(tokens["token"].as_str().unwrap()), app.bearer(&key));
    update_user(&app, &user.id, json!({ "status": "blocked" })).await;

    let login = json!({ "email": email, "password": PASSWORD });
    let blocked = request_token(&app, login.clone()).await;
    let wrong = request_token(&app, json!({ "email": email, "password": "not the password" })).await;
    assert_eq!(
        without_id(&blocked),
        without_id(&wrong),
        "the response must not disclose that the password is right"
    );
    for client in [&user, &bearer, &keyed] {
        let reply = client.get("/v2/users/me").await;
        reply.expect_problem(401, "invalid_token");
        assert_eq!(reply.json["error"]["message"], "invalid token");
    }
    let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    request_token(&app, refresh).await.expect_problem(401, "invalid_refresh_token");

    update_user(&app, &user.id, json!({ "status": "active" })).await;
    request_token(&app, login).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_demotion_takes_effect_on_the_next_request() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    user.get("/v2/services").await.expect(StatusCode::OK);
    update_user(&app, &user.id, json!({ "role": "bot" })).await;
    user.get("/v2/services").await.expect_problem(403, "forbidden");
    user.get("/v2/messages").await.expect(StatusCode::OK);
    update_user(&app, &user.id, json!({ "role": "guest" })).await;
    user.get("/v2/messages").await.expect_problem(403, "forbidden");
    user.get("/v2/users/me").await.expect(StatusCode::OK);
    // The scope in the token is still admin; the current role limits it.
    update_user(&app, &user.id, json!({ "role": "admin" })).await;
    user.get("/v2/services").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_promotion_does_not_extend_issued_tokens() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = email(&user).await;
    let tokens = app.log_in(&email).await;
    update_user(&app, &user.id, json!({ "role": "admin" })).await;
    user.get("/v2/services").await.expect_problem(403, "forbidden");
    user.get("/v2/conversations").await.expect_problem(403, "forbidden");
    // The next token has the current role as its scope.
    let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    let refreshed = request_token(&app, refresh).await.expect(StatusCode::OK);
    assert_eq!(refreshed["scope"], "admin");
    assert_eq!(decode_jwt(refreshed["token"].as_str().unwrap()).1["scope"], "admin");
    app.bearer(refreshed["token"].as_str().unwrap()).get("/v2/services").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_expired_token_is_answered_with_the_configured_status() {
    for status in [403, 401] {
        let app = TestApp::start_with(|config| config.expired_token_status = status).await;
        let admin = app.admin().await;
        app.clock.advance(86_400_000);
        for path in ["/v2/users/me", "/v2/conversations", "/v2/forms/599e1fcd9da1c72645c95886"] {
            let reply = admin.get(path).await;
            reply.expect_problem(status, "token_expired");
            assert_eq!(reply.json["error"]["message"], "jwt expired");
            let challenge = reply.header("www-authenticate");
            assert!(challenge.starts_with("Bearer "), "{challenge}");
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        }
    }
}

#[tokio::test]
async fn without_a_token_the_challenge_names_no_error() {
    let app = TestApp::start().await;
    let reply = app.anonymous().get("/v2/users/me").await;
    reply.expect_problem(401, "missing_token");
    assert!(reply.header("www-authenticate").starts_with("Bearer"));
    assert!(!reply.header("www-authenticate").contains("error="));
}

#[tokio::test]
async fn a_malformed_authorization_header_is_rejected() {
    let app = TestApp::start().await;
    let token = app.admin().await.bearer.unwrap();
    let (basic, bare) = (format!("Basic {token}"), token.clone());
    let (comma, colon) = (format!("Bearer,{token}"), format!("Bearer: {token}"));
    let (glued, twice) = (format!("Bearer{token}"), format!("Bearer {token} {token}"));
    let (listed, quoted) = (format!("Bearer {token},{token}"), format!("Bearer \"{token}\""));
    let tabbed = format!("Bearer\t{token}");
    let malformed = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer Bearer",
        "Bearer .",
        "Bearer ..",
        "Bearer a.b",
        "Bearer a.b.c.d",
        "Bearer null",
        "Bearer undefined",
        &basic,
        &bare,
        &comma,
        &colon,
        &glued,
        &twice,
        &listed,
        &quoted,
        &tabbed,
    ];
    for header in malformed {
        for path in ["/v2/users/me", "/v2/forms"] {
            let reply = app.anonymous().send(Method::GET, path, &[("authorization", header)], None).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{header:?}: {}", reply.text);
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{header:?}");
            assert!(!reply.text.contains(&token), "{header:?}");
        }
    }
    // The scheme is case-insensitive (RFC 9110, section 11.1).
    let lower = format!("bearer {token}");
    let reply = app.anonymous().send(Method::GET, "/v2/users/me", &[("authorization", &lower)], None).await;
    reply.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_invalid_credential_is_rejected_before_any_other_check() {
    let app = TestApp::start().await;
    let unknown_key = app.bearer("94c70d470e391bdc16a8d8363b5d4891");
    let long = "x".repeat(2_000_000).into_bytes();
    for client in [app.anonymous(), unknown_key] {
        for (method, path) in [
            (Method::GET, "/v2/forms/no-id-at-all"),
            (Method::GET, "/v2/conversations?limit=-1&nonsense=1"),
            (Method::DELETE, "/v2/users/me"),
        ] {
            assert_eq!(client.send(method, path, &[], None).await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        for body in [b"not json".to_vec(), long.clone()] {
            let json = [("content-type", "application/json")];
            let reply = client.send(Method::POST, "/v2/contacts", &json, Some(body)).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_login_names_missing_and_unknown_fields() {
    let app = TestApp::start().await;
    let token = "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac";
    for (body, named) in [
        (json!({}), vec!["email", "password"]),
        (json!({ "email": ADMIN }), vec!["password"]),
        (json!({ "password": PASSWORD }), vec!["email"]),
        (json!({ "refreshToken": token }), vec!["clientId"]),
        (json!({ "clientId": ADMIN }), vec!["refreshToken"]),
        (json!({ "email": ADMIN, "password": PASSWORD, "username": "x" }), vec!["username"]),
        (json!({ "email": ADMIN, "password": PASSWORD, "a": 1, "b": 2 }), vec!["a", "b"]),
        (json!({ "email": 5, "password": PASSWORD }), vec!["email"]),
        (json!({ "email": ADMIN, "password": 5 }), vec!["password"]),
        (json!({ "email": "no address", "password": PASSWORD }), vec!["email"]),
        (json!({ "refreshToken": [token], "clientId": ADMIN }), vec!["refreshToken"]),
        (
            json!({ "email": ADMIN, "password": PASSWORD, "refreshToken": token }),
            vec!["password", "refreshToken"],
        ),
        (
            json!({ "email": ADMIN, "password": PASSWORD, "refreshToken": token, "clientId": ADMIN }),
            vec!["password", "refreshToken"],
        ),
    ] {
        let mut fields = request_token(&app, body.clone()).await.expect_problem(400, "invalid_fields");
        fields.sort();
        assert_eq!(fields, named, "{body}");
    }
}

#[tokio::test]
async fn a_login_body_is_limited_to_16_kib() {
    let app = TestApp::start().await;
    let body = |size: usize| {
        let empty = json!({ "email": ADMIN, "password": "" }).to_string();
        json!({ "email": ADMIN, "password": "x".repeat(size - empty.len()) }).to_string().into_bytes()
    };
    let send = async |body: Vec<u8>| {
        let json = [("content-type", "application/json")];
        app.anonymous().send(Method::POST, "/v2/auth/token", &json, Some(body)).await
    };
    assert_eq!(body(16 * 1024).len(), 16 * 1024);
    let fits = send(body(16 * 1024)).await;
    assert!([400, 401].contains(&fits.status.as_u16()), "{} {}", fits.status, fits.text);
    send(body(16 * 1024 + 1)).await.expect_problem(413, "too_large");
    send(vec![b' '; 1024 * 1024]).await.expect_problem(413, "too_large");
}

#[tokio::test]
async fn a_body_that_is_not_a_json_object_is_rejected() {
    let app = TestApp::start().await;
    let in_order = format!("[\"{ADMIN}\", \"{PASSWORD}\", null, null]");
    for body in [
        &in_order,
        "",
        "null",
        "[]",
        "\"text\"",
        "5",
        "{",
        "{\"email\":}",
        "\u{feff}{}",
        "{\"email\": \"\u{0}\"}",
    ] {
        let json = [("content-type", "application/json")];
        let sent = Some(body.as_bytes().to_vec());
        let reply = app.anonymous().send(Method::POST, "/v2/auth/token", &json, sent).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body:?}: {}", reply.text);
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let sent = Some(b"email=admin%40example.com&password=t0pZ3kR3t".to_vec());
    let reply = app.anonymous().send(Method::POST, "/v2/auth/token", &form, sent).await;
    // The form of OAuth libraries has no passwords.
    assert_eq!(reply.expect(StatusCode::BAD_REQUEST)["error"], "invalid_request");
}

#[tokio::test]
async fn no_error_response_contains_a_secret() {
    let app = TestApp::start().await;
    let tokens = app.log_in(ADMIN).await;
    let secret = "S3cret-that-nobody-else-may-read";
    let refresh = format!("{}x", tokens["refreshToken"].as_str().unwrap());
    let hidden = [secret, &refresh, tokens["token"].as_str().unwrap()];
    let bodies = [
        json!({ "email": ADMIN, "password": secret }),
        json!({ "email": "no address", "password": secret }),
        json!({ "email": secret, "password": ADMIN }),
        json!({ "password": secret }),
        json!({ "email": ADMIN, "password": [secret] }),
        json!({ "email": ADMIN, "password": { "value": secret } }),
        json!({ "email": ADMIN, "passwort": secret }),
        json!({ "refreshToken": refresh, "clientId": ADMIN }),
        json!({ "refreshToken": refresh }),
        json!({ "refreshToken": ADMIN, "clientId": refresh }),
        json!({ "refreshToken": [refresh], "clientId": ADMIN }),
        json!({ "refreshToken": tokens["token"], "clientId": tokens["token"] }),
        json!(secret),
        json!([secret, refresh]),
    ];
    for body in bodies {
        let reply = request_token(&app, body.clone()).await;
        assert!(reply.status.is_client_error(), "{body}: {}", reply.text);
        for hidden in hidden {
            assert!(!reply.text.contains(hidden), "{body} is answered with {}", reply.text);
        }
    }
    let cut = format!("{{\"email\":\"{ADMIN}\",\"password\":\"{secret}");
    let json = [("content-type", "application/json")];
    let sent = Some(cut.into_bytes());
    let reply = app.anonymous().send(Method::POST, "/v2/auth/token", &json, sent).await;
    assert!(reply.status == StatusCode::BAD_REQUEST && !reply.text.contains(secret), "{}", reply.text);
    let reply = app.admin().await.get(&format!("/v2/auth/token?refreshToken={refresh}")).await;
    assert!(reply.status == StatusCode::UNAUTHORIZED && !reply.text.contains(&refresh), "{}", reply.text);
}

#[tokio::test]
async fn excess_logins_are_shed_without_blocking_other_requests() {
    let app = TestApp::start_with(slow_hashing).await;
    let admin = app.admin().await;
    let body = json!({ "email": ADMIN, "password": PASSWORD });
    let flood = join_all((0..100).map(|_| request_token(&app, body.clone())));
    let (answers, other) = tokio::join!(flood, admin.get("/v2/users/me"));
    other.expect(StatusCode::OK);
    let (accepted, shed): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|reply| reply.status == StatusCode::OK);
    assert!(!accepted.is_empty() && !shed.is_empty(), "{} accepted, {} shed", accepted.len(), shed.len());
    for reply in shed {
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text);
        assert!(reply.header("retry-after").parse::<u32>().is_ok());
    }
    request_token(&app, body).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn no_token_survives_the_deletion_of_its_user() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = email(&user).await;
    let tokens = app.log_in(&email).await;
    let deleted = app.admin().await.delete(&format!("/v2/users/{}", user.id)).await;
    deleted.expect(StatusCode::NO_CONTENT);
    user.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
    request_token(&app, refresh.clone()).await.expect_problem(401, "invalid_refresh_token");
    // A new user with the same email is a different user.
    let body = json!({ "email": email, "password": PASSWORD, "role": "admin" });
    app.admin().await.post("/v2/users", body).await.expect(StatusCode::CREATED);
    user.get("/v2/users/me").await.expect_problem(401, "invalid_token");
    request_token(&app, refresh).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_token_request_of_another_media_type_is_answered_with_those_that_are_accepted() {
    let app = TestApp::start().await;
    let client = app.anonymous();
    let headers = [("content-type", "text/plain")];
    let refused = client.send(Method::POST, "/v2/auth/token", &headers, Some(b"{}".to_vec())).await;
    refused.expect_problem(415, "unsupported_media_type");
    for kind in ["application/json", "application/x-www-form-urlencoded"] {
        assert!(refused.text.contains(kind), "{}", refused.text);
    }
}
