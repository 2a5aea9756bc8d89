//! Processes that are killed during refreshes.

use crate::command_line::client;
use crate::multi_process::{count, log_in, refresh, serve_with};
use crate::refresh::refresh_token;
use crate::support::{ADMIN, Database};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// The number of clients that refresh concurrently, each with its own family.
const FAMILIES: u32 = 4;
/// The number of services that are killed concurrently, each with its own database. One start uses one processor.
const LANES: u64 = 2;
/// Fast password hashing, to start quickly.
const FAST_HASHING: [(&str, &str); 2] =
    [("CEDARGATE_ARGON2_MEMORY_KIB", "7168"), ("CEDARGATE_ARGON2_ITERATIONS", "1")];

/// The requests of one service process.
struct InFlightRequests {
    /// The number of requests without a response.
    in_flight: AtomicU64,
    /// One permit for each response.
    answered: Semaphore,
}

/// Refreshes until the service is gone, and returns the last token that arrived.
async fn refresh_until_killed(base: String, mut token: String, requests: Arc<InFlightRequests>) -> String {
    let http = reqwest::Client::new();
    loop {
        let body = json!({ "refreshToken": token, "clientId": ADMIN });
        requests.in_flight.fetch_add(1, Ordering::SeqCst);
        let sent = http.post(format!("{base}/v2/auth/token")).json(&body).send().await;
        let answer = match sent {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::OK);
                answer.json::<Value>().await
            }
            Err(error) => Err(error),
        };
        let Ok(answer) = answer else { return token };
        requests.in_flight.fetch_sub(1, Ordering::SeqCst);
        requests.answered.add_permits(1);
        token = refresh_token(&answer);
    }
}

/// Kills a service `kills` times while it refreshes. Every other lane has a second service on the same database, if the
/// database permits it. The tokens that were issued are checked at the second service, else after each start, and at the end
/// against the database. Returns the number of responses that were lost although their refreshes were committed.
async fn kill_repeatedly(kills: u64, lane: u64) -> i64 {
    let database = Database::new().await;
    let serve = || block_in_place(|| serve_with(&database, &FAST_HASHING));
    let mut running = serve();
    let other = (lane % 2 == 1 && database.server.is_some()).then(serve);
    let mut tokens = Vec::new();
    for _ in 0..FAMILIES {
        tokens.push(refresh_token(&log_in(&running.base, ADMIN).await));
    }
    let (mut hit, mut rounds) = (0, 0);
    while hit < kills {
        rounds += 1;
        assert!(rounds <= 2 * kills, "only {hit} of {rounds} kills hit a refresh");
        let requests = InFlightRequests { in_flight: AtomicU64::new(0), answered: Semaphore::new(0) };
        let requests = Arc::new(requests);
        let clients: Vec<_> = tokens
            .iter()
            .map(|token| {
                tokio::spawn(refresh_until_killed(running.base.clone(), token.clone(), Arc::clone(&requests)))
            })
            .collect();
        let probe = client(&running.base);
        let started = requests.answered.acquire_many(FAMILIES);
        drop(tokio::time::timeout(Duration::from_secs(60), started).await.expect("no answers").unwrap());
        // The kill comes after a different number of responses each time, so that it hits different points of a rotation. The
        // assertions below must hold for each of them.
        for _ in 0..(rounds * LANES + lane) % 20 {
            probe.get("/health/live").await.expect(StatusCode::NO_CONTENT);
        }
        hit += u64::from(requests.in_flight.load(Ordering::SeqCst) > 0);
        // Dropping the service kills it (SIGKILL).
        block_in_place(|| drop(running));
        tokens.clear();
        for client in clients {
            tokens.push(client.await.unwrap());
        }
        // The client continues with its last token: unused, or the direct predecessor within the grace period.
        let next = other.is_none().then(serve);
        let base = other.as_ref().or(next.as_ref()).unwrap().base.as_str();
        tokens = join_all(tokens.iter().map(async |token| {
            let next = refresh_token(&refresh(base, token).await.expect(StatusCode::OK));
            let again = refresh_token(&refresh(base, token).await.expect(StatusCode::OK));
            assert_eq!(next, again, "one token must have one successor");
            next
        }))
        .await;
        running = next.unwrap_or_else(serve);
    }
    let unspent = "SELECT COUNT(*) FROM refresh_tokens WHERE spent_at IS NULL";
    assert_eq!(count(&database.url, unspent).await, i64::from(FAMILIES));
    let twice =
        "SELECT COUNT(*) - COUNT(DISTINCT predecessor) FROM refresh_tokens WHERE predecessor IS NOT NULL";
    assert_eq!(count(&database.url, twice).await, 0);
    assert_eq!(count(&database.url, "SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL").await, 0);
    // The audit log agrees with the tokens: no refresh without its entry, and no entry without its refresh.
    let refreshed = |retry: bool| {
        format!(
            "SELECT COUNT(*) FROM audit WHERE event = 'token.refreshed' AND details LIKE '%\"retry\":{retry}%'"
        )
    };
    let spent = "SELECT COUNT(*) FROM refresh_tokens WHERE spent_at IS NOT NULL";
    assert_eq!(count(&database.url, &refreshed(false)).await, count(&database.url, spent).await);
    let asked_again = i64::from(FAMILIES) * i64::try_from(rounds).unwrap();
    count(&database.url, &refreshed(true)).await - asked_again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_refreshes_loses_no_session_and_duplicates_no_token() {
    // The number can be changed, as with `PROPTEST_CASES`.
    let kills: u64 = std::env::var("TEST_KILLS").map_or(200, |kills| kills.parse().unwrap());
    let lanes = (0..LANES).map(|lane| tokio::spawn(kill_repeatedly(kills.div_ceil(LANES), lane)));
    let mut lost = 0;
    for lane in join_all(lanes).await {
        lost += lane.unwrap();
    }
    println!("{lost} answers were lost whose refreshes had been written");
    assert!(lost > 0 || kills < 40, "no kill lost a committed response");
}
