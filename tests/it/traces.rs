//! Traces as an OTLP collector receives them, and trace ids in log lines.

use crate::command_line::{RunningService, client, start};
use crate::lifecycle::{create_certificate, fetch_with_curl, send_signal};
use crate::support::{ADMIN, Client, Database, PASSWORD};
use actix_web::http::StatusCode as Status;
use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use cedargate::http::tls::Certificates;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A collector of OTLP over HTTP.
struct Collector {
    base: String,
    /// The status of its responses.
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
}

/// The header `x-key` and the body of a request.
type Received = (String, Vec<u8>);

impl Collector {
    fn start() -> Self {
        Self::start_with(None)
    }

    fn start_with(certificates: Option<Arc<Certificates>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let (status, received) = (Arc::new(AtomicU16::new(200)), Arc::default());
        let state = (Arc::clone(&status), Arc::clone(&received));
        let server = HttpServer::new(move || {
            let (status, received): (Arc<AtomicU16>, Arc<Mutex<Vec<Received>>>) = state.clone();
            let handler = move |request: HttpRequest, body: web::Bytes| {
                let key = request.headers().get("x-key").map(|key| key.to_str().unwrap().to_owned());
                received.lock().unwrap().push((key.unwrap_or_default(), body.to_vec()));
                let status = Status::from_u16(status.load(Ordering::SeqCst)).unwrap();
                async move { HttpResponse::new(status) }
            };
            actix_web::App::new().route("/v1/traces", web::post().to(handler))
        });
        let server = server.workers(1).disable_signals();
        let server = match certificates {
            Some(certificates) => {
                server.listen_rustls_0_23(listener, certificates.server_config().unwrap()).unwrap()
            }
            None => server.listen(listener).unwrap(),
        };
        tokio::spawn(server.run());
        Self { base, status, received }
    }

    fn received(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    fn bytes(&self) -> Vec<u8> {
        self.received.lock().unwrap().iter().flat_map(|(_, body)| body.clone()).collect()
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let received = self.received.lock().unwrap();
        received.iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.as_slice()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The resource attributes of the service.
    fn resource(&self) -> BTreeMap<String, Value> {
        attributes(&self.requests()[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    /// The span of the only request with this id.
    fn span_of_request(&self, id: &str) -> Span {
        let is_its =
            |span: &Span| attributes(&span.attributes).get("cedargate.request_id") == Some(&json!(id));
        let mut found: Vec<Span> = self.spans().into_iter().filter(is_its).collect();
        assert_eq!(found.len(), 1, "{id}: {found:?}");
        found.remove(0)
    }

    fn child_spans(&self, parent: &Span) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.parent_span_id == parent.span_id).collect()
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let value = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        Any::StringValue(text) => json!(text),
        Any::BoolValue(bool) => json!(bool),
        Any::IntValue(number) => json!(number),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts the service with these additional settings.
fn serve(database: &Database, settings: &[(&str, &str)]) -> RunningService {
    let usual = [
        ("CEDARGATE_DATABASE_URL", database.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0"),
    ];
    start(database.directory.path(), &[&usual, settings].concat())
}

/// Sends a request with this id and additional headers.
async fn send(
    client: &Client,
    id: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> crate::support::Reply {
    let headers = [&[("x-request-id", id), ("content-type", "application/json")], headers].concat();
    let body = body.map(|body| serde_json::to_vec(&body).unwrap());
    client.send(Method::from_bytes(method.as_bytes()).unwrap(), path, &headers, body).await
}

fn login() -> Value {
    json!({ "email": ADMIN, "password": PASSWORD })
}

/// Waits for a condition.
async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_span_has_child_spans_and_no_secrets() {
    let (collector, database) = (Collector::start(), Database::new().await);
    let settings =
        [("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str()), ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "15")];
    let mut running = serve(&database, &settings);
    let anonymous = client(&running.base);
    let tokens = send(&anonymous, "login", "POST", "/v2/auth/token", &[], Some(login())).await;
    let tokens = tokens.expect(StatusCode::OK);
    let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
    let admin = Client { bearer: Some(token("token")), ..anonymous.clone() };
    let key = admin.key(&[cedargate::authz::Scope::Guest]).await;
    let guest = Client { bearer: Some(key.clone()), ..anonymous.clone() };

    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let context = [("traceparent", traceparent.as_str()), ("tracestate", "vendor=opaque")];
    send(&admin, "own", "GET", "/v2/users/me", &context, None).await.expect(StatusCode::OK);
    send(&admin, "again", "GET", "/v2/users/me?populate=organization", &[], None).await;
    send(&admin, "alias", "GET", "/v2/knowledge-items", &[], None).await.expect(StatusCode::OK);
    send(&guest, "denied", "GET", "/v2/forms", &[], None).await.expect_problem(403, "forbidden");
    send(&anonymous, "nowhere", "GET", "/v2/nothing/t0pZ3kR3t?password=t0pZ3kR3t", &[], None).await;
    send(&admin, "proxy", "GET", "/v2/authorize/forward/reset/t0pZ3kR3t", &[], None).await;
    send(&anonymous, "method", "BREW", "/v2/users", &[("traceparent", "garbage")], None).await;
    let refresh = format!("/v2/auth/token?refreshToken={}", token("refreshToken"));
    let next = send(&admin, "refresh", "GET", &refresh, &[], None).await.expect(StatusCode::OK);
    send_signal("-TERM", running.id());
    // The service is no longer ready soon, and a server span with a 5xx status is an error.
    let mut ready = StatusCode::OK;
    while ready == StatusCode::OK {
        ready = send(&anonymous, "ready", "GET", "/health/ready", &[], None).await.status;
    }
    send(&anonymous, "ending", "GET", "/health/ready", &[], None).await.expect_problem(503, "shutting_down");
    send_signal("-TERM", running.id());
    assert!(running.wait().success());

    for (id, name, route, path, status) in [
        ("login", "POST /v2/auth/token", Some("/v2/auth/token"), "/v2/auth/token", 200),
        ("own", "GET /v2/users/{id}", Some("/v2/users/{id}"), "/v2/users/me", 200),
        ("again", "GET /v2/users/{id}", Some("/v2/users/{id}"), "/v2/users/me", 200),
        ("alias", "GET /v2/knowledge-items", Some("/v2/knowledge-items"), "/v2/knowledge-items", 200),
        ("denied", "GET /v2/forms", Some("/v2/forms"), "/v2/forms", 403),
        ("nowhere", "GET", None, "", 404),
        ("proxy", "GET /v2/authorize/forward/{rest:.*}", Some("/v2/authorize/forward/{rest:.*}"), "", 403),
        ("method", "HTTP /v2/users", Some("/v2/users"), "/v2/users", 405),
        ("refresh", "GET /v2/auth/token", Some("/v2/auth/token"), "/v2/auth/token", 200),
        ("ending", "GET /health/ready", Some("/health/ready"), "/health/ready", 503),
    ] {
        let span = collector.span_of_request(id);
        assert_eq!(span.name, name, "{id}");
        assert_eq!(span.kind, 2, "{id}: a server's");
        let method = name.split(' ').next().unwrap().replace("HTTP", "_OTHER");
        let mut expected = json!({
            "http.request.method": method, "http.response.status_code": status, "url.scheme": "http",
            "client.address": "127.0.0.1", "cedargate.request_id": id
        });
        if !path.is_empty() {
            expected["url.path"] = json!(path);
        }
        if let Some(route) = route {
            expected["http.route"] = json!(route);
        }
        if status >= 500 {
            expected["error.type"] = json!(status.to_string());
        }
        assert_eq!(json!(attributes(&span.attributes)), expected, "{id}");
        assert_eq!(span.status.as_ref().unwrap().code, if status >= 500 { 2 } else { 0 }, "{id}");
        for child in collector.child_spans(&span) {
            assert_eq!(child.trace_id, span.trace_id, "{id}: {child:?}");
            let (from, to) = (span.start_time_unix_nano, span.end_time_unix_nano);
            assert!(
                from <= child.start_time_unix_nano
                    && child.start_time_unix_nano <= child.end_time_unix_nano
                    && child.end_time_unix_nano <= to,
                "{id}: {child:?} is not within {span:?}"
            );
        }
    }

    let own = collector.span_of_request("own");
    assert_eq!((hex(&own.trace_id), hex(&own.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(own.trace_state, "vendor=opaque");
    for id in ["again", "method"] {
        let span = collector.span_of_request(id);
        assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "{id}: {span:?}");
    }

    let names = |id: &str| -> Vec<String> {
        collector.child_spans(&collector.span_of_request(id)).into_iter().map(|span| span.name).collect()
    };
    let login = names("login");
    for name in ["argon2 queue", "argon2", "SELECT users", "BEGIN", "INSERT sessions", "COMMIT"] {
        assert!(login.iter().any(|found| found == name), "{name} is missing in {login:?}");
    }
    let system = if database.url.starts_with("sqlite") { "sqlite" } else { "postgresql" };
    let below = collector.child_spans(&collector.span_of_request("login"));
    let insert = below.iter().find(|span| span.name == "INSERT sessions").unwrap();
    let expected = json!({
        "db.system.name": system, "db.operation.name": "INSERT", "db.collection.name": "sessions"
    });
    assert_eq!((json!(attributes(&insert.attributes)), insert.kind), (expected, 3));

    let decision = |id: &str| -> Value {
        let below = collector.child_spans(&collector.span_of_request(id));
        let mut decisions = below.iter().filter(|span| span.name == "authorize");
        let mut found = json!(attributes(&decisions.next().unwrap().attributes));
        let version = found.as_object_mut().unwrap().remove("cedargate.policy_version").unwrap();
        assert!(!version.as_str().unwrap().is_empty());
        found
    };
    for (id, action, decided, is_cached) in [
        ("own", "fetchUser", "allow", false),
        ("again", "fetchUser", "allow", true),
        ("denied", "listForms", "deny", false),
    ] {
        let expected = json!({
            "cedargate.action": action, "cedargate.decision": decided, "cedargate.cached": is_cached
        });
        assert_eq!(decision(id), expected, "{id}");
    }

    let sent = String::from_utf8_lossy(&collector.bytes()).into_owned();
    let next = |name: &str| next[name].as_str().unwrap().to_owned();
    for secret in [
        PASSWORD.to_owned(),
        token("token"),
        token("refreshToken"),
        next("token"),
        next("refreshToken"),
        key,
        ADMIN.to_owned(),
        "refreshToken=".to_owned(),
        "Bearer".to_owned(),
        "argon2id".to_owned(),
    ] {
        assert!(!sent.contains(&secret), "{secret} was exported");
        // The parts of a token must not be exported either.
        for part in secret.split('.').filter(|part| part.len() > 20) {
            assert!(!sent.contains(part), "{part} was exported");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_per_request_are_limited_and_the_rest_is_counted() {
    let (collector, database) = (Collector::start(), Database::new().await);
    let running = serve(&database, &[("CEDARGATE_OTLP_ENDPOINT", &collector.base)]);
    let anonymous = client(&running.base);
    let tokens = anonymous.post("/v2/auth/token", login()).await.expect(StatusCode::OK);
    let admin = Client { bearer: Some(tokens["token"].as_str().unwrap().to_owned()), ..anonymous };
    let user = &tokens["user"];
    let question = json!({
        "subject": { "type": "User", "id": user }, "resource": { "type": "User", "id": user },
        "action": { "name": "fetchUser" }
    });
    let mut unknown = question.clone();
    unknown["action"]["name"] = json!("arbitrary client input");
    let batch = json!({ "evaluations": vec![question; 500] });
    send(&admin, "batch", "POST", "/access/v1/evaluations", &[], Some(batch)).await.expect(StatusCode::OK);
    send(&admin, "unknown", "POST", "/access/v1/evaluation", &[], Some(unknown)).await;
    running.stop();
    let batch = collector.span_of_request("batch");
    assert_eq!(collector.child_spans(&batch).len(), 128);
    let more = &attributes(&batch.attributes)["cedargate.spans_omitted"];
    assert!(more.as_i64().unwrap() >= 500 - 128, "{more}");
    assert!(!String::from_utf8_lossy(&collector.bytes()).contains("arbitrary client input"));
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetry_variables_configure_service_sampling_and_headers() {
    let (collector, database) = (Collector::start(), Database::new().await);
    let running = serve(&database, &[("CEDARGATE_OTLP_ENDPOINT", &format!("{}/", collector.base))]);
    client(&running.base).get("/health/live").await.expect(StatusCode::NO_CONTENT);
    running.stop();
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "cedargate");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));

    let collector = Collector::start();
    let settings = [
        ("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str()),
        ("OTEL_SERVICE_NAME", "gate"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k3y"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let running = serve(&database, &settings);
    let anonymous = client(&running.base);
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    send(&anonymous, "untraced", "GET", "/health/live", &[], None).await;
    send(&anonymous, "probe", "GET", "/health/live", &[("traceparent", &traceparent)], None).await;
    running.stop();
    collector.span_of_request("probe");
    assert_eq!(collector.spans().len(), 1, "{:?}", collector.spans());
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "gate");
    assert_eq!(resource["service.version"], "7");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(collector.received.lock().unwrap().iter().all(|(key, _)| key == "k3y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_of_a_span_is_that_of_the_connection() {
    let (collector, database) = (Collector::start(), Database::new().await);
    let directory = database.directory.path();
    create_certificate(directory, "tls");
    let tls = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    let service =
        serve(&database, &[&[("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str())], &tls[..]].concat());
    fetch_with_curl(directory, "tls.pem", &service.base).unwrap();
    service.stop();
    let span = collector.spans().into_iter().find(|span| span.name == "GET /health/ready").unwrap();
    assert_eq!(attributes(&span.attributes)["url.scheme"], "https");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_collector_is_verified_with_the_configured_certificate() {
    let database = Database::new().await;
    let directory = database.directory.path();
    create_certificate(directory, "its");
    create_certificate(directory, "other");
    let file = |name: &str| directory.join(name);
    let certificates = Certificates::read(&file("its.pem"), &file("its.key")).unwrap();
    let collector = Collector::start_with(Some(certificates));
    for (trusted, is_known) in [("its.pem", true), ("other.pem", false)] {
        let before = collector.received();
        let settings = [
            ("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted),
        ];
        let running = serve(&database, &settings);
        send(&client(&running.base), trusted, "GET", "/health/live", &[], None).await;
        let log = running.stop();
        assert_eq!(collector.received() > before, is_known, "{trusted}: {log}");
        assert_eq!(log.contains("cannot export traces"), !is_known, "{trusted}: {log}");
    }
    collector.span_of_request("its.pem");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_collector_is_logged_once_until_it_recovers() {
    let (collector, database) = (Collector::start(), Database::new().await);
    collector.status.store(400, Ordering::SeqCst);
    let settings = [("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let running = serve(&database, &settings);
    let anonymous = client(&running.base);
    // Each request is exported in its own batch, since the batch before it has arrived.
    let batches = async |count: usize| {
        for _ in 0..count {
            let before = collector.received();
            anonymous.get("/health/live").await.expect(StatusCode::NO_CONTENT);
            wait_until("the batch has not arrived", || collector.received() > before).await;
        }
    };
    let logged = |text: &str| running.log().matches(text).count();
    let (fails, works) = ("cannot export traces", "traces exported again");
    batches(5).await;
    wait_until("the change was not logged", || logged(fails) == 1).await;
    collector.status.store(200, Ordering::SeqCst);
    batches(5).await;
    wait_until("the change was not logged", || logged(works) == 1).await;
    collector.status.store(400, Ordering::SeqCst);
    batches(5).await;
    wait_until("the second failure was not logged", || logged(fails) == 2).await;
    let log = running.stop();
    assert_eq!((log.matches(fails).count(), log.matches(works).count()), (2, 1), "{log}");
    assert_eq!(log.matches("ERROR").count(), 0, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_collector_delays_neither_requests_nor_the_shutdown() {
    let database = Database::new().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    // The system accepts connections for it, and nothing reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    for address in [closed.as_str(), &silent.0] {
        // A small queue that is not drained.
        let settings = [
            ("CEDARGATE_OTLP_ENDPOINT", address),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ];
        let running = serve(&database, &settings);
        let anonymous = client(&running.base);
        let start = Instant::now();
        for _ in 0..100 {
            anonymous.get("/health/live").await.expect(StatusCode::NO_CONTENT);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{address}: {:?}", start.elapsed());
        let start = Instant::now();
        let log = running.stop();
        assert!(start.elapsed() < Duration::from_secs(10), "{address}: {:?}", start.elapsed());
        if address == closed {
            assert_eq!(log.matches("cannot export traces").count(), 1, "{log}");
        }
    }
}

/// The log line about the reuse of a refresh token, with these settings, in a request with this id.
async fn reuse_log_line(request: &str, settings: &[(&str, &str)]) -> String {
    let database = Database::new().await;
    let running = serve(&database, &[&[("CEDARGATE_REFRESH_REUSE_GRACE", "0")], settings].concat());
    let anonymous = client(&running.base);
    let tokens = anonymous.post("/v2/auth/token", login()).await.expect(StatusCode::OK);
    let spend = json!({ "refreshToken": tokens["refreshToken"], "clientId": ADMIN });
    anonymous.post("/v2/auth/token", spend.clone()).await.expect(StatusCode::OK);
    // Other requests are in progress at the same time.
    let others = futures_util::future::join_all((0..20).map(|_| anonymous.post("/v2/auth/token", login())));
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", traceparent.as_str())];
    let again = send(&anonymous, request, "POST", "/v2/auth/token", &headers, Some(spend));
    let (again, _) = tokio::join!(again, others);
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    let log = running.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("refresh token reuse detected")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    lines[0].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_have_request_and_trace_ids_in_both_formats() {
    let collector = Collector::start();
    let traces = ("CEDARGATE_OTLP_ENDPOINT", collector.base.as_str());
    let json = ("CEDARGATE_LOG_FORMAT", "json");
    for id in ["r-1", r#""},{\"#] {
        let line: Value = serde_json::from_str(&reuse_log_line(id, &[json]).await).unwrap();
        assert_eq!(line["requestId"], id, "{line}");
        assert_eq!((&line["trace_id"], &line["level"]), (&Value::Null, &json!("WARN")), "{line}");
        assert_eq!(line["fields"]["message"], "refresh token reuse detected; session revoked");
    }
    let line: Value = serde_json::from_str(&reuse_log_line("r-2", &[json, traces]).await).unwrap();
    assert_eq!((&line["requestId"], &line["trace_id"]), (&json!("r-2"), &json!(TRACE)), "{line}");
    let line = reuse_log_line("r-3", &[]).await;
    assert!(line.contains(" requestId=\"r-3\"") && !line.contains("trace_id"), "{line}");
    let line = reuse_log_line("r-4", &[traces]).await;
    assert!(line.ends_with(&format!(" requestId=\"r-4\" trace_id={TRACE}")), "{line}");
}
