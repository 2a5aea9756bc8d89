//! Two processes on one PostgreSQL database: attempts, changes and revocations of one are effective at the other.

use crate::command_line::{RunningService, client, run, text};
use crate::multi_process::{
    ROUNDS, TIMEOUT, cached_client, count, expect_prompt, log_in, refresh, serve_with, wait_until_ended,
};
use crate::refresh::{expect_refresh_rejected, refresh_token};
use crate::relay::Relay;
use crate::support::{ADMIN, Client, Database, PASSWORD, Reply, decode_jwt};
use crate::token_families::{access_token, expect_session_ended};
use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

const WRONG_PASSWORD: &str = "not-the-s3cret-at-all";

/// Two services on one PostgreSQL database; none without PostgreSQL.
struct Replicas {
    services: [RunningService; 2],
    database: Database,
}

impl Replicas {
    async fn start(more: &[(&str, &str)]) -> Option<Self> {
        let database = Database::new().await;
        if database.url.starts_with("sqlite") {
            return None; // SQLite has one process that serves.
        }
        Some(Self { services: [0, 1].map(|_| serve_with(&database, more)), database })
    }

    /// The base URL of a service.
    fn base(&self, index: usize) -> &str {
        &self.services[index % 2].base
    }

    /// A client for the first admin at one of the services.
    async fn admin(&self, index: usize) -> Client {
        let tokens = log_in(self.base(index), ADMIN).await;
        cached_client(self.base(index), access_token(&tokens)).await
    }

    /// The output of a command, which must succeed.
    fn command(&self, arguments: &[&str]) -> String {
        let settings = [("CEDARGATE_DATABASE_URL", self.database.url.as_str())];
        let output = block_in_place(|| run(self.database.directory.path(), &settings, arguments));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    }
}

/// Sends a login from this address, which the proxy reports.
async fn attempt(base: &str, address: &str, email: &str, password: &str) -> Reply {
    let headers = [("content-type", "application/json"), ("x-forwarded-for", address)];
    let body = json!({ "email": email, "password": password }).to_string().into_bytes();
    client(base).send(Method::POST, "/v2/auth/token", &headers, Some(body)).await
}

/// The number of attempts that may have been allowed this long after the first wait began. The waits are 1, 3, 5, 10, 20 s etc.
fn attempts_allowed_after(after: Duration) -> usize {
    let ends = [1, 4, 9, 19, 39, 79, 159];
    ends.iter().filter(|end| after >= Duration::from_secs(**end)).count()
}

/// Fails logins at both in turn, more often than is free. Together they must allow no more attempts than one would alone.
async fn guess(replicas: &Replicas, free: usize, mut next: impl FnMut(usize) -> (String, String)) {
    let started = Instant::now();
    let (mut verified, mut waits) = (0, [0, 0]);
    for at in 0..2 * free + 2 {
        let (address, email) = next(at);
        let reply = attempt(replicas.base(at), &address, &email, WRONG_PASSWORD).await;
        match reply.status {
            StatusCode::UNAUTHORIZED => verified += 1,
            _ => {
                reply.expect_problem(429, "too_many_attempts");
                assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
                waits[at % 2] += 1;
            }
        }
        assert!(verified >= free || waits == [0, 0], "an attempt was throttled after {verified}");
    }
    // The waits are in real time: on a slow machine one may be over.
    let most = free + attempts_allowed_after(started.elapsed());
    assert!(
        (free..=most).contains(&verified),
        "{verified} attempts were verified, expected {free} to {most}"
    );
    assert!(waits[0] > 0 && waits[1] > 0, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_at_one_process_is_throttled_at_both() {
    let Some(replicas) = Replicas::start(&[("CEDARGATE_TRUSTED_PROXIES", "127.0.0.1/32")]).await else {
        return;
    };
    // For one account from one address, for one account from many addresses, and for many accounts from one address.
    guess(&replicas, 3, |_| ("192.0.2.1".into(), ADMIN.into())).await;
    guess(&replicas, 20, |index| (format!("198.51.100.{index}"), "somebody@example.com".into())).await;
    guess(&replicas, 30, |index| ("192.0.2.2".into(), format!("user{index}@example.com"))).await;

    // Other addresses are not throttled, and a success at one service resets the counters of both.
    for index in 0..6 {
        for _ in 0..2 {
            let wrong = attempt(replicas.base(index), "192.0.2.3", ADMIN, WRONG_PASSWORD).await;
            wrong.expect_problem(401, "invalid_credentials");
        }
        attempt(replicas.base(index + 1), "192.0.2.3", ADMIN, PASSWORD).await.expect(StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_successful_logins_at_both_are_not_throttled() {
    let Some(replicas) = Replicas::start(&[("CEDARGATE_PASSWORD_WORKERS", "8")]).await else { return };
    for _ in 0..5 {
        join_all((0..20).map(|index| log_in(replicas.base(index), ADMIN))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn api_keys_are_created_and_revoked_at_both() {
    let Some(replicas) = Replicas::start(&[]).await else { return };
    let mut delays = Vec::new();
    for index in 0..ROUNDS {
        let owner = replicas.admin(index).await;
        let make = async || {
            let body = json!({ "name": "key", "scopes": ["agent"] });
            let created = owner.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
            let key = created["key"].as_str().unwrap().to_owned();
            let here = cached_client(replicas.base(index), &key).await;
            (
                created["id"].as_str().unwrap().to_owned(),
                key.clone(),
                here,
                cached_client(replicas.base(index + 1), &key).await,
            )
        };
        for how in ["deleted", "revoked", "deleted elsewhere"] {
            let (id, key, here, there) = make().await;
            match how {
                "deleted" => {
                    let gone = owner.delete(&format!("/v2/users/me/keys/{id}")).await;
                    gone.expect(StatusCode::NO_CONTENT);
                }
                "revoked" => drop(post_token(&client(replicas.base(index)), "/v2/auth/revoke", &key).await),
                _ => {
                    // A deletion by the other process is effective here.
                    let gone =
                        replicas.admin(index + 1).await.delete(&format!("/v2/users/me/keys/{id}")).await;
                    gone.expect(StatusCode::NO_CONTENT);
                    expect_session_ended(&there.get("/v2/users/me").await);
                    delays.push((how, wait_until_ended(&here).await));
                    continue;
                }
            }
            expect_session_ended(&here.get("/v2/users/me").await);
            delays.push((how, wait_until_ended(&there).await));
        }
    }
    expect_prompt(delays);
}

/// Posts a token as for revocation (RFC 7009) and introspection (RFC 7662).
async fn post_token(client: &Client, path: &str, token: &str) -> Value {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("token={token}").into_bytes();
    client.send(Method::POST, path, &headers, Some(body)).await.expect(StatusCode::OK)
}

#[tokio::test(flavor = "multi_thread")]
async fn token_revocation_takes_effect_at_both() {
    let Some(replicas) = Replicas::start(&[]).await else { return };
    let services = [replicas.admin(0).await, replicas.admin(1).await];
    let mut delays = Vec::new();
    for index in 0..ROUNDS {
        for which in ["access", "refresh"] {
            let tokens = log_in(replicas.base(index), ADMIN).await;
            let refresh_token = refresh_token(&tokens);
            let both = [access_token(&tokens), &refresh_token];
            for token in both {
                for service in &services {
                    let introspection = post_token(service, "/v2/auth/introspect", token).await;
                    assert_eq!(
                        (&introspection["active"], &introspection["username"]),
                        (&json!(true), &json!(ADMIN))
                    );
                }
            }
            let there = cached_client(replicas.base(index + 1), access_token(&tokens)).await;
            let ended = if which == "access" { access_token(&tokens) } else { &refresh_token };
            post_token(&client(replicas.base(index)), "/v2/auth/revoke", ended).await;
            for token in both {
                assert_eq!(
                    post_token(&services[index % 2], "/v2/auth/introspect", token).await,
                    json!({ "active": false })
                );
            }
            delays.push((which, wait_until_ended(&there).await));
            // By now it has received the notification.
            for token in both {
                let introspection =
                    post_token(&services[(index + 1) % 2], "/v2/auth/introspect", token).await;
                assert_eq!(introspection, json!({ "active": false }));
            }
            expect_refresh_rejected(&refresh(replicas.base(index + 1), &refresh_token).await);
        }
    }
    expect_prompt(delays);
}

/// The key ids in the JWKS of both, once each shows this number of keys.
async fn public_keys(replicas: &Replicas, count: usize) -> Vec<String> {
    let kids = async |index: usize| -> Vec<String> {
        let keys = client(replicas.base(index)).get("/.well-known/jwks.json").await.expect(StatusCode::OK);
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let started = Instant::now();
    loop {
        let (one, two) = join(kids(0), kids(1)).await;
        if one.len() == count && one == two {
            return one;
        }
        assert!(started.elapsed() < TIMEOUT, "{one:?} and {two:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_keys_are_the_same_at_both() {
    for algorithm in ["HS256", "EdDSA"] {
        let setting = [("CEDARGATE_TOKEN_ALGORITHM", algorithm)];
        let Some(replicas) = Replicas::start(&setting).await else { return };
        let public = |count: usize| if algorithm == "EdDSA" { count } else { 0 };
        let kid = |token: &str| decode_jwt(token).0["kid"].clone();
        // Each accepts the tokens of the other.
        let old = [log_in(replicas.base(0), ADMIN).await, log_in(replicas.base(1), ADMIN).await];
        assert_eq!(kid(access_token(&old[0])), kid(access_token(&old[1])));
        let mut clients = Vec::new();
        for tokens in &old {
            for index in 0..2 {
                clients.push(cached_client(replicas.base(index), access_token(tokens)).await);
            }
        }
        public_keys(&replicas, public(1)).await;

        // The next key is published by both before it signs, and issued tokens stay valid.
        replicas.command(&["signing-key", "rotate"]);
        public_keys(&replicas, public(2)).await;
        for client in &clients {
            client.get("/v2/users/me").await.expect(StatusCode::OK);
        }

        // A revoked key is revoked at both, although both had cached callers with its tokens.
        replicas.command(&["signing-key", "rotate", "--revoke"]);
        let started = Instant::now();
        for client in &clients {
            loop {
                let reply = client.get("/v2/users/me").await;
                if reply.status == StatusCode::UNAUTHORIZED {
                    assert_eq!(reply.json["error"]["message"], "invalid signature");
                    break;
                }
                assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
                assert!(started.elapsed() < TIMEOUT, "a revoked key is still accepted");
            }
        }
        public_keys(&replicas, public(1)).await;
        // The sessions still exist, and a refresh at either returns a token that both accept.
        for (index, tokens) in old.iter().enumerate() {
            let new = refresh(replicas.base(index), &refresh_token(tokens)).await.expect(StatusCode::OK);
            assert_ne!(kid(access_token(&new)), kid(access_token(tokens)));
            cached_client(replicas.base(index), access_token(&new)).await;
            cached_client(replicas.base(index + 1), access_token(&new)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_at_both_append_to_one_audit_chain() {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 10;
    let Some(replicas) = Replicas::start(&[]).await else { return };
    let before = count(&replicas.database.url, "SELECT MAX(seq) FROM audit").await;
    let admins = [replicas.admin(0).await, replicas.admin(1).await];
    let writer = async |index: usize| {
        let mut token = refresh_token(&log_in(replicas.base(index), ADMIN).await);
        for round in 0..ROUNDS {
            let body = json!({ "email": format!("user{index}-{round}@example.com") });
            let (created, refreshed) = join(
                admins[index % 2].post("/v2/users", body),
                refresh(replicas.base(index + round), &token),
            )
            .await;
            created.expect(StatusCode::CREATED);
            token = refresh_token(&refreshed.expect(StatusCode::OK));
        }
    };
    // The chain is verified while both processes append to it.
    let verify = async { replicas.command(&["audit", "verify"]) };
    join(join_all((0..WRITERS).map(writer)), verify).await;
    let printed = replicas.command(&["audit", "verify"]);
    // Two admins and the writers log in; each round creates a user and refreshes.
    let entries = before + 2 + i64::try_from(WRITERS + WRITERS * ROUNDS * 2).unwrap();
    assert!(printed.starts_with(&format!("{entries} entries, head {entries}:")), "{printed}");
    let events = "SELECT COUNT(DISTINCT seq) FROM audit WHERE event = 'token.refreshed'";
    assert_eq!(count(&replicas.database.url, events).await, i64::try_from(WRITERS * ROUNDS).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_notifications_serves_no_stale_credentials() {
    let database = Database::new().await;
    if database.url.starts_with("sqlite") {
        return; // SQLite has one process that serves.
    }
    let relay = Relay::start_to(&database.url).await;
    let one = serve_with(&database, &[]);
    let two = serve_with(&database, &[("CEDARGATE_DATABASE_URL", relay.url_of(&database.url).as_str())]);
    let tokens = log_in(&one.base, ADMIN).await;
    let there = cached_client(&two.base, access_token(&tokens)).await;
    relay.silence_open_connections();
    let here = cached_client(&one.base, access_token(&tokens)).await;
    here.post("/v2/auth/logout", json!({})).await.expect(StatusCode::NO_CONTENT);
    let started = Instant::now();
    loop {
        let reply = there.get("/v2/users/me").await;
        match reply.status {
            // The service has opened another connection to the database.
            StatusCode::UNAUTHORIZED => break,
            // The service checks the connection after a second, for a second.
            StatusCode::OK => assert!(started.elapsed() < TIMEOUT, "the credential is still accepted"),
            _ => drop(reply.expect_problem(503, "database_unavailable")),
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the service does not reconnect");
    }
}
