//! The nine resources with the same five operations: what is stored, merged, rejected and deleted.

use crate::support::{Client, PASSWORD, Reply, TestApp};
use cedargate::types::{Clock, Id};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

/// A resource type: its path, and bodies for its requests.
pub(crate) struct ResourceSpec {
    pub(crate) path: &'static str,
    /// The required fields only.
    pub(crate) minimal: Value,
    /// All writable fields.
    pub(crate) full: Value,
    /// Some fields with other values.
    pub(crate) patch: Value,
    /// The optional fields, which `null` clears.
    optional: &'static [&'static str],
}

/// A well-formed id that no resource has.
pub(crate) const UNKNOWN_ID: &str = "0123456789abcdef01234567";

/// An email address that no user has.
pub(crate) fn unique_email() -> String {
    format!("u{}@example.com", Id::new(&Clock::system()))
}

/// Creates a resource, and returns its id.
pub(crate) async fn create_resource(client: &Client, path: &str, body: Value) -> String {
    let reply = client.post(path, body).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{path}: {}", reply.text);
    reply.id()
}

/// All resource types of the route table. Their bodies refer to resources of `client`, an admin. Bodies of a second call do not conflict with
/// those of the first.
pub(crate) async fn resource_specs(client: &Client) -> Vec<ResourceSpec> {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    let home = own["organization"].clone();
    let below = create_resource(client, "/v2/organizations", json!({ "name": "named by others" })).await;
    let other = create_resource(client, "/v2/users", json!({ "email": unique_email() })).await;
    let contact = create_resource(client, "/v2/contacts", json!({})).await;
    let conversation = create_resource(client, "/v2/conversations", json!({})).await;
    let specs = vec![
        ResourceSpec {
            path: "/v2/organizations",
            minimal: json!({ "name": "Acme" }),
            full: json!({
                "name": "Acme", "displayName": "Acme Inc.", "email": "info@acme.example", "status": "active",
                "url": "https://acme.example", "country": "AT", "logo": "https://acme.example/logo.svg",
                "industry": "everything", "parent": below, "tags": ["old", "large"], "meta": { "a": 1 },
            }),
            patch: json!({ "name": "Acme II", "tags": ["new"], "status": "inactive" }),
            optional: &["displayName", "email", "url", "country", "logo", "industry"],
        },
        ResourceSpec {
            path: "/v2/orggroups",
            minimal: json!({ "name": "Friends" }),
            full: json!({
                "organization": home, "name": "Friends", "description": "Who like each other",
                "organizations": [home, below], "meta": { "a": [] },
            }),
            patch: json!({ "description": "No more", "organizations": [below] }),
            optional: &["description"],
        },
        ResourceSpec {
            path: "/v2/users",
            minimal: json!({ "email": unique_email() }),
            full: json!({
                "organization": home, "email": unique_email(), "password": PASSWORD, "givenName": "Ada",
                "familyName": "Lovelace", "avatar": "https://example.com/ada.png", "role": "agent",
                "status": "blocked", "meta": { "a": null },
            }),
            patch: json!({ "email": unique_email(), "role": "bot", "status": "active" }),
            optional: &["givenName", "familyName", "avatar"],
        },
        ResourceSpec {
            path: "/v2/conversations",
            minimal: json!({}),
            full: json!({
                "organization": home, "name": "Opening hours", "type": "agent", "status": "open",
                "contact": contact, "category": "sales",
                "participants": [
                    { "user": own["id"], "role": "host", "active": true, "accepted": true, "inbox": false },
                    { "user": other, "role": null, "active": false, "accepted": false, "inbox": true },
                ],
                "meta": { "a": { "b": true } },
            }),
            patch: json!({
                "type": "bot",
                "participants": [
                    { "user": other, "role": "guest", "active": true, "accepted": false, "inbox": false },
                ],
            }),
            optional: &["name", "status", "contact", "category"],
        },
        ResourceSpec {
            path: "/v2/messages",
            minimal: json!({ "conversation": conversation, "text": "Hello" }),
            full: json!({
                "conversation": conversation, "text": "Hello", "type": "note", "role": "agent", "isBackchannel": true,
                "actions": [{ "label": "Yes" }, { "label": "No" }], "delay": 250, "meta": { "a": "ä" },
            }),
            patch: json!({ "text": "Bye", "isBackchannel": false, "actions": [] }),
            optional: &["role", "delay"],
        },
        ResourceSpec {
            path: "/v2/contacts",
            minimal: json!({}),
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
        ResourceSpec {
            path: "/v2/kbitems",
            minimal: json!({ "title": "How to" }),
            full: json!({
                "organization": home, "kbase": "manuals", "title": "How to", "content": "First, …",
                "status": "draft", "meta": { "a": {} },
            }),
            patch: json!({ "status": "published", "content": "Second, …" }),
            optional: &["kbase", "content"],
        },
        ResourceSpec {
            path: "/v2/forms",
            minimal: json!({ "name": "Order" }),
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
        ResourceSpec {
            path: "/v2/services",
            minimal: json!({ "name": "Search" }),
            full: json!({
                "organization": home, "name": "Search", "type": "index", "url": "https://search.example",
                "params": { "top": 10, "deep": { "er": 1 } }, "meta": { "a": "" },
            }),
            patch: json!({ "name": "Find", "params": { "deep": {} } }),
            optional: &["type", "url"],
        },
    ];
    // A resource that is in the route table and not above would not be tested.
    let groups = cedargate::api::all_routes();
    let mut declared: Vec<&str> =
        groups.iter().filter(|group| group.kind().is_some()).map(|group| group.base()).collect();
    let mut specified: Vec<&str> = specs.iter().map(|spec| spec.path).collect();
    declared.sort_unstable();
    specified.sort_unstable();
    assert_eq!(specified, declared, "every resource of the route table has a specification");
    specs
}

/// The fields of an object.
pub(crate) fn fields(object: &Value) -> &Map<String, Value> {
    object.as_object().unwrap()
}

/// The status and body of a response without the request id, and with `id` replaced by `ID`.
pub(crate) fn comparable_response(reply: &Reply, id: &str) -> (StatusCode, Value) {
    let mut body = reply.json.clone();
    body.as_object_mut().unwrap_or_else(|| panic!("{}", reply.text)).remove("requestId");
    // It differs each time, but a response must not disclose anything by having one.
    if let Some(id) = body.get_mut("evaluation_id") {
        *id = "EVALUATION".into();
    }
    (reply.status, serde_json::from_str(&body.to_string().replace(id, "ID")).unwrap())
}

#[tokio::test]
async fn every_resource_supports_create_fetch_list_update_and_delete() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, full, patch, .. } in resource_specs(&admin).await {
        for body in [minimal, full] {
            let created = admin.post(path, body.clone()).await;
            let location = created.header("location").strip_prefix(&app.base).unwrap().to_owned();
            assert_eq!(location, format!("{path}/{}", created.id()));
            let created = created.expect(StatusCode::CREATED);
            for (field, value) in fields(&body).iter().filter(|(field, _)| *field != "password") {
                assert_eq!(created[field], *value, "{path} {field}");
            }
            assert_eq!(created["createdAt"], "2026-01-31T12:00:00.000Z", "{path}");
            assert_eq!(created["updatedAt"], created["createdAt"], "{path}");
            assert!(created["meta"].is_object(), "{path}");
            assert_eq!(admin.get(&location).await.expect(StatusCode::OK), created, "{path}");
            let listed = admin.get(&format!("{path}?id={}", created["id"].as_str().unwrap())).await;
            assert_eq!(listed.expect(StatusCode::OK), json!([created]), "{path}");

            app.clock.advance(1_500);
            let changed = admin.patch(&location, patch.clone()).await.expect(StatusCode::OK);
            let mut expected = created.clone();
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
            let listed = admin.get(&format!("{path}?id={}", created["id"].as_str().unwrap())).await;
            assert_eq!(listed.expect(StatusCode::OK), json!([]), "{path}");
        }
    }
}

#[tokio::test]
async fn the_organization_defaults_to_the_callers() {
    let app = TestApp::start().await;
    let (organization, admin) = app.tenant("acme").await;
    for ResourceSpec { path, minimal, .. } in resource_specs(&admin).await {
        let created = admin.post(path, minimal).await.expect(StatusCode::CREATED);
        let holder = if path == "/v2/organizations" { "parent" } else { "organization" };
        assert_eq!(created[holder], organization, "{path}");
    }
}

#[tokio::test]
async fn a_patch_merges_top_level_fields_and_replaces_nested_values() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, full, .. } in resource_specs(&admin).await {
        let created = admin.post(path, full).await.expect(StatusCode::CREATED);
        let resource_path = format!("{path}/{}", created["id"].as_str().unwrap());
        for meta in
            [json!({ "kept": { "one": 1, "two": [1, 2] }, "also": 2 }), json!({ "kept": { "two": [3] } })]
        {
            let changed = admin.patch(&resource_path, json!({ "meta": meta })).await.expect(StatusCode::OK);
            let mut expected = created.clone();
            expected["meta"] = meta;
            assert_eq!(changed, expected, "{path}");
        }
    }
    let profile = json!({ "name": "Grace Hopper", "telephone": "1" });
    let contact = create_resource(&admin, "/v2/contacts", json!({ "profile": profile })).await;
    let patch = json!({ "profile": { "telephone": "2" } });
    let changed = admin.patch(&format!("/v2/contacts/{contact}"), patch).await.expect(StatusCode::OK);
    assert_eq!((&changed["profile"]["name"], &changed["profile"]["telephone"]), (&Value::Null, &json!("2")));
}

#[tokio::test]
async fn an_empty_patch_changes_nothing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, full, .. } in resource_specs(&admin).await {
        let created = admin.post(path, full).await.expect(StatusCode::CREATED);
        let resource_path = format!("{path}/{}", created["id"].as_str().unwrap());
        assert_eq!(admin.patch(&resource_path, json!({})).await.expect(StatusCode::OK), created, "{path}");
    }
}

#[tokio::test]
async fn null_clears_optional_fields_only() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, full, minimal, optional, .. } in resource_specs(&admin).await {
        let created = admin.post(path, full).await.expect(StatusCode::CREATED);
        let resource_path = format!("{path}/{}", created["id"].as_str().unwrap());
        for field in optional {
            assert!(!created[field].is_null(), "{path} {field}");
            admin.patch(&resource_path, json!({ *field: null })).await.expect(StatusCode::OK);
            assert_eq!(admin.get(&resource_path).await.json[field], Value::Null, "{path} {field}");
        }
        let before = admin.get(&resource_path).await.expect(StatusCode::OK);
        for field in fields(&minimal).keys() {
            let refused = admin.patch(&resource_path, json!({ field.as_str(): null })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field.as_str()], "{path}");
        }
        assert_eq!(admin.get(&resource_path).await.json, before, "{path}");
    }
}

#[tokio::test]
async fn read_only_fields_are_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, .. } in resource_specs(&admin).await {
        let own: &[&str] = match path {
            "/v2/organizations" => &["path", "level"],
            "/v2/users" => &["name"],
            "/v2/messages" => &["user", "organization"],
            _ => &[],
        };
        let created = admin.post(path, minimal.clone()).await.expect(StatusCode::CREATED);
        let resource_path = format!("{path}/{}", created["id"].as_str().unwrap());
        for field in ["id", "createdAt", "updatedAt"].iter().chain(own) {
            // Not even to the current value.
            let value = created[field].clone();
            assert!(!value.is_null(), "{path} {field}");
            let mut body = minimal.clone();
            if path == "/v2/users" {
                body["email"] = json!(unique_email());
            }
            body[field] = value.clone();
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [*field], "{path}");
            let refused = admin.patch(&resource_path, json!({ *field: value })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [*field], "{path}");
        }
        assert_eq!(admin.get(&resource_path).await.json, created, "{path}");
    }
}

#[tokio::test]
async fn missing_required_fields_are_named() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, .. } in resource_specs(&admin).await {
        for field in fields(&minimal).keys() {
            let mut body = minimal.clone();
            body.as_object_mut().unwrap().remove(field);
            let refused = admin.post(path, body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field.as_str()], "{path}");
        }
    }
}

/// A body with a reference: the path, the name of the field in the response, and the body with an id in it.
type ReferenceBody = (&'static str, &'static str, fn(&str) -> Value);

fn reference_bodies() -> Vec<ReferenceBody> {
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
async fn missing_and_inaccessible_references_yield_the_same_error() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    let (abroad, stranger) = app.tenant("other").await;
    let contact = create_resource(&stranger, "/v2/contacts", json!({})).await;
    let conversation = create_resource(&stranger, "/v2/conversations", json!({})).await;
    for ResourceSpec { path, minimal, .. } in resource_specs(&admin).await {
        for (_, field, name) in reference_bodies().into_iter().filter(|(index, ..)| *index == path) {
            let there = match field {
                "contact" => &contact,
                "conversation" => &conversation,
                "participants.0.user" => &stranger.id,
                _ => &abroad,
            };
            let mut fresh = minimal.clone();
            if path == "/v2/users" {
                fresh["email"] = json!(unique_email());
            }
            let resource_path = format!("{path}/{}", create_resource(&admin, path, fresh.clone()).await);
            let before = admin.get(&resource_path).await.json;
            let count = admin.get(path).await.header("x-total-count").to_owned();
            let mut answers = Vec::new();
            for id in [UNKNOWN_ID, there] {
                let named: Value =
                    serde_json::from_str(&name(id).to_string().replace("HOME", &home)).unwrap();
                let mut body = fresh.clone();
                if path == "/v2/users" {
                    body["email"] = json!(unique_email());
                }
                body.as_object_mut().unwrap().extend(fields(&named).clone());
                for refused in [admin.post(path, body).await, admin.patch(&resource_path, named).await] {
                    assert_eq!(refused.expect_problem(400, "invalid_fields"), [field], "{path} {id}");
                    answers.push(comparable_response(&refused, id));
                }
            }
            assert_eq!(answers[..2], answers[2..], "{path} {field}");
            assert_eq!(admin.get(&resource_path).await.json, before, "{path} {field}");
            assert_eq!(admin.get(path).await.header("x-total-count"), count, "{path} {field}");
        }
    }
    let answers = [UNKNOWN_ID, &conversation].map(|id| {
        let admin = admin.clone();
        let body = json!({ "conversation": id, "text": "Hello" });
        let id = id.to_owned();
        async move {
            let refused = admin.post("/v2/messages", body).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["conversation"]);
            comparable_response(&refused, &id)
        }
    });
    let [missing, abroad] = answers;
    assert_eq!(missing.await, abroad.await);
    assert_eq!(stranger.get(&format!("/v2/messages?conversation={conversation}")).await.json, json!([]));
}

#[tokio::test]
async fn path_aliases_reach_the_same_resources() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (name, alias, body) in [
        ("/v2/orggroups", "/v2/organizationGroups", json!({ "name": "group" })),
        ("/v2/kbitems", "/v2/knowledge-items", json!({ "title": "title" })),
    ] {
        let created = admin.post(alias, body).await;
        let location = created.header("location").strip_prefix(&app.base).unwrap().to_owned();
        let (id, created) = (created.id(), created.expect(StatusCode::CREATED));
        for path in [format!("{name}/{id}"), format!("{alias}/{id}"), location] {
            assert_eq!(admin.get(&path).await.expect(StatusCode::OK), created, "{path}");
        }
        assert_eq!(admin.get(name).await.json, admin.get(alias).await.json);
        let patch = json!({ "meta": { "by": alias } });
        admin.patch(&format!("{alias}/{id}"), patch.clone()).await.expect(StatusCode::OK);
        assert_eq!(admin.get(&format!("{name}/{id}")).await.json["meta"], patch["meta"]);
        admin.delete(&format!("{alias}/{id}")).await.expect(StatusCode::NO_CONTENT);
        admin.get(&format!("{name}/{id}")).await.expect_problem(404, "not_found");
    }
}
