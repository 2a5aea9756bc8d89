//! Ambiguous input is rejected: duplicate keys, compressed bodies, several Authorization headers. In AuthZEN requests, `null`
//! and an absent member have the same meaning.

use crate::authzen::{
    EVALUATION, EVALUATIONS, entity, error_code, evaluate, evaluation_request, is_permitted,
    start_with_records,
};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH};
use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{Read, Write};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn send(client: &Client, method: Method, path: &str, body: &str) -> Reply {
    client.send(method, path, &[JSON], Some(body.as_bytes().to_vec())).await
}

#[tokio::test]
async fn duplicate_keys_are_rejected_at_every_depth() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = format!("/v2/forms/{}", admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    let me = format!(r#"{{"type":"User","id":"{}"}}"#, admin.id);
    let question =
        |more: &str| format!(r#"{{"subject":{me},"action":{{"name":"fetchUser"}},"resource":{me}{more}}}"#);
    let amounts = r#","context":{"amount":99,"amount":1}"#;
    let in_list = r#","context":{"all":[0,{"amount":99,"amount":1}]}"#;
    let escaped = r#","context":{"amount":99,"\u0061mount":1}"#;
    let properties = format!(
        r#"{{"subject":{{"type":"User","id":"{}","properties":{{"x":1,"x":2}}}},"action":{{"name":"fetchUser"}},"resource":{me}}}"#,
        admin.id
    );
    let meta = r#"{"name":"x","meta":{"a":[{"b":1,"b":2}]}}"#;
    let login = format!(r#"{{"email":"{ADMIN}","password":"x","password":"{PASSWORD}"}}"#);
    for (method, path, body, key) in [
        (Method::POST, EVALUATION, question(amounts), "context.amount"),
        (Method::POST, EVALUATION, question(in_list), "context.all.1.amount"),
        (Method::POST, EVALUATION, question(escaped), "context.amount"),
        (Method::POST, EVALUATION, question(r#","later":{"a":1,"a":1}"#), "later.a"),
        (Method::POST, EVALUATION, properties.clone(), "subject.properties.x"),
        (Method::POST, EVALUATIONS, question(amounts), "context.amount"),
        (Method::POST, SUBJECT_SEARCH, question(amounts), "context.amount"),
        (Method::POST, RESOURCE_SEARCH, question(amounts), "context.amount"),
        (Method::POST, ACTION_SEARCH, question(r#","page":{"limit":1,"limit":2}"#), "page.limit"),
        (Method::POST, "/v2/authorize", question(amounts), "context.amount"),
        (Method::POST, "/v2/authorize", properties, "subject.properties.x"),
        (Method::POST, "/v2/forms", meta.to_owned(), "meta.a.0.b"),
        (Method::PATCH, &form, meta.to_owned(), "meta.a.0.b"),
        (Method::PATCH, &form, r#"{"name":"a","name":"b"}"#.to_owned(), "name"),
        (Method::POST, "/v2/users", r#"{"email":"a@b.c","role":"guest","role":"admin"}"#.to_owned(), "role"),
        (Method::POST, "/v2/auth/token", login, "password"),
    ] {
        // The second request could use the question cache.
        for _ in 0..2 {
            let refused = send(&admin, method.clone(), path, &body).await;
            assert_eq!(refused.expect_problem(400, "duplicate_key"), [key], "{path} {body}");
        }
    }
    let filter = admin.get("/v2/forms?meta=%7B%22a%22:1,%22a%22:2%7D").await;
    assert_eq!(filter.expect_problem(400, "invalid_fields"), ["meta"]);
    // The same key in different objects, and the same question without the duplicate.
    let once = question(r#","context":{"amount":99,"more":{"amount":1}}"#);
    assert_eq!(
        send(&admin, Method::POST, EVALUATION, &once).await.expect_decisions(StatusCode::OK),
        json!({ "decision": true })
    );
}

#[tokio::test]
async fn null_for_an_optional_member_is_the_same_as_absent() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let alice = json!({ "type": "user", "id": "alice", "properties": null });
    let record = json!({ "type": "record", "id": "record-1", "properties": null });
    let action = json!({ "name": "read", "properties": null });
    let question = json!({ "subject": alice, "action": action, "resource": record, "context": null });
    for _ in 0..2 {
        assert!(is_permitted(&admin, question.clone()).await);
    }
    for (options, evaluations) in [
        (json!(null), json!(null)),
        (json!({ "evaluations_semantic": null }), json!(null)),
        (json!({}), json!([])),
    ] {
        let mut single = question.clone();
        (single["options"], single["evaluations"]) = (options, evaluations);
        let answer = admin.post(EVALUATIONS, single).await.expect_decisions(StatusCode::OK);
        assert_eq!(answer, json!({ "decision": true }));
    }
    // A null in an item selects the default, and a null default means none.
    let batch = json!({
        "subject": alice, "action": action, "resource": null, "context": null, "options": null,
        "evaluations": [
            { "subject": null, "action": null, "resource": record, "context": null },
            { "subject": null, "resource": null },
        ]
    });
    let answers =
        admin.post(EVALUATIONS, batch).await.expect_decisions(StatusCode::OK)["evaluations"].clone();
    assert_eq!(answers[0], json!({ "decision": true }));
    assert_eq!(error_code(&answers[1]), "invalid");
    for (path, search) in [
        (SUBJECT_SEARCH, json!({ "subject": { "type": "user" }, "action": action, "resource": record })),
        (RESOURCE_SEARCH, json!({ "subject": alice, "action": action, "resource": { "type": "record" } })),
        (ACTION_SEARCH, json!({ "subject": alice, "action": null, "resource": record })),
    ] {
        let absent = admin.post(path, search.clone()).await.expect(StatusCode::OK);
        assert!(absent["page"]["count"].as_u64().unwrap() > 0, "{absent}");
        for (context, page) in
            [(json!(null), json!(null)), (json!({}), json!({ "token": null, "limit": null }))]
        {
            let mut search = search.clone();
            (search["context"], search["page"]) = (context, page);
            let answer = admin.post(path, search).await.expect(StatusCode::OK);
            assert_eq!((&answer["results"], &answer["page"]), (&absent["results"], &absent["page"]));
        }
    }
    // Required members must not be null.
    for part in ["subject", "action", "resource"] {
        let mut question = question.clone();
        question[part] = json!(null);
        assert_eq!(admin.post(EVALUATION, question).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn an_invalid_attribute_value_names_the_attribute() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let alice = entity("user", "alice");
    let with = |kind: &str, properties: Value| json!({ "type": kind, "id": "new", "properties": properties });
    let mut questions = Vec::new();
    for value in [json!(null), json!(7), json!(1.5), json!(["active"]), json!({ "status": "active" })] {
        let record = with("record", json!({ "status": value, "other": null }));
        questions.push((evaluation_request(alice.clone(), "write", record), "resource.properties.status"));
        let subject = with("user", json!({ "role": value }));
        questions.push((
            evaluation_request(subject, "read", entity("record", "record-1")),
            "subject.properties.role",
        ));
        let mut soft = evaluation_request(alice.clone(), "delete", entity("record", "record-1"));
        soft["action"]["properties"] = json!({ "soft": value });
        questions.push((soft.clone(), "context.soft"));
        soft["action"]["properties"] = json!({});
        soft["context"] = json!({ "soft": value });
        questions.push((soft, "context.soft"));
    }
    for (question, attribute) in questions {
        for _ in 0..2 {
            let answer = evaluate(&admin, question.clone()).await;
            assert_eq!(error_code(&answer), "invalid_attribute", "{question}");
            assert_eq!(answer["context"]["error"]["attribute"], attribute, "{question}");
        }
    }
}

#[tokio::test]
async fn an_invalid_extension_value_names_the_attribute() {
    let schema = r#"namespace Shop {
        entity Visitor;
        entity Door = { opened?: datetime, address?: ipaddr };
        action enter appliesTo { principal: Visitor, resource: Door, context: { until?: datetime, fee?: decimal } };
    }"#;
    let policy = "@id(\"shop\") permit (principal is Shop::Visitor, action, resource);";
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("shop.cedarschema"), schema).unwrap();
    std::fs::write(directory.path().join("shop.cedar"), policy).unwrap();
    let app = TestApp::start_with(|config| {
        config.schema.push(directory.path().to_owned());
        config.policies.push(directory.path().to_owned());
    })
    .await;
    let admin = app.admin().await;
    let question = |properties: Value, context: Value| {
        let door = json!({ "type": "Shop::Door", "id": "front", "properties": properties });
        json!({ "subject": entity("Shop::Visitor", "ada"), "action": { "name": "enter" }, "resource": door,
            "context": context })
    };
    for (properties, context, attribute) in [
        (json!({ "opened": "yesterday" }), json!({}), "resource.properties.opened"),
        (json!({ "opened": "2026-02-30T00:00:00Z" }), json!({}), "resource.properties.opened"),
        (json!({ "opened": 1_700_000_000 }), json!({}), "resource.properties.opened"),
        (json!({ "opened": null }), json!({}), "resource.properties.opened"),
        (json!({ "address": "300.0.0.1" }), json!({}), "resource.properties.address"),
        (json!({}), json!({ "until": "2026-13-01" }), "context.until"),
        (json!({}), json!({ "fee": 1.5 }), "context.fee"),
        (json!({}), json!({ "fee": "1.23456" }), "context.fee"),
    ] {
        let answer = evaluate(&admin, question(properties, context)).await;
        assert_eq!(error_code(&answer), "invalid_attribute", "{attribute}");
        assert_eq!(answer["context"]["error"]["attribute"], attribute);
    }
    let good = json!({ "until": "2026-12-01", "fee": "1.5" });
    assert!(is_permitted(&admin, question(json!({ "opened": "2026-01-31T12:00:00Z" }), good)).await);
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let me = entity("User", &admin.id);
    let question = evaluation_request(me.clone(), "fetchUser", me).to_string();
    let form = json!({ "name": "form" }).to_string();
    for (path, body) in [
        (EVALUATION, &question),
        (EVALUATIONS, &question),
        (RESOURCE_SEARCH, &question),
        ("/v2/authorize", &question),
        ("/v2/forms", &form),
    ] {
        for encoding in
            ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, identity", "identity, identity", ""]
        {
            let headers = [JSON, ("content-encoding", encoding)];
            let reply = admin.send(Method::POST, path, &headers, Some(body.clone().into_bytes())).await;
            reply.expect_problem(415, "unsupported_content_encoding");
            assert_eq!(reply.header("accept-encoding"), "identity");
        }
        for encoding in ["identity", "Identity"] {
            let headers = [JSON, ("content-encoding", encoding)];
            let reply = admin.send(Method::POST, path, &headers, Some(body.clone().into_bytes())).await;
            assert!(reply.status.is_success(), "{path}: {}", reply.text);
        }
    }
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("content-encoding", "gzip")];
    let reply = admin.send(Method::POST, "/v2/auth/introspect", &headers, Some(b"token=x".to_vec())).await;
    assert_eq!(reply.header("accept-encoding"), "identity");
    assert_eq!(reply.expect(StatusCode::UNSUPPORTED_MEDIA_TYPE)["error"], "invalid_request");
}

/// Sends a request with these lines. Returns the status line and the body of the response.
fn send_raw_request(app: &TestApp, lines: &[&str]) -> (String, Value) {
    let mut stream = std::net::TcpStream::connect(app.base.strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "{}\r\nHost: localhost\r\nConnection: close\r\n\r\n", lines.join("\r\n")).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_authorization_headers_are_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let header = |client: &Client| format!("Authorization: Bearer {}", client.bearer.as_deref().unwrap());
    let (one, other) = (header(&admin), header(&guest));
    assert!(send_raw_request(&app, &["GET /v2/users/me HTTP/1.1", &one]).0.contains(" 200 "));
    for second in [&other, &one, "Authorization: Basic YTpi", "authorization: "] {
        for line in ["GET /v2/users/me HTTP/1.1", "GET /v2/auth/token?refreshToken=x HTTP/1.1"] {
            for headers in [[line, one.as_str(), second], [line, second, one.as_str()]] {
                let (status, problem) = send_raw_request(&app, &headers);
                assert!(status.contains(" 400 "), "{headers:?}: {status}");
                assert_eq!(problem["code"], "duplicate_authorization", "{headers:?}");
            }
        }
        // The same as a denial through forward authentication.
        let original = ["X-Original-Method: GET", "X-Original-URI: /v2/users/me"];
        let headers = ["GET /v2/authorize/forward HTTP/1.1", original[0], original[1], &one, second];
        assert!(send_raw_request(&app, &headers).0.contains(" 403 "), "{second}");
    }
}
