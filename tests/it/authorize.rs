//! The decision endpoint: who may ask about whom, and what is answered.

use crate::support::{Client, Reply, TestApp};
use crate::table::{World, cells};
use crate::tokens::change;
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An id of nothing.
pub const NOBODY: &str = "599e1fcd9da1c72645c95886";

/// Asks.
pub async fn ask(client: &Client, question: Value) -> Reply {
    client.post("/v2/authorize", question).await
}

/// A question about an action on a thing.
pub fn question(action: &str, kind: &str, id: &str) -> Value {
    json!({ "action": { "name": action }, "resource": { "type": kind, "id": id } })
}

/// The same about somebody else.
pub fn about(subject: Value, mut question: Value) -> Value {
    question["subject"] = subject;
    question
}

/// A user as the subject.
pub fn user(id: &str) -> Value {
    json!({ "type": "User", "id": id })
}

/// The answer, which has the form that all of them have.
pub async fn answer(client: &Client, question: Value) -> Value {
    let answer = ask(client, question.clone()).await.expect(StatusCode::OK);
    assert!(answer["decision"].is_boolean(), "{question}: {answer}");
    assert!(answer["context"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{answer}");
    for policy in answer["context"]["policies"].as_array().unwrap() {
        assert!(policy["id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
        assert!(policy.get("doc").is_none_or(|doc| doc.is_null() || doc.is_string()), "{answer}");
    }
    answer
}

/// Whether it is permitted, where nothing stands in the way of a decision.
pub async fn decision(client: &Client, question: Value) -> bool {
    let answer = answer(client, question.clone()).await;
    assert_eq!(answer["context"].get("error"), None, "{question}");
    answer["decision"].as_bool().unwrap()
}

/// The code of what stands in the way of a decision.
pub async fn obstacle(client: &Client, question: Value) -> String {
    let answer = answer(client, question.clone()).await;
    assert_eq!(answer["decision"], false, "{question}");
    assert_eq!(answer["context"]["policies"], json!([]), "{question}");
    let error = &answer["context"]["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{question}: {answer}");
    error["code"].as_str().unwrap_or_else(|| panic!("{question}: {answer}")).to_owned()
}

/// The policies that an answer names.
pub fn policy_ids(answer: &Value) -> Vec<&str> {
    let policies = answer["context"]["policies"].as_array().unwrap();
    policies.iter().map(|policy| policy["id"].as_str().unwrap()).collect()
}

/// The organization of a client's user.
pub async fn home(client: &Client) -> String {
    client.get("/v2/users/me").await.expect(StatusCode::OK)["organization"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_a_caller_there_is_no_answer() {
    let app = TestApp::start().await;
    let question = question("fetchUser", "User", NOBODY);
    ask(&app.anonymous(), question.clone()).await.expect_problem(401, "missing_token");
    ask(&app.bearer(NOBODY), question.clone()).await.expect_problem(401, "invalid_token");
    let late = app.admin().await;
    app.clock.advance(86_400_000);
    ask(&late, question).await.expect_problem(403, "token_expired");
}

#[tokio::test]
async fn for_every_cell_the_answer_is_what_the_routes_do() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let admin = app.admin().await;
    let home = home(&admin).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = world.target(client, &cell).await;
        let (kind, id) = target.resource(&home);
        let question = question(&cell.action, kind, id);
        let itself = decision(client, question.clone()).await;
        let token = json!({ "token": client.bearer });
        let by_token = decision(&admin, about(token, question.clone())).await;
        let by_id = decision(&admin, about(user(&client.id), question)).await;
        let (permitted, how) = world.act(client, &cell, &target).await;
        assert_eq!([itself, by_token, by_id], [permitted; 3], "{cell:?}: {how}");
        assert_eq!(permitted, cell.expected, "{cell:?}");
    }
}

#[tokio::test]
async fn without_a_subject_the_question_is_about_the_bearer_itself() {
    let app = TestApp::start().await;
    for (role, expected) in Scope::ALL.into_iter().zip([false, false, true, true]) {
        let client = app.user(role).await;
        let listing = question("listMessages", "Organization", &home(&client).await);
        assert_eq!(decision(&client, listing).await, expected, "{role}");
        assert!(decision(&client, question("fetchUser", "User", &client.id)).await, "{role}");
    }
}

#[tokio::test]
async fn a_token_is_asked_about_with_its_own_scopes_and_a_user_with_its_role() {
    let app = TestApp::start().await;
    let (bot, admin) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let listing = |of: &str| question("listServices", "Organization", of);
    let home = home(&bot).await;
    let key = admin.key(&[Scope::Agent]).await;
    assert!(!decision(&bot, listing(&home)).await);
    assert!(decision(&bot, about(json!({ "token": admin.bearer }), listing(&home))).await);
    assert!(decision(&bot, about(user(&admin.id), listing(&home))).await);
    assert!(!decision(&bot, about(json!({ "token": key }), listing(&home))).await);
    let talking = question("listConversations", "Organization", &home);
    assert!(decision(&bot, about(json!({ "token": key }), talking.clone())).await);
    // The key asks for itself, too.
    assert!(!decision(&app.bearer(&key), listing(&home)).await);
    assert!(decision(&app.bearer(&key), talking).await);
    // How the subject proved who it is, is the subject's own: a key makes no keys, whoever asks about it.
    let breeding = question("createApiKey", "User", &admin.id);
    assert!(decision(&bot, about(json!({ "token": admin.bearer }), breeding.clone())).await);
    let answer = answer(&bot, about(json!({ "token": key }), breeding)).await;
    assert_eq!((&answer["decision"], policy_ids(&answer)), (&json!(false), vec!["key.creation"]));
}

#[tokio::test]
async fn bots_and_admins_ask_about_others_and_everybody_about_itself() {
    let app = TestApp::start().await;
    let mut users = Vec::new();
    for role in Scope::ALL {
        users.push((role, app.user(role).await));
    }
    for (role, asking) in &users {
        for (_, asked) in &users {
            for subject in [user(&asked.id), json!({ "token": asked.bearer })] {
                let reply = ask(asking, about(subject, question("fetchUser", "User", &asked.id))).await;
                if *role >= Scope::Bot || asking.id == asked.id {
                    assert_eq!(reply.expect(StatusCode::OK)["decision"], true);
                } else {
                    reply.expect_problem(403, "forbidden");
                }
            }
        }
        // Nor are those who may not ask told who there is.
        if *role < Scope::Bot {
            let reply = ask(asking, about(user(NOBODY), question("fetchUser", "User", NOBODY))).await;
            reply.expect_problem(403, "forbidden");
        }
    }
    // What counts is the scope of the credential.
    let (_, admin) = &users[3];
    let key = app.bearer(&admin.key(&[Scope::Agent]).await);
    let about_other = about(user(&users[0].1.id), question("fetchUser", "User", &admin.id));
    ask(&key, about_other).await.expect_problem(403, "forbidden");
    assert!(decision(&key, about(user(&admin.id), question("fetchUser", "User", &admin.id))).await);
}

#[tokio::test]
async fn a_subject_that_is_missing_and_one_out_of_reach_are_the_same_wrong_field() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let root = app.admin().await;
    let mut bodies = Vec::new();
    for id in [NOBODY, &theirs.id, &root.id, "no-id", ""] {
        let reply = ask(&ours, about(user(id), question("fetchUser", "User", &ours.id))).await;
        assert_eq!(reply.expect_problem(400, "invalid_fields"), ["subject.id"]);
        let mut body = reply.json.clone();
        body.as_object_mut().unwrap().remove("requestId").unwrap();
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    // A token of somebody out of reach is as good as any word.
    let own = question("fetchUser", "User", &ours.id);
    let far = answer(&ours, about(json!({ "token": theirs.bearer }), own.clone())).await;
    assert_eq!(far["decision"], false);
    assert_eq!(far, answer(&ours, about(json!({ "token": "garbage" }), own)).await);
    // The root reaches all of them.
    assert!(decision(&root, about(user(&theirs.id), question("fetchUser", "User", &theirs.id))).await);
}

#[tokio::test]
async fn a_token_that_is_no_good_is_a_denial_that_says_why() {
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
        let reply = ask(&bot, about(json!({ "token": token }), own.clone())).await;
        let sent = token.as_str().unwrap();
        assert!(sent.len() < 20 || !reply.text.contains(sent), "the answer repeats the token");
        assert_eq!(obstacle(&bot, about(json!({ "token": token }), own.clone())).await, code, "{token}");
    }
    assert!(decision(&bot, about(json!({ "token": lasting }), own)).await);
}

#[tokio::test]
async fn a_blocked_user_may_do_nothing() {
    let app = TestApp::start().await;
    let (bot, admin) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let key = admin.key(&[Scope::Admin]).await;
    let own = question("fetchUser", "User", &admin.id);
    let subjects = [user(&admin.id), json!({ "token": admin.bearer }), json!({ "token": key })];
    for subject in subjects.clone() {
        assert!(decision(&bot, about(subject, own.clone())).await);
    }
    change(&app, &admin.id, json!({ "status": "blocked" })).await;
    for subject in subjects.clone() {
        let code = obstacle(&bot, about(subject, own.clone())).await;
        assert!(["blocked", "invalid_token"].contains(&code.as_str()), "{code}");
    }
    change(&app, &admin.id, json!({ "status": "active" })).await;
    let [by_id, token, key] = subjects;
    assert!(decision(&bot, about(by_id, own.clone())).await);
    // The credentials that it had are gone for good.
    for subject in [token, key] {
        assert_eq!(obstacle(&bot, about(subject, own.clone())).await, "invalid_token");
    }
}

#[tokio::test]
async fn what_the_schema_does_not_know_is_a_denial_that_says_so() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let home = home(&admin).await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    for (action, kind, id) in [
        ("fetchConversations", "Conversation", conversation.as_str()),
        ("FetchConversation", "Conversation", &conversation),
        ("", "Conversation", &conversation),
        ("fetchConversation", "Message", &conversation),
        ("fetchConversation", "User", &admin.id),
        ("fetchConversation", "Organization", &home),
        ("listConversations", "Conversation", &conversation),
        ("createConversation", "Conversation", &conversation),
        ("fetchConversation", "Chat", &conversation),
        ("fetchConversation", "conversation", &conversation),
        ("fetchConversation", "", &conversation),
        ("fetchConversation", "Scope", "admin"),
        ("fetchConversation", "Not::A type\"", &conversation),
    ] {
        let code = obstacle(&admin, question(action, kind, id)).await;
        assert!(!code.is_empty(), "{action} {kind}");
    }
    assert!(decision(&admin, question("fetchConversation", "Conversation", &conversation)).await);
}

#[tokio::test]
async fn a_thing_that_is_missing_and_one_out_of_reach_answer_exactly_alike() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (their_home, theirs) = app.tenant("theirs").await;
    let made = async |path: &str, body: Value| theirs.post(path, body).await.id();
    let conversation = made("/v2/conversations", json!({ "status": "open" })).await;
    let things = [
        ("Organization", their_home.clone()),
        ("OrganizationGroup", made("/v2/orggroups", json!({ "name": "group" })).await),
        ("User", theirs.id.clone()),
        ("Message", made("/v2/messages", json!({ "conversation": conversation, "text": "x" })).await),
        ("Conversation", conversation),
        ("Contact", made("/v2/contacts", json!({})).await),
        ("KnowledgeItem", made("/v2/kbitems", json!({ "title": "title" })).await),
        ("Form", made("/v2/forms", json!({ "name": "form" })).await),
        ("Service", made("/v2/services", json!({ "name": "service" })).await),
    ];
    for (kind, id) in things {
        let action = |verb: &str| format!("{verb}{kind}");
        for verb in ["fetch", "update", "delete"] {
            let theirs_seen = answer(&theirs, question(&action(verb), kind, &id)).await;
            assert_eq!(theirs_seen["decision"], true, "{verb} {kind}");
            let far = answer(&ours, question(&action(verb), kind, &id)).await;
            let missing = answer(&ours, question(&action(verb), kind, NOBODY)).await;
            assert_eq!(far["decision"], false, "{verb} {kind}");
            assert_eq!(far, missing, "{verb} {kind}");
            assert_eq!(answer(&ours, question(&action(verb), kind, "no-id")).await, missing, "{verb} {kind}");
        }
    }
    // List and create are asked of an organization.
    for action in ["listForms", "createForm"] {
        let far = answer(&ours, question(action, "Organization", &their_home)).await;
        assert_eq!(far["decision"], false);
        assert_eq!(far, answer(&ours, question(action, "Organization", NOBODY)).await);
    }
}

#[tokio::test]
async fn list_and_create_are_asked_of_the_organization_that_holds_the_things() {
    let app = TestApp::start().await;
    let (child, below) = app.tenant("below").await;
    for (role, lists, creates) in [
        (Scope::Guest, false, false),
        (Scope::Agent, true, true),
        (Scope::Bot, true, true),
        (Scope::Admin, true, true),
    ] {
        let client = app.user(role).await;
        for organization in [home(&client).await, child.clone()] {
            let listing = question("listConversations", "Organization", &organization);
            // Guests and agents act in their own organization only.
            let reaches = organization != child || role >= Scope::Bot;
            assert_eq!(decision(&client, listing).await, lists && reaches, "{role}");
            let creating = question("createConversation", "Organization", &organization);
            assert_eq!(decision(&client, creating).await, creates && reaches, "{role}");
        }
    }
    // What is above one is out of reach.
    let root = home(&app.admin().await).await;
    for action in ["listConversations", "createConversation"] {
        assert!(decision(&below, question(action, "Organization", &child)).await);
        assert!(!decision(&below, question(action, "Organization", &root)).await);
    }
}
