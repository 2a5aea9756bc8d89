//! A stalled reader of standard output or standard error blocks no worker.

use crate::authorize::user;
use crate::authzen::{EVALUATION, EVALUATIONS, evaluation_request};
use crate::command_line::{client, program};
use crate::lifecycle::send_signal;
use crate::multi_process::{TIMEOUT, log_in};
use crate::support::{ADMIN, Client, PASSWORD, wait_until};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::Instant;

/// A service whose output only the test reads.
struct StalledService {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    base: String,
}

impl StalledService {
    fn start(directory: &Path, settings: &[(&str, &str)], greets_on_stderr: bool) -> Self {
        let common = [
            ("CEDARGATE_LISTEN", "127.0.0.1:0"),
            ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
            ("CEDARGATE_WORKERS", "2"),
            ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0"),
            ("CEDARGATE_ARGON2_MEMORY_KIB", "7168"),
            ("CEDARGATE_ARGON2_ITERATIONS", "1"),
        ];
        let mut command = program(directory, &[&common, settings].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let banner: &mut dyn BufRead = if greets_on_stderr { &mut stderr } else { &mut stdout };
        let lines = banner.lines().map_while(Result::ok);
        let lines: Vec<String> = lines.take_while(|line| line != "Press Ctrl-C to stop.").collect();
        let base = lines.iter().find_map(|line| line.split(" listens on ").nth(1)).unwrap().to_owned();
        Self { child, stdout: Some(stdout), stderr, base }
    }

    /// A logged-in admin.
    async fn admin(&self) -> Client {
        let token = log_in(&self.base, ADMIN).await["token"].as_str().unwrap().to_owned();
        Client { bearer: Some(token), ..client(&self.base) }
    }

    /// Asserts that many concurrent liveness probes and logins get responses.
    async fn expect_answers(&self) {
        let answers = async {
            for _ in 0..8 {
                client(&self.base).get("/health/live").await.expect(StatusCode::NO_CONTENT);
                log_in(&self.base, ADMIN).await;
            }
        };
        tokio::time::timeout(TIMEOUT, answers).await.expect("the workers are blocked");
    }

    /// The value of a metric.
    async fn metric(&self, name: &str) -> u64 {
        let metrics = client(&self.base).get("/metrics").await.text;
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Stops the service.
    async fn stop(&mut self) {
        send_signal("-TERM", self.child.id());
        wait_until(async || self.child.try_wait().unwrap().ok_or("the service does not exit".to_owned()))
            .await;
    }
}

impl Drop for StalledService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Questions about an action that does not apply to the resource. Each logs a line at the debug level.
fn undecidable_batch(admin: &str, count: usize) -> Value {
    let evaluations = vec![json!({ "action": { "name": "fetchForm" } }); count];
    json!({ "subject": user(admin), "resource": user(admin), "evaluations": evaluations })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_log_blocks_no_worker_and_counts_lost_lines() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = StalledService::start(directory.path(), &[("CEDARGATE_LOG", "debug")], false);
    let admin = service.admin().await;
    let id = admin.get("/v2/users/me").await.id();
    let started = Instant::now();
    while service.metric("cedargate_log_dropped_total").await == 0 {
        assert!(started.elapsed() < 3 * TIMEOUT, "no line is dropped");
        let answer = admin.post(EVALUATIONS, undecidable_batch(&id, 1_000));
        let answer = tokio::time::timeout(TIMEOUT, answer).await.expect("the worker is blocked");
        answer.expect(StatusCode::OK);
    }
    service.expect_answers().await;
    // It stops in time although the last lines cannot be written.
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_the_log_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = StalledService::start(directory.path(), &[("CEDARGATE_LOG", "debug")], false);
    let id = "the-last-request";
    let headers = [("x-request-id", id)];
    client(&service.base).send(reqwest::Method::GET, "/health/live", &headers, None).await;
    service.stop().await;
    let mut log = String::new();
    service.stderr.read_to_string(&mut log).unwrap();
    assert!(log.contains(id) && log.contains("shutdown started"), "{log}");
    assert!(!log.contains('\u{1b}'), "standard error is no terminal, but has colour codes: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_decision_log_delays_and_then_rejects_decisions_only() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [
        ("CEDARGATE_DECISION_LOG", "all"),
        ("CEDARGATE_DECISION_LOG_PATH", "stdout"),
        ("CEDARGATE_DECISION_LOG_QUEUE", "50"),
        ("CEDARGATE_DECISION_LOG_WAIT", "1"),
    ];
    let mut service = StalledService::start(directory.path(), &settings, true);
    let admin = service.admin().await;
    let id = admin.get("/v2/users/me").await.id();
    let question = evaluation_request(user(&id), "fetchUser", user(&id));
    let mut answered = 0;
    let started = Instant::now();
    // First the pipe fills up, then the queue.
    let refused = loop {
        assert!(started.elapsed() < 3 * TIMEOUT, "no decision is rejected");
        let reply = admin.post(EVALUATION, question.clone()).await;
        if reply.status != StatusCode::OK {
            break reply;
        }
        answered += 1;
    };
    refused.expect_problem(503, "decision_log_full");
    assert_eq!(refused.header("retry-after"), "1");
    service.expect_answers().await;
    // Many waiting requests do not block the workers.
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let (admin, question) = (admin.clone(), question.clone());
                async move { admin.post(EVALUATION, question).await.status }
            })
        })
        .collect();
    service.expect_answers().await;
    for status in waiting {
        assert_eq!(status.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
    // Once the output is read again, decisions succeed again, and each acknowledged one is in the log.
    let mut stdout = service.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let started = Instant::now();
    while admin.post(EVALUATION, question.clone()).await.status != StatusCode::OK {
        assert!(started.elapsed() < TIMEOUT, "decisions are still rejected");
    }
    service.stop().await;
    let text = reader.join().unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["dropped"].is_null()));
    let found = lines.iter().filter(|line| line["action"] == "fetchUser" && !line["requestId"].is_null());
    assert!(found.count() > answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_errors_are_not_logged() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = StalledService::start(directory.path(), &[], false);
    let admin = service.admin().await;
    let id = admin.get("/v2/users/me").await.id();
    admin.post(EVALUATIONS, undecidable_batch(&id, 10)).await.expect(StatusCode::OK);
    let stranger = Client { bearer: Some("cg_0000".into()), ..client(&service.base) };
    for reply in [
        admin.get("/v2/users?limit=x").await,
        admin.get("/nowhere").await,
        admin.post("/v2/users", json!({ "email": 1 })).await,
        admin.post(EVALUATION, json!({})).await,
        admin.post("/v2/auth/token", json!({ "email": ADMIN, "password": "wrong" })).await,
        stranger.get("/v2/users/me").await,
    ] {
        assert!(reply.status.is_client_error(), "{}", reply.text);
    }
    for head in [
        "GET /v2/forms?createdAt=>2020 HTTP/1.1",
        "GET / HTTP/9.9",
        "\u{0}\u{e9}",
        "GET / HTTP/1.1\r\nContent-Length: x",
    ] {
        let mut connection = TcpStream::connect(service.base.trim_start_matches("http://")).unwrap();
        connection.write_all(format!("{head}\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
    }
    service.stop().await;
    let mut log = String::new();
    service.stderr.read_to_string(&mut log).unwrap();
    let is_unexpected = |line: &&str| ["requestId", "WARN", "ERROR"].iter().any(|word| line.contains(word));
    let unexpected: Vec<&str> = log.lines().filter(is_unexpected).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}
