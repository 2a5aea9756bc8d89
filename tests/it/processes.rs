//! Real processes: one that is killed in the middle of refreshes, and two on one database.

use crate::command_line::{Running, client, start};
use crate::families::{access, expect_ended};
use crate::refresh::{expect_refused, refresh_token};
use crate::support::{ADMIN, Client, Database, PASSWORD, Reply};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Starts the service on this database.
fn serve(database: &Database) -> Running {
    let settings = [
        ("CEDARGATE_DATABASE_URL", database.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_WORKERS", "2"),
    ];
    start(database.directory.path(), &settings)
}

async fn log_in(base: &str, email: &str) -> Value {
    let body = json!({ "email": email, "password": PASSWORD });
    client(base).post("/v2/auth/token", body).await.expect(StatusCode::OK)
}

async fn refresh(base: &str, token: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "refreshToken": token, "clientId": ADMIN })).await
}

/// The number that a query gives.
async fn count(database: &Database, query: &str) -> i64 {
    use sea_orm::{ConnectionTrait, Statement};
    let connection = sea_orm::Database::connect(&database.url).await.unwrap();
    let statement = Statement::from_string(connection.get_database_backend(), query);
    let row = connection.query_one_raw(statement).await.unwrap().unwrap();
    let number = row.try_get_by_index(0).unwrap();
    connection.close().await.unwrap();
    number
}

/// Refreshes on and on until the service is gone, and gives the last token that arrived. `under_way` counts the requests
/// that have no answer yet.
async fn refresh_on(base: String, mut token: String, under_way: Arc<AtomicUsize>) -> String {
    let http = reqwest::Client::new();
    loop {
        let body = json!({ "refreshToken": token, "clientId": ADMIN });
        under_way.fetch_add(1, Ordering::SeqCst);
        let sent = http.post(format!("{base}/v2/auth/token")).json(&body).send().await;
        let answer = match sent {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::OK);
                answer.json::<Value>().await
            }
            Err(error) => Err(error),
        };
        let Ok(answer) = answer else { return token };
        under_way.fetch_sub(1, Ordering::SeqCst);
        token = refresh_token(&answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_refreshes_it_loses_no_family_and_makes_no_token_good_twice() {
    const FAMILIES: usize = 4;
    let database = Database::new().await;
    let mut running = serve(&database);
    let mut held = Vec::new();
    for _ in 0..FAMILIES {
        held.push(refresh_token(&log_in(&running.base, ADMIN).await));
    }
    let mut hit = 0;
    // As with `PROPTEST_CASES`, more where somebody has the time: 200 take some two minutes.
    let kills = std::env::var("TEST_KILLS").map_or(40, |kills| kills.parse().unwrap());
    for round in 0..kills {
        let under_way = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = held
            .iter()
            .map(|token| {
                tokio::spawn(refresh_on(running.base.clone(), token.clone(), Arc::clone(&under_way)))
            })
            .collect();
        // Another moment of a rotation each time. It is the time of another process, which no clock of ours sets; and nothing
        // is waited for: whatever has happened by then, what follows has to hold.
        tokio::time::sleep(Duration::from_micros(20_000 + round * 137 % 10_000)).await;
        hit += u64::from(under_way.load(Ordering::SeqCst) > 0);
        // SIGKILL.
        drop(running);
        held.clear();
        for client in clients {
            held.push(client.await.unwrap());
        }
        running = serve(&database);
        // Whatever was lost, the client goes on with what it has: unspent, or the direct predecessor within the grace.
        for token in &mut held {
            let next = refresh_token(&refresh(&running.base, token).await.expect(StatusCode::OK));
            let again = refresh_token(&refresh(&running.base, token).await.expect(StatusCode::OK));
            assert_eq!(next, again, "one token, one successor");
            *token = next;
        }
    }
    assert!(hit * 2 > kills, "{hit} of {kills} hit a refresh");
    let unspent = "SELECT COUNT(*) FROM refresh_tokens WHERE spent_at IS NULL";
    assert_eq!(count(&database, unspent).await, i64::try_from(FAMILIES).unwrap());
    let twice =
        "SELECT COUNT(*) - COUNT(DISTINCT predecessor) FROM refresh_tokens WHERE predecessor IS NOT NULL";
    assert_eq!(count(&database, twice).await, 0);
    assert_eq!(count(&database, "SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL").await, 0);
}

/// Waits until a client is refused as ended, and gives how long that took.
async fn until_ended(client: &Client) -> Duration {
    let start = Instant::now();
    loop {
        let reply = client.get("/v2/users/me").await;
        if reply.status != StatusCode::OK {
            expect_ended(&reply);
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(2), "it is good still");
    }
}

/// A client of the other process with the same bearer, whom that process knows already.
async fn known_at(base: &str, bearer: &str) -> Client {
    let there = Client { bearer: Some(bearer.to_owned()), ..client(base) };
    there.get("/v2/users/me").await.expect(StatusCode::OK);
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_database_are_one_service() {
    let database = Database::new().await;
    if database.url.starts_with("sqlite") {
        return; // SQLite has one process that serves.
    }
    let (one, two) = (serve(&database), serve(&database));
    let bases = [one.base.as_str(), two.base.as_str()];
    let admin_tokens = log_in(bases[0], ADMIN).await;
    let admin = known_at(bases[0], access(&admin_tokens)).await;

    // Refreshes at once, on both of them.
    for times in [200, 24, 24, 24] {
        let token = refresh_token(&log_in(bases[0], ADMIN).await);
        let replies = join_all((0..times).map(|at| refresh(bases[at % 2], &token))).await;
        let successors: HashSet<String> =
            replies.into_iter().map(|reply| refresh_token(&reply.expect(StatusCode::OK))).collect();
        assert_eq!(successors.len(), 1);
        let successor = successors.into_iter().next().unwrap();
        refresh(bases[1], &successor).await.expect(StatusCode::OK);
        expect_refused(&refresh(bases[0], &token).await);
        expect_refused(&refresh(bases[1], &successor).await);
    }

    // What one ends, the other sees, though it had known the caller.
    let email = "somebody@example.com";
    let body = json!({ "email": email, "password": PASSWORD, "role": Scope::Agent });
    let user = admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    let path = format!("/v2/users/{}", user["id"].as_str().unwrap());
    for how in ["reuse", "logout", "sessions", "password", "blocked"] {
        let tokens = log_in(bases[0], email).await;
        let there = known_at(bases[1], access(&tokens)).await;
        let here = known_at(bases[0], access(&tokens)).await;
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
        expect_ended(&here.get("/v2/users/me").await);
        until_ended(&there).await;
    }

    // A change of the role is seen, too.
    admin.patch(&path, json!({ "status": "active" })).await.expect(StatusCode::OK);
    let tokens = log_in(bases[0], email).await;
    let there = known_at(bases[1], access(&tokens)).await;
    there.get("/v2/conversations").await.expect(StatusCode::OK);
    admin.patch(&path, json!({ "role": "guest" })).await.expect(StatusCode::OK);
    let start = Instant::now();
    while there.get("/v2/conversations").await.status != StatusCode::FORBIDDEN {
        assert!(start.elapsed() < Duration::from_secs(2), "the old role is good still");
    }
}
