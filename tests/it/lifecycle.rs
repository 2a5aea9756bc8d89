//! The running service: shutdown, TLS, security headers and metrics.

use crate::command_line::{RunningService, client, start};
use crate::database_outage::DatabaseOutage;
use crate::multi_process::TIMEOUT;
use crate::support::TestApp;
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

pub fn send_signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// Polls readiness until the response is not 200. None if the service no longer responds.
async fn wait_until_not_ready(base: &str) -> Option<StatusCode> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        match reqwest::get(format!("{base}/health/ready")).await {
            Ok(answer) if answer.status() == StatusCode::OK => tokio::task::yield_now().await,
            Ok(answer) => return Some(answer.status()),
            Err(_) => return None,
        }
    }
    panic!("the service is still ready")
}

#[tokio::test]
async fn sigterm_drains_then_exits() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions.ndjson");
    let settings = [
        ("CEDARGATE_ADMIN_PASSWORD", crate::support::PASSWORD),
        ("CEDARGATE_DECISION_LOG", "all"),
        ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "15"),
    ];
    let mut running = start(directory.path(), &settings);
    let anonymous = client(&running.base);
    let login = json!({ "email": crate::support::ADMIN, "password": crate::support::PASSWORD });
    let tokens = anonymous.post("/v2/auth/token", login).await.expect(StatusCode::OK);
    let admin = crate::support::Client {
        bearer: Some(tokens["token"].as_str().unwrap().to_owned()),
        ..client(&running.base)
    };
    send_signal("-TERM", running.id());
    assert_eq!(wait_until_not_ready(&running.base).await, Some(StatusCode::SERVICE_UNAVAILABLE));
    anonymous.get("/health/ready").await.expect_problem(503, "shutting_down");
    assert_eq!(anonymous.get("/health/live").await.status, StatusCode::NO_CONTENT);
    let own = admin.get("/v2/users/me").await.expect(StatusCode::OK);
    // A second signal ends the drain.
    send_signal("-TERM", running.id());
    assert!(running.wait().success(), "the service must exit with success");
    let lines = std::fs::read_to_string(log).unwrap();
    assert!(lines.contains("fetchUser") && lines.contains(own["id"].as_str().unwrap()), "{lines}");
}

#[tokio::test]
async fn sigint_exits_without_draining() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = start(directory.path(), &[("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "15")]);
    send_signal("-INT", running.id());
    assert!(running.wait().success());
}

#[tokio::test]
async fn shutdown_completes_requests_in_flight() {
    let directory = tempfile::tempdir().unwrap();
    let settings =
        [("CEDARGATE_ADMIN_PASSWORD", crate::support::PASSWORD), ("CEDARGATE_ARGON2_ITERATIONS", "60")];
    for name in ["-INT", "-TERM"] {
        let mut running = start(directory.path(), &settings);
        let base = running.base.clone();
        let login =
            tokio::spawn(async move { crate::multi_process::log_in(&base, crate::support::ADMIN).await });
        let deadline = Instant::now() + TIMEOUT;
        let waiting = async || client(&running.base).get("/metrics").await.text;
        while waiting().await.lines().any(|line| line == "cedargate_password_hash_queue_depth 0") {
            assert!(Instant::now() < deadline, "no password is being verified");
        }
        send_signal(name, running.id());
        let tokens = login.await.unwrap();
        assert!(tokens["token"].is_string(), "{tokens}");
        assert!(running.wait().success());
    }
}

#[tokio::test]
async fn shutdown_cancels_background_jobs_waiting_for_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("CEDARGATE_CLEANUP_INTERVAL", "1"), ("CEDARGATE_LOG", "cedargate=debug")];
    let mut running = start(directory.path(), &settings);
    let file = format!("sqlite://{}", directory.path().join("cedargate.db").display());
    let outage = DatabaseOutage::begin(&file, None).await;
    let cleanup_count = |running: &RunningService| running.log().matches("cleanup started").count();
    let before = cleanup_count(&running);
    let deadline = Instant::now() + TIMEOUT;
    while cleanup_count(&running) == before {
        assert!(Instant::now() < deadline, "{}", running.log());
        tokio::task::yield_now().await;
    }
    send_signal("-INT", running.id());
    assert!(running.wait().success());
    assert!(!running.log().contains("panicked"), "{}", running.log());
    outage.end_outage().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_timeout_exits_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [
        ("CEDARGATE_ADMIN_PASSWORD", crate::support::PASSWORD),
        ("CEDARGATE_LISTEN", "127.0.0.1:0"),
        ("CEDARGATE_DECISION_LOG", "all"),
        ("CEDARGATE_DECISION_LOG_PATH", "stdout"),
        ("CEDARGATE_DECISION_LOG_OVERFLOW", "drop"),
    ];
    let mut program = crate::command_line::program(directory.path(), &settings);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Standard output has a reader that does not read.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let base = log.find_map(|line| line.split(" listens on ").nth(1).map(str::to_owned)).unwrap();
    let tokens = crate::multi_process::log_in(&base, crate::support::ADMIN).await;
    let admin = crate::multi_process::cached_client(&base, tokens["token"].as_str().unwrap()).await;
    for _ in 0..300 {
        admin.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    send_signal("-TERM", child.id());
    let started = Instant::now();
    let (status, log) = block_in_place(|| (child.wait().unwrap(), log.collect::<Vec<_>>().join("\n")));
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("shutdown timed out"), "{log}");
    // 28 s, plus what a busy machine adds.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Creates a self-signed certificate for localhost.
pub fn create_certificate(directory: &Path, name: &str) {
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
    let created = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &file("key"), "-out", &file("pem")])
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
}

/// The response headers for curl, which trusts only this certificate. None if the connection fails.
pub fn fetch_with_curl(directory: &Path, trusted: &str, base: &str) -> Option<String> {
    let address = base.replace("127.0.0.1", "localhost");
    let output = Command::new("curl")
        .args(["-s", "-i", "--cacert"])
        .arg(directory.join(trusted))
        .arg(format!("{address}/health/ready"))
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn sighup_reloads_the_tls_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    create_certificate(path, "old");
    create_certificate(path, "new");
    let copy = |name: &str| {
        std::fs::copy(path.join(format!("{name}.pem")), path.join("tls.pem")).unwrap();
        std::fs::copy(path.join(format!("{name}.key")), path.join("tls.key")).unwrap();
    };
    copy("old");
    let settings = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    let running = start(path, &settings);
    assert!(running.base.starts_with("https://"), "{}", running.base);
    let answer = fetch_with_curl(path, "old.pem", &running.base).expect("no response").to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("strict-transport-security: max-age="));
    assert!(
        fetch_with_curl(path, "new.pem", &running.base).is_none(),
        "the new certificate must not be in use yet"
    );

    copy("new");
    send_signal("-HUP", running.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    while fetch_with_curl(path, "new.pem", &running.base).is_none() {
        assert!(Instant::now() < deadline, "the new certificate is not in use");
    }
}

#[tokio::test]
async fn responses_send_nosniff_and_no_store() {
    let app = TestApp::start().await;
    let guest = app.user(Scope::Guest).await;
    for answer in [
        guest.get("/v2/users/me").await,
        guest.get("/v2/nothing").await,
        app.anonymous().get("/v2/users/me").await,
        app.anonymous().get("/openapi.json").await,
    ] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'");
    }
    let page = app.anonymous().get("/docs/").await;
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
}

#[tokio::test]
async fn cors_is_allowed_for_configured_origins_only() {
    let preflight = [("origin", "https://app.example.com"), ("access-control-request-method", "GET")];
    let app =
        TestApp::start_with(|config| config.cors_origins = vec!["https://app.example.com".into()]).await;
    let admin = app.admin().await;
    let path = "/v2/users/me";
    let allowed = admin.send(Method::OPTIONS, path, &preflight, None).await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    let own = admin.send(Method::GET, path, &[("origin", "https://app.example.com")], None).await;
    assert_eq!(own.status, StatusCode::OK);
    assert_eq!(own.header("access-control-allow-origin"), "https://app.example.com");
    let foreign = [("origin", "https://evil.example.com"), ("access-control-request-method", "GET")];
    let refused = admin.send(Method::OPTIONS, path, &foreign, None).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);

    let app = TestApp::start().await;
    let refused = app.anonymous().send(Method::OPTIONS, path, &preflight, None).await;
    assert!(!refused.headers.contains_key("access-control-allow-origin"), "CORS must be off by default");
}

#[tokio::test]
async fn metrics_count_requests_decisions_and_queued_passwords() {
    let app = TestApp::start().await;
    let guest = app.user(Scope::Guest).await;
    for _ in 0..3 {
        guest.get("/v2/users/me").await.expect(StatusCode::OK);
    }
    guest.get("/v2/forms").await.expect_problem(403, "forbidden");
    app.anonymous().get("/v2/forms").await.expect_problem(401, "missing_token");
    let text = app.anonymous().get("/metrics").await.text;
    for line in [
        "cedargate_requests_total{action=\"fetchUser\",outcome=\"2xx\"} 3",
        "cedargate_requests_total{action=\"listForms\",outcome=\"4xx\"} 2",
        "cedargate_password_hash_queue_depth 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    let metric = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().unwrap()
    };
    assert!(metric("cedargate_decision_duration_seconds_count") >= 4.0);
    assert!(metric("cedargate_decision_duration_seconds_bucket{le=\"+Inf\"}") >= 4.0);
    assert!(metric("cedargate_decision_duration_seconds_sum") > 0.0);
    assert!(metric("cedargate_database_connections{state=\"idle\"}") >= 1.0);
}
