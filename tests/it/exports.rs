//! Exports of lists as NDJSON: complete, streamed, limited in number, and ended when the caller may no longer list.

use crate::resources::{ResourceSpec, create_resource, resource_specs, unique_email};
use crate::support::{Client, Reply, TestApp, wait_until};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const NDJSON: [(&str, &str); 1] = [("accept", "application/x-ndjson")];

async fn export(client: &Client, path: &str) -> Reply {
    client.send(Method::GET, path, &NDJSON, None).await
}

/// The items of an export.
#[track_caller]
fn lines(reply: &Reply) -> Value {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    assert!(reply.text.is_empty() || reply.text.ends_with('\n'));
    reply.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_the_items_of_the_list() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, full, .. } in resource_specs(&admin).await {
        for body in [minimal, full] {
            create_resource(&admin, path, body).await;
        }
        for query in ["", "?sort=-createdAt", "?select=meta", "?offset=1", "?limit=1", "?include=permissions"]
        {
            let path = format!("{path}{query}");
            let list = admin.get(&path).await.expect(StatusCode::OK);
            assert_eq!(lines(&export(&admin, &path).await), list, "{path}");
        }
        assert_eq!(lines(&export(&admin, &format!("{path}?createdAt=<2020-01-01")).await), json!([]));
        export(&admin, &format!("{path}?nme=1")).await.expect_problem(400, "invalid_fields");
        let counted = export(&admin, &format!("{path}?total=true")).await;
        assert_eq!(counted.expect_problem(400, "invalid_fields"), ["total"]);
    }
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{conversation}/messages");
    admin.post(&path, json!([{ "text": "a" }, { "text": "b" }])).await.expect(StatusCode::CREATED);
    assert_eq!(lines(&export(&admin, &path).await), admin.get(&path).await.json);
    let populated = format!("{path}?populate=user&select=user");
    assert_eq!(lines(&export(&admin, &populated).await), admin.get(&populated).await.json);
    for query in ["?event=user.created", "?sort=-seq&limit=3", "?limit=1000"] {
        let path = format!("/v2/audit{query}");
        let list = admin.get(&path).await.expect(StatusCode::OK);
        assert!(list.as_array().unwrap().len() >= 2);
        assert_eq!(lines(&export(&admin, &path).await), list, "{path}");
    }
    let guest = app.user(Scope::Guest).await;
    export(&guest, "/v2/forms").await.expect_problem(403, "forbidden");
    export(&app.anonymous(), "/v2/forms").await.expect_problem(401, "missing_token");
}

#[tokio::test]
async fn the_accept_header_chooses_the_form() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (accept, is_export) in [
        ("application/x-ndjson", true),
        ("Application/X-NDJSON;q=0.5", true),
        ("application/json, application/x-ndjson", true),
        ("application/json, application/x-ndjson;q=0.9", false),
        ("application/x-ndjson;q=0", false),
        ("*/*", false),
        ("application/*", false),
        ("text/html, application/x-ndjson, */*;q=0.1", true),
    ] {
        let reply = admin.send(Method::GET, "/v2/users", &[("accept", accept)], None).await;
        let expected = if is_export { "application/x-ndjson" } else { "application/json" };
        assert_eq!(reply.header("content-type"), expected, "{accept}");
    }
}

#[tokio::test]
async fn an_export_has_every_item_of_a_long_list_once_in_its_order() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for batch in 0..3 {
        let items: Value = (0..700)
            .map(|index| {
                let content = if index % 3 == 0 { Value::Null } else { json!(format!("content {}", index % 7)) };
                json!({ "title": format!("title {}", index % 11), "content": content, "kbase": format!("{batch}") })
            })
            .collect();
        admin.post("/v2/kbitems", items).await.expect(StatusCode::CREATED);
        app.clock.advance(1_000);
    }
    // By a long text, too, whose pages have no cursor.
    for query in ["", "?sort=-title,createdAt", "?sort=content", "?sort=-content,-title&kbase=!1"] {
        let exported = lines(&export(&admin, &format!("/v2/kbitems{query}")).await);
        let separator = if query.is_empty() { '?' } else { '&' };
        let mut expected = Vec::new();
        for offset in [0, 1000, 2000] {
            let page = format!("/v2/kbitems{query}{separator}limit=1000&offset={offset}");
            expected.extend(admin.get(&page).await.json.as_array().unwrap().clone());
        }
        assert_eq!(exported, json!(expected), "{query}");
        let some = lines(&export(&admin, &format!("/v2/kbitems{query}{separator}limit=1234&offset=5")).await);
        assert_eq!(some, expected.iter().skip(5).take(1234).cloned().collect::<Value>(), "{query}");
    }
    let first = admin.get("/v2/kbitems?limit=1000").await;
    let next =
        first.header("link").split_once("after=").unwrap().1.split(['&', '>']).next().unwrap().to_owned();
    let rest = lines(&export(&admin, &format!("/v2/kbitems?after={next}")).await);
    assert_eq!(rest.as_array().unwrap().len(), 1100);
}

/// A connection that has received the head of an export and does not read the rest.
struct StalledExport(TcpStream);

impl StalledExport {
    fn begin(client: &Client, path: &str) -> Self {
        let address = client.base.strip_prefix("http://").unwrap().parse().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // The kernel would otherwise receive much of the body.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.connect(&std::net::SocketAddr::into(address)).unwrap();
        let mut stream = TcpStream::from(socket);
        let token = client.bearer.as_deref().unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: test\r\nAccept: application/x-ndjson\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        .unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        Self(stream)
    }

    /// Reads the rest. Returns whether it ends with the last chunk.
    fn reads_to_the_end(mut self) -> bool {
        let mut rest = Vec::new();
        self.0.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(count) => rest.extend_from_slice(&buffer[..count]),
            }
            if rest.ends_with(b"0\r\n\r\n") {
                return true;
            }
        }
    }
}

/// Creates knowledge items of together 14 MB, more than the buffers of a connection take.
async fn create_large_items(client: &Client) {
    let item = json!({ "title": "large", "content": "x".repeat(100_000) });
    for _ in 0..70 {
        let items: Value = (0..2).map(|_| item.clone()).collect();
        client.post("/v2/kbitems", items).await.expect(StatusCode::CREATED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_early_when_its_session_or_its_permission_ends() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    create_large_items(&admin).await;
    let begin = async |client: &Client| {
        let client = client.clone();
        tokio::task::spawn_blocking(move || StalledExport::begin(&client, "/v2/kbitems")).await.unwrap()
    };
    let is_complete = async |export: StalledExport| {
        tokio::task::spawn_blocking(move || export.reads_to_the_end()).await.unwrap()
    };
    assert!(is_complete(begin(&admin).await).await);

    let email = unique_email();
    let user = json!({ "email": email, "password": crate::support::PASSWORD, "role": "bot" });
    let id = create_resource(&admin, "/v2/users", user).await;
    let bot = app.client(&email).await;
    let (logged_out, unaffected) = (app.client(&email).await, app.client(&email).await);
    let export = begin(&logged_out).await;
    assert!(logged_out.call(Method::POST, "/v2/auth/logout", None).await.status.is_success());
    assert!(!is_complete(export).await, "the session has ended");
    let export = begin(&bot).await;
    admin.patch(&format!("/v2/users/{id}"), json!({ "role": "guest" })).await.expect(StatusCode::OK);
    assert!(!is_complete(export).await, "guests do not list knowledge items");
    admin.patch(&format!("/v2/users/{id}"), json!({ "role": "bot" })).await.expect(StatusCode::OK);
    let export = begin(&unaffected).await;
    assert!(is_complete(export).await, "nothing has ended");
    assert_eq!(app.http.exports.aborted(), 2);
    let export = begin(&admin).await;
    app.sql("ALTER TABLE kbitems RENAME TO elsewhere").await;
    assert!(!is_complete(export).await, "the database fails");
    wait_until(async || match app.http.exports.running() {
        0 => Ok(()),
        running => Err(format!("{running} exports are running")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_limited_and_end_with_their_connection() {
    let app = TestApp::start_with(|config| config.max_exports = 1).await;
    let admin = app.admin().await;
    create_large_items(&admin).await;
    let held = {
        let admin = admin.clone();
        tokio::task::spawn_blocking(move || StalledExport::begin(&admin, "/v2/kbitems")).await.unwrap()
    };
    let refused = export(&admin, "/v2/users").await;
    refused.expect_problem(503, "busy");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!((app.http.exports.running(), app.http.exports.refused()), (1, 1));
    assert!(app.http.body_budget.used() < 4 * 1024 * 1024, "the list is not in memory");
    drop(held);
    wait_until(async || match app.http.exports.running() {
        0 => Ok(()),
        running => Err(format!("{running} exports are running")),
    })
    .await;
    assert_eq!(app.http.exports.aborted(), 1);
    lines(&export(&admin, "/v2/users").await);
    let metrics = app.anonymous().get("/metrics").await.text;
    for line in
        ["cedargate_exports 0", "cedargate_exports_refused_total 1", "cedargate_exports_aborted_total 1"]
    {
        assert!(metrics.lines().any(|other| other == line), "{line}");
    }
}
