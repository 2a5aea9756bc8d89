//! Limits on how many requests one user may make, and how many may come from one address.

use crate::support::{ADMIN, Reply, TestApp};
use cedargate::authz::Scope;
use cedargate::config::Config;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

/// What an answer says of where the client stands.
fn standing(reply: &Reply) -> (&str, &str) {
    (reply.header("ratelimit-policy"), reply.header("ratelimit"))
}

/// Of an answer that says there were too many, how long to wait.
#[track_caller]
fn wait(reply: &Reply) -> i64 {
    reply.expect_problem(429, "rate_limited");
    reply.header("retry-after").parse().unwrap()
}

/// Two requests a second of a user, counted over three seconds.
fn two_a_second(config: &mut Config) {
    (config.rate_limit_per_caller, config.rate_limit_window) = (2, 3);
}

#[tokio::test]
async fn without_settings_there_are_no_limits_and_no_answer_speaks_of_any() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for _ in 0..50 {
        let reply = admin.get("/v2/users/me").await;
        assert_eq!((reply.status, standing(&reply)), (StatusCode::OK, ("", "")));
    }
}

#[tokio::test]
async fn a_user_may_make_so_many_requests_with_all_of_its_credentials() {
    let app = TestApp::with(two_a_second).await;
    let admin = app.admin().await;
    let mut left = Vec::new();
    let key = app.bearer(&admin.key(&[Scope::Guest]).await);
    for client in [&key, &admin, &key, &admin] {
        let reply = client.get("/v2/users/me").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.header("ratelimit-policy"), "\"caller\";q=6;w=3");
        left.push(reply.header("ratelimit").to_owned());
    }
    assert_eq!(left, [4, 3, 2, 1].map(|left| format!("\"caller\";r={left};t={}", (7 - left) / 2)));
    // What is refused, and what is not there, counts as well.
    assert_eq!(standing(&key.get("/v2/contacts").await).1, "\"caller\";r=0;t=3");
    for client in [&admin, &key] {
        let refused = client.get("/v2/users/me").await;
        assert_eq!(wait(&refused), 1);
        assert_eq!(standing(&refused), ("\"caller\";q=6;w=3", "\"caller\";r=0;t=3"));
    }
    app.bearer(app.log_in(ADMIN).await["token"].as_str().unwrap())
        .get("/v2/users/me")
        .await
        .expect_problem(429, "rate_limited");
    app.clock.advance(499);
    assert_eq!(wait(&admin.get("/v2/users/me").await), 1);
    app.clock.advance(1);
    let reply = admin.get("/v2/users/me").await;
    assert_eq!((reply.status, standing(&reply).1), (StatusCode::OK, "\"caller\";r=0;t=3"));
    app.clock.advance(60_000);
    assert_eq!(standing(&admin.get("/v2/users/me").await).1, "\"caller\";r=5;t=1");
}

#[tokio::test]
async fn one_user_does_not_use_up_what_another_may() {
    let app = TestApp::with(two_a_second).await;
    let (one, other) = (app.user(Scope::Guest).await, app.user(Scope::Guest).await);
    while one.get("/v2/users/me").await.status == StatusCode::OK {}
    other.get("/v2/users/me").await.expect(StatusCode::OK);
    // A proxy that asks for one of them is told.
    let named = [("X-Original-Method", "GET"), ("X-Original-URI", "/v2/users/me")];
    let asked = one.send(Method::GET, "/v2/authorize/forward", &named, None).await;
    assert_eq!(wait(&asked), 1);
    // And so is one that refreshes.
    let refresh = one.get("/v2/auth/token?refreshToken=x").await;
    assert_eq!(wait(&refresh), 1);
}

#[tokio::test]
async fn from_an_address_so_many_requests_may_come_whoever_makes_them() {
    let app = TestApp::with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        (config.rate_limit_per_address, config.rate_limit_per_caller, config.rate_limit_window) = (1, 5, 4);
    })
    .await;
    let (admin, nobody) = (app.admin().await, app.anonymous());
    let from = |address: &'static str| [("x-forwarded-for", address)];
    let get = async |client: &crate::support::Client, path: &str, address| {
        client.send(Method::GET, path, &from(address), None).await
    };
    let reply = get(&admin, "/v2/users/me", "192.0.2.1").await;
    let both = ("\"address\";q=4;w=4, \"caller\";q=20;w=4", "\"address\";r=3;t=1, \"caller\";r=19;t=1");
    assert_eq!(standing(&reply), both);
    for (path, left) in [("/v2/users/me", 2), ("/nowhere", 1), ("/openapi.json", 0)] {
        let reply = get(&nobody, path, "192.0.2.1").await;
        assert_eq!(
            standing(&reply),
            ("\"address\";q=4;w=4", &*format!("\"address\";r={left};t={}", 4 - left))
        );
    }
    for client in [&admin, &nobody] {
        let refused = get(client, "/v2/users/me", "192.0.2.1").await;
        assert_eq!((wait(&refused), standing(&refused).1), (1, "\"address\";r=0;t=4"));
    }
    let login = json!({ "email": ADMIN, "password": crate::support::PASSWORD }).to_string().into_bytes();
    let headers = [("content-type", "application/json"), ("x-forwarded-for", "192.0.2.1")];
    assert_eq!(wait(&nobody.send(Method::POST, "/v2/auth/token", &headers, Some(login)).await), 1);
    // Whoever looks after the service is let in, and others elsewhere are; 64 bits of IPv6 are one address.
    for path in ["/health/live", "/health/ready", "/metrics"] {
        let reply = get(&nobody, path, "192.0.2.1").await;
        assert!(reply.status.is_success() && standing(&reply) == ("", ""), "{path}");
    }
    get(&admin, "/v2/users/me", "192.0.2.2").await.expect(StatusCode::OK);
    for address in ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"] {
        get(&admin, "/v2/users/me", address).await.expect(StatusCode::OK);
    }
    assert_eq!(wait(&get(&admin, "/v2/users/me", "2001:db8::5").await), 1);
    get(&admin, "/v2/users/me", "2001:db8:0:1::1").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn of_many_requests_at_once_no_more_pass_than_may() {
    let app = TestApp::with(|config| (config.rate_limit_per_caller, config.rate_limit_window) = (4, 5)).await;
    let admin = app.admin().await;
    for round in 0..5 {
        let replies = join_all((0..60).map(|_| admin.get("/v2/users/me"))).await;
        let passed = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
        assert_eq!(passed, 20, "{round}");
        app.clock.advance(5_000);
    }
}

#[tokio::test]
async fn each_process_counts_for_itself() {
    let app = TestApp::with(two_a_second).await;
    let other = app.again(|_| ()).await;
    let admin = app.admin().await;
    while admin.get("/v2/users/me").await.status == StatusCode::OK {}
    other.bearer(admin.bearer.as_deref().unwrap()).get("/v2/users/me").await.expect(StatusCode::OK);
}
