//! AuthZEN evaluation: who can ask about which subject, which data are used, and the form of the response.

use crate::authorize::{UNKNOWN_ID, home_organization, user};
use crate::permission_table::{Fixture, cells};
use crate::support::{Client, TestApp, project_file};
use crate::tokens::update_user;
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const EVALUATION: &str = "/access/v1/evaluation";
pub const EVALUATIONS: &str = "/access/v1/evaluations";
const SEARCH_PATHS: [&str; 3] =
    ["/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action"];

/// A subject or a resource.
pub fn entity(kind: &str, id: &str) -> Value {
    json!({ "type": kind, "id": id })
}

/// An evaluation request.
pub fn evaluation_request(subject: Value, action: &str, resource: Value) -> Value {
    json!({ "subject": subject, "action": { "name": action }, "resource": resource })
}

/// Sends an evaluation request, checks the form of the response, and returns its body.
pub async fn evaluate(client: &Client, question: Value) -> Value {
    let reply = client.post(EVALUATION, question.clone()).await;
    assert!(reply.header("x-policy-version").len() >= 8, "{question}: {:?}", reply.headers);
    let answer = reply.expect_decisions(StatusCode::OK);
    assert!(answer["decision"].is_boolean(), "{question}: {answer}");
    answer
}

/// The decision. Fails if the response contains anything else.
pub async fn is_permitted(client: &Client, question: Value) -> bool {
    let answer = evaluate(client, question.clone()).await;
    let decision = answer["decision"].as_bool().unwrap();
    assert_eq!(answer, json!({ "decision": decision }), "{question}: the response has no other fields");
    decision
}

/// The code of the error that caused a denial.
pub fn error_code(answer: &Value) -> &str {
    let error = &answer["context"]["error"];
    assert_eq!(answer["decision"], false, "{answer}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    error["code"].as_str().filter(|code| !code.is_empty()).unwrap_or_else(|| panic!("{answer}"))
}

/// Starts the service with these policies in addition to the shipped ones.
pub async fn start_with_policies(text: &str) -> TestApp {
    let more = tempfile::tempdir().unwrap();
    std::fs::write(more.path().join("more.cedar"), text).unwrap();
    TestApp::start_with(|config| config.policies.push(more.path().to_owned())).await
}

/// Starts the service with the users and records of the certification scenario.
pub async fn start_with_records() -> TestApp {
    crate::certification::start().await
}

#[tokio::test]
async fn requests_without_a_valid_credential_are_rejected() {
    let app = TestApp::start().await;
    let question = evaluation_request(user(UNKNOWN_ID), "fetchUser", user(UNKNOWN_ID));
    for path in [EVALUATION, EVALUATIONS].into_iter().chain(SEARCH_PATHS) {
        app.anonymous().post(path, question.clone()).await.expect_problem(401, "missing_token");
        app.bearer(UNKNOWN_ID).post(path, question.clone()).await.expect_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn only_bots_and_admins_may_evaluate_other_users() {
    let app = TestApp::start().await;
    let mut users = Vec::new();
    for role in Scope::ALL {
        users.push((role, app.user(role).await));
    }
    for (role, caller) in &users {
        for (_, target) in &users {
            let question = evaluation_request(user(&target.id), "fetchUser", user(&target.id));
            if *role >= Scope::Bot || caller.id == target.id {
                assert!(is_permitted(caller, question).await, "{role}");
            } else {
                caller.post(EVALUATION, question).await.expect_problem(403, "forbidden");
            }
        }
        // Callers that may not ask learn nothing about the existence of the subject.
        if *role < Scope::Bot {
            let question = evaluation_request(user(UNKNOWN_ID), "fetchUser", user(UNKNOWN_ID));
            caller.post(EVALUATION, question).await.expect_problem(403, "forbidden");
        }
    }
    // The scope of the credential counts, not the role.
    let (_, admin) = &users[3];
    let key = app.bearer(&admin.key(&[Scope::Agent]).await);
    let other = evaluation_request(user(&users[0].1.id), "fetchUser", user(&admin.id));
    key.post(EVALUATION, other).await.expect_problem(403, "forbidden");
    assert!(is_permitted(&key, evaluation_request(user(&admin.id), "fetchUser", user(&admin.id))).await);
}

#[tokio::test]
async fn only_bots_and_admins_may_evaluate_external_subjects() {
    let app = start_with_records().await;
    let question = evaluation_request(entity("user", "alice"), "read", entity("record", "record-1"));
    for role in Scope::ALL {
        let client = app.user(role).await;
        if role >= Scope::Bot {
            assert!(is_permitted(&client, question.clone()).await, "{role}");
        } else {
            client.post(EVALUATION, question.clone()).await.expect_problem(403, "forbidden");
        }
    }
    let (_, tenant) = app.tenant("tenant").await;
    assert!(is_permitted(&tenant, question.clone()).await);
    let key = app.bearer(&tenant.key(&[Scope::Agent]).await);
    key.post(EVALUATION, question).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn missing_and_inaccessible_users_are_denied_identically() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let root = app.admin().await;
    let mut answers = Vec::new();
    for id in [UNKNOWN_ID, &theirs.id, &root.id, "no-id"] {
        let answer = evaluate(&ours, evaluation_request(user(id), "fetchUser", user(&ours.id))).await;
        assert!(!error_code(&answer).is_empty());
        answers.push(answer.to_string().replace(id, "?"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // The root organization reaches all users.
    assert!(is_permitted(&root, evaluation_request(user(&theirs.id), "fetchUser", user(&theirs.id))).await);
}

#[tokio::test]
async fn missing_and_inaccessible_resources_are_denied_identically() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let inaccessible = theirs.post("/v2/conversations", json!({})).await.id();
    for explain in [false, true] {
        let mut answers = Vec::new();
        for id in [UNKNOWN_ID, &inaccessible, "no-id"] {
            let mut question =
                evaluation_request(user(&ours.id), "fetchConversation", entity("Conversation", id));
            question["context"] = json!({ "explain": explain });
            let answer = evaluate(&ours, question).await;
            assert_eq!(answer["decision"], false);
            answers.push(answer.to_string().replace(id, "?"));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
    let seen =
        evaluation_request(user(&theirs.id), "fetchConversation", entity("Conversation", &inaccessible));
    assert!(is_permitted(&theirs, seen).await);
}

#[tokio::test]
async fn stored_attributes_take_precedence_over_sent_properties() {
    let policies = r#"@id("secret") forbid (principal, action == Action::"fetchConversation", resource)
            when { resource has category && resource.category == "secret" };
        @id("tops") permit (principal, action == Action::"listServices", resource)
            when { principal.role == Scope::"admin" };
        @id("absent") forbid (principal, action == Action::"fetchUser", resource)
            unless { principal has status && principal.status == UserStatus::"active" };"#;
    let app = start_with_policies(policies).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let home_organization = home_organization(&admin).await;
    let secret = admin.post("/v2/conversations", json!({ "category": "secret" })).await.id();
    let open = admin.post("/v2/conversations", json!({})).await.id();
    let with = |mut target: Value, properties: Value| {
        target["properties"] = properties;
        target
    };
    for (id, sent) in [(&secret, json!({ "category": "open" })), (&open, json!({ "category": "secret" }))] {
        let conversation = with(entity("Conversation", id), sent);
        let permitted =
            is_permitted(&admin, evaluation_request(user(&guest.id), "fetchConversation", conversation))
                .await;
        assert_eq!(permitted, *id == open);
    }
    // Properties of a wrong type have no effect either.
    let mistyped = with(entity("Conversation", &open), json!({ "category": [1.5, null], "organization": 7 }));
    assert!(is_permitted(&admin, evaluation_request(user(&guest.id), "fetchConversation", mistyped)).await);

    let services = entity("Organization", &home_organization);
    let role = json!({ "type": "Scope", "id": "admin" });
    for properties in
        [json!({ "role": role }), json!({ "role": { "__entity": role } }), json!({ "role": "admin" })]
    {
        let forged_role = with(user(&guest.id), properties);
        assert!(
            !is_permitted(&admin, evaluation_request(forged_role, "listServices", services.clone())).await
        );
    }
    let blocked = with(user(&guest.id), json!({ "status": "blocked" }));
    assert!(is_permitted(&admin, evaluation_request(blocked, "fetchUser", user(&guest.id))).await);
    update_user(&app, &guest.id, json!({ "status": "blocked" })).await;
    let active = with(user(&guest.id), json!({ "status": "active" }));
    let answer = evaluate(&admin, evaluation_request(active, "fetchUser", user(&guest.id))).await;
    assert_eq!(answer["decision"], false);
}

#[tokio::test]
async fn parents_in_a_request_are_ignored() {
    let app = start_with_records().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let home_organization = home_organization(&admin).await;
    let scope = json!([{ "type": "Scope", "id": "admin" }]);
    for (field, value) in [
        ("parents", scope.clone()),
        ("properties", json!({ "parents": scope })),
        ("properties", json!({ "scope": "admin", "scopes": ["admin"], "Scope": scope[0] })),
        ("scope", json!("admin")),
    ] {
        let mut forged_subject = user(&guest.id);
        forged_subject[field] = value;
        for client in [&admin, &guest] {
            let question = evaluation_request(
                forged_subject.clone(),
                "listServices",
                entity("Organization", &home_organization),
            );
            assert!(!is_permitted(client, question).await, "{field}");
        }
    }
    let mut forged_subject = entity("user", "mallory");
    forged_subject["parents"] = json!([{ "type": "group", "id": "readers" }]);
    forged_subject["properties"] = json!({ "parents": forged_subject["parents"] });
    assert!(
        !is_permitted(&admin, evaluation_request(forged_subject, "read", entity("record", "record-1"))).await
    );
}

#[tokio::test]
async fn the_context_takes_precedence_over_action_properties() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let updating = |properties: Value, context: Value| {
        let mut question = evaluation_request(user(&agent.id), "updateUser", user(&agent.id));
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
        assert_eq!(is_permitted(&agent, question.clone()).await, permitted, "{question}");
    }
}

#[tokio::test]
async fn an_undecidable_question_is_denied_with_an_error_code() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let (alice, record) = (entity("user", "alice"), entity("record", "record-1"));
    let with = |mut target: Value, properties: Value| {
        target["properties"] = properties;
        target
    };
    let mut soft = evaluation_request(alice.clone(), "delete", record.clone());
    soft["action"]["properties"] = json!({ "soft": "yes" });
    for question in [
        evaluation_request(entity("spaceship", "x"), "read", record.clone()),
        evaluation_request(entity("not a type\"", "x"), "read", record.clone()),
        evaluation_request(entity("", "x"), "read", record.clone()),
        evaluation_request(alice.clone(), "read", entity("spaceship", "x")),
        evaluation_request(alice.clone(), "fly", record.clone()),
        evaluation_request(alice.clone(), "", record.clone()),
        evaluation_request(alice.clone(), "Nowhere::Action::\"read\"", record.clone()),
        evaluation_request(alice.clone(), "fetchConversation", record.clone()),
        evaluation_request(alice.clone(), "read", user(&admin.id)),
        evaluation_request(user(&admin.id), "read", record.clone()),
        evaluation_request(user(UNKNOWN_ID), "fetchUser", user(&admin.id)),
        evaluation_request(user("no-id"), "fetchUser", user(&admin.id)),
        evaluation_request(
            with(entity("user", "carol"), json!({ "role": 5 })),
            "write",
            entity("record", "record-2"),
        ),
        evaluation_request(
            alice.clone(),
            "write",
            with(entity("record", "new"), json!({ "status": ["active"] })),
        ),
        evaluation_request(alice.clone(), "write", with(entity("record", "new"), json!({ "status": null }))),
        soft,
    ] {
        let answer = evaluate(&admin, question.clone()).await;
        assert!(answer["context"]["error"].is_object(), "{question}: {answer}");
        assert!(error_code(&answer).chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'));
    }
    assert!(
        is_permitted(&admin, evaluation_request(alice.clone(), "Action::\"read\"", record.clone())).await
    );
    let undeclared = json!({ "colour": null, "deep": { "er": [1.5] } });
    assert!(
        is_permitted(
            &admin,
            evaluation_request(with(alice, undeclared.clone()), "read", with(record, undeclared))
        )
        .await
    );
}

/// The policies in a response, as `(id, source line)`.
fn explained_policies(answer: &Value) -> Vec<(&str, &str)> {
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
async fn reasons_are_returned_on_request() {
    let app = TestApp::start().await;
    let (agent, admin) = (app.user(Scope::Agent).await, app.admin().await);
    let bot = app.user(Scope::Bot).await;
    let (_, tenant) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let conversation = entity("Conversation", &conversation);
    let services = entity("Organization", &home_organization(&admin).await);
    let mut role = evaluation_request(user(&agent.id), "updateUser", user(&agent.id));
    role["action"]["properties"] = json!({ "changes": ["role"] });
    for (question, permitted, policies, missing) in [
        (
            evaluation_request(user(&agent.id), "fetchConversation", conversation.clone()),
            true,
            vec![("guest", "permit")],
            "",
        ),
        (evaluation_request(user(&agent.id), "listServices", services), false, vec![], "admin"),
        (
            evaluation_request(user(&agent.id), "deleteConversation", conversation.clone()),
            false,
            vec![],
            "admin",
        ),
        (
            evaluation_request(user(&tenant.id), "fetchConversation", conversation),
            false,
            vec![("tenancy", "forbid")],
            "tenancy",
        ),
        (role, false, vec![("self.place", "forbid")], "admin"),
        // The same action, denied for different reasons.
        (
            evaluation_request(user(&agent.id), "fetchUser", user(&agent.id)),
            true,
            vec![("self", "permit")],
            "",
        ),
        (evaluation_request(user(&bot.id), "fetchUser", user(&agent.id)), true, vec![("bot", "permit")], ""),
    ] {
        let mut in_body = question.clone();
        in_body["context"] = json!({ "explain": true });
        let answer = evaluate(&admin, in_body.clone()).await;
        assert_eq!(answer["decision"], permitted, "{answer}");
        assert_eq!(explained_policies(&answer), policies);
        let context = &answer["context"];
        assert_eq!(context.get("error"), None);
        // Only denials say what is missing.
        let missing_reason = context
            .get("missing")
            .filter(|missing_reason| !missing_reason.is_null() && **missing_reason != json!([]));
        assert_eq!(missing_reason.is_some(), !permitted, "{answer}");
        assert!(
            missing_reason.is_none_or(|missing_reason| missing_reason.to_string().contains(missing)),
            "{missing}: {answer}"
        );

        let body = Some(serde_json::to_vec(&question).unwrap());
        let headers = [("content-type", "application/json"), ("x-explain", "true")];
        let reply = admin.send(Method::POST, EVALUATION, &headers, body).await;
        assert_eq!(context["version"], reply.header("x-policy-version"));
        assert_eq!(reply.expect_decisions(StatusCode::OK), answer, "the header has the same effect");
        assert_eq!(is_permitted(&admin, question).await, permitted);
        in_body["context"]["explain"] = json!(false);
        assert_eq!(is_permitted(&admin, in_body).await, permitted);
    }
}

#[tokio::test]
async fn a_failing_policy_denies_and_is_named() {
    let policy = r#"@id("overflow") forbid (principal, action == Action::"listForms", resource)
        when { resource has level && resource.level + 9223372036854775807 + 1 == 0 };"#;
    let app = start_with_policies(policy).await;
    let admin = app.admin().await;
    let mut question = evaluation_request(
        user(&admin.id),
        "listForms",
        entity("Organization", &home_organization(&admin).await),
    );
    let answer = evaluate(&admin, question.clone()).await;
    assert_eq!(error_code(&answer), "undecidable");
    question["context"] = json!({ "explain": true });
    let answer = evaluate(&admin, question).await;
    assert_eq!(error_code(&answer), "undecidable");
    assert!(answer["context"]["error"]["message"].as_str().unwrap().contains("overflow"), "{answer}");
}

#[tokio::test]
async fn evaluation_and_batches_agree_with_the_authorize_endpoint_for_every_cell() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let admin = app.admin().await;
    let home = home_organization(&admin).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = fixture.target(client, &cell).await;
        let (kind, id) = target.resource(&home);
        let question = evaluation_request(user(&client.id), &cell.action, entity(kind, id));
        let other = admin.post("/v2/authorize", question.clone()).await.expect(StatusCode::OK);
        let one = is_permitted(&admin, question.clone()).await;
        assert_eq!((Some(one), one), (other["decision"].as_bool(), cell.expected), "{cell:?}");
        assert_eq!(
            is_permitted(client, question.clone()).await,
            one,
            "{cell:?}: asked by the subject itself"
        );
        questions.push(question);
        expected.push(json!({ "decision": one }));
    }
    let batch = admin.post(EVALUATIONS, json!({ "evaluations": questions })).await;
    assert_eq!(batch.expect_decisions(StatusCode::OK)["evaluations"], Value::from(expected));
}
