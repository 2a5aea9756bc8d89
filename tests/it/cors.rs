//! CORS: pages of permitted origins can read every response. Forward authentication is excluded.

use crate::forward::{identity, send_raw_request, with_own_routes};
use crate::forward_routes::{DOCUMENTS, with_routes};
use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::json;

const ORIGIN: &str = "https://app.example.com";
const FORWARD: &str = "/v2/authorize/forward";

fn allows_origin(reply: &Reply) -> bool {
    reply.header("access-control-allow-origin") == ORIGIN
}

#[tokio::test]
async fn error_responses_have_cors_headers() {
    let app = TestApp::start_with(|config| {
        config.cors_origins = vec![ORIGIN.into()];
        (config.rate_limit_per_caller, config.rate_limit_window) = (1, 4);
    })
    .await;
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let ask = async |client: &Client, method: Method, path: &str, body: Option<&str>| {
        let headers = [("origin", ORIGIN), ("content-type", "application/json")];
        client.send(method, path, &headers, body.map(|body| body.as_bytes().to_vec())).await
    };
    let anonymous = app.anonymous();
    let mut replies = vec![
        (400, ask(&anonymous, Method::POST, "/v2/auth/token", Some("{")).await),
        (401, ask(&anonymous, Method::GET, "/v2/users/me", None).await),
        (403, ask(&guest, Method::GET, "/v2/users", None).await),
        (404, ask(&anonymous, Method::GET, "/v2/nothing", None).await),
        (405, ask(&anonymous, Method::PUT, "/v2/users", None).await),
        (200, ask(&admin, Method::GET, "/v2/users?limit=1", None).await),
    ];
    for _ in 0..4 {
        let limited = ask(&guest, Method::GET, "/v2/users/me", None).await;
        if limited.status == StatusCode::TOO_MANY_REQUESTS {
            replies.push((429, limited));
            break;
        }
    }
    assert_eq!(replies.len(), 7, "some requests were rejected by a limit");
    for (status, reply) in &replies {
        assert_eq!(reply.status.as_u16(), *status, "{}", reply.text);
        assert!(allows_origin(reply), "{status} {:?}", reply.headers);
        let exposed: Vec<&str> = reply.header("access-control-expose-headers").split(", ").collect();
        for name in [
            "link",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "www-authenticate",
            "x-policy-version",
            "x-request-id",
            "x-total-count",
        ] {
            assert!(exposed.contains(&name), "{name} is not exposed: {exposed:?}");
        }
    }
}

#[tokio::test]
async fn errors_raised_before_routing_have_cors_headers() {
    let app = TestApp::start_with(|config| {
        config.cors_origins = vec![ORIGIN.into()];
        (config.rate_limit_per_address, config.rate_limit_window) = (1, 1);
    })
    .await;
    let anonymous = app.anonymous();
    let ask = async || anonymous.send(Method::GET, "/v2/users/me", &[("origin", ORIGIN)], None).await;
    ask().await.expect_problem(401, "missing_token");
    let limited = ask().await;
    limited.expect_problem(429, "rate_limited");
    assert!(allows_origin(&limited));
}

// Multi-threaded, since the service must run while the test thread blocks on its response.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_forward_auth_request_is_always_the_decision() {
    let app = with_routes(DOCUMENTS).await;
    let app = app.start_replica(|config| config.cors_origins = vec![ORIGIN.into()]).await;
    let guest = app.user(Scope::Guest).await;
    let anonymous = app.anonymous();
    for origin in [ORIGIN, "https://evil.example.com"] {
        let preflight = [("origin", origin), ("access-control-request-method", "GET")];
        let named = |method: &'static str, uri: &'static str| {
            [&preflight[..], &[("x-original-method", method), ("x-original-uri", uri)]].concat()
        };
        for (client, method, path, headers, status) in [
            (&anonymous, Method::OPTIONS, "/v2/users/me", preflight.to_vec(), 401),
            (&guest, Method::OPTIONS, "/documents/plan", preflight.to_vec(), 403),
            (&anonymous, Method::OPTIONS, "/public/a", preflight.to_vec(), 200),
            (&guest, Method::GET, "/documents/plan", preflight.to_vec(), 200),
            (&anonymous, Method::OPTIONS, "", named("OPTIONS", "/documents/plan"), 401),
            (&anonymous, Method::OPTIONS, "", named("OPTIONS", "/public/a"), 200),
            (&guest, Method::OPTIONS, "", named("GET", "/documents/plan"), 200),
            (&guest, Method::GET, "", named("OPTIONS", "/documents/plan"), 403),
        ] {
            let reply = client.send(method.clone(), &format!("{FORWARD}{path}"), &headers, None).await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path} {headers:?}: {}", reply.text);
            let cors: Vec<_> =
                reply.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).collect();
            assert!(cors.is_empty(), "{cors:?}");
        }
    }
    // The router decodes the path, so another spelling of it must not reach the preflight handler either.
    let head = "OPTIONS /v2/authorize/%66orward/v2/users HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let preflight = format!("Origin: {ORIGIN}\r\nAccess-Control-Request-Method: GET\r\n\r\n");
    let (status, answer) = send_raw_request(&app.base, &format!("{head}{preflight}"));
    assert!((400..=404).contains(&status), "{answer}");
    // Preflight requests for other routes are answered as usual.
    let preflight = [("origin", ORIGIN), ("access-control-request-method", "GET")];
    let reply = anonymous.send(Method::OPTIONS, "/v2/users/me", &preflight, None).await;
    assert!(reply.status == StatusCode::OK && allows_origin(&reply));
}

#[tokio::test]
async fn every_forward_auth_response_has_all_identity_headers() {
    let app = with_own_routes().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let version = admin.get("/v2/policies").await.json["version"].as_str().unwrap().to_owned();
    let ask = async |client: &Client, uri: &str| {
        let headers = [("x-original-method", "GET"), ("x-original-uri", uri), ("x-user-id", "spoofed")];
        client.send(Method::GET, FORWARD, &headers, None).await
    };
    let known = [Some(guest.id.as_str()), Some("guest"), Some(version.as_str())];
    let unknown = [Some(""); 3];
    for (client, uri, status, expected) in [
        (&guest, "/v2/users/me", 200, known),
        (&guest, "/v2/users", 403, known),
        (&guest, "/v2/nothing", 403, known),
        (&guest, "/v2/../users", 403, known),
        (&guest, "/.well-known/jwks.json", 200, unknown),
        (&app.anonymous(), "/.well-known/jwks.json", 200, unknown),
        (&app.anonymous(), "/v2/users/me", 401, unknown),
        (&app.bearer("no.good.token"), "/v2/users/me", 401, unknown),
    ] {
        let reply = ask(client, uri).await;
        assert_eq!((reply.status.as_u16(), identity(&reply)), (status, expected), "{uri}: {}", reply.text);
    }
    for per_caller in [true, false] {
        let limited = app
            .start_replica(|config| {
                config.rate_limit_window = 1;
                config.rate_limit_per_caller = u32::from(per_caller);
                config.rate_limit_per_address = u32::from(!per_caller);
            })
            .await;
        let guest = Client { base: limited.base.clone(), ..guest.clone() };
        ask(&guest, "/v2/users/me").await;
        let reply = ask(&guest, "/v2/users/me").await;
        reply.expect_problem(429, "rate_limited");
        assert_eq!(identity(&reply), unknown);
    }
    // Responses of other routes have none of these headers.
    let own = admin
        .send(
            Method::POST,
            "/v2/conversations",
            &[("content-type", "application/json")],
            Some(json!({}).to_string().into()),
        )
        .await;
    assert_eq!(identity(&own)[..2], [None, None]);
}
