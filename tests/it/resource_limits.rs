//! Resource limits: no caller can exhaust the process.

use crate::command_line::{client, program, start_command};
use crate::multi_process::{TIMEOUT, log_in};
use crate::resources::{create_resource, resource_specs};
use crate::support::{ADMIN, Client, Database, PASSWORD, TestApp, wait_until};
use cedargate::authz::Scope;
use cedargate::config::Config;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;
use tokio::task::block_in_place;

const MEBIBYTE: usize = 1024 * 1024;

/// A connection to the service, without a client library.
fn connect(base: &str) -> TcpStream {
    let stream = TcpStream::connect(base.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Reads until the service closes the connection.
fn read_to_end(mut stream: TcpStream) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the service does not close the connection: {error}"),
        }
    }
    String::from_utf8(text).unwrap()
}

/// A connection that has sent half of the body of a login.
fn send_half_a_login(base: &str) -> TcpStream {
    let mut stream = connect(base);
    let head = "POST /v2/auth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    stream.write_all(format!("{head}{{\"email\":").as_bytes()).unwrap();
    stream
}

/// The value of a metric with this name and labels.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cedargate_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is missing in {text}")).parse().unwrap()
}

/// Waits until the service has this number of connections.
async fn wait_for_connections(app: &TestApp, count: usize) {
    let start = Instant::now();
    while app.http.connection_limiter.open() != count {
        assert!(start.elapsed() < TIMEOUT, "there are {} connections", app.http.connection_limiter.open());
        tokio::task::yield_now().await;
    }
}

/// Waits until the value of a metric meets a condition.
async fn wait_for_metric(client: &Client, name: &str, fits: impl Fn(u64) -> bool) {
    let start = Instant::now();
    loop {
        let value = metric(client, name).await;
        if fits(value) {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "{name} remains {value}");
    }
}

#[tokio::test]
async fn a_query_has_at_most_100_parameters_and_a_problem_at_most_20_errors() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let query = |count: usize| (0..count).map(|index| format!("p{index}=x")).collect::<Vec<_>>().join("&");
    for path in ["/v2/messages", "/v2/audit", "/v2/users/me/permissions"] {
        let refused = admin.get(&format!("{path}?{}", query(101))).await;
        refused.expect_problem(400, "too_many_parameters");
    }
    for path in ["/v2/messages", "/v2/audit"] {
        let refused = admin.get(&format!("{path}?{}", query(100))).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields").len(), 20);
    }
    // Long input is truncated in a problem, however often the problem names it.
    let long = "%01".repeat(10_000);
    for query in
        [format!("{long}=x"), format!("limit={long}"), format!("sort={long}"), format!("meta={long}")]
    {
        let refused = admin.get(&format!("/v2/messages?{query}")).await;
        refused.expect_problem(400, "invalid_fields");
        assert!(refused.text.len() < 16 * 1024, "the answer has {} bytes", refused.text.len());
    }
    let many: Vec<Value> = (0..900).map(|index| json!({ "user": format!("{index:024x}") })).collect();
    let refused = admin.post("/v2/conversations", json!({ "participants": many })).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields").len(), 20);
    let headers = [("content-type", long.as_str())];
    let refused = admin.send(Method::POST, "/v2/forms", &headers, Some(b"{}".to_vec())).await;
    refused.expect_problem(415, "unsupported_media_type");
    assert!(refused.text.len() < 16 * 1024, "the answer has {} bytes", refused.text.len());
}

#[tokio::test]
async fn authorization_comes_before_the_validation_of_the_query() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let mut refusals = 0;
    let paths = resource_specs(&admin).await.into_iter().map(|kind| kind.path).chain(["/v2/audit"]);
    for path in paths {
        let wrong = format!("{path}?nothing=x&limit=0");
        admin.get(&wrong).await.expect_problem(400, "invalid_fields");
        if guest.get(path).await.status == StatusCode::FORBIDDEN {
            guest.get(&wrong).await.expect_problem(403, "forbidden");
            refusals += 1;
        }
    }
    assert!(refusals > 5);
    let wrong = format!("/v2/users/{}/permissions?nothing=x", admin.id);
    admin.get(&wrong).await.expect_problem(400, "invalid_fields");
    guest.get(&wrong).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn the_head_and_the_body_of_a_request_have_deadlines() {
    let app = TestApp::start_with(|config| (config.header_timeout, config.body_timeout) = (1, 1)).await;
    // Half of a head, half of a body, and half of a head after a complete request.
    let mut head = connect(&app.base);
    head.write_all(b"GET /health/live HTTP/1.1\r\nHost:").unwrap();
    let body = send_half_a_login(&app.base);
    let mut chunked = connect(&app.base);
    let start = "POST /v2/auth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
    chunked.write_all(format!("{start}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"a\":").as_bytes()).unwrap();
    let mut second = connect(&app.base);
    second
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\nGET /health/live HTTP/1.1\r\nHost:")
        .unwrap();
    let read = |stream| tokio::task::spawn_blocking(move || read_to_end(stream));
    let (head, body, chunked, second) = (read(head), read(body), read(chunked), read(second));
    let (head, body) = (head.await.unwrap(), body.await.unwrap());
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    for body in [body, chunked.await.unwrap()] {
        assert!(body.starts_with("HTTP/1.1 408 "), "{body}");
        assert!(body.contains("\"code\":\"body_timeout\""), "{body}");
    }
    let second = second.await.unwrap();
    assert_eq!(second.matches("HTTP/1.1 204 ").count(), 1, "{second}");
}

#[tokio::test]
async fn a_body_that_arrives_below_the_minimum_rate_is_refused() {
    let app = TestApp::start_with(|config| {
        config.body_timeout = 1;
        // More than any client has.
        config.min_transfer_rate = 1 << 30;
    })
    .await;
    let mut stream = connect(&app.base);
    let head = "POST /v2/auth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 16000\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    // Each byte comes well before the time for the whole body is over.
    wait_until(async || {
        let is_answered = stream.peek(&mut [0]).is_ok();
        if !is_answered {
            stream.write_all(b" ").unwrap();
        }
        is_answered.then_some(()).ok_or("the body is still accepted".to_owned())
    })
    .await;
    stream.set_nonblocking(false).unwrap();
    let answer = tokio::task::spawn_blocking(move || read_to_end(stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"body_timeout\""), "{answer}");
}

/// A page of messages of 100,000 bytes each, which exceeds the buffers of two sockets.
const LARGE_PAGE: &str = "/v2/messages?limit=1000";
const LARGE_MESSAGES: usize = 110;

/// Starts the service with a page of 10 MiB, and an admin.
async fn start_with_large_page(change: impl FnOnce(&mut Config)) -> (TestApp, Client) {
    let app = TestApp::start_with(|config| {
        config.list_max_bytes = 10 * MEBIBYTE;
        change(config);
    })
    .await;
    let admin = app.admin().await;
    let messages = vec![json!({ "text": "t" }); LARGE_MESSAGES];
    create_resource(&admin, "/v2/conversations", json!({ "messages": messages })).await;
    let text = match app.postgres() {
        Some(_) => "repeat('x', 100000)",
        None => "printf('%.*c', 100000, 'x')",
    };
    app.sql(&format!("UPDATE messages SET text = {text}")).await;
    (app, admin)
}

/// A connection with a small receive buffer that has requested the large page. The response has begun, and none of it is read.
fn request_large_page(admin: &Client) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address: SocketAddr = admin.base.strip_prefix("http://").unwrap().parse().unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let bearer = admin.bearer.as_deref().unwrap();
    let headers = format!("Host: h\r\nConnection: close\r\nAuthorization: Bearer {bearer}");
    stream.write_all(format!("GET {LARGE_PAGE} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).unwrap();
    block_in_place(|| stream.peek(&mut [0])).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_page_is_released_as_the_client_reads_it() {
    let (_app, admin) = start_with_large_page(|_| ()).await;
    let mut stream = request_large_page(&admin);
    let mut read = |count: usize| {
        let mut bytes = vec![0; count];
        block_in_place(|| stream.read_exact(&mut bytes)).unwrap();
        bytes
    };
    let mut page = Vec::new();
    wait_for_metric(&admin, "body_bytes", |bytes| (3_000_000..9_900_000).contains(&bytes)).await;
    let initial_bytes = metric(&admin, "body_bytes").await;
    // The kernel accepts more data only after a third of its send buffer is free. No fixed number of bytes read
    // releases a fixed number of bytes, so the client reads on until half of the memory is released.
    while metric(&admin, "body_bytes").await > initial_bytes / 2 {
        page.extend(read(MEBIBYTE / 8));
    }
    assert!(metric(&admin, "body_bytes").await > 0, "the rest of the page must still be buffered");

    block_in_place(|| stream.read_to_end(&mut page)).unwrap();
    wait_for_metric(&admin, "body_bytes", |bytes| bytes == 0).await;
    let page = String::from_utf8(page).unwrap();
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    let header =
        |name: &str| head.lines().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
    assert_eq!(header("content-length: "), Some(body.len().to_string()));
    assert_eq!(header("x-total-count: "), Some(LARGE_MESSAGES.to_string()));
    let rows: Vec<Value> = serde_json::from_str(body).unwrap();
    let next = header("link: ").unwrap();
    assert!(next.contains("after="), "{} rows, and {next}", rows.len());
    let rest = admin.get(&format!("{LARGE_PAGE}&offset={}", rows.len())).await.expect(StatusCode::OK);
    assert_eq!(rows.len() + rest.as_array().unwrap().len(), LARGE_MESSAGES);
}

#[tokio::test]
async fn every_response_above_8_kib_is_counted_in_the_budget() {
    let app = TestApp::start_with(|config| config.body_budget = 16 * 1024).await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let body = json!({ "text": "t", "conversation": conversation });
    let small = create_resource(&admin, "/v2/messages", body.clone()).await;
    let large = create_resource(&admin, "/v2/messages", body).await;
    let text = "x".repeat(20_000);
    app.sql(&format!("UPDATE messages SET text = '{text}' WHERE id = '{large}'")).await;
    for path in [format!("/v2/messages/{large}"), "/v2/messages".to_owned()] {
        admin.get(&path).await.expect_problem(503, "busy");
    }
    admin.get(&format!("/v2/messages/{small}")).await.expect(StatusCode::OK);
    assert_eq!(metric(&admin, "body_bytes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_neither_memory_nor_its_connection() {
    let (app, admin) = start_with_large_page(|config| {
        // Long enough for the requests in between on a busy machine.
        config.write_timeout = 8;
        // Less than a page plus the rest of another one that the socket buffers do not hold.
        config.body_budget = 13 * MEBIBYTE;
    })
    .await;
    let path = LARGE_PAGE;
    let anonymous = app.anonymous();
    let stream = request_large_page(&admin);
    assert!(metric(&anonymous, "body_bytes").await >= 3_000_000);

    // Meanwhile the budget is used up, for responses and requests. Small ones do not need it.
    let busy = admin.get(path).await;
    busy.expect_problem(503, "busy");
    assert_eq!(busy.header("retry-after"), "1");
    let large = format!("{{\"name\": \"x\", \"meta\": {{\"a\": [{}0]}}}}", "0,".repeat(200_000));
    let json = [("content-type", "application/json")];
    let busy = admin.send(Method::POST, "/v2/forms", &json, Some(large.into_bytes())).await;
    busy.expect_problem(503, "busy");
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
    create_resource(&admin, "/v2/forms", json!({ "name": "x" })).await;

    // Finally both are released, although the clients are still connected.
    wait_for_metric(&anonymous, "body_bytes", |bytes| bytes == 0).await;
    let received = tokio::task::spawn_blocking(move || read_to_end(stream)).await.unwrap();
    assert!(received.starts_with("HTTP/1.1 200 ") && received.len() < 10_000_000);
    let page = admin.get(path).await.expect(StatusCode::OK);
    assert!(page.as_array().unwrap().len() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_below_the_minimum_rate_is_disconnected() {
    let (app, admin) = start_with_large_page(|config| {
        config.write_timeout = 1;
        // More than any client has.
        config.min_transfer_rate = 1 << 30;
    })
    .await;
    let mut stream = request_large_page(&admin);
    // So fast that the service sends some more of it within each second.
    let mut part = [0; 4096];
    let mut received = 0;
    wait_until(async || {
        block_in_place(|| stream.read_exact(&mut part)).unwrap();
        received += part.len();
        let is_sent = app.http.body_budget.used() > 0;
        (!is_sent).then_some(()).ok_or("the page is still sent".to_owned())
    })
    .await;
    received += tokio::task::spawn_blocking(move || read_to_end(stream)).await.unwrap().len();
    assert!(received < 9_900_000, "the client got {received} bytes");
}

#[tokio::test]
async fn connections_from_one_address_are_limited_unless_it_is_a_proxy() {
    let limited = TestApp::start_with(|config| config.max_connections_per_address = 3).await;
    let open: Vec<TcpStream> = (0..3).map(|_| send_half_a_login(&limited.base)).collect();
    wait_for_connections(&limited, 3).await;
    let refused = connect(&limited.base);
    assert_eq!(tokio::task::spawn_blocking(move || read_to_end(refused)).await.unwrap(), "");
    drop(open);
    wait_for_connections(&limited, 0).await;
    assert_eq!(limited.anonymous().get("/health/live").await.status, StatusCode::NO_CONTENT);

    let behind_proxy = TestApp::start_with(|config| {
        config.max_connections_per_address = 3;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let _open: Vec<TcpStream> = (0..10).map(|_| send_half_a_login(&behind_proxy.base)).collect();
    assert_eq!(behind_proxy.anonymous().get("/health/live").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_listener_answers_while_all_connections_are_taken() {
    let database = Database::new().await;
    let settings = program(
        database.directory.path(),
        &[
            ("CEDARGATE_LISTEN", "127.0.0.1:0"),
            ("CEDARGATE_MANAGEMENT_LISTEN", "127.0.0.1:0"),
            ("CEDARGATE_DATABASE_URL", &database.url),
            ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
            ("CEDARGATE_MAX_CONNECTIONS", "100000"),
            ("CEDARGATE_MAX_CONNECTIONS_PER_ADDRESS", "0"),
            ("CEDARGATE_BODY_TIMEOUT", "2"),
        ],
    );
    // The limit on open files, of which 256 are reserved, leaves 44 connections.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 300 && ulimit -Sn 270 && exec \"$0\""]).arg(settings.get_program());
    command.current_dir(database.directory.path()).env_clear();
    command.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let running = start_command(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("300"), "the soft limit must be raised: {files}");

    let management = running.banner.lines().find_map(|line| line.strip_prefix("Health and metrics: "));
    let management = client(management.unwrap());
    let open: Vec<TcpStream> = (0..60).map(|_| send_half_a_login(&running.base)).collect();
    wait_for_metric(&management, "connections", |connections| connections == 44).await;
    let refused = client(&running.base).try_send(Method::GET, "/health/live", &[], None).await;
    assert!(refused.is_err());
    assert_eq!(management.get("/health/live").await.status, StatusCode::NO_CONTENT);
    assert_eq!(management.get("/health/ready").await.expect(StatusCode::OK)["ready"], true);
    management.get("/v2/users/me").await.expect_problem(404, "route_not_found");

    // The timeout of bodies frees the connections, although the clients are still connected.
    wait_for_metric(&management, "connections", |connections| connections == 0).await;
    log_in(&running.base, ADMIN).await;
    let main = client(&running.base);
    assert_eq!(main.get("/health/live").await.status, StatusCode::NO_CONTENT);
    main.get("/metrics").await.expect_problem(404, "route_not_found");
    drop(open);
    running.stop();
}
