//! Command messages: they change their conversation, with an action of their own, or nothing is stored.

use crate::resources::{UNKNOWN_ID, create_resource};
use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Sends a command with this text and `meta`.
async fn command(client: &Client, conversation: &str, text: &str, meta: Value) -> Reply {
    let path = format!("/v2/conversations/{conversation}/messages");
    client.post(&path, json!({ "type": "command", "text": text, "meta": meta })).await
}

/// Sends a command, which succeeds. Returns the conversation.
async fn perform(client: &Client, conversation: &str, text: &str, meta: Value) -> Value {
    let message = command(client, conversation, text, meta).await.expect(StatusCode::CREATED);
    assert_eq!((&message["type"], &message["text"]), (&json!("command"), &json!(text)));
    assert_eq!(message["user"], client.id.as_str());
    fetch(client, conversation).await
}

async fn put(client: &Client, path: &str, body: Value) -> Reply {
    client.call(Method::PUT, path, Some(body)).await
}

async fn put_if_match(client: &Client, path: &str, tag: &str, body: Value) -> Reply {
    let headers = [("if-match", tag), ("content-type", "application/json")];
    client.send(Method::PUT, path, &headers, Some(body.to_string().into_bytes())).await
}

async fn fetch(client: &Client, conversation: &str) -> Value {
    client.get(&format!("/v2/conversations/{conversation}")).await.expect(StatusCode::OK)
}

async fn message_count(admin: &Client, conversation: &str) -> String {
    let reply = admin.get(&format!("/v2/conversations/{conversation}/messages")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.header("x-total-count").to_owned()
}

/// The participant of a conversation that is this user: whether it is active, has accepted, and has it in the inbox.
fn flags(conversation: &Value, user: &str) -> Option<(bool, bool, bool)> {
    let participants = conversation["participants"].as_array().unwrap();
    let own = participants.iter().find(|participant| participant["user"] == user)?;
    let flag = |name: &str| own[name].as_bool().unwrap();
    Some((flag("active"), flag("accepted"), flag("inbox")))
}

#[tokio::test]
async fn set_stores_a_text_in_meta_and_removes_it_without_a_value() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let id = create_resource(&agent, "/v2/conversations", json!({ "meta": { "kept": 1, "step": 1 } })).await;
    for (text, meta) in [
        ("/set step 2", json!({ "kept": 1, "step": "2" })),
        (
            "/set my.bot.status in  two words ",
            json!({ "kept": 1, "step": "2", "my.bot.status": "in  two words " }),
        ),
        (
            "/set step\nline one\nline two",
            json!({ "kept": 1, "step": "line one\nline two", "my.bot.status": "in  two words " }),
        ),
        ("/set my.bot.status ", json!({ "kept": 1, "step": "line one\nline two" })),
        ("/set step", json!({ "kept": 1 })),
        ("/set step", json!({ "kept": 1 })),
    ] {
        app.clock.advance(1000);
        let changed = perform(&agent, &id, text, json!({})).await;
        assert_eq!(changed["meta"], meta, "{text:?}");
        assert_eq!(changed["updatedAt"], changed["lastMessageAt"]);
        assert_eq!(changed["updatedAt"], app.clock.now().to_string());
    }
    // The platform's own name of a command to a bot: it changes nothing.
    let before = fetch(&agent, &id).await;
    let after = perform(&agent, &id, ">help me", json!({})).await;
    assert_eq!((&after["meta"], &after["participants"]), (&before["meta"], &before["participants"]));
    // The text of another message is no command.
    let path = format!("/v2/conversations/{id}/messages");
    agent.post(&path, json!({ "text": "/set step 3" })).await.expect(StatusCode::CREATED);
    assert_eq!(fetch(&agent, &id).await["meta"], json!({ "kept": 1 }));
}

#[tokio::test]
async fn set_changes_a_field_for_those_who_may_update_the_conversation() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let id = create_resource(&bot, "/v2/conversations", json!({ "category": "sales" })).await;
    for (text, field, value) in [
        ("/set @category service", "category", json!("service")),
        ("/set @name Opening hours", "name", json!("Opening hours")),
        ("/set @status open", "status", json!("open")),
        ("/set @status", "status", Value::Null),
    ] {
        command(&bot, &id, text, json!({})).await.expect_problem(403, "forbidden");
        assert_eq!(perform(&admin, &id, text, json!({})).await[field], value, "{text}");
    }
    assert_eq!(message_count(&admin, &id).await, "4");
    let long = format!("/set @category {}", "x".repeat(61));
    let refused = command(&admin, &id, &long, json!({})).await;
    refused.expect_problem(400, "invalid_fields");
    assert_eq!(refused.field_errors(), [("text".to_owned(), "too_long".to_owned())]);
}

#[tokio::test]
async fn a_conversation_is_assigned_accepted_and_left() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (one, two) = (app.user(Scope::Agent).await, app.user(Scope::Agent).await);
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;

    let users = json!({ "users": [one.id, two.id] });
    let assigned = perform(&admin, &id, "/assign", users.clone()).await;
    assert_eq!(flags(&assigned, &one.id), Some((false, false, true)));
    assert_eq!(flags(&assigned, &two.id), Some((false, false, true)));
    assert_eq!(assigned["status"], Value::Null);
    let inbox = format!("/v2/conversations?participants.user={}&participants.inbox=true", one.id);
    assert_eq!(one.get(&inbox).await.expect(StatusCode::OK)[0]["id"], id.as_str());

    let joined = perform(&two, &id, "/join", json!({})).await;
    assert_eq!(flags(&joined, &two.id), Some((true, false, true)));
    for _ in 0..2 {
        let accepted = perform(&one, &id, "/accept", json!({})).await;
        assert_eq!(flags(&accepted, &one.id), Some((true, true, false)));
        assert_eq!(accepted["status"], "active");
        assert_eq!(accepted["participants"].as_array().unwrap().len(), 3);
    }
    // Assigned again: who has accepted stays active.
    let again = perform(&admin, &id, "/assign", users).await;
    assert_eq!(flags(&again, &one.id), Some((true, true, true)));
    perform(&two, &id, "/accept", json!({})).await;

    let left = perform(&one, &id, "/leave", json!({})).await;
    assert_eq!(flags(&left, &one.id), Some((false, false, false)));
    assert_eq!(left["status"], "active", "the other one has accepted");
    let left = perform(&two, &id, "/leave", json!({})).await;
    assert_eq!(
        (left["status"].as_str(), flags(&left, &two.id)),
        (Some("closed"), Some((false, false, false)))
    );
    // Who is no participant changes nothing by leaving.
    let other = app.user(Scope::Agent).await;
    let unchanged = perform(&other, &id, "/leave", json!({})).await;
    assert_eq!((&unchanged["participants"], &unchanged["status"]), (&left["participants"], &left["status"]));
    assert_eq!(flags(&perform(&other, &id, "/join", json!({})).await, &other.id), Some((true, false, false)));
}

#[tokio::test]
async fn an_invalid_command_is_named_and_stores_nothing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (_, stranger) = app.tenant("elsewhere").await;
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    let before = fetch(&admin, &id).await;
    let many: Vec<String> = (0..51).map(|index| format!("{index:024x}")).collect();
    for (text, meta, field, code) in [
        ("/notify", json!({}), "text", "unknown_value"),
        ("/Accept", json!({}), "text", "unknown_value"),
        ("accept", json!({}), "text", "unknown_value"),
        (" /accept", json!({}), "text", "unknown_value"),
        ("/accept now", json!({}), "text", "invalid_format"),
        ("/leave me", json!({}), "text", "invalid_format"),
        ("/set", json!({}), "text", "invalid_format"),
        ("/set  two", json!({}), "text", "invalid_format"),
        (&format!("/set {} 1", "k".repeat(101)), json!({}), "text", "too_long"),
        (&format!("/set k {}", "v".repeat(70_000)), json!({}), "text", "too_large"),
        ("/set @participants x", json!({}), "text", "unknown_field"),
        ("/assign", json!({}), "meta.users", "required"),
        ("/assign", json!({ "users": null }), "meta.users", "required"),
        ("/assign", json!({ "users": admin.id }), "meta.users", "invalid_type"),
        ("/assign", json!({ "users": [] }), "meta.users", "too_few_items"),
        ("/assign", json!({ "users": many }), "meta.users", "too_many_items"),
        ("/assign", json!({ "users": [admin.id, 5] }), "meta.users.1", "invalid_type"),
        ("/assign", json!({ "users": ["me"] }), "meta.users.0", "invalid_format"),
        ("/assign", json!({ "users": [admin.id, admin.id] }), "meta.users.1", "duplicate"),
        ("/assign", json!({ "users": [admin.id, UNKNOWN_ID] }), "meta.users.1", "not_found"),
        (&format!("/assign {}", admin.id), json!({ "users": [admin.id] }), "text", "invalid_format"),
    ] {
        let refused = command(&admin, &id, text, meta.clone()).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [(field.to_owned(), code.to_owned())], "{text:?} {meta}");
        let nested =
            json!({ "messages": [{ "text": "one" }, { "type": "command", "text": text, "meta": meta }] });
        let refused = admin.post("/v2/conversations", nested).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(
            refused.field_errors(),
            [(format!("messages.1.{field}"), code.to_owned())],
            "{text:?} {meta}"
        );
    }
    // A user of another tenant is like a missing one for those who cannot reach it.
    let tenant = create_resource(&stranger, "/v2/conversations", json!({})).await;
    let refused = command(&stranger, &tenant, "/assign", json!({ "users": [admin.id] })).await;
    assert_eq!(refused.field_errors(), [("meta.users.0".to_owned(), "not_found".to_owned())]);
    let path = format!("/v2/conversations/{id}/messages");
    let many: Vec<Value> = (0..21).map(|_| json!({ "type": "command", "text": "/join" })).collect();
    let refused = admin.post(&path, json!(many)).await;
    assert_eq!(refused.field_errors(), [("[20]".to_owned(), "too_many_items".to_owned())]);
    assert_eq!(fetch(&admin, &id).await, before);
    assert_eq!(message_count(&admin, &id).await, "0");
    assert_eq!(admin.get("/v2/conversations").await.header("x-total-count"), "2");
}

#[tokio::test]
async fn a_conversation_with_the_maximum_number_of_participants_accepts_no_further_ones() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let agent = app.user(Scope::Agent).await;
    let others: Vec<Value> = (0..1000).map(|index| json!({ "user": format!("{index:024x}") })).collect();
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    let participants = Value::from(others).to_string();
    app.sql(&format!("UPDATE conversations SET participants = '{participants}' WHERE id = '{id}'")).await;
    for (text, meta, field) in
        [("/assign", json!({ "users": [agent.id] }), "meta.users"), ("/join", json!({}), "text")]
    {
        let refused = command(&admin, &id, text, meta).await;
        assert_eq!(refused.field_errors(), [(field.to_owned(), "too_many_items".to_owned())], "{text}");
    }
}

#[tokio::test]
async fn guests_send_messages_but_no_commands() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    let before = fetch(&admin, &id).await;
    for text in ["/set a 1", "/set @name a", "/assign", "/accept", "/join", "/leave"] {
        let meta = json!({ "users": [guest.id] });
        command(&guest, &id, text, meta.clone()).await.expect_problem(403, "forbidden");
        let body = json!({ "conversation": id, "type": "command", "text": text, "meta": meta });
        guest.post("/v2/messages", body).await.expect_problem(403, "forbidden");
    }
    assert_eq!(fetch(&admin, &id).await, before);
    assert_eq!(message_count(&admin, &id).await, "0");
    command(&guest, &id, ">help", json!({})).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn each_command_is_permitted_by_an_action_of_its_own() {
    let commands = [
        ("/set a 1", "setConversationMeta"),
        ("/set @name a", "updateConversation"),
        ("/assign", "assignConversation"),
        ("/accept", "acceptConversation"),
        ("/join", "joinConversation"),
        ("/leave", "leaveConversation"),
    ];
    for (_, forbidden) in commands {
        let more = TempDir::new().unwrap();
        let policy =
            format!("@id(\"local\") forbid (principal, action == Action::\"{forbidden}\", resource);");
        std::fs::write(more.path().join("local.cedar"), policy).unwrap();
        let app = TestApp::start_with(|config| config.policies.push(more.path().to_owned())).await;
        let admin = app.admin().await;
        let id = create_resource(&admin, "/v2/conversations", json!({})).await;
        for (text, action) in commands {
            let reply = command(&admin, &id, text, json!({ "users": [admin.id] })).await;
            let expected = if action == forbidden { StatusCode::FORBIDDEN } else { StatusCode::CREATED };
            assert_eq!(reply.status, expected, "{text} without {forbidden}: {}", reply.text);
        }
        assert_eq!(message_count(&admin, &id).await, "5");
    }
}

#[tokio::test]
async fn policies_read_what_a_command_changes() {
    let more = TempDir::new().unwrap();
    let policy = r#"@id("local") forbid (principal, action == Action::"acceptConversation", resource)
        when { context has changes && context.changes.contains(Field::"status") };"#;
    std::fs::write(more.path().join("local.cedar"), policy).unwrap();
    let app = TestApp::start_with(|config| config.policies.push(more.path().to_owned())).await;
    let admin = app.admin().await;
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    command(&admin, &id, "/accept", json!({})).await.expect_problem(403, "forbidden");
    perform(&admin, &id, "/set @status active", json!({})).await;
    perform(&admin, &id, "/accept", json!({})).await;
}

#[tokio::test]
async fn commands_in_a_list_are_performed_in_order_or_not_at_all() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let command = |text: &str| json!({ "type": "command", "text": text });
    let commands = json!([command("/accept"), command("/set a 1"), { "text": "Hi" }, command("/set a 2"), command("/leave")]);

    // The first messages of a new conversation.
    let created =
        bot.post("/v2/conversations", json!({ "messages": commands })).await.expect(StatusCode::CREATED);
    let id = created["id"].as_str().unwrap();
    assert_eq!(fetch(&bot, id).await, created);
    assert_eq!((&created["status"], &created["meta"]), (&json!("closed"), &json!({ "a": "2" })));
    assert_eq!(flags(&created, &bot.id), Some((false, false, false)));
    assert_eq!(message_count(&admin, id).await, "5");

    // Messages of an existing one.
    let path = format!("/v2/conversations/{id}/messages");
    let list = bot.post(&path, json!([command("/set b 1"), command("/accept")])).await;
    assert_eq!(list.expect(StatusCode::CREATED).as_array().unwrap().len(), 2);
    let changed = fetch(&bot, id).await;
    assert_eq!((&changed["status"], &changed["meta"]), (&json!("active"), &json!({ "a": "2", "b": "1" })));

    // A command that is not permitted, after one that is.
    let refused = json!([command("/set b 2"), { "text": "Hi" }, command("/set @name b")]);
    bot.post(&path, refused.clone()).await.expect_problem(403, "forbidden");
    bot.post("/v2/conversations", json!({ "messages": refused })).await.expect_problem(403, "forbidden");
    assert_eq!(fetch(&bot, id).await, changed);
    assert_eq!(message_count(&admin, id).await, "7");
    assert_eq!(admin.get("/v2/conversations").await.header("x-total-count"), "1");
}

#[tokio::test]
async fn a_command_takes_effect_when_its_message_is_created() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    let body = json!({ "conversation": id, "type": "command", "text": "/set a 1" });
    let message = create_resource(&admin, "/v2/messages", body).await;
    assert_eq!(fetch(&admin, &id).await["meta"], json!({ "a": "1" }));
    let path = format!("/v2/messages/{message}");
    admin.patch(&path, json!({ "text": "/set a 2" })).await.expect(StatusCode::OK);
    admin.delete(&path).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(fetch(&admin, &id).await["meta"], json!({ "a": "1" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commands_do_not_overwrite_each_other() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    for round in 0..5 {
        let id = create_resource(&agent, "/v2/conversations", json!({})).await;
        let tasks: Vec<_> = (0..12)
            .map(|index| {
                let (agent, id) = (agent.clone(), id.clone());
                tokio::spawn(
                    async move { command(&agent, &id, &format!("/set k{index} v"), json!({})).await },
                )
            })
            .collect();
        for task in tasks {
            task.await.unwrap().expect(StatusCode::CREATED);
        }
        assert_eq!(fetch(&agent, &id).await["meta"].as_object().unwrap().len(), 12, "round {round}");
    }
}

#[tokio::test]
async fn commands_in_conversations_out_of_reach_are_like_those_in_missing_ones() {
    let app = TestApp::start().await;
    let (_, stranger) = app.tenant("elsewhere").await;
    let agent = app.user(Scope::Agent).await;
    let there = create_resource(&stranger, "/v2/conversations", json!({})).await;
    let before = fetch(&stranger, &there).await;
    for id in [there.as_str(), UNKNOWN_ID] {
        let refused = command(&agent, id, "/join", json!({})).await;
        refused.expect_problem(404, "not_found");
        assert_eq!(refused.json["error"]["message"], "Conversation not found");
    }
    assert_eq!(fetch(&stranger, &there).await, before);
}

#[tokio::test]
async fn a_message_may_name_the_conversation_of_the_path_only() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = create_resource(&admin, "/v2/conversations", json!({})).await;
    let other = create_resource(&admin, "/v2/conversations", json!({})).await;
    let path = format!("/v2/conversations/{id}/messages");
    let one =
        admin.post(&path, json!({ "conversation": id, "text": "one" })).await.expect(StatusCode::CREATED);
    assert_eq!(one["conversation"], id.as_str());
    let list = json!([{ "conversation": id, "text": "two" }, { "text": "three" }]);
    admin.post(&path, list).await.expect(StatusCode::CREATED);
    for (body, field) in [
        (json!({ "conversation": other, "text": "four" }), "conversation"),
        (json!([{ "text": "four" }, { "conversation": other, "text": "five" }]), "[1].conversation"),
    ] {
        let refused = admin.post(&path, body).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [(field.to_owned(), "mismatch".to_owned())]);
    }
    assert_eq!(message_count(&admin, &id).await, "3");
    assert_eq!(message_count(&admin, &other).await, "0");
}

#[tokio::test]
async fn put_replaces_a_message() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (bot, agent) = (app.user(Scope::Bot).await, app.user(Scope::Agent).await);
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let full = json!({
        "conversation": conversation, "text": "one", "type": "note", "role": "agent", "isBackchannel": true,
        "actions": [{ "label": "Yes" }], "delay": 250, "meta": { "a": 1 },
    });
    let created = admin.post("/v2/messages", full).await;
    let (path, tag) = (format!("/v2/messages/{}", created.id()), created.header("etag").to_owned());
    let before = created.expect(StatusCode::CREATED);
    app.clock.advance(1000);
    let replaced = put(&bot, &path, json!({ "text": "two", "meta": { "b": 2 } })).await;
    let new_tag = replaced.header("etag").to_owned();
    let replaced = replaced.expect(StatusCode::OK);
    let mut expected = before.clone();
    for (field, value) in [
        ("text", json!("two")),
        ("type", json!("chat")),
        ("role", Value::Null),
        ("isBackchannel", json!(false)),
        ("actions", json!([])),
        ("delay", Value::Null),
        ("meta", json!({ "b": 2 })),
        ("updatedAt", replaced["updatedAt"].clone()),
    ] {
        expected[field] = value;
    }
    assert_eq!(replaced, expected);
    assert_ne!(replaced["updatedAt"], before["updatedAt"]);
    let fetched = admin.get(&path).await;
    assert_eq!(fetched.header("etag"), new_tag);
    assert_eq!(fetched.expect(StatusCode::OK), expected);

    let stale = put_if_match(&bot, &path, &tag, json!({ "text": "three" })).await;
    stale.expect_problem(412, "precondition_failed");
    put_if_match(&bot, &path, &new_tag, json!({ "text": "three" })).await.expect(StatusCode::OK);

    for (body, field) in [
        (json!({}), "text"),
        (json!({ "text": "four", "user": admin.id }), "user"),
        (json!({ "text": "four", "conversation": conversation }), "conversation"),
        (json!({ "text": "four", "actions": {} }), "actions"),
    ] {
        assert_eq!(put(&bot, &path, body).await.expect_problem(400, "invalid_fields"), [field]);
    }
    put(&agent, &path, json!({ "text": "four" })).await.expect_problem(403, "forbidden");
    let missing = put(&bot, &format!("/v2/messages/{UNKNOWN_ID}"), json!({ "text": "four" })).await;
    missing.expect_problem(404, "not_found");
    let anonymous = put(&app.anonymous(), &path, json!({ "text": "four" })).await;
    anonymous.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["text"], "three");
}
