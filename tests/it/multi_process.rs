//! Two processes on one database.

use crate::command_line::{RunningService, client, start};
use crate::refresh::{expect_refresh_rejected, refresh_token};
use crate::support::{ADMIN, Client, Database, PASSWORD, Reply};
use crate::token_families::{access_token, expect_session_ended};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// The maximum time that the tests wait for a condition.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// How often each change is measured.
pub(crate) const ROUNDS: usize = 3;

/// Starts the service on this database with additional settings.
pub(crate) fn serve_with(database: &Database, more: &[(&str, &str)]) -> RunningService {
    let settings = [
        ("CEDARGATE_DATABASE_URL", database.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_WORKERS", "2"),
        ("CEDARGATE_ARGON2_MEMORY_KIB", "7168"),
        ("CEDARGATE_ARGON2_ITERATIONS", "1"),
    ];
    start(database.directory.path(), &[&settings, more].concat())
}

fn serve(database: &Database) -> RunningService {
    serve_with(database, &[])
}

pub(crate) async fn log_in(base: &str, email: &str) -> Value {
    let body = json!({ "email": email, "password": PASSWORD });
    client(base).post("/v2/auth/token", body).await.expect(StatusCode::OK)
}

pub(crate) async fn refresh(base: &str, token: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "refreshToken": token, "clientId": ADMIN })).await
}

/// The number that a query returns.
pub(crate) async fn count(url: &str, query: &str) -> i64 {
    use sea_orm::{ConnectionTrait, Statement};
    let connection = sea_orm::Database::connect(url).await.unwrap();
    let statement = Statement::from_string(connection.get_database_backend(), query);
    let row = connection.query_one_raw(statement).await.unwrap().unwrap();
    let number = row.try_get_by_index(0).unwrap();
    connection.close().await.unwrap();
    number
}

/// Waits until a client's credential is rejected as revoked. Returns how long that took.
pub(crate) async fn wait_until_ended(client: &Client) -> Duration {
    let start = Instant::now();
    loop {
        let reply = client.get("/v2/users/me").await;
        if reply.status != StatusCode::OK {
            expect_session_ended(&reply);
            return start.elapsed();
        }
        assert!(start.elapsed() < TIMEOUT, "the credential is still accepted");
    }
}

/// Asserts that the other process notices every change within two seconds. A busy machine may take longer once; a process that
/// receives no notifications would take a minute each time.
pub(crate) fn expect_prompt(delays: Vec<(&str, Duration)>) {
    let mut by_cause: HashMap<&str, Vec<Duration>> = HashMap::new();
    for (cause, delays) in delays {
        by_cause.entry(cause).or_default().push(delays);
    }
    for (cause, mut delays) in by_cause {
        delays.sort();
        assert!(
            delays.len() >= ROUNDS && delays[delays.len() / 2] < Duration::from_secs(2),
            "{cause}: {delays:?}"
        );
    }
}

/// A client of the other process with the same bearer, which that process has cached.
pub(crate) async fn cached_client(base: &str, bearer: &str) -> Client {
    let there = Client { bearer: Some(bearer.to_owned()), ..client(base) };
    there.get("/v2/users/me").await.expect(StatusCode::OK);
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_database_act_as_one_service() {
    let database = Database::new().await;
    if database.url.starts_with("sqlite") {
        return; // SQLite has one process that serves.
    }
    let (one, two) = (serve(&database), serve(&database));
    let bases = [one.base.as_str(), two.base.as_str()];
    let admin_tokens = log_in(bases[0], ADMIN).await;
    let admin = cached_client(bases[0], access_token(&admin_tokens)).await;

    // Concurrent refreshes on both processes.
    for times in std::iter::once(200).chain(std::iter::repeat_n(8, 49)) {
        let token = refresh_token(&log_in(bases[0], ADMIN).await);
        let replies = join_all((0..times).map(|index| refresh(bases[index % 2], &token))).await;
        let successors: HashSet<String> =
            replies.into_iter().map(|reply| refresh_token(&reply.expect(StatusCode::OK))).collect();
        assert_eq!(successors.len(), 1);
        let successor = successors.into_iter().next().unwrap();
        refresh(bases[1], &successor).await.expect(StatusCode::OK);
        expect_refresh_rejected(&refresh(bases[0], &token).await);
        expect_refresh_rejected(&refresh(bases[1], &successor).await);
    }

    // A revocation by one process is effective in the other, which had cached the caller.
    let email = "somebody@example.com";
    let body = json!({ "email": email, "password": PASSWORD, "role": Scope::Agent });
    let user = admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    let path = format!("/v2/users/{}", user["id"].as_str().unwrap());
    let mut delays = Vec::new();
    let causes = ["reuse", "logout", "sessions", "password", "blocked"];
    for how in causes.into_iter().cycle().take(ROUNDS * causes.len()) {
        admin.patch(&path, json!({ "status": "active" })).await.expect(StatusCode::OK);
        let tokens = log_in(bases[0], email).await;
        let there = cached_client(bases[1], access_token(&tokens)).await;
        let here = cached_client(bases[0], access_token(&tokens)).await;
        let reply = match how {
            "reuse" => {
                let spend = async |tokens: &Value| {
                    let body = json!({ "refreshToken": tokens["refreshToken"], "clientId": email });
                    here.post("/v2/auth/token", body).await
                };
                let next = spend(&tokens).await.expect(StatusCode::OK);
                spend(&next).await.expect(StatusCode::OK);
                spend(&tokens).await
            }
            "logout" => here.post("/v2/auth/logout", json!({})).await,
            "sessions" => admin.delete(&format!("{path}/sessions")).await,
            "password" => admin.patch(&path, json!({ "password": PASSWORD })).await,
            _ => admin.patch(&path, json!({ "status": "blocked" })).await,
        };
        assert_eq!(reply.status.is_success(), how != "reuse", "{how}: {}", reply.text);
        expect_session_ended(&here.get("/v2/users/me").await);
        delays.push((how, wait_until_ended(&there).await));
    }

    // So is a change of the role.
    admin.patch(&path, json!({ "status": "active" })).await.expect(StatusCode::OK);
    let tokens = log_in(bases[0], email).await;
    let there = cached_client(bases[1], access_token(&tokens)).await;
    for (role, seen) in
        [("guest", StatusCode::FORBIDDEN), ("agent", StatusCode::OK)].into_iter().cycle().take(2 * ROUNDS)
    {
        admin.patch(&path, json!({ "role": role })).await.expect(StatusCode::OK);
        let start = Instant::now();
        while there.get("/v2/conversations").await.status != seen {
            assert!(start.elapsed() < TIMEOUT, "the old role is still in effect");
        }
        delays.push((role, start.elapsed()));
    }
    expect_prompt(delays);
}
