//! Creations are authorized on the organization and on the new resource (see "List and create" in docs/decisions.md). An update
//! returns the resource only if the caller may fetch it (see "Update response" there).

use crate::authzen::start_with_policies;
use crate::resources::{ResourceSpec, create_resource, resource_specs, unique_email};
use crate::support::{PASSWORD, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn every_creation_is_authorized_on_the_new_resource_too() {
    // The questions about the organization are allowed; those about the new resource are denied.
    let policy = r#"@id("new.resource") forbid (principal, action in [
            Action::"createOrganizationGroup", Action::"createUser", Action::"createConversation", Action::"createMessage",
            Action::"createContact", Action::"createKnowledgeItem", Action::"createForm", Action::"createService"
        ], resource)
        when { context has ip } unless { resource is Organization || resource has email && resource.email like "*@here.example" };
        @id("new.organization") forbid (principal, action == Action::"createOrganization", resource)
        when { resource has level && resource.level >= 2 };"#;
    let app = start_with_policies(policy).await;
    let admin = app.admin().await;
    for (path, body) in [
        ("/v2/orggroups", json!({ "name": "group" })),
        ("/v2/users", json!({ "email": unique_email() })),
        ("/v2/conversations", json!({})),
        ("/v2/contacts", json!({})),
        ("/v2/kbitems", json!({ "title": "title" })),
        ("/v2/forms", json!({ "name": "form" })),
        ("/v2/services", json!({ "name": "service" })),
    ] {
        let count = admin.get(path).await.header("x-total-count").to_owned();
        admin.post(path, body).await.expect_problem(403, "forbidden");
        assert_eq!(admin.get(path).await.header("x-total-count"), count, "{path}");
    }
    create_resource(&admin, "/v2/users", json!({ "email": "somebody@here.example" })).await;
    // The new organization is below its parent when it is authorized.
    let child = create_resource(&admin, "/v2/organizations", json!({ "name": "child" })).await;
    let grandchild = json!({ "name": "grandchild", "parent": child });
    admin.post("/v2/organizations", grandchild).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn each_message_of_a_new_conversation_is_authorized_with_its_attributes() {
    let policy = r#"@id("backchannel") forbid (principal, action == Action::"createMessage", resource is Message)
        when { resource has isBackchannel && resource.isBackchannel } unless { principal in Scope::"bot" };
        @id("category") forbid (principal, action == Action::"createConversation", resource is Conversation)
        when { resource has category && resource.category == "legal" } unless { principal in Scope::"admin" };"#;
    let app = start_with_policies(policy).await;
    let (agent, bot) = (app.user(Scope::Agent).await, app.user(Scope::Bot).await);
    let open = json!({ "text": "Hello" });
    let hidden = json!({ "text": "Do not show this", "isBackchannel": true });
    let count = bot.get("/v2/messages").await.header("x-total-count").to_owned();
    let both = json!({ "messages": [open, hidden] });
    agent.post("/v2/conversations", both.clone()).await.expect_problem(403, "forbidden");
    assert_eq!(bot.get("/v2/messages").await.header("x-total-count"), count);
    let conversation = create_resource(&bot, "/v2/conversations", both).await;
    let messages = format!("/v2/conversations/{conversation}/messages");
    agent.post(&messages, open.clone()).await.expect(StatusCode::CREATED);
    agent.post(&messages, hidden.clone()).await.expect_problem(403, "forbidden");
    agent.post(&messages, json!([open, hidden])).await.expect_problem(403, "forbidden");
    bot.post(&messages, hidden).await.expect(StatusCode::CREATED);
    bot.post("/v2/conversations", json!({ "category": "legal" })).await.expect_problem(403, "forbidden");
    bot.post("/v2/conversations", json!({ "category": "sales" })).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_question_about_a_creation_is_about_the_organization_that_would_hold_the_resource() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let home = admin.get("/v2/users/me").await.json["organization"].clone();
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "form" })).await;
    let ask = async |resource| {
        let question = json!({ "action": { "name": "createForm" }, "resource": resource });
        admin.post("/v2/authorize", question).await.expect(StatusCode::OK)
    };
    let answer = ask(json!({ "type": "Organization", "id": home })).await;
    assert_eq!(answer["decision"], true);
    let answer = ask(json!({ "type": "Form", "id": form })).await;
    assert_eq!(answer["decision"], false, "create actions do not apply to existing forms: {answer}");
    assert_eq!(answer["context"]["error"]["code"], "undecidable");
    let search = |what: &str, body| {
        let (admin, path) = (admin.clone(), format!("/access/v1/search/{what}"));
        async move { admin.post(&path, body).await.expect(StatusCode::OK)["results"].clone() }
    };
    let subject = json!({ "type": "User", "id": admin.id });
    let actions = json!({ "subject": subject, "resource": { "type": "Form", "id": form } });
    let names = json!([{ "name": "deleteForm" }, { "name": "fetchForm" }, { "name": "referTo" }, { "name": "updateForm" }]);
    assert_eq!(search("action", actions).await, names);
    let forms =
        json!({ "subject": subject, "action": { "name": "createForm" }, "resource": { "type": "Form" } });
    assert_eq!(search("resource", forms).await, json!([]));
}

#[tokio::test]
async fn an_update_returns_the_resource_only_if_the_caller_may_fetch_it() {
    let app = TestApp::start().await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "secret" })).await;
    let path = format!("/v2/forms/{form}");
    bot.get(&path).await.expect_problem(403, "forbidden");
    for patch in [json!({}), json!({ "meta": { "touched": true } })] {
        let reply = bot.patch(&path, patch).await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NO_CONTENT, ""));
    }
    let shown = admin.patch(&path, json!({ "name": "open" })).await.expect(StatusCode::OK);
    assert_eq!((&shown["name"], &shown["meta"]), (&json!("open"), &json!({ "touched": true })));
    // A create returns what the bot created, although it may not fetch it.
    let created = bot.post("/v2/forms", json!({ "name": "own" })).await.expect(StatusCode::CREATED);
    assert_eq!(created["name"], "own");
}

#[tokio::test]
async fn no_update_returns_a_resource_that_may_not_be_fetched() {
    let policy = r#"@id("no.fetch") forbid (principal, action in [
            Action::"fetchOrganization", Action::"fetchOrganizationGroup", Action::"fetchUser", Action::"fetchConversation",
            Action::"fetchMessage", Action::"fetchContact", Action::"fetchKnowledgeItem", Action::"fetchForm",
            Action::"fetchService"
        ], resource)
        when { context has now && context.now >= datetime("2026-01-31T12:30:00Z") };"#;
    let app = start_with_policies(policy).await;
    let specs = resource_specs(&app.admin().await).await;
    app.clock.advance(3_600_000);
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, .. } in specs {
        let resource_path = format!("{path}/{}", create_resource(&admin, path, minimal).await);
        let reply = admin.patch(&resource_path, json!({ "meta": { "seen": 1 } })).await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
        admin.get(&resource_path).await.expect_problem(403, "forbidden");
        let changed = admin.get(&format!("{path}?id={}", resource_path.rsplit('/').next().unwrap())).await;
        assert_eq!(changed.expect(StatusCode::OK)[0]["meta"], json!({ "seen": 1 }), "{path}");
    }
    let own = json!({ "password": "an0ther-s3cret", "currentPassword": PASSWORD });
    assert_eq!(admin.patch("/v2/users/me", own).await.status, StatusCode::NO_CONTENT);
}
