//! Conversations with their participants, messages and contacts.

use crate::resources::{UNKNOWN_ID, create_resource, unique_email};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn message_texts(client: &Client, conversation: &str) -> Vec<String> {
    let path = format!("/v2/messages?conversation={conversation}&limit=1000");
    let messages = client.get(&path).await.expect(StatusCode::OK);
    messages.as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

async fn count(client: &Client, path: &str) -> String {
    let reply = client.get(path).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.header("x-total-count").to_owned()
}

#[tokio::test]
async fn the_caller_is_the_first_participant_of_a_conversation_that_it_creates() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let agent = app.user(Scope::Agent).await;
    let other = create_resource(&admin, "/v2/users", json!({ "email": unique_email() })).await;
    let participants = |created: &Value| -> Vec<String> {
        let participants = created["participants"].as_array().unwrap();
        participants.iter().map(|participant| participant["user"].as_str().unwrap().to_owned()).collect()
    };
    for (named, expected) in [
        (json!([]), vec![agent.id.as_str()]),
        (json!([{ "user": other }]), vec![agent.id.as_str(), other.as_str()]),
        (json!([{ "user": other }, { "user": agent.id }]), vec![agent.id.as_str(), other.as_str()]),
    ] {
        let created = agent.post("/v2/conversations", json!({ "participants": named })).await;
        let id = created.id();
        assert_eq!(participants(&created.expect(StatusCode::CREATED)), expected);
        assert_eq!(participants(&agent.get(&format!("/v2/conversations/{id}")).await.json), expected);
    }
}

#[tokio::test]
async fn a_message_defaults_to_the_caller_as_user_and_to_type_chat() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{conversation}/messages");
    for created in [
        guest.post("/v2/messages", json!({ "conversation": conversation, "text": "one" })).await,
        guest.post(&path, json!({ "text": "two" })).await,
    ] {
        let created = created.expect(StatusCode::CREATED);
        assert_eq!((&created["user"], &created["type"]), (&json!(guest.id), &json!("chat")));
        assert_eq!(created["conversation"], conversation);
        let message_path = format!("/v2/messages/{}", created["id"].as_str().unwrap());
        // An update does not change the author.
        let changed = admin.patch(&message_path, json!({ "text": "three" })).await.expect(StatusCode::OK);
        assert_eq!(changed["user"], guest.id.as_str());
    }
}

#[tokio::test]
async fn the_organization_of_a_message_is_that_of_its_conversation() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let below = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({ "organization": below })).await;
    let created = admin.post("/v2/messages", json!({ "conversation": conversation, "text": "one" })).await;
    assert_eq!(created.expect(StatusCode::CREATED)["organization"], below);
}

#[tokio::test]
async fn one_message_returns_an_object_and_a_list_returns_an_array() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{conversation}/messages");

    let one = admin.post(&path, json!({ "text": "one" })).await;
    let location = one.header("location").strip_prefix(&app.base).unwrap().to_owned();
    let one = one.expect(StatusCode::CREATED);
    assert_eq!(admin.get(&location).await.expect(StatusCode::OK), one);

    app.clock.advance(1);
    let list = admin.post(&path, json!([{ "text": "two", "type": "note" }, { "text": "three" }])).await;
    app.clock.advance(1);
    let list = list.expect(StatusCode::CREATED);
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!((&list[0]["text"], &list[0]["type"]), (&json!("two"), &json!("note")));
    assert_eq!((&list[1]["text"], &list[1]["type"]), (&json!("three"), &json!("chat")));
    for message in list.as_array().unwrap() {
        let message_path = format!("/v2/messages/{}", message["id"].as_str().unwrap());
        assert_eq!(admin.get(&message_path).await.expect(StatusCode::OK), *message);
    }
    let single = admin.post(&path, json!([{ "text": "four" }])).await.expect(StatusCode::CREATED);
    assert_eq!(single.as_array().unwrap().len(), 1);
    assert_eq!(message_texts(&admin, &conversation).await, ["one", "two", "three", "four"]);
    // Messages that are created together keep the order of the request.
    let many: Vec<String> = (0..100).map(|index| format!("{index}")).collect();
    let bodies: Vec<Value> = many.iter().map(|text| json!({ "text": text })).collect();
    let together = create_resource(&admin, "/v2/conversations", json!({ "messages": bodies })).await;
    assert_eq!(message_texts(&admin, &together).await, many);
}

#[tokio::test]
async fn a_list_of_messages_is_stored_atomically() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{conversation}/messages");
    let long = "x".repeat(100_001);
    for (body, field) in [
        (json!([{ "text": "one" }, { "text": 2 }]), "[1].text"),
        (json!([{ "text": "one" }, { "text": long }]), "[1].text"),
        (json!([{ "text": "one" }, {}]), "[1].text"),
        (json!([{ "text": "one", "user": UNKNOWN_ID }, { "text": "two" }]), "[0].user"),
        (json!([{ "text": "one" }, { "text": "two", "delay": "soon" }]), "[1].delay"),
        (json!([{ "text": "one" }, { "text": "two", "conversation": UNKNOWN_ID }]), "[1].conversation"),
        (json!({ "text": "one", "conversation": UNKNOWN_ID }), "conversation"),
        (json!({ "text": "one", "actions": [{}, 1] }), "actions.1"),
        (json!([{ "text": "one" }, ["two"]]), "[1]"),
        (json!({ "text": "one", "id": UNKNOWN_ID }), "id"),
        (json!({}), "text"),
    ] {
        let refused = admin.post(&path, body).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), [field]);
    }
    // The fields of all elements are named.
    let several =
        json!([{ "text": "one", "conversation": UNKNOWN_ID }, { "text": "" }, { "text": "two" }, 3]);
    let refused = admin.post(&path, several).await;
    let fields = refused.expect_problem(400, "invalid_fields");
    assert_eq!(fields, ["[0].conversation", "[1].text", "[3]"]);
    for body in [json!([]), json!("one"), json!(null), json!([[{ "text": "one" }]])] {
        admin.post(&path, body).await.expect_problem(400, "invalid_fields");
    }
    let many: Vec<Value> = (0..1001).map(|_| json!({ "text": "x" })).collect();
    admin.post(&path, json!(many)).await.expect_problem(400, "invalid_fields");
    assert_eq!(message_texts(&admin, &conversation).await, [""; 0]);
}

#[tokio::test]
async fn a_missing_conversation_accepts_no_messages() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for id in [UNKNOWN_ID, "none", "me"] {
        let refused = admin.post(&format!("/v2/conversations/{id}/messages"), json!({ "text": "one" })).await;
        refused.expect_problem(404, "not_found");
    }
    assert_eq!(count(&admin, "/v2/messages").await, "0");
}

#[tokio::test]
async fn a_conversation_is_created_with_messages_and_a_new_contact() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let below = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    let created = bot
        .post(
            "/v2/conversations",
            json!({
                "organization": below,
                "contact": { "profile": { "name": "Grace" } },
                "messages": [{ "text": "one" }, { "text": "two", "type": "note" }],
            }),
        )
        .await
        .expect(StatusCode::CREATED);
    let id = created["id"].as_str().unwrap();
    let contact = format!("/v2/contacts/{}", created["contact"].as_str().unwrap());
    let contact = admin.get(&contact).await.expect(StatusCode::OK);
    assert_eq!(contact["profile"]["name"], "Grace");
    assert_eq!(contact["conversation"], id);
    assert_eq!(contact["organization"], below);
    assert_eq!(message_texts(&admin, id).await, ["one", "two"]);
    let messages = admin.get(&format!("/v2/messages?conversation={id}")).await.json;
    for message in messages.as_array().unwrap() {
        assert_eq!((&message["user"], &message["organization"]), (&json!(bot.id), &json!(below)));
    }
}

#[tokio::test]
async fn a_conversation_with_messages_and_contact_is_stored_atomically() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let contact = json!({ "profile": { "name": "Grace" } });
    for (body, field) in [
        (json!({ "contact": contact, "messages": [{ "text": "one" }, {}] }), "messages.1.text"),
        (
            json!({ "contact": contact, "messages": [{ "text": "one", "user": UNKNOWN_ID }] }),
            "messages.0.user",
        ),
        (
            json!({ "contact": { "profile": { "age": 3 } }, "messages": [{ "text": "one" }] }),
            "contact.profile.age",
        ),
        (
            json!({ "contact": { "organization": UNKNOWN_ID }, "messages": [{ "text": "one" }] }),
            "contact.organization",
        ),
        (json!({ "contact": contact, "messages": [["one"]] }), "messages.0"),
        (json!({ "contact": { "profile": ["Grace"] }, "messages": [{ "text": "one" }] }), "contact.profile"),
        (json!({ "contact": "none", "messages": [{ "text": "one" }] }), "contact"),
        (json!({ "contact": 5, "messages": [{ "text": "one" }] }), "contact"),
        (
            json!({ "contact": contact, "messages": [{ "text": "one" }], "participants": [{ "user": UNKNOWN_ID }] }),
            "participants.0.user",
        ),
        (
            json!({ "contact": contact, "messages": [{ "text": "one" }], "organization": UNKNOWN_ID }),
            "organization",
        ),
    ] {
        let refused = admin.post("/v2/conversations", body).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), [field]);
    }
    for path in ["/v2/conversations", "/v2/messages", "/v2/contacts"] {
        assert_eq!(count(&admin, path).await, "0", "{path}");
    }
}

#[tokio::test]
async fn a_new_contact_in_a_conversation_requires_permission_to_create_contacts() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let agent = app.user(Scope::Agent).await;
    let body = json!({ "contact": { "profile": { "name": "Grace" } }, "messages": [{ "text": "one" }] });
    agent.post("/v2/conversations", body).await.expect_problem(403, "forbidden");
    for path in ["/v2/conversations", "/v2/messages", "/v2/contacts"] {
        assert_eq!(count(&admin, path).await, "0", "{path}");
    }
    // With an existing contact, the request succeeds.
    let contact = create_resource(&admin, "/v2/contacts", json!({})).await;
    let body = json!({ "contact": contact, "messages": [{ "text": "one" }] });
    let created = agent.post("/v2/conversations", body).await.expect(StatusCode::CREATED);
    assert_eq!(created["contact"], contact);
    assert_eq!(count(&admin, "/v2/contacts").await, "1");
}

#[tokio::test]
async fn deleting_a_conversation_deletes_its_own_messages_only() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let deleted = create_resource(
        &admin,
        "/v2/conversations",
        json!({ "messages": [{ "text": "a" }, { "text": "b" }] }),
    )
    .await;
    let remaining =
        create_resource(&admin, "/v2/conversations", json!({ "messages": [{ "text": "c" }] })).await;
    let messages = admin.get(&format!("/v2/messages?conversation={deleted}")).await.expect(StatusCode::OK);
    admin.delete(&format!("/v2/conversations/{deleted}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(messages.as_array().unwrap().len(), 2);
    for message in messages.as_array().unwrap() {
        let path = format!("/v2/messages/{}", message["id"].as_str().unwrap());
        admin.get(&path).await.expect_problem(404, "not_found");
    }
    assert_eq!(message_texts(&admin, &deleted).await, [""; 0]);
    assert_eq!(message_texts(&admin, &remaining).await, ["c"]);
}

#[tokio::test]
async fn a_contact_and_a_conversation_that_refer_to_each_other_can_be_deleted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for first in ["contacts", "conversations"] {
        let created =
            admin.post("/v2/conversations", json!({ "contact": {} })).await.expect(StatusCode::CREATED);
        let paths = [
            format!("/v2/contacts/{}", created["contact"].as_str().unwrap()),
            format!("/v2/conversations/{}", created["id"].as_str().unwrap()),
        ];
        let (one, other) = if first == "contacts" { (&paths[0], &paths[1]) } else { (&paths[1], &paths[0]) };
        admin.delete(one).await.expect(StatusCode::NO_CONTENT);
        let left = admin.get(other).await.expect(StatusCode::OK);
        let field = if first == "contacts" { "contact" } else { "conversation" };
        assert_eq!(left[field], Value::Null);
        admin.delete(other).await.expect(StatusCode::NO_CONTENT);
    }
}

/// The time of the last message and of the last update of a conversation.
async fn times(client: &Client, conversation: &str) -> (String, String) {
    let row = client.get(&format!("/v2/conversations/{conversation}")).await.expect(StatusCode::OK);
    let time = |name: &str| row[name].as_str().unwrap().to_owned();
    (time("lastMessageAt"), time("updatedAt"))
}

#[actix_web::test]
async fn the_time_of_the_last_message_never_goes_back() {
    let app = TestApp::start().await;
    let ahead = app.start_replica_ahead(10_000).await;
    let admin = app.admin().await;
    let id = admin.post("/v2/conversations", json!({})).await.id();
    let clients = [admin.clone(), Client { base: ahead.base.clone(), ..admin.clone() }];
    let mut last = String::new();
    for round in 0..10 {
        app.clock.advance(1_000);
        ahead.clock.advance(1_000);
        // Concurrently, by two processes whose clocks differ.
        let requests = (0..6).map(|index| {
            let body = json!({"conversation": id, "text": format!("{round} {index}")});
            let client = clients[index % 2].clone();
            async move { client.post("/v2/messages", body).await.expect(StatusCode::CREATED) }
        });
        let created = join_all(requests).await;
        let latest = created.iter().map(|message| message["createdAt"].as_str().unwrap()).max().unwrap();
        let (last_message_at, updated_at) = times(&admin, &id).await;
        assert_eq!((last_message_at.as_str(), updated_at.as_str()), (latest, latest));
        assert!(latest > last.as_str(), "{latest} is not after {last}");
        last = last_message_at;
        // The process whose clock is behind does not set them back.
        clients[0]
            .post("/v2/messages", json!({"conversation": id, "text": "late"}))
            .await
            .expect(StatusCode::CREATED);
        assert_eq!(times(&admin, &id).await, (last.clone(), last.clone()));
    }
}
