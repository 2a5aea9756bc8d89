//! Compression of responses.

use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::Read;

/// A response whose body is not decoded.
struct RawReply {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    bytes: Vec<u8>,
}

impl RawReply {
    fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(", ").to_lowercase()
    }

    fn is_compressed(&self) -> bool {
        self.header("content-encoding") == "gzip"
    }

    /// The decoded body.
    fn text(&self) -> String {
        let mut text = String::new();
        if self.is_compressed() {
            flate2::read::GzDecoder::new(self.bytes.as_slice()).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(self.bytes.clone()).unwrap();
        }
        text
    }
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> RawReply {
    let mut request = client.http.request(method, format!("{}{path}", client.base));
    if let Some(bearer) = &client.bearer {
        request = request.bearer_auth(bearer);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    RawReply { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
}

async fn get(client: &Client, path: &str, encodings: &str) -> RawReply {
    send(client, Method::GET, path, &[("accept-encoding", encodings)], None).await
}

/// Creates a knowledge item whose JSON has more than a kibibyte.
async fn create_long_item(client: &Client) -> Reply {
    let reply = client.post("/v2/kbitems", json!({"title": "Hours", "content": "open ".repeat(500)})).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    reply
}

#[actix_web::test]
async fn a_response_is_compressed_if_the_client_accepts_gzip() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for _ in 0..30 {
        create_long_item(&admin).await;
    }
    let plain = send(&admin, Method::GET, "/v2/kbitems", &[], None).await;
    assert!(!plain.is_compressed() && plain.bytes.len() > 75_000);
    assert_eq!(plain.header("vary"), "accept-encoding");
    for encodings in ["gzip", "br, gzip;q=0.8", "gzip, deflate, br, zstd"] {
        let reply = get(&admin, "/v2/kbitems", encodings).await;
        assert!(reply.is_compressed(), "{encodings}");
        assert_eq!(reply.text(), plain.text(), "{encodings}");
        assert!(reply.bytes.len() * 4 < plain.bytes.len(), "{} bytes", reply.bytes.len());
        assert_eq!(reply.header("vary"), "accept-encoding");
        assert_eq!(reply.header("x-total-count"), "30");
    }
    for encodings in ["identity", "br", "gzip;q=0", "gzip;q=0.1, identity", ""] {
        assert!(!get(&admin, "/v2/kbitems", encodings).await.is_compressed(), "{encodings}");
    }
    // Those of decisions, and errors, too.
    let batch: Vec<Value> = (0..50).map(|_| json!({"action": {"name": "listForms"}})).collect();
    let question = json!({
        "subject": {"type": "User", "id": admin.id},
        "resource": {"type": "Organization", "id": admin.get("/v2/users/me").await.json["organization"]},
        "evaluations": batch,
    });
    let reply =
        send(&admin, Method::POST, "/access/v1/evaluations", &[("accept-encoding", "gzip")], Some(question))
            .await;
    assert!(reply.status == StatusCode::OK && reply.is_compressed(), "{}", reply.text());
    assert!(get(&app.anonymous(), "/openapi.json", "gzip").await.is_compressed());
}

#[actix_web::test]
async fn small_responses_and_credentials_are_not_compressed() {
    // A long issuer makes tokens long.
    let url = format!("https://{}.example.com", ["a".repeat(60), "b".repeat(60), "c".repeat(60)].join("."));
    let app = TestApp::start_with(|config| config.public_url = Some(url)).await;
    let admin = app.admin().await;
    let small = get(&admin, "/v2/users/me", "gzip").await;
    assert!(small.bytes.len() < 1024 && !small.is_compressed() && small.header("vary").is_empty());
    let gzip = [("accept-encoding", "gzip")];
    let body = json!({"email": ADMIN, "password": PASSWORD});
    let tokens = send(&app.anonymous(), Method::POST, "/v2/auth/token", &gzip, Some(body)).await;
    assert_eq!(tokens.status, StatusCode::OK);
    assert!(tokens.bytes.len() >= 1024, "{} bytes", tokens.bytes.len());
    assert!(!tokens.is_compressed());
}

#[actix_web::test]
async fn the_compressed_response_has_a_tag_of_its_own_that_if_match_accepts() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let created = create_long_item(&admin).await;
    let path = format!("/v2/kbitems/{}", created.id());
    let plain = get(&admin, &path, "identity").await.header("etag");
    let compressed = get(&admin, &path, "gzip").await.header("etag");
    assert_eq!(compressed, format!("{}.gzip\"", plain.trim_end_matches('"')));
    // A client that has either of them is told that it is current, with the tag that it sent.
    for tag in [&plain, &compressed] {
        let headers = [("accept-encoding", "gzip"), ("if-none-match", tag.as_str())];
        let reply = send(&admin, Method::GET, &path, &headers, None).await;
        assert_eq!((reply.status, reply.bytes.len()), (StatusCode::NOT_MODIFIED, 0), "{tag}");
        assert_eq!(reply.header("etag"), *tag);
    }
    let patch = |tag: String, title: &'static str| {
        let (admin, path) = (admin.clone(), path.clone());
        async move {
            let headers = [("accept-encoding", "gzip"), ("if-match", tag.as_str())];
            send(&admin, Method::PATCH, &path, &headers, Some(json!({"title": title}))).await
        }
    };
    let changed = patch(compressed.clone(), "Times").await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    assert_eq!(patch(compressed, "Opening").await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(patch(changed.header("etag"), "Opening").await.status, StatusCode::OK);
}
