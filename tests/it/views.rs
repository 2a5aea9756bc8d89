//! What of a resource is returned, and which version of it: `select`, `populate`, `include` and entity tags.

use crate::resources::{UNKNOWN_ID, create_resource};
use crate::support::TestApp;
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn select_returns_the_named_fields_and_the_id() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = create_resource(&admin, "/v2/forms", json!({ "name": "f" })).await;
    let expected = json!({ "id": id, "name": "f", "createdAt": "2026-01-31T12:00:00.000Z" });
    assert_eq!(
        admin.get(&format!("/v2/forms/{id}?select=createdAt,name")).await.expect(StatusCode::OK),
        expected
    );
    assert_eq!(admin.get("/v2/forms?select=createdAt,name").await.expect(StatusCode::OK), json!([expected]));
    for (parameter, code) in [("select=colour", "unknown_field"), ("name=f", "unknown_field")] {
        let refused = admin.get(&format!("/v2/forms/{id}?{parameter}")).await;
        assert_eq!(refused.field_errors()[0].1, code, "{parameter}");
    }
    // Authorized first.
    admin.get(&format!("/v2/forms/{UNKNOWN_ID}?select=colour")).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn populate_inserts_only_what_the_caller_could_fetch() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ada = create_resource(&admin, "/v2/users", json!({ "email": "ada@example.com" })).await;
    let contact = create_resource(&admin, "/v2/contacts", json!({ "profile": { "name": "C" } })).await;
    let body =
        json!({ "name": "talk", "contact": contact, "participants": [{ "user": ada, "role": "host" }] });
    let conversation = create_resource(&admin, "/v2/conversations", body).await;
    create_resource(&admin, "/v2/messages", json!({ "conversation": conversation, "text": "Hello" })).await;
    let path = format!("/v2/conversations/{conversation}?populate=contact,participants.user");
    let populated = admin.get(&path).await.expect(StatusCode::OK);
    let stored = admin.get(&format!("/v2/contacts/{contact}")).await.expect(StatusCode::OK);
    assert_eq!(populated["contact"], stored);
    assert_eq!(populated["participants"][1]["user"]["email"], "ada@example.com");
    assert_eq!(populated["participants"][1]["role"], "host");
    assert!(populated["participants"][1]["user"].get("password").is_none());
    // Through several references, on a list, with selected fields.
    let list = "/v2/messages?populate=conversation.contact,organization&select=text";
    let list = admin.get(list).await.expect(StatusCode::OK);
    assert_eq!(list[0]["conversation"]["contact"]["profile"]["name"], "C");
    assert!(list[0]["organization"]["name"].is_string());
    assert_eq!(list[0].as_object().unwrap().len(), 4, "{list}");
    // Agents list and fetch conversations, but fetch neither contacts nor other users.
    let agent = app.user(Scope::Agent).await;
    let own = json!({ "name": "own", "contact": contact, "participants": [{ "user": ada }] });
    create_resource(&agent, "/v2/conversations", own).await;
    let list = agent.get("/v2/conversations?populate=contact,participants.user&name=own").await;
    let list = list.expect(StatusCode::OK);
    assert_eq!(list[0]["contact"], json!(contact));
    assert_eq!(list[0]["participants"][0]["user"]["id"], json!(agent.id));
    assert_eq!(list[0]["participants"][1]["user"], json!(ada));
}

#[tokio::test]
async fn included_permissions_are_those_of_the_permission_endpoint() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let item = create_resource(&admin, "/v2/kbitems", json!({ "title": "How to" })).await;
    for client in [app.user(Scope::Agent).await, app.user(Scope::Bot).await, admin] {
        let list = client.get("/v2/kbitems?include=permissions&select=title").await.expect(StatusCode::OK);
        let single =
            client.get(&format!("/v2/kbitems/{item}?include=permissions")).await.expect(StatusCode::OK);
        let endpoint = format!("/v2/users/me/permissions?type=KnowledgeItem&id={item}");
        let expected = client.get(&endpoint).await.expect(StatusCode::OK)["actions"].clone();
        assert!(expected.as_array().unwrap().contains(&json!("fetchKnowledgeItem")), "{expected}");
        assert_eq!(list[0]["permissions"], expected);
        assert_eq!(list[0].as_object().unwrap().len(), 3);
        assert_eq!(single["permissions"], expected);
    }
}

#[tokio::test]
async fn an_entity_tag_identifies_the_version_of_a_resource() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let created = admin.post("/v2/forms", json!({ "name": "f", "meta": { "b": 1, "a": 2 } })).await;
    let tag = created.header("etag").to_owned();
    let path = format!("/v2/forms/{}", created.id());
    let get =
        async |path: &str, tags: &str| admin.send(Method::GET, path, &[("if-none-match", tags)], None).await;
    assert_eq!(admin.get(&path).await.header("etag"), tag);
    assert_eq!(admin.get(&format!("{path}?select=name")).await.header("etag"), tag);
    for (tags, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"other\", {tag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        ("other".to_owned(), 400),
    ] {
        let reply = get(&path, &tags).await;
        assert_eq!(reply.status, status, "{tags}");
        if status == 304 {
            assert_eq!((reply.header("etag"), reply.text.as_str()), (tag.as_str(), ""));
        }
    }
    let populated = format!("{path}?populate=organization");
    let populated_tag = admin.get(&populated).await.header("etag").to_owned();
    assert_ne!(populated_tag, tag);
    let patched = admin.patch(&path, json!({ "name": "g" })).await;
    let changed = patched.header("etag").to_owned();
    assert_eq!(get(&path, &tag).await.status, StatusCode::OK);
    assert_eq!(admin.get(&path).await.header("etag"), changed);
    assert_ne!(changed, tag);
    // A change of what is inserted changes the tag of the response.
    let organization = patched.json["organization"].as_str().unwrap();
    let before = admin.get(&populated).await.header("etag").to_owned();
    assert_ne!(before, populated_tag);
    admin
        .patch(&format!("/v2/organizations/{organization}"), json!({ "country": "AT" }))
        .await
        .expect(StatusCode::OK);
    assert_eq!(get(&populated, &before).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_change_of_a_resource_that_has_changed_since_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let bodies = [
        ("/v2/forms", json!({ "name": "a" }), json!({ "name": "b" })),
        ("/v2/organizations", json!({ "name": "a" }), json!({ "name": "b" })),
        ("/v2/users", json!({ "email": "a@example.com" }), json!({ "givenName": "b" })),
        ("/v2/conversations", json!({ "name": "a" }), json!({ "name": "b" })),
        ("/v2/messages", json!({ "conversation": conversation, "text": "a" }), json!({ "text": "b" })),
    ];
    for (path, body, patch) in bodies {
        let created = admin.post(path, body).await;
        let (old, path) = (created.header("etag").to_owned(), format!("{path}/{}", created.id()));
        let send = async |method, tags: &str, body: Option<&Value>| {
            let headers = [("if-match", tags), ("content-type", "application/json")];
            admin.send(method, &path, &headers, body.map(|body| body.to_string().into_bytes())).await
        };
        app.clock.advance(1);
        let changed = send(Method::PATCH, &old, Some(&patch)).await;
        let new = changed.header("etag").to_owned();
        assert_eq!(changed.status, StatusCode::OK, "{path}: {}", changed.text);
        for tags in [old.as_str(), "\"other\"", &format!("W/{new}")] {
            let refused = send(Method::PATCH, tags, Some(&patch)).await;
            refused.expect_problem(412, "precondition_failed");
            let refused = send(Method::DELETE, tags, None).await;
            refused.expect_problem(412, "precondition_failed");
        }
        let populated = admin.get(&format!("{path}?include=permissions")).await.header("etag").to_owned();
        assert_ne!(populated, new);
        assert_eq!(send(Method::PATCH, &populated, Some(&json!({}))).await.status, StatusCode::OK);
        assert_eq!(send(Method::PATCH, "*", Some(&patch)).await.status, StatusCode::OK);
        let current = admin.get(&path).await.header("etag").to_owned();
        assert_eq!(send(Method::DELETE, &current, None).await.status, StatusCode::NO_CONTENT);
        // A missing resource is missing, whatever its version.
        send(Method::PATCH, &current, Some(&patch)).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_precondition_that_has_no_effect_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let form = admin.post("/v2/forms", json!({ "name": "a" })).await;
    let (form, tag) = (format!("/v2/forms/{}", form.id()), form.header("etag").to_owned());
    let messages = format!("/v2/conversations/{conversation}/messages");
    for (method, path, header, body) in [
        (Method::POST, "/v2/forms", "If-Match", json!({ "name": "b" })),
        (Method::POST, "/v2/forms", "If-None-Match", json!([{ "name": "b" }])),
        (Method::POST, messages.as_str(), "If-Match", json!({ "text": "b" })),
        (Method::PATCH, form.as_str(), "If-None-Match", json!({ "name": "b" })),
        (Method::DELETE, form.as_str(), "If-None-Match", json!({})),
        (Method::PATCH, "/v2/forms?name=a", "If-None-Match", json!({ "name": "b" })),
    ] {
        for value in [tag.as_str(), "*", ""] {
            let headers = [(header, value), ("content-type", "application/json")];
            let refused =
                admin.send(method.clone(), path, &headers, Some(body.to_string().into_bytes())).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [header], "{method} {path}");
        }
    }
    assert_eq!(app.count("SELECT COUNT(*) FROM forms WHERE name = 'a'").await, 1);
    assert_eq!(app.count("SELECT COUNT(*) FROM forms WHERE name = 'b'").await, 0);
    assert_eq!(app.count("SELECT COUNT(*) FROM messages").await, 0);
}

#[tokio::test]
async fn a_new_message_has_the_entity_tag_of_its_version() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{conversation}/messages");
    for (path, body) in [
        (path.as_str(), json!({ "text": "a" })),
        ("/v2/messages", json!({ "conversation": conversation, "text": "a" })),
    ] {
        let created = admin.post(path, body).await;
        assert!(!created.header("etag").is_empty(), "{path}");
        let fetched = admin.get(&format!("/v2/messages/{}", created.id())).await;
        assert_eq!(fetched.header("etag"), created.header("etag"), "{path}");
    }
}
