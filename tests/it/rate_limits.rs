//! Rate limits per user and per address.

use crate::authorize::user;
use crate::authzen::{EVALUATION, evaluation_request};
use crate::support::{ADMIN, Reply, TestApp};
use cedargate::authz::Scope;
use cedargate::config::Config;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

/// The policy and state of the rate limit in a response.
fn rate_limit_headers(reply: &Reply) -> (&str, &str) {
    (reply.header("ratelimit-policy"), reply.header("ratelimit"))
}

/// Asserts that a response is rate limited, and returns its `Retry-After`.
#[track_caller]
fn retry_after_seconds(reply: &Reply) -> i64 {
    reply.expect_problem(429, "rate_limited");
    reply.header("retry-after").parse().unwrap()
}

/// Limits users to two requests per second over three seconds.
fn limit_to_two_per_second(config: &mut Config) {
    (config.rate_limit_per_caller, config.rate_limit_window) = (2, 3);
}

#[tokio::test]
async fn by_default_reads_and_decisions_are_not_limited() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let question = evaluation_request(user(&admin.id), "fetchUser", user(&admin.id));
    for _ in 0..50 {
        for reply in [admin.get("/v2/users/me").await, admin.post(EVALUATION, question.clone()).await] {
            assert_eq!((reply.status, rate_limit_headers(&reply)), (StatusCode::OK, ("", "")));
        }
    }
}

/// Limits each kind that is limited by default to one request per second over three seconds.
fn limit_each_kind_to_three(config: &mut Config) {
    config.rate_limit_window = 3;
    (config.rate_limit_anonymous, config.rate_limit_refusals, config.rate_limit_writes) = (1, 1, 1);
}

#[tokio::test]
async fn the_defaults_limit_anonymous_requests_denials_and_writes() {
    let defaults = Config::default();
    let limits = [defaults.rate_limit_anonymous, defaults.rate_limit_refusals, defaults.rate_limit_writes];
    assert!(limits.iter().all(|limit| *limit > 0), "{limits:?}");
}

#[tokio::test]
async fn requests_without_a_valid_credential_are_limited_by_address() {
    let app = TestApp::start_with(|config| {
        limit_each_kind_to_three(config);
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let admin = app.admin().await;
    let (anonymous, wrong) = (app.anonymous(), app.bearer("cg_00000000000000000000000000000000"));
    let login = Some(json!({ "email": ADMIN, "password": "wrong" }).to_string().into_bytes());
    let json = ("content-type", "application/json");
    // Each kind from its own address, and at the last one all kinds together.
    for (address, kinds) in [
        ("192.0.2.1", vec![0]),
        ("192.0.2.2", vec![1]),
        ("192.0.2.3", vec![2]),
        ("192.0.2.4", vec![3]),
        ("192.0.2.5", vec![0, 1, 2, 3]),
    ] {
        let from = ("x-forwarded-for", address);
        let send = async |kind: usize| match kind {
            0 => anonymous.send(Method::GET, "/v2/users/me", &[from], None).await,
            1 => wrong.send(Method::GET, "/v2/users/me", &[from], None).await,
            2 => anonymous.send(Method::POST, "/v2/auth/token", &[from, json], login.clone()).await,
            // This route ignores the header, which must not bypass the limit.
            _ => wrong.send(Method::POST, "/v2/auth/token", &[from, json], login.clone()).await,
        };
        let mut sent = kinds.iter().cycle().map(|kind| send(*kind));
        for _ in 0..3 {
            let reply = sent.next().unwrap().await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{address}: {}", reply.text);
        }
        for _ in 0..4 {
            let refused = sent.next().unwrap().await;
            assert_eq!(retry_after_seconds(&refused), 1, "{address}");
        }
        // Callers with valid credentials are not affected, nor are monitoring and forward-auth requests.
        admin.send(Method::GET, "/v2/users/me", &[from], None).await.expect(StatusCode::OK);
        anonymous.send(Method::GET, "/health/live", &[from], None).await.expect(StatusCode::NO_CONTENT);
        let forwarded = anonymous.send(Method::GET, "/v2/authorize/forward", &[from], None).await;
        assert_eq!(forwarded.status, StatusCode::UNAUTHORIZED, "{}", forwarded.text);
    }
    app.clock.advance(1_000);
    let reply = anonymous.send(Method::GET, "/v2/users/me", &[("x-forwarded-for", "192.0.2.1")], None).await;
    reply.expect_problem(401, "missing_token");
}

#[tokio::test]
async fn a_caller_with_too_many_denials_is_limited_except_for_decisions() {
    let app = TestApp::start_with(|config| {
        limit_each_kind_to_three(config);
        (config.rate_limit_anonymous, config.rate_limit_writes) = (0, 0);
    })
    .await;
    let (guest, bot) = (app.user(Scope::Guest).await, app.user(Scope::Bot).await);
    for _ in 0..3 {
        guest.get("/v2/contacts").await.expect_problem(403, "forbidden");
    }
    for path in ["/v2/contacts", "/v2/users/me"] {
        assert_eq!(retry_after_seconds(&guest.get(path).await), 1, "{path}");
    }
    let question = evaluation_request(user(&guest.id), "listContacts", user(&guest.id));
    guest.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
    bot.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1_000);
    guest.get("/v2/users/me").await.expect(StatusCode::OK);
    // A denial as the decision of a question does not count as a rejected request.
    for _ in 0..10 {
        bot.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
    }
    bot.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn writes_are_limited_and_reads_are_not() {
    let app = TestApp::start_with(|config| {
        limit_each_kind_to_three(config);
        config.rate_limit_anonymous = 0;
    })
    .await;
    let admin = app.admin().await;
    let write = async || admin.patch("/v2/users/me", json!({ "givenName": "Ada" })).await;
    for left in [2, 1, 0] {
        let reply = write().await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let expected = format!("\"writes\";r={left};t={}", 3 - left);
        assert_eq!(rate_limit_headers(&reply), ("\"writes\";q=3;w=3", &*expected));
    }
    assert_eq!(retry_after_seconds(&write().await), 1);
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1_000);
    write().await.expect(StatusCode::OK);
}

#[tokio::test]
async fn clock_steps_do_not_affect_limits() {
    let app = TestApp::start_with(limit_to_two_per_second).await;
    let admin = app.admin().await;
    for step in [-7_200_000, 86_400_000] {
        while admin.get("/v2/users/me").await.status == StatusCode::OK {}
        app.clock.step(step);
        let refused = admin.get("/v2/users/me").await;
        if refused.status != StatusCode::TOO_MANY_REQUESTS {
            // The access token has expired.
            refused.expect_problem(403, "token_expired");
            break;
        }
        assert_eq!(retry_after_seconds(&refused), 1);
        app.clock.advance(500);
        admin.get("/v2/users/me").await.expect(StatusCode::OK);
        app.clock.step(-step);
    }
}

#[tokio::test]
async fn the_limit_of_a_user_covers_all_of_its_credentials() {
    let app = TestApp::start_with(limit_to_two_per_second).await;
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
    // Denied requests and requests for missing resources count as well.
    assert_eq!(rate_limit_headers(&key.get("/v2/contacts").await).1, "\"caller\";r=0;t=3");
    for client in [&admin, &key] {
        let refused = client.get("/v2/users/me").await;
        assert_eq!(retry_after_seconds(&refused), 1);
        assert_eq!(rate_limit_headers(&refused), ("\"caller\";q=6;w=3", "\"caller\";r=0;t=3"));
    }
    app.bearer(app.log_in(ADMIN).await["token"].as_str().unwrap())
        .get("/v2/users/me")
        .await
        .expect_problem(429, "rate_limited");
    app.clock.advance(499);
    assert_eq!(retry_after_seconds(&admin.get("/v2/users/me").await), 1);
    app.clock.advance(1);
    let reply = admin.get("/v2/users/me").await;
    assert_eq!((reply.status, rate_limit_headers(&reply).1), (StatusCode::OK, "\"caller\";r=0;t=3"));
    app.clock.advance(60_000);
    assert_eq!(rate_limit_headers(&admin.get("/v2/users/me").await).1, "\"caller\";r=5;t=1");
}

#[tokio::test]
async fn the_limits_of_users_are_independent() {
    let app = TestApp::start_with(limit_to_two_per_second).await;
    let (one, other) = (app.user(Scope::Guest).await, app.user(Scope::Guest).await);
    while one.get("/v2/users/me").await.status == StatusCode::OK {}
    other.get("/v2/users/me").await.expect(StatusCode::OK);
    // The same through forward authentication.
    let named = [("X-Original-Method", "GET"), ("X-Original-URI", "/v2/users/me")];
    let forwarded = one.send(Method::GET, "/v2/authorize/forward", &named, None).await;
    assert_eq!(retry_after_seconds(&forwarded), 1);
    // The same for a refresh.
    let refresh = one.get("/v2/auth/token?refreshToken=x").await;
    assert_eq!(retry_after_seconds(&refresh), 1);
}

#[tokio::test]
async fn requests_from_one_address_are_limited_regardless_of_the_caller() {
    let app = TestApp::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        (config.rate_limit_per_address, config.rate_limit_per_caller, config.rate_limit_window) = (1, 5, 4);
        config.rate_limit_anonymous = 0;
    })
    .await;
    let (admin, anonymous) = (app.admin().await, app.anonymous());
    let from = |address: &'static str| [("x-forwarded-for", address)];
    let get = async |client: &crate::support::Client, path: &str, address| {
        client.send(Method::GET, path, &from(address), None).await
    };
    let reply = get(&admin, "/v2/users/me", "192.0.2.1").await;
    let both = ("\"address\";q=4;w=4, \"caller\";q=20;w=4", "\"address\";r=3;t=1, \"caller\";r=19;t=1");
    assert_eq!(rate_limit_headers(&reply), both);
    for (path, left) in [("/v2/users/me", 2), ("/nowhere", 1), ("/openapi.json", 0)] {
        let reply = get(&anonymous, path, "192.0.2.1").await;
        assert_eq!(
            rate_limit_headers(&reply),
            ("\"address\";q=4;w=4", &*format!("\"address\";r={left};t={}", 4 - left))
        );
    }
    for client in [&admin, &anonymous] {
        let refused = get(client, "/v2/users/me", "192.0.2.1").await;
        assert_eq!(
            (retry_after_seconds(&refused), rate_limit_headers(&refused).1),
            (1, "\"address\";r=0;t=4")
        );
    }
    let login = json!({ "email": ADMIN, "password": crate::support::PASSWORD }).to_string().into_bytes();
    let headers = [("content-type", "application/json"), ("x-forwarded-for", "192.0.2.1")];
    assert_eq!(
        retry_after_seconds(&anonymous.send(Method::POST, "/v2/auth/token", &headers, Some(login)).await),
        1
    );
    // Monitoring is not limited, nor are other addresses. For IPv6, a /64 prefix counts as one address.
    for path in ["/health/live", "/health/ready", "/metrics"] {
        let reply = get(&anonymous, path, "192.0.2.1").await;
        assert!(reply.status.is_success() && rate_limit_headers(&reply) == ("", ""), "{path}");
    }
    get(&admin, "/v2/users/me", "192.0.2.2").await.expect(StatusCode::OK);
    for address in ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"] {
        get(&admin, "/v2/users/me", address).await.expect(StatusCode::OK);
    }
    assert_eq!(retry_after_seconds(&get(&admin, "/v2/users/me", "2001:db8::5").await), 1);
    get(&admin, "/v2/users/me", "2001:db8:0:1::1").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn concurrent_requests_do_not_exceed_the_limit() {
    let app =
        TestApp::start_with(|config| (config.rate_limit_per_caller, config.rate_limit_window) = (4, 5)).await;
    let admin = app.admin().await;
    for round in 0..5 {
        let replies = join_all((0..60).map(|_| admin.get("/v2/users/me"))).await;
        let passed = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
        assert_eq!(passed, 20, "{round}");
        app.clock.advance(5_000);
    }
}

#[tokio::test]
async fn every_process_counts_separately() {
    let app = TestApp::start_with(limit_to_two_per_second).await;
    let other = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    while admin.get("/v2/users/me").await.status == StatusCode::OK {}
    other.bearer(admin.bearer.as_deref().unwrap()).get("/v2/users/me").await.expect(StatusCode::OK);
}
