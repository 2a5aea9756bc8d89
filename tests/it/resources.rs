//! The nine resources, each with the same five verbs: what is stored, what is merged, what is refused, what is gone.

use crate::support::{Client, PASSWORD, Reply, TestApp};
use cedargate::values::{Clock, Id};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

/// A resource: where it is, and bodies for it.
pub(crate) struct Kind {
    pub(crate) path: &'static str,
    /// What must be there on create, and nothing else.
    pub(crate) least: Value,
    /// Every field that a client may write.
    pub(crate) full: Value,
    /// Some fields with other values.
    pub(crate) patch: Value,
    /// The fields that may be absent, and that `null` clears.
    optional: &'static [&'static str],
}

/// An id of nothing.
pub(crate) const NOBODY: &str = "0123456789abcdef01234567";

/// An address that nobody has.
pub(crate) fn address() -> String {
    format!("u{}@example.com", Id::new(&Clock::system()))
}

/// The id of a new thing.
pub(crate) async fn make(client: &Client, path: &str, body: Value) -> String {
    let reply = client.post(path, body).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{path}: {}", reply.text);
    reply.id()
}

/// The nine resources; what their bodies name belongs to `client`, an admin. A second call makes bodies that collide with nothing
/// of the first.
pub(crate) async fn kinds(client: &Client) -> Vec<Kind> {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    let home = own["organization"].clone();
    let below = make(client, "/v2/organizations", json!({ "name": "named by others" })).await;
    let other = make(client, "/v2/users", json!({ "email": address() })).await;
    let contact = make(client, "/v2/contacts", json!({})).await;
    let conversation = make(client, "/v2/conversations", json!({})).await;
    vec![
        Kind {
            path: "/v2/organizations",
            least: json!({ "name": "Acme" }),
            full: json!({
                "name": "Acme", "displayName": "Acme Inc.", "email": "info@acme.example", "status": "active",
                "url": "https://acme.example", "country": "AT", "logo": "https://acme.example/logo.svg",
                "industry": "everything", "parent": below, "tags": ["old", "large"], "meta": { "a": 1 },
            }),
            patch: json!({ "name": "Acme II", "tags": ["new"], "status": "inactive" }),
            optional: &["displayName", "email", "url", "country", "logo", "industry"],
        },
        Kind {
            path: "/v2/orggroups",
            least: json!({ "name": "Friends" }),
            full: json!({
                "organization": home, "name": "Friends", "description": "Who like each other",
                "organizations": [home, below], "meta": { "a": [] },
            }),
            patch: json!({ "description": "No more", "organizations": [below] }),
            optional: &["description"],
        },
        Kind {
            path: "/v2/users",
            least: json!({ "email": address() }),
            full: json!({
                "organization": home, "email": address(), "password": PASSWORD, "givenName": "Ada",
                "familyName": "Lovelace", "avatar": "https://example.com/ada.png", "role": "agent",
                "status": "blocked", "meta": { "a": null },
            }),
            patch: json!({ "email": address(), "role": "bot", "status": "active" }),
            optional: &["givenName", "familyName", "avatar"],
        },
        Kind {
            path: "/v2/conversations",
            least: json!({}),
            full: json!({
                "organization": home, "name": "Opening hours", "type": "agent", "status": "open",
                "contact": contact, "category": "sales",
                "participants": [
                    { "user": own["id"], "role": "host", "active": true },
                    { "user": other, "role": null, "active": false },
                ],
                "meta": { "a": { "b": true } },
            }),
            patch: json!({ "type": "bot", "participants": [{ "user": other, "role": "guest", "active": true }] }),
            optional: &["name", "status", "contact", "category"],
        },
        Kind {
            path: "/v2/messages",
            least: json!({ "conversation": conversation, "text": "Hello" }),
            full: json!({
                "conversation": conversation, "text": "Hello", "type": "note", "role": "agent", "isBackchannel": true,
                "actions": [{ "label": "Yes" }, { "label": "No" }], "delay": 250, "meta": { "a": "ä" },
            }),
            patch: json!({ "text": "Bye", "isBackchannel": false, "actions": [] }),
            optional: &["role", "delay"],
        },
        Kind {
            path: "/v2/contacts",
            least: json!({}),
            full: json!({
                "organization": home, "conversation": conversation, "meta": { "a": 1.5 },
                "profile": {
                    "name": "Grace Hopper", "givenName": "Grace", "familyName": "Hopper",
                    "email": "grace@navy.example", "telephone": "+1 555 0100", "locale": "en-US",
                },
            }),
            patch: json!({
                "profile": {
                    "name": "G. H.", "givenName": null, "familyName": null, "email": null, "telephone": null,
                    "locale": null,
                },
            }),
            optional: &["conversation"],
        },
        Kind {
            path: "/v2/kbitems",
            least: json!({ "title": "How to" }),
            full: json!({
                "organization": home, "kbase": "manuals", "title": "How to", "content": "First, …",
                "status": "draft", "meta": { "a": {} },
            }),
            patch: json!({ "status": "published", "content": "Second, …" }),
            optional: &["kbase", "content"],
        },
        Kind {
            path: "/v2/forms",
            least: json!({ "name": "Order" }),
            full: json!({
                "organization": home, "name": "Order", "meta": { "a": [1, [2]] },
                "fields": [
                    {
                        "name": "size", "type": "choice", "label": "Size?", "required": true,
                        "options": ["S", "M"],
                    },
                    { "name": "note", "type": null, "label": null, "required": false, "options": [] },
                ],
            }),
            patch: json!({
                "fields": [{ "name": "n", "type": "text", "label": "N", "required": true, "options": [] }],
            }),
            optional: &[],
        },
        Kind {
            path: "/v2/services",
            least: json!({ "name": "Search" }),
            full: json!({
                "organization": home, "name": "Search", "type": "index", "url": "https://search.example",
                "params": { "top": 10, "deep": { "er": 1 } }, "meta": { "a": "" },
            }),
            patch: json!({ "name": "Find", "params": { "deep": {} } }),
            optional: &["type", "url"],
        },
    ]
}

/// The fields of an object.
pub(crate) fn fields(object: &Value) -> &Map<String, Value> {
    object.as_object().unwrap()
}

/// The body of an answer without what differs from request to request, and with `id` as `ID`.
pub(crate) fn apart_from(reply: &Reply, id: &str) -> (StatusCode, Value) {
    let mut body = reply.json.clone();
    body.as_object_mut().unwrap_or_else(|| panic!("{}", reply.text)).remove("requestId");
    (reply.status, serde_json::from_str(&body.to_string().replace(id, "ID")).unwrap())
}

#[tokio::test]
async fn every_resource_is_made_shown_listed_changed_and_deleted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, least, full, patch, .. } in kinds(&admin).await {
        for body in [least, full] {
            let made = admin.post(path, body.clone()).await;
            let location = made.header("location").strip_prefix(&app.base).unwrap().to_owned();
            assert_eq!(location, format!("{path}/{}", made.id()));
            let made = made.expect(StatusCode::CREATED);
            for (field, value) in fields(&body).iter().filter(|(field, _)| *field != "password") {
                assert_eq!(made[field], *value, "{path} {field}");
            }
            assert_eq!(made["createdAt"], "2026-01-31T12:00:00.000Z", "{path}");
            assert_eq!(made["updatedAt"], made["createdAt"], "{path}");
            assert!(made["meta"].is_object(), "{path}");
            assert_eq!(admin.get(&location).await.expect(StatusCode::OK), made, "{path}");
            let listed = admin.get(&format!("{path}?id={}", made["id"].as_str().unwrap())).await;
            assert_eq!(listed.expect(StatusCode::OK), json!([made]), "{path}");

            app.clock.advance(1_500);
            let changed = admin.patch(&location, patch.clone()).await.expect(StatusCode::OK);
            let mut expected = made.clone();
            expected.as_object_mut().unwrap().extend(fields(&patch).clone());
            expected["updatedAt"] = json!("2026-01-31T12:00:01.500Z");
            assert_eq!(changed, expected, "{path}");
            assert_eq!(admin.get(&location).await.expect(StatusCode::OK), expected, "{path}");
            app.clock.advance(-1_500);

            let deleted = admin.delete(&location).await;
            assert_eq!(deleted.text, "", "{path}");
            deleted.expect(StatusCode::NO_CONTENT);
            admin.get(&location).await.expect_problem(404, "not_found");
            admin.patch(&location, patch.clone()).await.expect_problem(404, "not_found");
            admin.delete(&location).await.expect_problem(404, "not_found");
            let listed = admin.get(&format!("{path}?id={}", made["id"].as_str().unwrap())).await;
            assert_eq!(listed.expect(StatusCode::OK), json!([]), "{path}");
        }
    }
}

#[tokio::test]
async fn what_nothing_is_said_of_is_of_the_callers_organization() {
    let app = TestApp::start().await;
    let (organization, admin) = app.tenant("acme").await;
    for Kind { path, least, .. } in kinds(&admin).await {
        let made = admin.post(path, least).await.expect(StatusCode::CREATED);
        let holder = if path == "/v2/organizations" { "parent" } else { "organization" };
        assert_eq!(made[holder], organization, "{path}");
    }
}

#[tokio::test]
async fn a_patch_merges_the_top_level_and_replaces_what_is_nested() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, full, .. } in kinds(&admin).await {
        let made = admin.post(path, full).await.expect(StatusCode::CREATED);
        let thing = format!("{path}/{}", made["id"].as_str().unwrap());
        for meta in
            [json!({ "kept": { "one": 1, "two": [1, 2] }, "also": 2 }), json!({ "kept": { "two": [3] } })]
        {
            let changed = admin.patch(&thing, json!({ "meta": meta })).await.expect(StatusCode::OK);
            let mut expected = made.clone();
            expected["meta"] = meta;
            assert_eq!(changed, expected, "{path}");
        }
    }
    let profile = json!({ "name": "Grace Hopper", "telephone": "1" });
    let contact = make(&admin, "/v2/contacts", json!({ "profile": profile })).await;
    let patch = json!({ "profile": { "telephone": "2" } });
    let changed = admin.patch(&format!("/v2/contacts/{contact}"), patch).await.expect(StatusCode::OK);
    assert_eq!((&changed["profile"]["name"], &changed["profile"]["telephone"]), (&Value::Null, &json!("2")));
}

#[tokio::test]
async fn an_empty_patch_changes_nothing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, full, .. } in kinds(&admin).await {
        let made = admin.post(path, full).await.expect(StatusCode::CREATED);
        let thing = format!("{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(admin.patch(&thing, json!({})).await.expect(StatusCode::OK), made, "{path}");
    }
}

#[tokio::test]
async fn null_clears_what_is_optional_and_nothing_else() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, full, least, optional, .. } in kinds(&admin).await {
        let made = admin.post(path, full).await.expect(StatusCode::CREATED);
        let thing = format!("{path}/{}", made["id"].as_str().unwrap());
        for field in optional {
            assert!(!made[field].is_null(), "{path} {field}");
            admin.patch(&thing, json!({ *field: null })).await.expect(StatusCode::OK);
            assert_eq!(admin.get(&thing).await.json[field], Value::Null, "{path} {field}");
        }
        let before = admin.get(&thing).await.expect(StatusCode::OK);
        for field in fields(&least).keys() {
            let refused = admin.patch(&thing, json!({ field.as_str(): null })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field.as_str()], "{path}");
        }
        assert_eq!(admin.get(&thing).await.json, before, "{path}");
    }
}

#[tokio::test]
async fn what_only_the_service_writes_is_refused_in_a_body() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, least, .. } in kinds(&admin).await {
        let own: &[&str] = match path {
            "/v2/organizations" => &["path", "level"],
            "/v2/users" => &["name"],
            "/v2/messages" => &["user", "organization"],
            _ => &[],
        };
        let made = admin.post(path, least.clone()).await.expect(StatusCode::CREATED);
        let thing = format!("{path}/{}", made["id"].as_str().unwrap());
        for field in ["id", "createdAt", "updatedAt"].iter().chain(own) {
            // Not even the value that it has already.
            let value = made[field].clone();
            assert!(!value.is_null(), "{path} {field}");
            let mut body = least.clone();
            if path == "/v2/users" {
                body["email"] = json!(address());
            }
            body[field] = value.clone();
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [*field], "{path}");
            let refused = admin.patch(&thing, json!({ *field: value })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [*field], "{path}");
        }
        assert_eq!(admin.get(&thing).await.json, made, "{path}");
    }
}

#[tokio::test]
async fn what_is_needed_is_named_where_it_is_missing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for Kind { path, least, .. } in kinds(&admin).await {
        for field in fields(&least).keys() {
            let mut body = least.clone();
            body.as_object_mut().unwrap().remove(field);
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field.as_str()], "{path}");
        }
    }
}

/// A body that names something: the path, the field's name in the answer, and the body with an id in it.
type Naming = (&'static str, &'static str, fn(&str) -> Value);

fn naming() -> Vec<Naming> {
    vec![
        ("/v2/organizations", "parent", |id| json!({ "parent": id })),
        ("/v2/orggroups", "organizations.1", |id| json!({ "organizations": ["HOME", id] })),
        ("/v2/orggroups", "organization", |id| json!({ "organization": id })),
        ("/v2/users", "organization", |id| json!({ "organization": id })),
        ("/v2/conversations", "organization", |id| json!({ "organization": id })),
        ("/v2/conversations", "contact", |id| json!({ "contact": id })),
        ("/v2/conversations", "participants.0.user", |id| json!({ "participants": [{ "user": id }] })),
        ("/v2/contacts", "organization", |id| json!({ "organization": id })),
        ("/v2/contacts", "conversation", |id| json!({ "conversation": id })),
        ("/v2/kbitems", "organization", |id| json!({ "organization": id })),
        ("/v2/forms", "organization", |id| json!({ "organization": id })),
        ("/v2/services", "organization", |id| json!({ "organization": id })),
    ]
}

#[tokio::test]
async fn a_reference_to_nothing_and_one_to_another_tenant_answer_alike() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    let (abroad, stranger) = app.tenant("other").await;
    let contact = make(&stranger, "/v2/contacts", json!({})).await;
    let conversation = make(&stranger, "/v2/conversations", json!({})).await;
    for Kind { path, least, .. } in kinds(&admin).await {
        for (_, field, name) in naming().into_iter().filter(|(at, ..)| *at == path) {
            let there = match field {
                "contact" => &contact,
                "conversation" => &conversation,
                "participants.0.user" => &stranger.id,
                _ => &abroad,
            };
            let mut fresh = least.clone();
            if path == "/v2/users" {
                fresh["email"] = json!(address());
            }
            let thing = format!("{path}/{}", make(&admin, path, fresh.clone()).await);
            let before = admin.get(&thing).await.json;
            let count = admin.get(path).await.header("x-total-count").to_owned();
            let mut answers = Vec::new();
            for id in [NOBODY, there] {
                let named: Value =
                    serde_json::from_str(&name(id).to_string().replace("HOME", &home)).unwrap();
                let mut body = fresh.clone();
                if path == "/v2/users" {
                    body["email"] = json!(address());
                }
                body.as_object_mut().unwrap().extend(fields(&named).clone());
                for refused in [admin.post(path, body).await, admin.patch(&thing, named).await] {
                    assert_eq!(refused.expect_problem(400, "invalid_fields"), [field], "{path} {id}");
                    answers.push(apart_from(&refused, id));
                }
            }
            assert_eq!(answers[..2], answers[2..], "{path} {field}");
            assert_eq!(admin.get(&thing).await.json, before, "{path} {field}");
            assert_eq!(admin.get(path).await.header("x-total-count"), count, "{path} {field}");
        }
    }
    let answers = [NOBODY, &conversation].map(|id| {
        let admin = admin.clone();
        let body = json!({ "conversation": id, "text": "Hello" });
        let id = id.to_owned();
        async move {
            let refused = admin.post("/v2/messages", body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["conversation"]);
            apart_from(&refused, &id)
        }
    });
    let [missing, abroad] = answers;
    assert_eq!(missing.await, abroad.await);
    assert_eq!(stranger.get(&format!("/v2/messages?conversation={conversation}")).await.json, json!([]));
}

#[tokio::test]
async fn the_other_names_of_a_path_lead_to_the_same_things() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (name, alias, body) in [
        ("/v2/orggroups", "/v2/organizationGroups", json!({ "name": "group" })),
        ("/v2/kbitems", "/v2/knowledge-items", json!({ "title": "title" })),
    ] {
        let made = admin.post(alias, body).await;
        let location = made.header("location").strip_prefix(&app.base).unwrap().to_owned();
        let (id, made) = (made.id(), made.expect(StatusCode::CREATED));
        for path in [format!("{name}/{id}"), format!("{alias}/{id}"), location] {
            assert_eq!(admin.get(&path).await.expect(StatusCode::OK), made, "{path}");
        }
        assert_eq!(admin.get(name).await.json, admin.get(alias).await.json);
        let patch = json!({ "meta": { "by": alias } });
        admin.patch(&format!("{alias}/{id}"), patch.clone()).await.expect(StatusCode::OK);
        assert_eq!(admin.get(&format!("{name}/{id}")).await.json["meta"], patch["meta"]);
        admin.delete(&format!("{alias}/{id}")).await.expect(StatusCode::NO_CONTENT);
        admin.get(&format!("{name}/{id}")).await.expect_problem(404, "not_found");
    }
}
