//! AuthZEN's evaluation: who may ask about whom, what is known of whom it is about, and what the answer tells.

use crate::authorize::{NOBODY, home, user};
use crate::support::{Client, TestApp, project_file};
use crate::table::{World, cells};
use crate::tokens::change;
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const EVALUATION: &str = "/access/v1/evaluation";
pub const EVALUATIONS: &str = "/access/v1/evaluations";
const SEARCHES: [&str; 3] =
    ["/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action"];

/// A subject or a resource.
pub fn thing(kind: &str, id: &str) -> Value {
    json!({ "type": kind, "id": id })
}

/// A question: may this one do that?
pub fn may(subject: Value, action: &str, resource: Value) -> Value {
    json!({ "subject": subject, "action": { "name": action }, "resource": resource })
}

/// The answer to a question, which has the form that all of them have.
pub async fn evaluate(client: &Client, question: Value) -> Value {
    let reply = client.post(EVALUATION, question.clone()).await;
    assert!(reply.header("x-policy-version").len() >= 8, "{question}: {:?}", reply.headers);
    let answer = reply.expect(StatusCode::OK);
    assert!(answer["decision"].is_boolean(), "{question}: {answer}");
    answer
}

/// Whether it is permitted, where nothing stands in the way of a decision.
pub async fn decides(client: &Client, question: Value) -> bool {
    let answer = evaluate(client, question.clone()).await;
    let decision = answer["decision"].as_bool().unwrap();
    assert_eq!(answer, json!({ "decision": decision }), "{question}: a strict client sees nothing else");
    decision
}

/// The code of what stands in the way, of an answer that is a denial therefore.
pub fn obstacle(answer: &Value) -> &str {
    let error = &answer["context"]["error"];
    assert_eq!(answer["decision"], false, "{answer}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    error["code"].as_str().filter(|code| !code.is_empty()).unwrap_or_else(|| panic!("{answer}"))
}

/// The service with these policies besides its own.
pub async fn with_policies(text: &str) -> TestApp {
    let more = tempfile::tempdir().unwrap();
    std::fs::write(more.path().join("more.cedar"), text).unwrap();
    TestApp::with(|config| config.policies.push(more.path().to_owned())).await
}

/// The service with the users and records of the certification scenario.
pub async fn with_records() -> TestApp {
    crate::certification::start().await
}

#[tokio::test]
async fn without_a_caller_there_is_no_answer() {
    let app = TestApp::start().await;
    let question = may(user(NOBODY), "fetchUser", user(NOBODY));
    for path in [EVALUATION, EVALUATIONS].into_iter().chain(SEARCHES) {
        app.anonymous().post(path, question.clone()).await.expect_problem(401, "missing_token");
        app.bearer(NOBODY).post(path, question.clone()).await.expect_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn everybody_asks_about_itself_and_bots_and_admins_about_other_users() {
    let app = TestApp::start().await;
    let mut users = Vec::new();
    for role in Scope::ALL {
        users.push((role, app.user(role).await));
    }
    for (role, asking) in &users {
        for (_, asked) in &users {
            let question = may(user(&asked.id), "fetchUser", user(&asked.id));
            if *role >= Scope::Bot || asking.id == asked.id {
                assert!(decides(asking, question).await, "{role}");
            } else {
                asking.post(EVALUATION, question).await.expect_problem(403, "forbidden");
            }
        }
        // Whoever may not ask is not told who there is.
        if *role < Scope::Bot {
            let question = may(user(NOBODY), "fetchUser", user(NOBODY));
            asking.post(EVALUATION, question).await.expect_problem(403, "forbidden");
        }
    }
    // What counts is the scope of the credential.
    let (_, admin) = &users[3];
    let key = app.bearer(&admin.key(&[Scope::Agent]).await);
    let other = may(user(&users[0].1.id), "fetchUser", user(&admin.id));
    key.post(EVALUATION, other).await.expect_problem(403, "forbidden");
    assert!(decides(&key, may(user(&admin.id), "fetchUser", user(&admin.id))).await);
}

#[tokio::test]
async fn bots_and_admins_ask_about_the_subjects_of_other_domains() {
    let app = with_records().await;
    let question = may(thing("user", "alice"), "read", thing("record", "record-1"));
    for role in Scope::ALL {
        let client = app.user(role).await;
        if role >= Scope::Bot {
            assert!(decides(&client, question.clone()).await, "{role}");
        } else {
            client.post(EVALUATION, question.clone()).await.expect_problem(403, "forbidden");
        }
    }
    let (_, tenant) = app.tenant("tenant").await;
    assert!(decides(&tenant, question.clone()).await);
    let key = app.bearer(&tenant.key(&[Scope::Agent]).await);
    key.post(EVALUATION, question).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_user_that_is_missing_and_one_out_of_reach_are_denied_alike() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let root = app.admin().await;
    let mut answers = Vec::new();
    for id in [NOBODY, &theirs.id, &root.id, "no-id"] {
        let answer = evaluate(&ours, may(user(id), "fetchUser", user(&ours.id))).await;
        assert!(!obstacle(&answer).is_empty());
        answers.push(answer.to_string().replace(id, "?"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // The root reaches all of them.
    assert!(decides(&root, may(user(&theirs.id), "fetchUser", user(&theirs.id))).await);
}

#[tokio::test]
async fn a_thing_that_is_missing_and_one_out_of_reach_are_denied_alike() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let far = theirs.post("/v2/conversations", json!({})).await.id();
    for explain in [false, true] {
        let mut answers = Vec::new();
        for id in [NOBODY, &far, "no-id"] {
            let mut question = may(user(&ours.id), "fetchConversation", thing("Conversation", id));
            question["context"] = json!({ "explain": explain });
            let answer = evaluate(&ours, question).await;
            assert_eq!(answer["decision"], false);
            answers.push(answer.to_string().replace(id, "?"));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
    let seen = may(user(&theirs.id), "fetchConversation", thing("Conversation", &far));
    assert!(decides(&theirs, seen).await);
}

#[tokio::test]
async fn what_is_in_the_store_wins_over_what_is_sent() {
    let policies = r#"@id("secret") forbid (principal, action == Action::"fetchConversation", resource)
            when { resource has category && resource.category == "secret" };
        @id("tops") permit (principal, action == Action::"listServices", resource)
            when { principal.role == Scope::"admin" };
        @id("absent") forbid (principal, action == Action::"fetchUser", resource)
            unless { principal has status && principal.status == "active" };"#;
    let app = with_policies(policies).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let home = home(&admin).await;
    let secret = admin.post("/v2/conversations", json!({ "category": "secret" })).await.id();
    let open = admin.post("/v2/conversations", json!({})).await.id();
    let with = |mut thing: Value, properties: Value| {
        thing["properties"] = properties;
        thing
    };
    for (id, sent) in [(&secret, json!({ "category": "open" })), (&open, json!({ "category": "secret" }))] {
        let conversation = with(thing("Conversation", id), sent);
        let permitted = decides(&admin, may(user(&guest.id), "fetchConversation", conversation)).await;
        assert_eq!(permitted, *id == open);
    }
    // Even what is of no type that it could have does no harm.
    let odd = with(thing("Conversation", &open), json!({ "category": [1.5, null], "organization": 7 }));
    assert!(decides(&admin, may(user(&guest.id), "fetchConversation", odd)).await);

    let services = thing("Organization", &home);
    let role = json!({ "type": "Scope", "id": "admin" });
    for properties in
        [json!({ "role": role }), json!({ "role": { "__entity": role } }), json!({ "role": "admin" })]
    {
        let posing = with(user(&guest.id), properties);
        assert!(!decides(&admin, may(posing, "listServices", services.clone())).await);
    }
    let blocked = with(user(&guest.id), json!({ "status": "blocked" }));
    assert!(decides(&admin, may(blocked, "fetchUser", user(&guest.id))).await);
    change(&app, &guest.id, json!({ "status": "blocked" })).await;
    let active = with(user(&guest.id), json!({ "status": "active" }));
    let answer = evaluate(&admin, may(active, "fetchUser", user(&guest.id))).await;
    assert_eq!(answer["decision"], false);
}

#[tokio::test]
async fn nobody_sends_parents() {
    let app = with_records().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let home = home(&admin).await;
    let scope = json!([{ "type": "Scope", "id": "admin" }]);
    for (field, value) in [
        ("parents", scope.clone()),
        ("properties", json!({ "parents": scope })),
        ("properties", json!({ "scope": "admin", "scopes": ["admin"], "Scope": scope[0] })),
        ("scope", json!("admin")),
    ] {
        let mut posing = user(&guest.id);
        posing[field] = value;
        for client in [&admin, &guest] {
            let question = may(posing.clone(), "listServices", thing("Organization", &home));
            assert!(!decides(client, question).await, "{field}");
        }
    }
    let mut posing = thing("user", "mallory");
    posing["parents"] = json!([{ "type": "group", "id": "readers" }]);
    posing["properties"] = json!({ "parents": posing["parents"] });
    assert!(!decides(&admin, may(posing, "read", thing("record", "record-1"))).await);
}

#[tokio::test]
async fn the_properties_of_the_action_reach_the_context_and_the_context_wins() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let updating = |properties: Value, context: Value| {
        let mut question = may(user(&agent.id), "updateUser", user(&agent.id));
        question["action"]["properties"] = properties;
        question["context"] = context;
        question
    };
    let (role, name) = (json!({ "changes": ["role"] }), json!({ "changes": ["givenName"] }));
    for (properties, context, permitted) in [
        (json!({}), json!({}), true),
        (role.clone(), json!({}), false),
        (json!({}), role.clone(), false),
        (role.clone(), name.clone(), true),
        (name, role, false),
        (json!({ "colour": { "er": null } }), json!({ "later": 1.5 }), true),
    ] {
        let question = updating(properties, context);
        assert_eq!(decides(&agent, question.clone()).await, permitted, "{question}");
    }
}

#[tokio::test]
async fn what_cannot_be_decided_is_a_denial_that_says_why() {
    let app = with_records().await;
    let admin = app.admin().await;
    let (alice, record) = (thing("user", "alice"), thing("record", "record-1"));
    let with = |mut thing: Value, properties: Value| {
        thing["properties"] = properties;
        thing
    };
    let mut soft = may(alice.clone(), "delete", record.clone());
    soft["action"]["properties"] = json!({ "soft": "yes" });
    for question in [
        may(thing("spaceship", "x"), "read", record.clone()),
        may(thing("not a type\"", "x"), "read", record.clone()),
        may(thing("", "x"), "read", record.clone()),
        may(alice.clone(), "read", thing("spaceship", "x")),
        may(alice.clone(), "fly", record.clone()),
        may(alice.clone(), "", record.clone()),
        may(alice.clone(), "Nowhere::Action::\"read\"", record.clone()),
        may(alice.clone(), "fetchConversation", record.clone()),
        may(alice.clone(), "read", user(&admin.id)),
        may(user(&admin.id), "read", record.clone()),
        may(user(NOBODY), "fetchUser", user(&admin.id)),
        may(user("no-id"), "fetchUser", user(&admin.id)),
        may(with(thing("user", "carol"), json!({ "role": 5 })), "write", thing("record", "record-2")),
        may(alice.clone(), "write", with(thing("record", "new"), json!({ "status": ["active"] }))),
        may(alice.clone(), "write", with(thing("record", "new"), json!({ "status": null }))),
        soft,
    ] {
        let answer = evaluate(&admin, question.clone()).await;
        assert!(answer["context"]["error"].is_object(), "{question}: {answer}");
        assert!(obstacle(&answer).chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'));
    }
    assert!(decides(&admin, may(alice.clone(), "Action::\"read\"", record.clone())).await);
    let undeclared = json!({ "colour": null, "deep": { "er": [1.5] } });
    assert!(decides(&admin, may(with(alice, undeclared.clone()), "read", with(record, undeclared))).await);
}

/// The policies that an answer names, each as its source file says it.
fn explained(answer: &Value) -> Vec<(&str, &str)> {
    let policies = answer["context"]["policies"].as_array().unwrap_or_else(|| panic!("{answer}"));
    policies
        .iter()
        .map(|policy| {
            let text = |name: &str| policy[name].as_str().unwrap_or_else(|| panic!("{name}: {policy}"));
            let name = text("file").rsplit('/').next().unwrap();
            let source = std::fs::read_to_string(project_file("policies").join(name)).unwrap();
            let line = usize::try_from(policy["line"].as_u64().unwrap()).unwrap();
            let found = source.lines().nth(line - 1).unwrap();
            assert_eq!(found, format!("@id(\"{}\")", text("id")), "{name}:{line}");
            assert!(source.contains(&format!("@doc(\"{}\")", text("doc"))));
            (text("id"), text("effect"))
        })
        .collect()
}

#[tokio::test]
async fn reasons_are_given_to_whoever_wants_them() {
    let app = TestApp::start().await;
    let (agent, admin) = (app.user(Scope::Agent).await, app.admin().await);
    let bot = app.user(Scope::Bot).await;
    let (_, tenant) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let conversation = thing("Conversation", &conversation);
    let services = thing("Organization", &home(&admin).await);
    let mut role = may(user(&agent.id), "updateUser", user(&agent.id));
    role["action"]["properties"] = json!({ "changes": ["role"] });
    for (question, permitted, policies, missing) in [
        (
            may(user(&agent.id), "fetchConversation", conversation.clone()),
            true,
            vec![("guest", "permit")],
            "",
        ),
        (may(user(&agent.id), "listServices", services), false, vec![], "admin"),
        (may(user(&agent.id), "deleteConversation", conversation.clone()), false, vec![], "admin"),
        (
            may(user(&tenant.id), "fetchConversation", conversation),
            false,
            vec![("tenancy", "forbid")],
            "tenancy",
        ),
        (role, false, vec![("self.place", "forbid")], "admin"),
        // The same action for different reasons.
        (may(user(&agent.id), "fetchUser", user(&agent.id)), true, vec![("self", "permit")], ""),
        (may(user(&bot.id), "fetchUser", user(&agent.id)), true, vec![("bot", "permit")], ""),
    ] {
        let mut in_body = question.clone();
        in_body["context"] = json!({ "explain": true });
        let answer = evaluate(&admin, in_body.clone()).await;
        assert_eq!(answer["decision"], permitted, "{answer}");
        assert_eq!(explained(&answer), policies);
        let context = &answer["context"];
        assert_eq!(context.get("error"), None);
        // What is missing is said of denials only.
        let told = context.get("missing").filter(|told| !told.is_null() && **told != json!([]));
        assert_eq!(told.is_some(), !permitted, "{answer}");
        assert!(told.is_none_or(|told| told.to_string().contains(missing)), "{missing}: {answer}");

        let body = Some(serde_json::to_vec(&question).unwrap());
        let headers = [("content-type", "application/json"), ("x-explain", "true")];
        let reply = admin.send(Method::POST, EVALUATION, &headers, body).await;
        assert_eq!(context["version"], reply.header("x-policy-version"));
        assert_eq!(reply.expect(StatusCode::OK), answer, "the header does the same");
        assert_eq!(decides(&admin, question).await, permitted);
        in_body["context"]["explain"] = json!(false);
        assert_eq!(decides(&admin, in_body).await, permitted);
    }
}

#[tokio::test]
async fn a_policy_that_errs_denies_and_is_named() {
    let policy = r#"@id("overflow") forbid (principal, action == Action::"listForms", resource)
        when { resource has level && resource.level + 9223372036854775807 + 1 == 0 };"#;
    let app = with_policies(policy).await;
    let admin = app.admin().await;
    let mut question = may(user(&admin.id), "listForms", thing("Organization", &home(&admin).await));
    let answer = evaluate(&admin, question.clone()).await;
    assert_eq!(obstacle(&answer), "undecidable");
    question["context"] = json!({ "explain": true });
    let answer = evaluate(&admin, question).await;
    assert_eq!(obstacle(&answer), "undecidable");
    assert!(answer["context"]["error"]["message"].as_str().unwrap().contains("overflow"), "{answer}");
}

#[tokio::test]
async fn every_cell_is_decided_as_by_the_other_endpoint_one_by_one_and_in_a_batch() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let admin = app.admin().await;
    let home = home(&admin).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = world.target(client, &cell).await;
        let (kind, id) = target.resource(&home);
        let question = may(user(&client.id), &cell.action, thing(kind, id));
        let other = admin.post("/v2/authorize", question.clone()).await.expect(StatusCode::OK);
        let one = decides(&admin, question.clone()).await;
        assert_eq!((Some(one), one), (other["decision"].as_bool(), cell.expected), "{cell:?}");
        assert_eq!(decides(client, question.clone()).await, one, "{cell:?}: asked about itself");
        questions.push(question);
        expected.push(json!({ "decision": one }));
    }
    let batch = admin.post(EVALUATIONS, json!({ "evaluations": questions })).await;
    assert_eq!(batch.expect(StatusCode::OK)["evaluations"], Value::from(expected));
}
