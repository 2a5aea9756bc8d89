//! Replicas behind nginx are restarted one after the other under load, and no request is lost.

use crate::authzen::{EVALUATION, entity, evaluation_request};
use crate::command_line::{RunningService, client, start};
use crate::multi_process::{TIMEOUT, log_in};
use crate::proxies::Proxy;
use crate::support::{ADMIN, Client, Database, PASSWORD};
use crate::token_families::access_token;
use reqwest::StatusCode;
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

/// The number of clients that send requests continuously.
const CLIENTS: usize = 8;

/// The configuration that the documentation recommends: connections are kept open, a request with side effects is not sent
/// twice, and a replica that refuses connections is retried immediately.
fn configuration(listen: &str, replicas: &[String; 2]) -> String {
    format!(
        "events {{}}
         http {{
           access_log off;
           upstream cedargate {{ server {} max_fails=0; server {} max_fails=0; keepalive 16; keepalive_timeout 1s; }}
           server {{
             listen {listen};
             location / {{
               proxy_pass http://cedargate;
               proxy_http_version 1.1;
               proxy_set_header Connection \"\";
             }}
           }}
         }}",
        replicas[0], replicas[1]
    )
}

/// Sends requests until the end. Returns the unexpected responses.
async fn send(
    caller: Client,
    body: serde_json::Value,
    is_over: Arc<AtomicBool>,
    answered: watch::Sender<u64>,
) -> Vec<String> {
    let mut lost = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        let sent = caller
            .try_send(
                reqwest::Method::POST,
                EVALUATION,
                &[("content-type", "application/json")],
                Some(body.to_string().into_bytes()),
            )
            .await;
        match sent {
            Ok(reply) if reply.status == StatusCode::OK => answered.send_modify(|count| *count += 1),
            Ok(reply) => lost.push(format!("{}: {}", reply.status, reply.text)),
            Err(error) => lost.push(format!("{error:?}")),
        }
    }
    lost
}

/// Waits until this number of further requests have been answered.
async fn wait_for_answers(answered: &watch::Sender<u64>, more: u64) {
    let mut answered = answered.subscribe();
    let enough = *answered.borrow() + more;
    let wait = answered.wait_for(|count| *count >= enough);
    tokio::time::timeout(TIMEOUT, wait).await.expect("no responses").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_behind_nginx_loses_no_request() {
    let database = Database::new().await;
    if database.server.is_none() {
        return; // One process serves a SQLite file.
    }
    let addresses =
        [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string());
    let serve = |index: usize| -> RunningService {
        let settings = [
            ("CEDARGATE_DATABASE_URL", database.url.as_str()),
            ("CEDARGATE_LISTEN", addresses[index].as_str()),
            ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
            ("CEDARGATE_WORKERS", "2"),
            // Longer than nginx keeps an idle connection, so that the shutdown closes none while nginx sends a request on it.
            ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "3"),
        ];
        block_in_place(|| start(database.directory.path(), &settings))
    };
    let mut replicas = [Some(serve(0)), Some(serve(1))];
    let nginx = Proxy::nginx(database.directory.path(), |listen| configuration(listen, &addresses));

    let tokens = log_in(&nginx.base, ADMIN).await;
    let (is_over, answered) = (Arc::<AtomicBool>::default(), watch::Sender::new(0));
    let user = tokens["user"].as_str().unwrap();
    let question = evaluation_request(entity("User", user), "fetchUser", entity("User", user));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let caller = Client { bearer: Some(access_token(&tokens).to_owned()), ..client(&nginx.base) };
        clients.spawn(send(caller, question.clone(), Arc::clone(&is_over), answered.clone()));
    }
    for round in 0..2 {
        wait_for_answers(&answered, 200).await;
        let replica = replicas[round % 2].take().unwrap();
        block_in_place(|| replica.stop());
        wait_for_answers(&answered, 200).await;
        replicas[round % 2] = Some(serve(round % 2));
    }
    wait_for_answers(&answered, 200).await;
    is_over.store(true, Ordering::SeqCst);
    let lost: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    let answered = *answered.borrow();
    println!("{answered} requests were answered, {} were lost", lost.len());
    let log = std::fs::read_to_string(database.directory.path().join("error.log")).unwrap_or_default();
    assert!(lost.is_empty(), "{} of {answered} were lost: {lost:?}\n{log}", lost.len());
}

#[tokio::test]
async fn answers_of_a_draining_service_close_their_connections() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("CEDARGATE_ADMIN_PASSWORD", PASSWORD), ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "15")];
    let mut running = start(directory.path(), &settings);
    let tokens = log_in(&running.base, ADMIN).await;
    let admin = Client { bearer: Some(access_token(&tokens).to_owned()), ..client(&running.base) };
    let paths = ["/v2/users/me", "/health/live", "/v2/nothing", "/openapi.json", "/docs/"];
    for path in paths {
        assert_eq!(admin.get(path).await.header("connection"), "", "{path}");
    }
    crate::lifecycle::send_signal("-TERM", running.id());
    let started = Instant::now();
    while admin.get("/health/ready").await.status == StatusCode::OK {
        assert!(started.elapsed() < TIMEOUT, "the service is still ready");
    }
    for path in paths {
        assert_eq!(admin.get(path).await.header("connection"), "close", "{path}");
    }
    let login = admin.post("/v2/auth/token", json!({ "email": ADMIN, "password": "wrong password" })).await;
    assert_eq!((login.status, login.header("connection")), (StatusCode::UNAUTHORIZED, "close"));
    // The second signal ends the drain.
    crate::lifecycle::send_signal("-TERM", running.id());
    assert!(running.wait().success());
}
