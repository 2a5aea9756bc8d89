//! `GET /v2/changes` as a stream of events.

use crate::changes::now;
use crate::multi_process::TIMEOUT;
use crate::reload::PolicyFiles;
use crate::support::{Client, TestApp, wait_until};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Reads events.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(client: &Client, path: &str, last: Option<&str>) -> Self {
        let mut request =
            client.http.get(format!("{}{path}", client.base)).header("accept", "text/event-stream");
        if let Some(bearer) = &client.bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next block: its fields, of which `:` is a comment. None at the end.
    async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |line: &str| {
                    let (name, value) = line.split_once(':').unwrap();
                    (if name.is_empty() { ":" } else { name }.to_owned(), value.trim().to_owned())
                };
                let block = block.lines().map(field).collect();
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk =
                tokio::time::timeout(TIMEOUT, self.response.chunk()).await.expect("no event").unwrap();
            self.text += std::str::from_utf8(&chunk?).unwrap();
        }
    }

    /// The next event, without comments.
    async fn event(&mut self) -> Option<(String, Option<String>, Value)> {
        loop {
            let mut block = self.next().await?;
            if let (Some(event), Some(data)) = (block.remove("event"), block.remove("data")) {
                return Some((event, block.remove("id"), serde_json::from_str(&data).unwrap()));
            }
        }
    }

    async fn expect_end(&mut self, code: &str) {
        let (event, id, data) = self.event().await.expect("no end event");
        assert_eq!((event.as_str(), id, &data["code"]), ("end", None, &json!(code)), "{data}");
        assert!(self.next().await.is_none(), "the stream goes on");
    }
}

#[actix_web::test]
async fn events_are_sent_as_they_happen_and_resumed_after_the_last_one() {
    let app = TestApp::start_with(|config| config.changes_heartbeat = 1).await;
    let admin = app.admin().await;
    let mut events = Events::open(&admin, "/v2/changes?types=forms", None).await;
    let first = events.next().await.unwrap();
    assert!(first.contains_key("retry") && first.contains_key("id"), "{first:?}");
    let form = admin.post("/v2/forms", json!({"name": "A"})).await;
    let (event, id, data) = events.event().await.unwrap();
    assert_eq!((event.as_str(), id.as_deref()), ("change", data["cursor"].as_str()));
    assert_eq!((&data["resource"], &data["change"]), (&form.json, &json!("created")));
    // Without events, there are heartbeats, which move the cursor past the changes of others.
    admin.post("/v2/kbitems", json!({"title": "B"})).await.expect(StatusCode::CREATED);
    let mut moved = None;
    while moved.is_none() {
        let block = events.next().await.unwrap();
        assert!(block.contains_key(":"), "{block:?}");
        moved = block
            .get("id")
            .cloned()
            .filter(|id| Some(id) != data["cursor"].as_str().map(str::to_owned).as_ref());
    }
    assert_eq!(app.state.change_feed.waiting(), 1);
    drop(events);
    wait_until(async || match app.state.change_feed.waiting() {
        0 => Ok(()),
        _ => Err("the stream of a disconnected client goes on".to_owned()),
    })
    .await;
    // What happened in between is not missed, and `Last-Event-ID` takes precedence.
    let second = admin.post("/v2/forms", json!({"name": "C"})).await.id();
    let after = now(&app, &admin).await;
    for last in [data["cursor"].as_str(), moved.as_deref()] {
        let mut events = Events::open(&admin, &format!("/v2/changes?types=forms&after={after}"), last).await;
        let (_, _, data) = events.event().await.unwrap();
        assert_eq!(data["id"], second.as_str());
    }
    let response = admin.http.get(format!("{}/v2/changes", admin.base)).header("accept", "text/event-stream");
    let response = response.header("last-event-id", "x").bearer_auth(admin.bearer.as_ref().unwrap());
    assert_eq!(response.send().await.unwrap().status(), 400);
    // The stream is chosen by quality, as all forms are.
    for accept in ["text/event-stream;q=0", "application/json, text/event-stream;q=0.5"] {
        let reply = admin.send(Method::GET, "/v2/changes?wait=0", &[("accept", accept)], None).await;
        assert_eq!(reply.header("content-type"), "application/json", "{accept}");
    }
}

#[actix_web::test]
async fn a_stream_ends_with_its_credential_and_with_the_permission() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    // The session ends.
    let agent = app.user(Scope::Agent).await;
    let mut events = Events::open(&agent, "/v2/changes", None).await;
    agent.post("/v2/auth/logout", json!({})).await.expect(StatusCode::NO_CONTENT);
    events.expect_end("invalid_token").await;
    // The permission ends.
    let agent = app.user(Scope::Agent).await;
    let mut events = Events::open(&agent, "/v2/changes?types=contacts", None).await;
    events.next().await.unwrap();
    admin.patch(&format!("/v2/users/{}", agent.id), json!({"role": "guest"})).await.expect(StatusCode::OK);
    admin.post("/v2/contacts", json!({"profile": {"name": "Ada"}})).await.expect(StatusCode::CREATED);
    events.expect_end("forbidden").await;
    // The token expires.
    let mut events = Events::open(&admin, "/v2/changes", None).await;
    app.clock.advance(25 * 3_600_000);
    events.expect_end("token_expired").await;
}

#[actix_web::test]
async fn streams_are_limited_per_user_and_in_total() {
    let app = TestApp::start_with(|config| {
        config.changes_streams = 3;
        config.changes_streams_per_user = 2;
        // A client that has disconnected is noticed when it is written to.
        config.changes_heartbeat = 1;
    })
    .await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let first = Events::open(&admin, "/v2/changes", None).await;
    let _second = Events::open(&admin, "/v2/changes", None).await;
    let headers = [("accept", "text/event-stream")];
    let open = async |client: &Client| client.send(Method::GET, "/v2/changes", &headers, None).await;
    let refused = open(&admin).await;
    refused.expect_problem(429, "too_many_streams");
    assert_eq!(refused.header("retry-after"), "1");
    let third = Events::open(&agent, "/v2/changes", None).await;
    open(&agent).await.expect_problem(503, "too_many_streams");
    let metrics = app.anonymous().get("/metrics").await.text;
    assert!(metrics.contains("cedargate_changes_waiting 3\n"), "{metrics}");
    // Requests that do not wait are not limited.
    now(&app, &admin).await;
    drop((first, third));
    wait_until(async || match app.state.change_feed.waiting() {
        1 => Ok(()),
        count => Err(format!("{count} wait")),
    })
    .await;
    drop(Events::open(&agent, "/v2/changes", None).await);
}

/// Only admins list knowledge items.
const ADMINS_ONLY: &str = r#"
@id("items") @doc("Only admins list knowledge items.")
forbid (principal, action == Action::"listKnowledgeItems", resource)
unless { principal in Scope::"admin" };
"#;

#[actix_web::test]
async fn a_stream_ends_when_policies_take_the_list_away() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let mut events = Events::open(&agent, "/v2/changes?types=kbitems", None).await;
    events.next().await.unwrap();
    files.write("policies/items.cedar", ADMINS_ONLY);
    admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    events.expect_end("forbidden").await;
}
