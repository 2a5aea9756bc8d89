//! Invalid requests: each is rejected with a problem that names the field, and changes nothing.

use crate::resources::{UNKNOWN_ID, create_resource, resource_specs};
use crate::support::{Client, PASSWORD, Reply, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{Read, Write};

const JSON: (&str, &str) = ("content-type", "application/json");
const MEBIBYTE: usize = 1024 * 1024;

/// The number of resources of each type.
async fn counts(client: &Client) -> Vec<(&'static str, String)> {
    let mut counts = Vec::new();
    for path in [
        "/v2/organizations",
        "/v2/orggroups",
        "/v2/users",
        "/v2/conversations",
        "/v2/messages",
        "/v2/contacts",
        "/v2/kbitems",
        "/v2/forms",
        "/v2/services",
    ] {
        let list = client.get(path).await;
        assert_eq!(list.status, StatusCode::OK, "{}", list.text);
        counts.push((path, list.header("x-total-count").to_owned()));
    }
    counts
}

/// Creates a resource of each type. Returns `(path of the collection, path of the resource, minimal body)`.
pub(crate) async fn create_resources(admin: &Client) -> Vec<(&'static str, String, Value)> {
    let mut resources = Vec::new();
    for kind in resource_specs(admin).await {
        let id = create_resource(admin, kind.path, kind.minimal.clone()).await;
        resources.push((kind.path, format!("{}/{id}", kind.path), kind.minimal));
    }
    resources
}

async fn send(client: &Client, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Reply {
    client.send(method, path, &[JSON], Some(body.into())).await
}

/// Invalid values: the collection, the field as a JSON pointer, its value, the field name in the response. `own` is a user id.
fn invalid_values(own: &str) -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let texts = |length: usize| json!("x".repeat(length));
    let list = |item: Value, length: usize| Value::Array(vec![item; length]);
    vec![
        ("/v2/organizations", "name", json!(7), "name"),
        ("/v2/organizations", "name", json!(""), "name"),
        ("/v2/organizations", "name", texts(201), "name"),
        ("/v2/organizations", "name", json!("a\0b"), "name"),
        ("/v2/organizations", "displayName", texts(201), "displayName"),
        ("/v2/organizations", "email", json!("nobody"), "email"),
        ("/v2/organizations", "status", json!("Active"), "status"),
        ("/v2/organizations", "url", texts(2001), "url"),
        ("/v2/organizations", "country", texts(61), "country"),
        ("/v2/organizations", "industry", json!(["x"]), "industry"),
        ("/v2/organizations", "parent", json!("root"), "parent"),
        ("/v2/organizations", "parent", json!(5), "parent"),
        ("/v2/organizations", "tags", json!("x"), "tags"),
        ("/v2/organizations", "tags", json!(["a", 5]), "tags.1"),
        ("/v2/organizations", "tags", json!(["a", "b\0"]), "tags.1"),
        ("/v2/organizations", "tags", list(json!("x"), 51), "tags"),
        ("/v2/orggroups", "description", texts(100_001), "description"),
        ("/v2/orggroups", "organizations", json!({}), "organizations"),
        ("/v2/orggroups", "organizations", json!(["none"]), "organizations.0"),
        ("/v2/orggroups", "organizations", list(json!(UNKNOWN_ID), 1001), "organizations"),
        ("/v2/orggroups", "organization", json!("none"), "organization"),
        ("/v2/users", "email", json!("ada"), "email"),
        ("/v2/users", "email", json!("ada@@example.com"), "email"),
        ("/v2/users", "email", json!("a da@example.com"), "email"),
        ("/v2/users", "email", json!("ada\0@example.com"), "email"),
        ("/v2/users", "email", json!(format!("{}@example.com", "x".repeat(300))), "email"),
        ("/v2/users", "email", json!(true), "email"),
        ("/v2/users", "givenName", texts(201), "givenName"),
        ("/v2/users", "familyName", json!({}), "familyName"),
        ("/v2/users", "avatar", json!(""), "avatar"),
        ("/v2/users", "role", json!("root"), "role"),
        ("/v2/users", "role", json!(["admin"]), "role"),
        ("/v2/users", "status", json!("asleep"), "status"),
        ("/v2/users", "password", json!(12_345_678), "password"),
        ("/v2/users", "password", json!("short"), "password"),
        ("/v2/conversations", "type", json!("party"), "type"),
        ("/v2/conversations", "status", texts(61), "status"),
        ("/v2/conversations", "category", json!("a\0"), "category"),
        ("/v2/conversations", "contact", json!("none"), "contact"),
        ("/v2/conversations", "participants", json!(UNKNOWN_ID), "participants"),
        ("/v2/conversations", "participants", json!([{}]), "participants.0.user"),
        ("/v2/conversations", "participants", json!([{ "user": "me" }]), "participants.0.user"),
        (
            "/v2/conversations",
            "participants",
            json!([{ "user": UNKNOWN_ID, "active": "yes" }]),
            "participants.0.active",
        ),
        (
            "/v2/conversations",
            "participants",
            json!([{ "user": UNKNOWN_ID, "name": "x" }]),
            "participants.0.name",
        ),
        ("/v2/conversations", "participants", list(json!({ "user": UNKNOWN_ID }), 1001), "participants"),
        // An array with the field values is not an object.
        ("/v2/conversations", "participants", json!([[own]]), "participants.0"),
        ("/v2/contacts", "profile", json!(["Grace", null, null, null, null, null]), "profile"),
        ("/v2/forms", "fields", json!([["size", null, null, false, []]]), "fields.0"),
        ("/v2/messages", "text", texts(100_001), "text"),
        ("/v2/messages", "text", json!("a\0b"), "text"),
        ("/v2/messages", "text", json!(["x"]), "text"),
        ("/v2/messages", "type", json!(""), "type"),
        ("/v2/messages", "isBackchannel", json!("no"), "isBackchannel"),
        ("/v2/messages", "isBackchannel", json!(0), "isBackchannel"),
        ("/v2/messages", "actions", json!([{}, "x"]), "actions.1"),
        ("/v2/messages", "actions", list(json!({}), 101), "actions"),
        ("/v2/messages", "delay", json!(1.5), "delay"),
        ("/v2/messages", "delay", json!(1e30), "delay"),
        ("/v2/messages", "delay", json!("1"), "delay"),
        ("/v2/contacts", "profile", json!("Grace"), "profile"),
        ("/v2/contacts", "profile", json!({ "age": 85 }), "profile.age"),
        ("/v2/contacts", "profile", json!({ "name": "x".repeat(201) }), "profile.name"),
        ("/v2/contacts", "profile", json!({ "email": "grace" }), "profile.email"),
        ("/v2/contacts", "profile", json!({ "locale": "a\0" }), "profile.locale"),
        ("/v2/contacts", "conversation", json!("none"), "conversation"),
        ("/v2/kbitems", "title", texts(201), "title"),
        ("/v2/kbitems", "content", texts(100_001), "content"),
        ("/v2/kbitems", "status", json!("lost"), "status"),
        ("/v2/kbitems", "kbase", json!(""), "kbase"),
        ("/v2/forms", "fields", json!([{}]), "fields.0.name"),
        ("/v2/forms", "fields", json!([{ "name": "a" }, { "name": 5 }]), "fields.1.name"),
        ("/v2/forms", "fields", json!([{ "name": "a", "options": ["a", 1] }]), "fields.0.options.1"),
        (
            "/v2/forms",
            "fields",
            json!([{ "name": "a", "options": list(json!("x"), 501) }]),
            "fields.0.options",
        ),
        ("/v2/forms", "fields", json!([{ "name": "a", "label": "x".repeat(501) }]), "fields.0.label"),
        ("/v2/forms", "fields", json!([{ "name": "a", "colour": 1 }]), "fields.0.colour"),
        ("/v2/forms", "fields", list(json!({ "name": "a" }), 201), "fields"),
        ("/v2/services", "params", json!([]), "params"),
        ("/v2/services", "type", texts(61), "type"),
        ("/v2/services", "url", json!("a\0"), "url"),
        ("/v2/services", "organization", json!({ "id": UNKNOWN_ID }), "organization"),
    ]
}

#[tokio::test]
async fn an_invalid_value_is_named_on_create_and_on_update() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let resources = create_resources(&admin).await;
    let before = counts(&admin).await;
    for (path, field, value, named) in invalid_values(&admin.id) {
        let (_, resource_path, minimal) = resources.iter().find(|(kind, ..)| *kind == path).unwrap();
        let stored = admin.get(resource_path).await.expect(StatusCode::OK);
        let mut body = minimal.clone();
        if path == "/v2/users" {
            body["email"] = json!(crate::resources::unique_email());
        }
        body[field] = value.clone();
        let refused = admin.post(path, body).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), [named], "POST {path} {field}");
        assert!(refused.text.len() < 2_000, "the response must truncate invalid values: {}", refused.text);
        let refused = admin.patch(resource_path, json!({ "meta": { "a": 1 }, field: value })).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), [named], "PATCH {path} {field}");
        assert_eq!(admin.get(resource_path).await.expect(StatusCode::OK), stored, "{path} {field}");
    }
    assert_eq!(counts(&admin).await, before);
}

#[tokio::test]
async fn an_unknown_field_is_named_on_create_and_on_update() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let resources = create_resources(&admin).await;
    let before = counts(&admin).await;
    for (path, resource_path, minimal) in &resources {
        let stored = admin.get(resource_path).await.expect(StatusCode::OK);
        for field in ["colour", "Name", "created_at", "__proto__", "", "a.b", "ä"] {
            let mut body = minimal.clone();
            body[field] = json!(1);
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field], "POST {path}");
            let refused = admin.patch(resource_path, json!({ field: null })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field], "PATCH {path}");
        }
        assert_eq!(admin.get(resource_path).await.expect(StatusCode::OK), stored);
    }
    assert_eq!(counts(&admin).await, before);
}

#[tokio::test]
async fn all_invalid_fields_are_named_together() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let body = json!({ "title": "", "status": "lost", "kbase": 5, "colour": 1, "content": "fine" });
    let mut named = admin.post("/v2/kbitems", body).await.expect_problem(400, "invalid_fields");
    named.sort();
    assert_eq!(named, ["colour", "kbase", "status", "title"]);
}

#[tokio::test]
async fn field_errors_have_the_code_of_what_is_wrong() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let deep = (0..40).fold(json!({}), |inner, _| json!({ "a": inner }));
    let participants = vec![json!({ "user": admin.id }); 1001];
    let cases = [
        ("/v2/forms", json!({}), "name", "required"),
        ("/v2/forms", json!({ "name": "a", "colour": 1 }), "colour", "unknown_field"),
        (
            "/v2/forms",
            json!({ "name": "a", "fields": [{ "name": "b", "size": 1 }] }),
            "fields.0.size",
            "unknown_field",
        ),
        ("/v2/forms", json!({ "name": 1 }), "name", "invalid_type"),
        ("/v2/forms", json!({ "name": "" }), "name", "too_short"),
        ("/v2/forms", json!({ "name": "a".repeat(201) }), "name", "too_long"),
        ("/v2/forms", json!({ "name": "a", "organization": "b" }), "organization", "invalid_format"),
        ("/v2/forms", json!({ "name": "a", "organization": UNKNOWN_ID }), "organization", "not_found"),
        ("/v2/forms", json!({ "name": "a", "meta": deep }), "meta", "too_deep"),
        ("/v2/forms", json!({ "name": "a", "meta": { "b": "c".repeat(70_000) } }), "meta", "too_large"),
        ("/v2/kbitems", json!({ "title": "a", "status": "lost" }), "status", "unknown_value"),
        ("/v2/conversations", json!({ "participants": participants }), "participants", "too_many_items"),
        (
            "/v2/messages",
            json!({ "conversation": UNKNOWN_ID, "text": "a", "delay": -1 }),
            "delay",
            "out_of_range",
        ),
        ("/v2/users", json!({ "email": "nobody" }), "email", "invalid_format"),
        ("/v2/auth/token", json!({ "email": "a@example.com" }), "password", "dependent_required"),
    ];
    for (path, body, field, code) in cases {
        let refused = admin.post(path, body).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [(field.to_owned(), code.to_owned())], "{}", refused.text);
    }
    for (query, field, code) in [
        ("limit=0", "limit", "out_of_range"),
        ("limit=ten", "limit", "invalid_format"),
        ("limit=1&limit=2", "limit", "duplicate"),
        ("colour=1", "colour", "unknown_field"),
        ("sort=colour", "sort", "unknown_value"),
        ("sort=name,-name", "sort", "duplicate"),
        ("createdAt=yesterday", "createdAt", "invalid_format"),
        ("meta=%7B", "meta", "invalid_format"),
    ] {
        let refused = admin.get(&format!("/v2/forms?{query}")).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [(field.to_owned(), code.to_owned())], "{}", refused.text);
    }
    let taken = admin.post("/v2/users", json!({ "email": "admin@example.com" })).await;
    taken.expect_problem(409, "conflict");
    assert_eq!(taken.field_errors(), [("email".to_owned(), "already_in_use".to_owned())]);
}

#[tokio::test]
async fn an_array_in_place_of_an_object_in_a_question_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let question = json!({
        "subject": { "type": "User", "id": admin.id },
        "action": { "name": "fetchUser" },
        "resource": { "type": "User", "id": admin.id },
    });
    assert_eq!(admin.post("/v2/authorize", question.clone()).await.expect(StatusCode::OK)["decision"], true);
    for (part, list) in [
        ("subject", json!([null, "User", admin.id, null])),
        ("action", json!(["fetchUser", null])),
        ("resource", json!(["User", admin.id, null])),
    ] {
        let mut question = question.clone();
        question[part] = list;
        let refused = admin.post("/v2/authorize", question).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), [part]);
    }
}

#[tokio::test]
async fn free_form_objects_are_limited_in_size_and_depth() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let deep = (0..40).fold(json!({}), |inner, _| json!({ "a": inner }));
    let resources = create_resources(&admin).await;
    let before = counts(&admin).await;
    for (path, resource_path, minimal) in &resources {
        for meta in [json!("x"), json!([1]), json!(true), json!({ "a": "x".repeat(70_000) }), deep.clone()] {
            let mut body = minimal.clone();
            body["meta"] = meta.clone();
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["meta"], "POST {path}");
            let refused = admin.patch(resource_path, json!({ "meta": meta })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["meta"], "PATCH {path}");
        }
        // Inside `meta`, any JSON is accepted and returned unchanged.
        let meta = json!({ "\0": "a\0b", "𝄞": [1e300, -0.5, 18_446_744_073_709_551_615_u64, null], "": {} });
        admin.patch(resource_path, json!({ "meta": meta })).await.expect(StatusCode::OK);
        assert_eq!(admin.get(resource_path).await.json["meta"], meta, "{path}");
    }
    assert_eq!(counts(&admin).await, before);
}

#[tokio::test]
async fn malformed_json_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let resources = create_resources(&admin).await;
    let before = counts(&admin).await;
    let nested = "[".repeat(10_000);
    let bodies: [&[u8]; 12] = [
        b"",
        b"{",
        b"}",
        b"{\"name\": }",
        b"{\"name\": \"a\",}",
        b"{'name': 'a'}",
        b"{\"name\": \"a\"} {}",
        b"{\"name\": \"\xff\xfe\"}",
        b"{\"name\": \"\\ud800\"}",
        b"{\"name\": NaN}",
        b"\0",
        nested.as_bytes(),
    ];
    for body in bodies {
        for (path, resource_path, _) in &resources {
            send(&admin, Method::POST, path, body).await.expect_problem(400, "malformed_json");
            send(&admin, Method::PATCH, resource_path, body).await.expect_problem(400, "malformed_json");
        }
        send(&admin, Method::POST, "/v2/auth/token", body).await.expect_problem(400, "malformed_json");
    }
    for body in ["null", "1", "\"text\"", "[]", "[{}]", "true"] {
        for (path, resource_path, _) in &resources {
            // An array creates several resources.
            if body != "[{}]" {
                let code = if body == "[]" { "invalid_fields" } else { "bad_request" };
                send(&admin, Method::POST, path, body).await.expect_problem(400, code);
            }
            send(&admin, Method::PATCH, resource_path, body).await.expect_problem(400, "bad_request");
        }
        send(&admin, Method::POST, "/v2/auth/token", body).await.expect_problem(400, "bad_request");
    }
    assert_eq!(counts(&admin).await, before);
}

#[tokio::test]
async fn a_body_requires_a_json_content_type() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let before = counts(&admin).await;
    let body = json!({ "name": "a" }).to_string();
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "a" })).await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "json"] {
        for (method, path) in [
            (Method::POST, "/v2/forms".to_owned()),
            (Method::PATCH, format!("/v2/forms/{form}")),
            (Method::POST, "/v2/auth/token".to_owned()),
        ] {
            // OAuth libraries send forms.
            if kind.contains("form") && path.ends_with("/token") {
                continue;
            }
            let refused =
                admin.send(method, &path, &[("content-type", kind)], Some(body.clone().into())).await;
            refused.expect_problem(415, "unsupported_media_type");
        }
    }
    admin
        .send(Method::POST, "/v2/forms", &[], Some(body.clone().into()))
        .await
        .expect_problem(415, "unsupported_media_type");
    admin.delete(&format!("/v2/forms/{form}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(counts(&admin).await, before);
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let created =
            admin.send(Method::POST, "/v2/forms", &[("content-type", kind)], Some(body.clone().into())).await;
        created.expect(StatusCode::CREATED);
    }
}

/// A JSON body of exactly this length, padded with blanks.
fn padded(body: &Value, length: usize) -> Vec<u8> {
    let mut bytes = body.to_string().into_bytes();
    bytes.resize(length, b' ');
    bytes
}

#[tokio::test]
async fn a_body_is_limited_to_one_mebibyte() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "a" })).await;
    for (method, path, status) in [
        (Method::POST, "/v2/forms".to_owned(), StatusCode::CREATED),
        (Method::PATCH, format!("/v2/forms/{form}"), StatusCode::OK),
    ] {
        let body = json!({ "name": "a" });
        send(&admin, method.clone(), &path, padded(&body, MEBIBYTE)).await.expect(status);
        let before = counts(&admin).await;
        send(&admin, method, &path, padded(&body, MEBIBYTE + 1)).await.expect_problem(413, "too_large");
        assert_eq!(counts(&admin).await, before);
    }
}

#[tokio::test]
async fn a_token_request_body_is_limited_to_16_kib() {
    let app = TestApp::start().await;
    let anonymous = app.anonymous();
    let body = json!({ "email": crate::support::ADMIN, "password": PASSWORD });
    let token = "/v2/auth/token";
    send(&anonymous, Method::POST, token, padded(&body, 16 * 1024)).await.expect(StatusCode::OK);
    send(&anonymous, Method::POST, token, padded(&body, 16 * 1024 + 1))
        .await
        .expect_problem(413, "too_large");
}

#[tokio::test]
async fn a_chunked_body_has_the_same_limit() {
    let app = TestApp::start().await;
    let address = app.base.strip_prefix("http://").unwrap().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /v2/auth/token HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // One byte more than the limit, and no end of the body: the response must not wait for it.
        stream
            .write_all(format!("{:x}\r\n{}\r\n", 16 * 1024 + 1, " ".repeat(16 * 1024 + 1)).as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut some = [0; 1024];
            let read = stream.read(&mut some).unwrap();
            assert!(read > 0, "the connection ended without an answer");
            answer.extend_from_slice(&some[..read]);
        }
        String::from_utf8(answer).unwrap()
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn an_unsupported_method_is_answered_with_the_allowed_ones() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let allowed = |reply: &Reply| {
        let mut methods: Vec<String> = reply.header("allow").split(", ").map(str::to_owned).collect();
        methods.sort();
        methods.join(" ")
    };
    for (path, resource_path, minimal) in create_resources(&admin).await {
        let refused = admin.call(Method::PUT, path, Some(minimal.clone())).await;
        refused.expect_problem(405, "method_not_allowed");
        assert_eq!(allowed(&refused), "DELETE GET HEAD PATCH POST", "{path}");
        let (unsupported, expected) = match path {
            "/v2/messages" => (vec![Method::POST], "DELETE GET HEAD PATCH PUT"),
            _ => (vec![Method::PUT, Method::POST], "DELETE GET HEAD PATCH"),
        };
        for method in unsupported {
            let refused = admin.call(method, &resource_path, Some(minimal.clone())).await;
            refused.expect_problem(405, "method_not_allowed");
            assert_eq!(allowed(&refused), expected, "{resource_path}");
        }
    }
    let refused = admin.delete("/v2/auth/token").await;
    refused.expect_problem(405, "method_not_allowed");
    assert_eq!(allowed(&refused), "GET POST");
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = &admin.id;
    for path in [
        "/nothing",
        "/v2",
        "/v2/",
        "/v1/users",
        "/v2/user",
        "/v2/Users",
        "/v2/users/",
        &format!("/v2/users/{id}/"),
        &format!("/v2/users/{id}/friends"),
        &format!("/v2/users//{id}"),
        "/openapi.json/x",
    ] {
        for client in [&admin, &app.anonymous()] {
            client.get(path).await.expect_problem(404, "route_not_found");
        }
    }
}
