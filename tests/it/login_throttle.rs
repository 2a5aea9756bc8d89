//! Login throttling: which attempts are delayed, for how long, and what is stored.

use crate::support::{ADMIN, PASSWORD, Reply, TestApp, project_file, slow_hashing};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait;
use serde_json::json;

const WRONG_PASSWORD: &str = "not-the-s3cret-at-all";

/// Starts the service behind a local proxy, so that clients can have any address.
async fn start_behind_proxy() -> TestApp {
    TestApp::start_with(|config| config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await
}

/// Sends a login from this address, which the proxy reports.
async fn attempt(app: &TestApp, address: &str, email: &str, password: &str) -> Reply {
    let headers = [("content-type", "application/json"), ("x-forwarded-for", address)];
    let body = json!({ "email": email, "password": password }).to_string().into_bytes();
    app.anonymous().send(Method::POST, "/v2/auth/token", &headers, Some(body)).await
}

/// The `Retry-After` of a response in seconds; 0 if the password was verified and wrong.
#[track_caller]
fn retry_after_seconds(reply: &Reply) -> u64 {
    if reply.status == StatusCode::TOO_MANY_REQUESTS {
        reply.expect_problem(429, "too_many_attempts");
        return reply.header("retry-after").parse().unwrap();
    }
    reply.expect_problem(401, "invalid_credentials");
    0
}

/// The number of stored attempt counters.
async fn count_attempt_rows(app: &TestApp) -> usize {
    let connection = sea_orm::Database::connect(app.url()).await.unwrap();
    let mut all = sea_orm::sea_query::Query::select();
    all.column("key").from("attempts");
    let rows = connection.query_all(&all).await.unwrap().len();
    connection.close().await.unwrap();
    rows
}

/// Advances the clock of the service by this many seconds.
fn advance_seconds(app: &TestApp, seconds: u64) {
    app.clock.advance(i64::try_from(seconds * 1_000).unwrap());
}

/// Fails logins until one is throttled. Returns how many were not.
async fn guess_until_throttled(app: &TestApp, mut guess: impl AsyncFnMut(usize) -> Reply) -> usize {
    for count in 0..100 {
        if retry_after_seconds(&guess(count).await) > 0 {
            return count;
        }
    }
    panic!("no attempt was throttled at {}", app.base);
}

#[tokio::test]
async fn back_off_grows_to_its_maximum_for_known_and_unknown_emails() {
    let app = start_behind_proxy().await;
    for (address, email) in [("192.0.2.1", ADMIN), ("192.0.2.2", "nobody@example.com")] {
        for expected in [0, 0, 1, 3, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900] {
            assert_eq!(
                retry_after_seconds(&attempt(&app, address, email, WRONG_PASSWORD).await),
                0,
                "{email} before {expected}"
            );
            if expected == 0 {
                continue;
            }
            // The right password is not verified either, and further attempts do not extend the wait.
            for password in [WRONG_PASSWORD, PASSWORD] {
                assert_eq!(
                    retry_after_seconds(&attempt(&app, address, email, password).await),
                    expected,
                    "{email}"
                );
            }
            advance_seconds(&app, expected);
            app.clock.advance(-1);
            assert_eq!(
                retry_after_seconds(&attempt(&app, address, email, PASSWORD).await),
                1,
                "{email} in {expected}"
            );
            app.clock.advance(1);
        }
    }
    attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    let upper = "NoBody@Example.com";
    assert_eq!(retry_after_seconds(&attempt(&app, "192.0.2.2", upper, WRONG_PASSWORD).await), 0);
    assert_eq!(
        retry_after_seconds(&attempt(&app, "192.0.2.2", upper, WRONG_PASSWORD).await),
        900,
        "another spelling of the same account"
    );
}

#[tokio::test]
async fn the_maximum_back_off_is_configurable() {
    let app = TestApp::start_with(|config| config.login_backoff_max = 10).await;
    let client = app.anonymous();
    for expected in [0, 0, 1, 3, 5, 10, 10, 10, 10] {
        let body = json!({ "email": ADMIN, "password": WRONG_PASSWORD });
        assert_eq!(retry_after_seconds(&client.post("/v2/auth/token", body.clone()).await), 0);
        if expected > 0 {
            assert_eq!(retry_after_seconds(&client.post("/v2/auth/token", body).await), expected);
            advance_seconds(&app, expected);
        }
    }
}

#[tokio::test]
async fn a_successful_login_resets_the_failures_of_the_account() {
    let app = start_behind_proxy().await;
    for _ in 0..5 {
        for _ in 0..2 {
            assert_eq!(retry_after_seconds(&attempt(&app, "192.0.2.1", ADMIN, WRONG_PASSWORD).await), 0);
        }
        attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    }
    let stopped =
        guess_until_throttled(&app, async |_| attempt(&app, "192.0.2.1", ADMIN, WRONG_PASSWORD).await).await;
    assert_eq!(stopped, 3);
}

#[tokio::test]
async fn a_successful_login_does_not_reset_the_failures_of_the_address() {
    let app = start_behind_proxy().await;
    // A client with its own account tries one password for many other accounts.
    let spray = async |count: usize| {
        attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
        attempt(&app, "192.0.2.1", &format!("user{count}@example.com"), WRONG_PASSWORD).await
    };
    assert_eq!(guess_until_throttled(&app, spray).await, 30);
    // Its address is throttled for accounts that are not known there; not for known accounts, and not at other addresses.
    let user = app.user(Scope::Guest).await;
    let email = user.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    assert_eq!(retry_after_seconds(&attempt(&app, "192.0.2.1", &email, PASSWORD).await), 1);
    attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    attempt(&app, "192.0.2.3", &email, PASSWORD).await.expect(StatusCode::OK);
    advance_seconds(&app, 1);
    assert_eq!(
        retry_after_seconds(&attempt(&app, "192.0.2.1", "user31@example.com", WRONG_PASSWORD).await),
        0
    );
    assert_eq!(
        retry_after_seconds(&attempt(&app, "192.0.2.1", "user32@example.com", WRONG_PASSWORD).await),
        3
    );
    // One attempt expires per minute.
    advance_seconds(&app, 3 * 60);
    assert_eq!(
        retry_after_seconds(&attempt(&app, "192.0.2.1", "user32@example.com", WRONG_PASSWORD).await),
        0
    );
    assert_eq!(
        retry_after_seconds(&attempt(&app, "192.0.2.1", "user33@example.com", WRONG_PASSWORD).await),
        0
    );
}

#[tokio::test]
async fn concurrent_successful_logins_are_not_throttled() {
    let app = TestApp::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.password_workers = Some(8);
    })
    .await;
    for round in 0..3 {
        let logins = join_all((0..20).map(|_| attempt(&app, "192.0.2.1", ADMIN, PASSWORD))).await;
        for login in logins {
            assert_eq!(login.status, StatusCode::OK, "{round}: {}", login.text);
        }
    }
    assert_eq!(
        count_attempt_rows(&app).await,
        2,
        "the counter of the address, now zero, and the known address of the user"
    );
}

#[tokio::test]
async fn throttling_does_not_affect_other_accounts_and_addresses() {
    let app = start_behind_proxy().await;
    let user = app.user(Scope::Guest).await;
    let email = user.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let guess = async |_| attempt(&app, "192.0.2.1", ADMIN, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
    attempt(&app, "192.0.2.2", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    attempt(&app, "192.0.2.1", &email, PASSWORD).await.expect(StatusCode::OK);
    // For IPv6, a /64 prefix counts as one address.
    let guess =
        async |count| attempt(&app, &format!("2001:db8:0:1::{count:x}"), &email, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
    attempt(&app, "2001:db8:0:2::1", &email, PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn distributed_guessing_is_throttled_without_locking_out_known_addresses() {
    let app = start_behind_proxy().await;
    attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    let guess = async |count| attempt(&app, &format!("198.51.100.{count}"), ADMIN, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 20);
    for (count, expected) in [1, 3, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900].into_iter().enumerate() {
        let address = format!("203.0.113.{count}");
        assert_eq!(retry_after_seconds(&attempt(&app, &address, ADMIN, PASSWORD).await), expected);
        advance_seconds(&app, expected);
        assert_eq!(retry_after_seconds(&attempt(&app, &address, ADMIN, WRONG_PASSWORD).await), 0);
    }
    // A user at a known address is not affected. Others wait until their delay is over.
    assert_eq!(retry_after_seconds(&attempt(&app, "192.0.2.2", ADMIN, PASSWORD).await), 900);
    let known = attempt(&app, "192.0.2.1", ADMIN, WRONG_PASSWORD).await;
    assert_eq!(retry_after_seconds(&known), 0);
    advance_seconds(&app, 900);
    attempt(&app, "192.0.2.2", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    // A successful login clears the account for all addresses.
    assert_eq!(retry_after_seconds(&attempt(&app, "203.0.113.200", ADMIN, WRONG_PASSWORD).await), 0);
}

#[tokio::test]
async fn a_known_address_expires_after_thirty_days() {
    for (days, expected) in [(29, 0), (31, 1)] {
        let app = start_behind_proxy().await;
        attempt(&app, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
        advance_seconds(&app, days * 86_400);
        let guess = async |count| attempt(&app, &format!("198.51.100.{count}"), ADMIN, WRONG_PASSWORD).await;
        assert_eq!(guess_until_throttled(&app, guess).await, 20);
        assert_eq!(
            retry_after_seconds(&attempt(&app, "192.0.2.1", ADMIN, WRONG_PASSWORD).await),
            expected,
            "after {days} days"
        );
    }
}

#[tokio::test]
async fn concurrent_guesses_are_throttled_like_sequential_ones() {
    let app = TestApp::start().await;
    let other = app.start_replica(|_| ()).await;
    for round in 0..10 {
        let email = if round == 0 { ADMIN.to_owned() } else { format!("user{round}@example.com") };
        let body = json!({ "email": email, "password": WRONG_PASSWORD });
        let clients = [app.anonymous(), other.anonymous()];
        let guesses =
            clients.iter().cycle().take(40).map(|client| client.post("/v2/auth/token", body.clone()));
        let mut verified = 0;
        for reply in join_all(guesses).await {
            match reply.status {
                StatusCode::UNAUTHORIZED => verified += 1,
                // With so many concurrent attempts, some are rejected.
                StatusCode::SERVICE_UNAVAILABLE => reply.expect_problem(503, "busy").clear(),
                _ => assert!(retry_after_seconds(&reply) >= 1, "{}", reply.text),
            }
        }
        assert_eq!(verified, 3, "round {round}");
        // The other process applies the same wait.
        assert_eq!(retry_after_seconds(&other.anonymous().post("/v2/auth/token", body).await), 1);
        advance_seconds(&app, 86_400);
    }
}

#[tokio::test]
async fn processes_on_one_database_share_the_throttle() {
    let app = start_behind_proxy().await;
    let other = app.start_replica(|_| ()).await;
    let both = [&app, &other];
    let guess = async |count: usize| attempt(both[count % 2], "192.0.2.1", ADMIN, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
    for app in both {
        assert_eq!(retry_after_seconds(&attempt(app, "192.0.2.1", ADMIN, PASSWORD).await), 1);
    }
    advance_seconds(&app, 1);
    attempt(&other, "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn successful_logins_at_two_replicas_are_not_throttled_while_the_address_becomes_known() {
    let app = TestApp::start_with(|config| {
        slow_hashing(config);
        config.password_workers = Some(4);
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let other = app.start_replica(|_| ()).await;
    let both = [&app, &other];
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let log_in = |index: usize| attempt(both[index % 2], address, ADMIN, PASSWORD);
        let mut logins: FuturesUnordered<_> = (0..6).map(log_in).collect();
        // After one success, the address is known: later attempts do not wait behind earlier ones.
        logins.next().await.unwrap().expect(StatusCode::OK);
        logins.extend((0..6).map(log_in));
        while let Some(login) = logins.next().await {
            login.expect(StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn the_shared_throttle_tolerates_clock_differences() {
    let app = start_behind_proxy().await;
    for millis in [-900, 900] {
        let other = app.start_replica_ahead(millis).await;
        let both = [&app, &other];
        for index in 0..4 {
            for count in 0..2 {
                assert_eq!(
                    retry_after_seconds(
                        &attempt(both[(index + count) % 2], "192.0.2.1", ADMIN, WRONG_PASSWORD).await
                    ),
                    0,
                    "{millis}"
                );
            }
            attempt(both[index % 2], "192.0.2.1", ADMIN, PASSWORD).await.expect(StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_wrong_current_password_counts_as_a_failed_login() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = user.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let patch = |current: &str| json!({ "password": "an0ther-s3cret", "currentPassword": current });
    for _ in 0..3 {
        let refused = user.patch("/v2/users/me", patch(WRONG_PASSWORD)).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["currentPassword"]);
    }
    let refused = user.patch("/v2/users/me", patch(PASSWORD)).await;
    assert_eq!(retry_after_seconds(&refused), 1);
    let login = json!({ "email": email, "password": PASSWORD });
    assert_eq!(
        retry_after_seconds(&app.anonymous().post("/v2/auth/token", login).await),
        1,
        "both kinds of attempts must share one counter"
    );
    // An update without a password does not count as an attempt.
    user.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    advance_seconds(&app, 1);
    user.patch("/v2/users/me", patch(PASSWORD)).await.expect(StatusCode::OK);
    let login = json!({ "email": email, "password": WRONG_PASSWORD });
    for _ in 0..3 {
        assert_eq!(retry_after_seconds(&app.anonymous().post("/v2/auth/token", login.clone()).await), 0);
    }
    assert_eq!(retry_after_seconds(&app.anonymous().post("/v2/auth/token", login).await), 1);
}

#[tokio::test]
async fn changing_the_email_does_not_reset_the_throttle() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let body = json!({ "password": "an0ther-s3cret", "currentPassword": WRONG_PASSWORD });
    let mut verified = 0;
    for count in 0..6 {
        let email = format!("name{count}@example.com");
        user.patch("/v2/users/me", json!({ "email": email })).await.expect(StatusCode::OK);
        let guesses = [
            user.patch("/v2/users/me", body.clone()).await,
            app.anonymous()
                .post("/v2/auth/token", json!({ "email": email, "password": WRONG_PASSWORD }))
                .await,
        ];
        verified += guesses.iter().filter(|guess| guess.status != StatusCode::TOO_MANY_REQUESTS).count();
    }
    assert_eq!(verified, 3);
}

#[tokio::test]
async fn creating_or_deleting_an_account_does_not_reset_the_throttle() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = "somebody@example.com";
    let login = json!({ "email": email, "password": WRONG_PASSWORD });
    let guess = async |_| app.anonymous().post("/v2/auth/token", login.clone()).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
    let created = admin.post("/v2/users", json!({ "email": email, "password": PASSWORD })).await.id();
    assert_eq!(retry_after_seconds(&guess(0).await), 1);
    advance_seconds(&app, 1);
    assert_eq!(retry_after_seconds(&guess(0).await), 0);
    assert_eq!(retry_after_seconds(&guess(0).await), 3);
    admin.delete(&format!("/v2/users/{created}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(retry_after_seconds(&guess(0).await), 3);
}

#[tokio::test]
async fn logins_of_a_blocked_user_count_as_failures() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let email = user.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let blocked =
        app.admin().await.patch(&format!("/v2/users/{}", user.id), json!({ "status": "blocked" })).await;
    blocked.expect(StatusCode::OK);
    let login = json!({ "email": email, "password": PASSWORD });
    let guess = async |_| app.anonymous().post("/v2/auth/token", login.clone()).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3);
}

#[tokio::test]
async fn throttle_rows_expire_and_contain_no_email_addresses() {
    let app = start_behind_proxy().await;
    for count in 0..60 {
        attempt(&app, &format!("198.51.100.{count}"), &format!("nobody{count}@example.com"), WRONG_PASSWORD)
            .await;
    }
    assert_eq!(count_attempt_rows(&app).await, 300);
    assert!(!app.dump().await.contains("nobody7@example.com"));
    advance_seconds(&app, 86_400);
    for _ in 0..3 {
        attempt(&app, "198.51.100.1", "nobody@example.com", WRONG_PASSWORD).await;
    }
    assert_eq!(count_attempt_rows(&app).await, 5, "the counters of the last three");
}

#[tokio::test]
async fn a_spoofed_forwarded_address_does_not_evade_the_throttle() {
    // The tests connect from 127.0.0.1, which only the second service trusts as a proxy.
    let strict = TestApp::start().await;
    let guess = async |count| attempt(&strict, &format!("198.51.100.{count}"), ADMIN, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&strict, guess).await, 3, "X-Forwarded-For must be ignored");

    let app = start_behind_proxy().await;
    let guess = async |count| {
        attempt(&app, &format!("198.51.100.{count}, 203.0.113.{count}, 192.0.2.1"), ADMIN, WRONG_PASSWORD)
            .await
    };
    assert_eq!(guess_until_throttled(&app, guess).await, 3, "addresses further to the left must be ignored");
    let guess =
        async |count| attempt(&app, &format!("198.51.100.{count}, who knows"), ADMIN, WRONG_PASSWORD).await;
    assert_eq!(guess_until_throttled(&app, guess).await, 3, "an invalid address must count as the proxy's");
    let several = |first: &'static str, second: &'static str| {
        [("content-type", "application/json"), ("x-forwarded-for", first), ("x-forwarded-for", second)]
    };
    let body = json!({ "email": ADMIN, "password": PASSWORD }).to_string().into_bytes();
    let send = async |headers: [(&str, &str); 3]| {
        app.anonymous().send(Method::POST, "/v2/auth/token", &headers, Some(body.clone())).await
    };
    assert_eq!(
        retry_after_seconds(&send(several("198.51.100.9", "192.0.2.1")).await),
        1,
        "the last header line must count"
    );
    send(several("192.0.2.1", "198.51.100.9")).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn policies_see_the_client_address_behind_a_trusted_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let policy = "@id(\"inside\")\n@doc(\"x\")\nforbid (principal, action == Action::\"fetchUser\", resource)\n\
                  unless { context has ip && context.ip.isInRange(ip(\"192.0.2.0/24\")) };";
    std::fs::write(directory.path().join("inside.cedar"), policy).unwrap();
    let app = TestApp::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.policies.push(directory.path().to_owned());
        config.forward_routes = Some(project_file("tests/fixtures/own-routes.toml"));
    })
    .await;
    let admin = app.admin().await;
    for (address, seen) in [("192.0.2.7", true), ("192.0.2.7, 198.51.100.1", false), ("", false)] {
        let reply = admin.send(Method::GET, "/v2/users/me", &[("x-forwarded-for", address)], None).await;
        assert_eq!(reply.status == StatusCode::OK, seen, "{address:?}: {}", reply.text);
        // The same through forward authentication.
        let named =
            [("x-forwarded-for", address), ("X-Original-Method", "GET"), ("X-Original-URI", "/v2/users/me")];
        let reply = admin.send(Method::GET, "/v2/authorize/forward", &named, None).await;
        assert_eq!(reply.status == StatusCode::OK, seen, "{address:?}: {}", reply.text);
    }
}
