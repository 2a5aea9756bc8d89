//! The service's own URL in links, metadata and the OpenAPI document, and the documentation pages.

use crate::command_line::{run, start, text};
use crate::forward::send_raw_request;
use crate::lifecycle::create_certificate;
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode, redirect};
use serde_json::{Value, json};
use std::process::Command;

/// The base URL in every response that contains it, as `client` gets it with these headers.
async fn reported_addresses(client: &Client, headers: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let get = async |path: &str| client.send(Method::GET, path, headers, None).await;
    let mut found = Vec::new();
    let mut add = |place: &'static str, address: &str, rest: &str| {
        let base = address
            .split_once(rest)
            .unwrap_or_else(|| panic!("{place}: {address:?} does not end with {rest}"))
            .0;
        found.push((place, base.to_owned()));
    };
    let list = get("/v2/users?limit=1").await;
    add("Link", list.header("link").trim_start_matches('<'), "/v2/users?limit=1&after=");
    let body = [headers, &[("content-type", "application/json")]].concat();
    let created = client.send(Method::POST, "/v2/conversations", &body, Some(b"{}".to_vec())).await;
    let id = created.id();
    add("Location of a resource", created.header("location"), &format!("/v2/conversations/{id}"));
    let path = format!("/v2/conversations/{id}/messages");
    let messages = json!([{ "text": "hello" }]).to_string().into_bytes();
    let created = client.send(Method::POST, &path, &body, Some(messages)).await;
    add("Location of messages", created.header("location"), "/v2/messages?conversation=");
    let metadata = get("/.well-known/authzen-configuration").await.json;
    let endpoint = metadata["access_evaluation_endpoint"].as_str().unwrap();
    add("AuthZEN metadata", endpoint, "/access/v1/evaluation");
    let metadata = get("/.well-known/oauth-authorization-server").await.json;
    add("OAuth metadata", metadata["token_endpoint"].as_str().unwrap(), "/v2/auth/token");
    let document = get("/openapi.json").await.json;
    add("OpenAPI servers", &format!("{}|", document["servers"][0]["url"].as_str().unwrap()), "|");
    found
}

#[tokio::test]
async fn every_link_uses_the_address_of_the_request() {
    let app = TestApp::start().await;
    app.user(Scope::Guest).await;
    let trusting =
        app.start_replica(|config| config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let public = app
        .start_replica(|config| {
            config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
            config.public_url = Some("https://API.example.com:443/gate/".into());
        })
        .await;
    let secure = |base: &str| base.replace("http://", "https://");
    let (https, http) = (("x-forwarded-proto", "https"), ("x-forwarded-proto", "http"));
    for (app, headers, expected) in [
        (&app, vec![], app.base.clone()),
        (&app, vec![https], app.base.clone()),
        (&trusting, vec![], trusting.base.clone()),
        (&trusting, vec![https], secure(&trusting.base)),
        (&trusting, vec![("x-forwarded-proto", "HTTPS")], secure(&trusting.base)),
        (&trusting, vec![http], trusting.base.clone()),
        (&trusting, vec![https, http], trusting.base.clone()),
        (&trusting, vec![("x-forwarded-proto", "https, http")], trusting.base.clone()),
        (&trusting, vec![("x-forwarded-proto", "javascript")], trusting.base.clone()),
        (&public, vec![http], "https://api.example.com/gate".to_owned()),
    ] {
        let found = reported_addresses(&app.admin().await, &headers).await;
        assert_eq!(found.len(), 6);
        for (place, base) in found {
            assert_eq!(base, expected, "{place} {headers:?}");
        }
    }
}

// Multi-threaded, since the service must run while the test thread blocks on its response.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_host_header_is_not_echoed() {
    let app = TestApp::start().await;
    for host in ["evil.example/path", "a>; rel=\"next\"", "a\"b", "user@evil.example", ""] {
        let head = format!("GET /.well-known/authzen-configuration HTTP/1.1\r\nHost: {host}\r\n");
        let (status, answer) = send_raw_request(&app.base, &format!("{head}Connection: close\r\n\r\n"));
        assert!(status == 400 || answer.contains("\"http://localhost\""), "{host}: {answer}");
    }
}

#[test]
fn a_service_that_speaks_tls_has_an_https_address() {
    let directory = tempfile::tempdir().unwrap();
    create_certificate(directory.path(), "tls");
    let settings = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    let running = start(directory.path(), &settings);
    let base = running.base.replace("127.0.0.1", "localhost");
    let output = Command::new("curl")
        .args(["-s", "--cacert"])
        .arg(directory.path().join("tls.pem"))
        .args(["-H", "X-Forwarded-Proto: http"])
        .arg(format!("{base}/openapi.json"))
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["servers"], json!([{ "url": base }]));
}

#[test]
fn a_public_url_with_query_fragment_or_credentials_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    for (url, expected) in [
        ("https://api.example.com/?", "without a query or fragment"),
        ("https://api.example.com/?a=b", "without a query or fragment"),
        ("https://api.example.com/#top", "without a query or fragment"),
        ("https://ada@api.example.com/", "without user information"),
        ("https://ada:hunter2hunter2@api.example.com/", "without user information"),
        ("https://:hunter2hunter2@api.example.com/", "without user information"),
        ("api.example.com", "expected an http or https URL"),
        ("ftp://api.example.com", "expected an http or https URL"),
        ("https://ada:hunter2hunter2@", "expected an http or https URL"),
        ("https://", "expected an http or https URL"),
    ] {
        let output = run(directory.path(), &[("CEDARGATE_PUBLIC_URL", url)], &["serve"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {error}");
        assert!(error.contains("CEDARGATE_PUBLIC_URL") && error.contains(expected), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file may be created");
}

#[tokio::test]
async fn the_openapi_document_and_page_work_under_any_base_path() {
    let app = TestApp::start().await;
    let http = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let client = Client { http, ..app.anonymous() };
    let moved = client.get("/docs").await;
    assert_eq!((moved.status, moved.header("location")), (StatusCode::TEMPORARY_REDIRECT, "docs/"));
    let page = client.get("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    let links: Vec<&str> = page.text.split("href=\"").chain(page.text.split("src=\"")).skip(1).collect();
    assert!(links.len() > 3 && links.iter().all(|link| !link.starts_with('/')), "{}", page.text);
    let script = client.get("/docs/swagger-initializer.js").await;
    assert!(script.text.contains("\"../openapi.json\"") && !script.text.contains("\"/"), "{}", script.text);
    client.get("/docs/nothing.js").await.expect_problem(404, "route_not_found");
    client.get("/docs/..%2f..%2fCargo.toml").await.expect_problem(404, "route_not_found");
}

#[tokio::test]
async fn the_openapi_document_and_page_accept_get_and_head_only() {
    let app = TestApp::start().await;
    let http = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let client = Client { http, ..app.anonymous() };
    for path in ["/openapi.json", "/docs", "/docs/", "/docs/swagger-ui.css"] {
        let (get, head) = (client.get(path).await, client.call(Method::HEAD, path, None).await);
        assert_eq!((get.status, head.text.as_str()), (head.status, ""), "{path}");
        for name in ["content-type", "content-length", "location"] {
            assert_eq!(get.header(name), head.header(name), "{path} {name}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let refused = client.call(method, path, None).await;
            refused.expect_problem(405, "method_not_allowed");
            assert_eq!(refused.header("allow"), "GET, HEAD", "{path}");
        }
    }
}

#[tokio::test]
async fn a_head_request_does_not_use_a_refresh_token() {
    let app = TestApp::start().await;
    let tokens = app.log_in(crate::support::ADMIN).await;
    let client = app.bearer(tokens["token"].as_str().unwrap());
    let path = format!("/v2/auth/token?refreshToken={}", tokens["refreshToken"].as_str().unwrap());
    let refused = client.call(Method::HEAD, &path, None).await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.header("allow"), "POST, GET");
    // If HEAD had used the token, this would be a reuse after the grace period, which revokes the session.
    app.clock.advance(60_000);
    client.get(&path).await.expect(StatusCode::OK);
}
