//! The decision endpoint: who can ask about which subject, and its responses.

use crate::permission_table::{Fixture, cells};
use crate::support::{Client, Reply, TestApp};
use crate::tokens::update_user;
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A well-formed id that no resource has.
pub const UNKNOWN_ID: &str = "599e1fcd9da1c72645c95886";

/// Sends a question to the decision endpoint.
pub async fn authorize(client: &Client, question: Value) -> Reply {
    client.post("/v2/authorize", question).await
}

/// A question about an action on a resource.
pub fn question(action: &str, kind: &str, id: &str) -> Value {
    json!({ "action": { "name": action }, "resource": { "type": kind, "id": id } })
}

/// The question with a subject.
pub fn with_subject(subject: Value, mut question: Value) -> Value {
    question["subject"] = subject;
    question
}

/// A user as the subject.
pub fn user(id: &str) -> Value {
    json!({ "type": "User", "id": id })
}

/// Sends a question, checks the form of the response, and returns its body.
pub async fn answer(client: &Client, question: Value) -> Value {
    let answer = authorize(client, question.clone()).await.expect_decisions(StatusCode::OK);
    assert!(answer["decision"].is_boolean(), "{question}: {answer}");
    assert!(answer["context"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{answer}");
    for policy in answer["context"]["policies"].as_array().unwrap() {
        assert!(policy["id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
        assert!(policy.get("doc").is_none_or(|doc| doc.is_null() || doc.is_string()), "{answer}");
    }
    answer
}

/// The decision. Fails if the response contains an error.
pub async fn decision(client: &Client, question: Value) -> bool {
    let answer = answer(client, question.clone()).await;
    assert_eq!(answer["context"].get("error"), None, "{question}");
    answer["decision"].as_bool().unwrap()
}

/// The code of the error that caused a denial.
pub async fn error_code(client: &Client, question: Value) -> String {
    let answer = answer(client, question.clone()).await;
    assert_eq!(answer["decision"], false, "{question}");
    assert_eq!(answer["context"]["policies"], json!([]), "{question}");
    let error = &answer["context"]["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{question}: {answer}");
    error["code"].as_str().unwrap_or_else(|| panic!("{question}: {answer}")).to_owned()
}

/// The ids of the policies in a response.
pub fn policy_ids(answer: &Value) -> Vec<&str> {
    let policies = answer["context"]["policies"].as_array().unwrap();
    policies.iter().map(|policy| policy["id"].as_str().unwrap()).collect()
}

/// The organization of a client's user.
pub async fn home_organization(client: &Client) -> String {
    client.get("/v2/users/me").await.expect(StatusCode::OK)["organization"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_without_a_valid_credential_are_rejected() {
    let app = TestApp::start().await;
    let question = question("fetchUser", "User", UNKNOWN_ID);
    authorize(&app.anonymous(), question.clone()).await.expect_problem(401, "missing_token");
    authorize(&app.bearer(UNKNOWN_ID), question.clone()).await.expect_problem(401, "invalid_token");
    let late = app.admin().await;
    app.clock.advance(86_400_000);
    authorize(&late, question).await.expect_problem(403, "token_expired");
}

#[tokio::test]
async fn decisions_agree_with_the_routes_for_every_cell() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let admin = app.admin().await;
    let home = home_organization(&admin).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = fixture.target(client, &cell).await;
        let (kind, id) = target.resource(&home);
        let question = question(&cell.action, kind, id);
        let itself = decision(client, question.clone()).await;
        let token = json!({ "token": client.bearer });
        let by_token = decision(&admin, with_subject(token, question.clone())).await;
        let by_id = decision(&admin, with_subject(user(&client.id), question)).await;
        let (permitted, how) = fixture.perform(client, &cell, &target).await;
        assert_eq!([itself, by_token, by_id], [permitted; 3], "{cell:?}: {how}");
        assert_eq!(permitted, cell.expected, "{cell:?}");
    }
}

#[tokio::test]
async fn the_default_subject_is_the_caller() {
    let app = TestApp::start().await;
    for (role, expected) in Scope::ALL.into_iter().zip([false, false, true, true]) {
        let client = app.user(role).await;
        let listing = question("listMessages", "Organization", &home_organization(&client).await);
        assert_eq!(decision(&client, listing).await, expected, "{role}");
        assert!(decision(&client, question("fetchUser", "User", &client.id)).await, "{role}");
    }
}

#[tokio::test]
async fn a_token_has_its_own_scopes_and_a_user_those_of_its_role() {
    let app = TestApp::start().await;
    let (bot, admin) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let listing = |organization: &str| question("listServices", "Organization", organization);
    let home_organization = home_organization(&bot).await;
    let key = admin.key(&[Scope::Agent]).await;
    assert!(!decision(&bot, listing(&home_organization)).await);
    assert!(
        decision(&bot, with_subject(json!({ "token": admin.bearer }), listing(&home_organization))).await
    );
    assert!(decision(&bot, with_subject(user(&admin.id), listing(&home_organization))).await);
    assert!(!decision(&bot, with_subject(json!({ "token": key }), listing(&home_organization))).await);
    let list_conversations = question("listConversations", "Organization", &home_organization);
    assert!(decision(&bot, with_subject(json!({ "token": key }), list_conversations.clone())).await);
    // The same if the key asks about itself.
    assert!(!decision(&app.bearer(&key), listing(&home_organization)).await);
    assert!(decision(&app.bearer(&key), list_conversations).await);
    // The credential in the context is that of the subject, not of the caller: API keys cannot create API keys.
    let create_key = question("createApiKey", "User", &admin.id);
    assert!(decision(&bot, with_subject(json!({ "token": admin.bearer }), create_key.clone())).await);
    let answer = answer(&bot, with_subject(json!({ "token": key }), create_key)).await;
    assert_eq!((&answer["decision"], policy_ids(&answer)), (&json!(false), vec!["key.creation"]));
}

#[tokio::test]
async fn only_bots_and_admins_may_ask_about_other_subjects() {
    let app = TestApp::start().await;
    let mut users = Vec::new();
    for role in Scope::ALL {
        users.push((role, app.user(role).await));
    }
    for (role, caller) in &users {
        for (_, target) in &users {
            for subject in [user(&target.id), json!({ "token": target.bearer })] {
                let reply =
                    authorize(caller, with_subject(subject, question("fetchUser", "User", &target.id))).await;
                if *role >= Scope::Bot || caller.id == target.id {
                    assert_eq!(reply.expect(StatusCode::OK)["decision"], true);
                } else {
                    reply.expect_problem(403, "forbidden");
                }
            }
        }
        // Callers that may not ask learn nothing about the existence of the subject.
        if *role < Scope::Bot {
            let reply =
                authorize(caller, with_subject(user(UNKNOWN_ID), question("fetchUser", "User", UNKNOWN_ID)))
                    .await;
            reply.expect_problem(403, "forbidden");
        }
    }
    // The scope of the credential counts, not the role.
    let (_, admin) = &users[3];
    let key = app.bearer(&admin.key(&[Scope::Agent]).await);
    let about_other = with_subject(user(&users[0].1.id), question("fetchUser", "User", &admin.id));
    authorize(&key, about_other).await.expect_problem(403, "forbidden");
    assert!(decision(&key, with_subject(user(&admin.id), question("fetchUser", "User", &admin.id))).await);
}

#[tokio::test]
async fn missing_and_inaccessible_subjects_yield_the_same_error() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let root = app.admin().await;
    let mut bodies = Vec::new();
    for id in [UNKNOWN_ID, &theirs.id, &root.id, "no-id", ""] {
        let reply = authorize(&ours, with_subject(user(id), question("fetchUser", "User", &ours.id))).await;
        let body = reply.expect_decisions(StatusCode::OK);
        assert_eq!(
            (&body["decision"], &body["context"]["error"]["code"]),
            (&json!(false), &json!("unknown_subject"))
        );
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    // A token of an inaccessible user gives the same response as an arbitrary string.
    let own = question("fetchUser", "User", &ours.id);
    let inaccessible = answer(&ours, with_subject(json!({ "token": theirs.bearer }), own.clone())).await;
    assert_eq!(inaccessible["decision"], false);
    assert_eq!(inaccessible, answer(&ours, with_subject(json!({ "token": "garbage" }), own)).await);
    // The root organization reaches all users.
    assert!(decision(&root, with_subject(user(&theirs.id), question("fetchUser", "User", &theirs.id))).await);
}

#[tokio::test]
async fn an_invalid_subject_token_is_denied_with_an_error_code() {
    let app = TestApp::start().await;
    let guest = app.user(Scope::Guest).await;
    let end = app.clock.now().plus_seconds(60).to_string();
    let body = json!({ "name": "short", "scopes": ["guest"], "expiresAt": end });
    let short = guest.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED)["key"].clone();
    let lasting = guest.key(&[Scope::Guest]).await;
    let old = app.user(Scope::Guest).await;
    app.clock.advance(86_400_000);
    let bot = app.user(Scope::Bot).await;
    let tampered = format!("{}x", bot.bearer.clone().unwrap());
    let own = question("fetchUser", "User", &guest.id);
    for (token, code) in [
        (json!(old.bearer), "token_expired"),
        (short, "token_expired"),
        (json!("garbage"), "invalid_token"),
        (json!(""), "invalid_token"),
        (json!("94c70d470e391bdc16a8d8363b5d4891"), "invalid_token"),
        (json!(format!("Bearer {lasting}")), "invalid_token"),
        (json!(tampered), "invalid_token"),
    ] {
        let reply = authorize(&bot, with_subject(json!({ "token": token }), own.clone())).await;
        let sent = token.as_str().unwrap();
        assert!(sent.len() < 20 || !reply.text.contains(sent), "the response contains the token");
        assert_eq!(
            error_code(&bot, with_subject(json!({ "token": token }), own.clone())).await,
            code,
            "{token}"
        );
    }
    assert!(decision(&bot, with_subject(json!({ "token": lasting }), own)).await);
}

#[tokio::test]
async fn a_blocked_user_is_denied_everything() {
    let app = TestApp::start().await;
    let (bot, admin) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let key = admin.key(&[Scope::Admin]).await;
    let own = question("fetchUser", "User", &admin.id);
    let subjects = [user(&admin.id), json!({ "token": admin.bearer }), json!({ "token": key })];
    for subject in subjects.clone() {
        assert!(decision(&bot, with_subject(subject, own.clone())).await);
    }
    update_user(&app, &admin.id, json!({ "status": "blocked" })).await;
    for subject in subjects.clone() {
        let code = error_code(&bot, with_subject(subject, own.clone())).await;
        assert!(["blocked", "invalid_token"].contains(&code.as_str()), "{code}");
    }
    update_user(&app, &admin.id, json!({ "status": "active" })).await;
    let [by_id, token, key] = subjects;
    assert!(decision(&bot, with_subject(by_id, own.clone())).await);
    // The credentials from before the block stay revoked.
    for subject in [token, key] {
        assert_eq!(error_code(&bot, with_subject(subject, own.clone())).await, "invalid_token");
    }
}

#[tokio::test]
async fn unknown_actions_and_types_are_denied_with_an_error_code() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let home_organization = home_organization(&admin).await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    for (action, kind, id) in [
        ("fetchConversations", "Conversation", conversation.as_str()),
        ("FetchConversation", "Conversation", &conversation),
        ("", "Conversation", &conversation),
        ("fetchConversation", "Message", &conversation),
        ("fetchConversation", "User", &admin.id),
        ("fetchConversation", "Organization", &home_organization),
        ("listConversations", "Conversation", &conversation),
        ("createConversation", "Conversation", &conversation),
        ("fetchConversation", "Chat", &conversation),
        ("fetchConversation", "conversation", &conversation),
        ("fetchConversation", "", &conversation),
        ("fetchConversation", "Scope", "admin"),
        ("fetchConversation", "Not::A type\"", &conversation),
    ] {
        let code = error_code(&admin, question(action, kind, id)).await;
        assert!(!code.is_empty(), "{action} {kind}");
    }
    assert!(decision(&admin, question("fetchConversation", "Conversation", &conversation)).await);
}

#[tokio::test]
async fn missing_and_inaccessible_resources_yield_the_same_answer() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (their_home, theirs) = app.tenant("theirs").await;
    let create = async |path: &str, body: Value| theirs.post(path, body).await.id();
    let conversation = create("/v2/conversations", json!({ "status": "open" })).await;
    let resources = [
        ("Organization", their_home.clone()),
        ("OrganizationGroup", create("/v2/orggroups", json!({ "name": "group" })).await),
        ("User", theirs.id.clone()),
        ("Message", create("/v2/messages", json!({ "conversation": conversation, "text": "x" })).await),
        ("Conversation", conversation),
        ("Contact", create("/v2/contacts", json!({})).await),
        ("KnowledgeItem", create("/v2/kbitems", json!({ "title": "title" })).await),
        ("Form", create("/v2/forms", json!({ "name": "form" })).await),
        ("Service", create("/v2/services", json!({ "name": "service" })).await),
    ];
    for (kind, id) in resources {
        let action = |verb: &str| format!("{verb}{kind}");
        for verb in ["fetch", "update", "delete"] {
            let theirs_seen = answer(&theirs, question(&action(verb), kind, &id)).await;
            assert_eq!(theirs_seen["decision"], true, "{verb} {kind}");
            let inaccessible = answer(&ours, question(&action(verb), kind, &id)).await;
            let missing = answer(&ours, question(&action(verb), kind, UNKNOWN_ID)).await;
            assert_eq!(inaccessible["decision"], false, "{verb} {kind}");
            assert_eq!(inaccessible, missing, "{verb} {kind}");
            assert_eq!(answer(&ours, question(&action(verb), kind, "no-id")).await, missing, "{verb} {kind}");
        }
    }
    // List and create are authorized on an organization.
    for action in ["listForms", "createForm"] {
        let inaccessible = answer(&ours, question(action, "Organization", &their_home)).await;
        assert_eq!(inaccessible["decision"], false);
        assert_eq!(inaccessible, answer(&ours, question(action, "Organization", UNKNOWN_ID)).await);
    }
}

#[tokio::test]
async fn list_and_create_are_authorized_on_the_owning_organization() {
    let app = TestApp::start().await;
    let (child, below) = app.tenant("below").await;
    for (role, lists, creates) in [
        (Scope::Guest, false, false),
        (Scope::Agent, true, true),
        (Scope::Bot, true, true),
        (Scope::Admin, true, true),
    ] {
        let client = app.user(role).await;
        for organization in [home_organization(&client).await, child.clone()] {
            let listing = question("listConversations", "Organization", &organization);
            // Guests and agents act in their own organization only.
            let reaches = organization != child || role >= Scope::Bot;
            assert_eq!(decision(&client, listing).await, lists && reaches, "{role}");
            let creating = question("createConversation", "Organization", &organization);
            assert_eq!(decision(&client, creating).await, creates && reaches, "{role}");
        }
    }
    // An organization above the caller's own is inaccessible.
    let root_organization = home_organization(&app.admin().await).await;
    for action in ["listConversations", "createConversation"] {
        assert!(decision(&below, question(action, "Organization", &child)).await);
        assert!(!decision(&below, question(action, "Organization", &root_organization)).await);
    }
}
