//! Forward authentication: it decides as the routes themselves, by the routes file for other services, and rejects ambiguous
//! requests. Includes a test with nginx in front of a small service.

use crate::forward_routes::{DOCUMENTS, with_routes};
use crate::permission_table::{Fixture, cells};
use crate::resources::UNKNOWN_ID;
use crate::support::{Client, Reply, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const FORWARD: &str = "/v2/authorize/forward";

/// Starts the service with a routes file that contains only the service's own routes.
pub(crate) async fn with_own_routes() -> TestApp {
    TestApp::start_with(|config| config.forward_routes = Some(project_file("tests/fixtures/own-routes.toml")))
        .await
}

/// Asks, as nginx does, whether `client` may send this request.
pub(crate) async fn forward(client: &Client, method: &str, uri: &str) -> Reply {
    let headers = [("X-Original-Method", method), ("X-Original-URI", uri)];
    client.send(Method::GET, FORWARD, &headers, None).await
}

/// Whether the request is allowed. Fails unless a denial is a 403.
#[track_caller]
pub(crate) fn is_allowed(reply: &Reply) -> bool {
    match reply.status.as_u16() {
        200 => true,
        403 => {
            reply.expect_problem(403, "forbidden");
            false
        }
        status => panic!("{status} {}", reply.text),
    }
}

/// Asserts that the forwarded request is rejected, with one error for this field, and this code.
#[track_caller]
fn expect_invalid(reply: &Reply, field: &str, code: &str) {
    reply.expect_problem(403, "invalid_forwarded_request");
    assert_eq!(reply.field_errors(), [(field.to_owned(), code.to_owned())], "{}", reply.text);
}

/// The identity headers of a response.
pub(crate) fn identity(reply: &Reply) -> [Option<&str>; 3] {
    ["x-user-id", "x-scope", "x-policy-version"]
        .map(|name| reply.headers.get(name).map(|value| value.to_str().unwrap()))
}

/// A logged-in client for each scope.
async fn clients(app: &TestApp) -> BTreeMap<&'static str, Client> {
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    clients
}

#[tokio::test]
async fn forward_auth_agrees_with_the_routes_for_every_cell() {
    let app = with_own_routes().await;
    let fixture = Fixture::new(&app).await;
    let clients = clients(&app).await;
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = fixture.target(client, &cell).await;
        let (method, path) = fixture.request(&target);
        let reply = forward(client, method.as_str(), &path).await;
        let allowed = is_allowed(&reply);
        let (done, how) = fixture.perform(client, &cell, &target).await;
        assert_eq!((allowed, allowed), (cell.expected, done), "{cell:?} {method} {path}: {how}");
        if allowed {
            assert_eq!(reply.header("x-user-id"), client.id);
        } else {
            let detail = reply.json["detail"].as_str().unwrap();
            assert!(detail.contains(&cell.action), "{cell:?}: {detail}");
        }
    }
}

#[tokio::test]
async fn forward_auth_agrees_with_the_other_routes() {
    let app = with_own_routes().await;
    let admin = app.admin().await;
    let (tenant, tenant_admin) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let below = tenant_admin.post("/v2/conversations", json!({})).await.id();
    let other = app.user(Scope::Guest).await.id;
    let clients = clients(&app).await;
    let (all, bots, admins, none) =
        ([true; 4], [false, false, true, true], [false, false, false, true], [false; 4]);
    let agents = [false, true, true, true];
    for (method, path, expected) in [
        ("GET", "/v2/users/me", all),
        ("HEAD", "/v2/users/me", all),
        ("GET", "/v2/users/%6de?x=/../y", all),
        ("PATCH", "/v2/users/me", all),
        ("DELETE", "/v2/users/me", admins),
        ("GET", "/v2/users/me/keys", all),
        ("POST", "/v2/users/me/keys", all),
        ("DELETE", &format!("/v2/users/me/keys/{UNKNOWN_ID}"), all),
        ("GET", &format!("/v2/users/{other}/keys"), admins),
        ("GET", "/v2/users/me/permissions", all),
        ("GET", &format!("/v2/users/{other}/permissions"), bots),
        ("POST", &format!("/v2/conversations/{conversation}/messages"), all),
        // Guests and agents act in their own organization only.
        ("POST", &format!("/v2/conversations/{below}/messages"), bots),
        ("POST", &format!("/v2/conversations/{UNKNOWN_ID}/messages"), none),
        ("GET", &format!("/v2/conversations/{below}"), bots),
        ("GET", &format!("/v2/conversations/{UNKNOWN_ID}"), none),
        ("GET", "/v2/conversations/me", none),
        ("GET", "/v2/conversations/nonsense", none),
        ("POST", "/v2/authorize", all),
        ("POST", "/access/v1/evaluation", all),
        ("POST", "/access/v1/search/action", all),
        ("GET", FORWARD, all),
        ("PUT", "/v2/authorize/forward/v2/users", all),
        ("GET", "/v2/policies", admins),
        ("POST", "/v2/policies/reload", admins),
        ("GET", "/v2/organizationGroups", bots),
        ("GET", "/v2/knowledge-items", agents),
        ("GET", &format!("/v2/users?limit=5&organization={UNKNOWN_ID}"), none),
        ("GET", "/v2/conversations?organization=nonsense", none),
    ] {
        for (scope, expected) in Scope::ALL.into_iter().zip(expected) {
            let reply = forward(&clients[scope.as_str()], method, path).await;
            assert_eq!(is_allowed(&reply), expected, "{scope} {method} {path}: {}", reply.text);
        }
    }
    // Everything above a tenant is inaccessible to it. The routes respond with 404, which proxies do not handle.
    for (method, path) in [
        (Method::GET, format!("/v2/conversations/{conversation}")),
        (Method::GET, format!("/v2/users/{other}")),
        (Method::POST, format!("/v2/conversations/{conversation}/messages")),
    ] {
        assert!(!is_allowed(&forward(&tenant_admin, method.as_str(), &path).await), "{method} {path}");
        let body = (method == Method::POST).then(|| json!({ "messages": [{ "text": "hello" }] }));
        let done = tenant_admin.call(method.clone(), &path, body).await;
        assert_eq!(done.status, StatusCode::NOT_FOUND, "{method} {path}: {}", done.text);
    }
    // Admins of a tenant can read the shared policies, but not reload them, as with the route itself.
    assert!(is_allowed(&forward(&tenant_admin, "GET", "/v2/policies").await));
    assert!(!is_allowed(&forward(&tenant_admin, "POST", "/v2/policies/reload").await));
    assert_eq!(tenant_admin.post("/v2/policies/reload", json!({})).await.status, StatusCode::FORBIDDEN);
    // A list is authorized on the organization in the query string.
    let home = admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    assert!(is_allowed(&forward(&admin, "GET", &format!("/v2/users?organization={tenant}")).await));
    assert!(is_allowed(&forward(&tenant_admin, "GET", &format!("/v2/users?organization={tenant}")).await));
    assert!(!is_allowed(&forward(&tenant_admin, "GET", &format!("/v2/users?organization={home}")).await));
    let twice = format!("/v2/users?organization={tenant}&organization={home}");
    forward(&admin, "GET", &twice).await.expect_problem(403, "invalid_forwarded_request");
}

#[tokio::test]
async fn forward_auth_knows_the_routes_of_the_service_only() {
    let app = with_own_routes().await;
    let admin = app.admin().await;
    let all = cedargate::api::all_routes();
    for (path, route) in all.iter().flat_map(|part| part.paths()) {
        let path = path
            .replace("{id}", UNKNOWN_ID)
            .replace("{keyId}", UNKNOWN_ID)
            .replace("{sessionId}", UNKNOWN_ID);
        let path = path.replace("{rest:.*}", "a/b");
        let reply = forward(&admin, route.method.as_str(), &path).await;
        // A decision on one resource says nothing about those that match a filter.
        let is_unknown = reply.json["code"] == "no_such_route";
        assert_eq!(is_unknown, route.selects_by_filter, "{} {path}", route.method);
        assert_ne!(reply.json["code"], "invalid_forwarded_request", "{} {path}", route.method);
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v2"),
        ("GET", "/v2/nothing"),
        ("GET", "/v2/users/"),
        ("GET", "/V2/users"),
        ("GET", "/v2/users/me/keys/"),
        ("PUT", "/v2/users/me"),
        ("get", "/v2/users/me"),
        ("OPTIONS", "/v2/users"),
        // A refresh has a side effect, so its route has no HEAD.
        ("HEAD", "/v2/auth/token"),
        ("GET", "/documents/plan"),
    ] {
        forward(&admin, method, path).await.expect_problem(403, "no_such_route");
    }
}

#[tokio::test]
async fn public_routes_need_no_credential_and_set_no_identity() {
    let app = with_own_routes().await;
    let guest = app.user(Scope::Guest).await;
    for (method, path) in [
        ("POST", "/v2/auth/token"),
        ("GET", "/v2/auth/token?refreshToken=x"),
        ("HEAD", "/.well-known/jwks.json"),
        ("POST", "/v2/auth/revoke"),
        ("GET", "/.well-known/authzen-configuration"),
        ("GET", "/.well-known/jwks.json"),
    ] {
        for client in [&app.anonymous(), &guest, &app.bearer("no.good.token")] {
            let reply = forward(client, method, path).await;
            assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, ""), "{path}");
            assert_eq!(identity(&reply), ["", "", ""].map(Some), "{path}");
        }
    }
    forward(&app.anonymous(), "GET", "/v2/users/me").await.expect_problem(401, "missing_token");
    forward(&app.anonymous(), "GET", "/v2/nothing").await.expect_problem(401, "missing_token");
    let bad = forward(&app.bearer("no.good.token"), "GET", "/v2/users/me").await;
    bad.expect_problem(401, "invalid_token");
    assert!(bad.header("www-authenticate").starts_with("Bearer error=\"invalid_token\""));
}

#[tokio::test]
async fn a_permitted_request_names_the_user_its_scopes_and_the_policy_version() {
    let app = with_own_routes().await;
    let admin = app.admin().await;
    let key = admin.key(&[Scope::Agent]).await;
    for (bearer, scopes) in [(admin.bearer.clone().unwrap(), "guest agent bot admin"), (key, "guest agent")] {
        let reply = forward(&app.bearer(&bearer), "GET", "/v2/conversations").await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, ""));
        assert_eq!(reply.header("x-user-id"), admin.id);
        assert_eq!(reply.header("x-scope"), scopes);
        let version = admin.get("/v2/policies").await.json["version"].clone();
        assert_eq!(reply.header("x-policy-version"), version.as_str().unwrap());
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    // The scope of the credential counts, not the role of its user.
    let key = app.bearer(&admin.key(&[Scope::Guest]).await);
    let denied = forward(&key, "GET", "/v2/conversations").await;
    assert!(!is_allowed(&denied));
    let version = admin.get("/v2/policies").await.json["version"].clone();
    assert_eq!(denied.header("x-policy-version"), version.as_str().unwrap());
    // API keys cannot create API keys: the context contains the credential of the forwarded request.
    assert!(!is_allowed(&forward(&key, "POST", "/v2/users/me/keys").await));
    assert!(is_allowed(&forward(&admin, "POST", "/v2/users/me/keys").await));
}

#[tokio::test]
async fn ambiguous_headers_are_rejected() {
    let app = with_own_routes().await;
    let admin = app.admin().await;
    let (original, forwarded) =
        (["X-Original-Method", "X-Original-URI"], ["X-Forwarded-Method", "X-Forwarded-Uri"]);
    let pair = |names: [&'static str; 2], path: &'static str| [(names[0], "GET"), (names[1], path)];
    let ask = async |headers: &[(&str, &str)]| admin.send(Method::GET, FORWARD, headers, None).await;
    for (headers, field, code) in [
        (vec![], original[1], "required"),
        (vec![(original[0], "GET")], original[1], "required"),
        (vec![(original[1], "/v2/users")], original[0], "required"),
        (vec![(forwarded[0], "GET")], forwarded[1], "required"),
        (vec![(forwarded[1], "/v2/users")], forwarded[0], "required"),
        (vec![(original[0], "GET"), (forwarded[1], "/v2/users")], forwarded[0], "required"),
        (vec![(original[0], "GET"), (original[1], "/a"), (original[1], "/a")], original[1], "duplicate"),
        (vec![(original[0], "G T"), (original[1], "/a")], original[0], "invalid_format"),
        (vec![(original[0], ""), (original[1], "/a")], original[0], "invalid_format"),
        (vec![(original[0], "GET"), (original[1], "/ä")], original[1], "invalid_format"),
        // A proxy sets one pair of headers and forwards the other one from the client.
        ([pair(original, "/v2/auth/token"), pair(forwarded, "/v2/users")].concat(), forwarded[1], "conflict"),
    ] {
        expect_invalid(&ask(&headers).await, field, code);
    }
    // ingress-nginx sends the absolute URL, whose host comes from the client.
    for (url, code) in [
        ("ftp://api.example.com/v2/users", "invalid_format"),
        ("HTTPS://api.example.com/v2/users", "invalid_format"),
        ("v2/users", "invalid_format"),
        ("https://api.example.com", "invalid_format"),
        ("https://api.example.com?x=/v2/users", "invalid_format"),
        ("https://api.example.com#/v2/users", "invalid_format"),
        ("https:///v2/users", "invalid_format"),
        ("https://user@api.example.com/v2/users", "invalid_format"),
        ("https://api.example.com\\@evil.example/v2/users", "invalid_format"),
        ("https://public?/v2/users", "invalid_format"),
        ("https://api.example.com//v2/users", "ambiguous"),
        ("//api.example.com/v2/users", "ambiguous"),
        ("https://api.example.com/public/../v2/users", "ambiguous"),
        ("https://api.example.com/v2/users#x", "invalid_format"),
    ] {
        expect_invalid(&ask(&[(original[0], "GET"), ("X-Original-URL", url)]).await, "X-Original-URL", code);
    }
    let url = ("X-Original-URL", "https://api.example.com:8443/v2/users?a=b");
    for (headers, field, code) in [
        (vec![url], original[0], "required"),
        (vec![url, ("X-Forwarded-Method", "GET")], original[0], "required"),
        (vec![(original[0], "GET"), url, url], "X-Original-URL", "duplicate"),
        (vec![(original[0], "GET"), (original[1], "/v2/users"), url], "X-Original-URL", "conflict"),
        (
            vec![(original[0], "GET"), (original[1], "/v2/users?a=b"), url, ("X-Forwarded-Uri", "/x")],
            forwarded[0],
            "required",
        ),
        (
            vec![(original[0], "POST"), url, (forwarded[0], "GET"), (forwarded[1], "/v2/users?a=b")],
            forwarded[1],
            "conflict",
        ),
    ] {
        expect_invalid(&ask(&headers).await, field, code);
    }
    for headers in [
        vec![(original[0], "GET"), url],
        vec![(original[0], "GET"), ("X-Original-URL", "http://[2001:db8::1]/v2/users")],
        vec![(original[0], "GET"), ("X-Original-URL", "/v2/users?a=b")],
        vec![(original[0], "GET"), (original[1], "/v2/users?a=b"), url],
        pair(original, "/v2/users?a=b").to_vec(),
        pair(forwarded, "/v2/users?a=b").to_vec(),
        [pair(original, "/v2/users"), pair(forwarded, "/v2/users")].concat(),
    ] {
        assert!(is_allowed(&ask(&headers).await), "{headers:?}");
    }
}

#[tokio::test]
async fn ambiguous_paths_are_rejected() {
    let app = with_routes(DOCUMENTS).await;
    let admin = app.admin().await;
    for (path, code) in [
        ("", "invalid_format"),
        ("v2/users", "invalid_format"),
        ("http://host/v2/users", "invalid_format"),
        ("*", "invalid_format"),
        ("//v2/users", "ambiguous"),
        ("/v2//users", "ambiguous"),
        ("/v2/users//", "ambiguous"),
        ("/v2/;x/users", "ambiguous"),
        ("/public/../v2/users", "ambiguous"),
        ("/public/%2e%2e/v2/users", "ambiguous"),
        ("/public/.%2E/v2/users", "ambiguous"),
        ("/public/..", "ambiguous"),
        ("/public/..;x=y/v2/users", "ambiguous"),
        ("/public/..%3Bx/v2/users", "ambiguous"),
        ("/public/..%20/v2/users", "ambiguous"),
        ("/public/./v2/users", "ambiguous"),
        ("/public/%2e", "ambiguous"),
        ("/public/..%2fv2", "ambiguous"),
        ("/public%2F..%2Fv2", "ambiguous"),
        ("/public/a%5Cb", "ambiguous"),
        ("/public\\..\\v2", "ambiguous"),
        ("/public/%00", "ambiguous"),
        ("/public/a%0d%0aX-User-Id:%20x", "ambiguous"),
        ("/public/a%7f", "ambiguous"),
        ("/public/%C2%85", "ambiguous"),
        ("/public/a b", "invalid_format"),
        ("/public/a#b", "invalid_format"),
        ("/public/a%23b", "ambiguous"),
        ("/public/a%3fb", "ambiguous"),
        ("/public/%252e%252e/v2", "ambiguous"),
        ("/public/a%252fb", "ambiguous"),
        ("/public/a%", "invalid_format"),
        ("/public/a%2", "invalid_format"),
        ("/public/a%zz", "invalid_format"),
        ("/public/%+f", "invalid_format"),
        ("/public/%ff", "invalid_format"),
        ("/public/%c0%ae%c0%ae/v2", "invalid_format"),
        (&format!("/public/{}", "a".repeat(8192)), "too_long"),
    ] {
        expect_invalid(&forward(&admin, "GET", path).await, "X-Original-URI", code);
        // Nor without credentials.
        forward(&app.anonymous(), "GET", path).await.expect_problem(401, "missing_token");
    }
    for path in [
        "/public/",
        "/public/a",
        "/public/a/b/",
        "/public/a%20b",
        "/public/a?x=/../%00//",
        "/public/.a/..b/c..",
        "/public/100%25",
    ] {
        assert_eq!(forward(&app.anonymous(), "GET", path).await.status, StatusCode::OK, "{path}");
    }
}

/// Sends this text on its own connection. Returns the status and the rest of the response.
pub(crate) fn send_raw_request(base: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

// Multi-threaded, since the service must run while the test thread blocks on its response.
#[tokio::test(flavor = "multi_thread")]
async fn without_headers_the_method_and_the_path_suffix_name_the_request() {
    let app = with_routes(DOCUMENTS).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let ask = |client: &Client, method: &str, rest: &str, more: &str| {
        let bearer = client.bearer.clone().unwrap_or_default();
        let head = format!("{method} {FORWARD}{rest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        send_raw_request(&client.base, &format!("{head}Authorization: Bearer {bearer}\r\n{more}\r\n")).0
    };
    for (method, rest, admins, guests) in [
        ("GET", "/v2/users/me", 200, 200),
        ("HEAD", "/v2/users/me", 200, 200),
        ("GET", "/v2/users?limit=1", 200, 403),
        ("POST", "/v2/users", 200, 403),
        ("PATCH", "/v2/users/me", 200, 200),
        ("DELETE", "/v2/users/me", 200, 403),
        ("PUT", "/v2/users/me", 403, 403),
        ("OPTIONS", "/public/a", 200, 200),
        ("BREW", "/public/a", 200, 200),
        ("GET", "/", 403, 403),
        ("GET", "", 403, 403),
        ("GET", "/public/../v2/users/me", 403, 403),
        ("GET", "//v2/users/me", 403, 403),
        ("GET", "/v2%2Fusers/me", 403, 403),
    ] {
        assert_eq!(ask(&admin, method, rest, ""), admins, "{method} {rest}");
        assert_eq!(ask(&guest, method, rest, ""), guests, "{method} {rest}");
    }
    // A client cannot choose another request than the one that the proxy asks about.
    let other = "X-Original-Method: GET\r\nX-Original-URI: /v2/users/me\r\n";
    assert_eq!(ask(&guest, "GET", "/v2/users", other), 403);
    assert_eq!(ask(&guest, "GET", "/v2/users/me", other), 200);
    // The body is not awaited, regardless of its declared length.
    assert_eq!(ask(&guest, "POST", "/v2/conversations/x/messages", "Content-Length: 5000000\r\n"), 403);
    // Another spelling of the path is not mistaken for a different path.
    let bearer = admin.bearer.unwrap();
    let head = "GET /v2/authorize/%66orward/public/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let (status, answer) =
        send_raw_request(&app.base, &format!("{head}Authorization: Bearer {bearer}\r\n\r\n"));
    assert!(status == 403 || status == 404, "{answer}");
}

#[tokio::test]
async fn a_denial_has_the_same_reasons_whether_or_not_the_resource_exists() {
    let app = with_own_routes().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let (_, tenant) = app.tenant("tenant").await;
    let own = admin.post("/v2/conversations", json!({})).await.id();
    let foreign = tenant.post("/v2/conversations", json!({})).await.id();
    let mut all = Vec::new();
    for id in [own.as_str(), foreign.as_str(), UNKNOWN_ID, "malformed"] {
        let reply = forward(&guest, "DELETE", &format!("/v2/conversations/{id}")).await;
        reply.expect_problem(403, "forbidden");
        let reasons = reply.json["reasons"].clone();
        assert_eq!(reasons["outcome"], "not_permitted", "{}", reply.text);
        assert!(reasons["changes"].to_string().contains("admin"), "{}", reply.text);
        all.push(reasons);
    }
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
}
