//! The decision log: one line per decision, with the inputs that are needed to replay it, and without secrets.

use crate::authorize::user;
use crate::authzen::{EVALUATION, EVALUATIONS, evaluation_request};
use crate::command_line::{client, start};
use crate::lifecycle::send_signal;
use crate::support::{ADMIN, Client, PASSWORD, TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::config::{Config, DecisionLogFilter};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn logging_to(directory: &Path, decisions: DecisionLogFilter) -> impl FnOnce(&mut Config) {
    let file = directory.join("decisions.ndjson").display().to_string();
    move |config| {
        config.decision_log = decisions;
        config.decision_log_path = file;
        config.decision_log_mask = vec!["email".into()];
    }
}

/// Closes the log and returns its lines.
fn read_log_lines(app: &TestApp, directory: &Path) -> Vec<Value> {
    app.state.decision_log.close();
    let text = std::fs::read_to_string(directory.join("decisions.ndjson")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_logged_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::All)).await;
    let bot = app.user(Scope::Bot).await;
    let person = app.user(Scope::Agent).await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (bot, person, conversation) = (bot.clone(), person.id.clone(), conversation.clone());
        tasks.spawn(async move {
            let mut permitted = 0;
            for index in 0..100 {
                let action = ["fetchConversation", "deleteConversation"][index % 2];
                let question = json!({
                    "subject": { "type": "User", "id": person }, "action": { "name": action },
                    "resource": { "type": "Conversation", "id": conversation }
                });
                let body = serde_json::to_vec(&question).unwrap();
                let id = format!("load-{task}-{index}");
                let headers = [("content-type", "application/json"), ("x-request-id", id.as_str())];
                let reply = bot.send(Method::POST, "/access/v1/evaluation", &headers, Some(body)).await;
                permitted += usize::from(reply.expect(StatusCode::OK)["decision"] == true);
            }
            permitted
        });
    }
    let permitted: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(permitted, 400);
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    for line in read_log_lines(&app, directory.path()) {
        let request = line["requestId"].as_str().unwrap_or_default().to_owned();
        if request.starts_with("load-") {
            assert!(seen.insert(request, line).is_none(), "duplicate line for a request");
        }
    }
    assert_eq!(seen.len(), 800);
    assert_eq!(seen.values().filter(|line| line["decision"] == true).count(), permitted);
    let line = &seen["load-0-0"];
    assert_eq!(line["caller"]["user"], bot.id.as_str());
    assert_eq!(
        line["subject"],
        json!({ "type": "User", "id": person.id, "scopes": ["guest", "agent"], "claimed": ["agent"] })
    );
    assert_eq!(line["action"], "fetchConversation");
    assert_eq!(line["resource"], json!({ "type": "Conversation", "id": conversation }));
    assert_eq!(line["policies"], json!(["guest"]));
    assert_eq!(line["time"], "2026-01-31T12:00:00.000Z");
    assert!(line["policyVersion"].is_string() && line["latencyMicros"].is_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_before_a_shutdown_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions.ndjson");
    let settings = [
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_DECISION_LOG", "all"),
        // More requests than that wait at any time, and those that do not fit wait for space.
        ("CEDARGATE_DECISION_LOG_QUEUE", "3"),
        ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "1"),
    ];
    let mut running = start(directory.path(), &settings);
    let anonymous = client(&running.base);
    let login = json!({ "email": ADMIN, "password": PASSWORD });
    let token = anonymous.post("/v2/auth/token", login).await.json["token"].as_str().unwrap().to_owned();
    let admin = Client { bearer: Some(token), ..client(&running.base) };
    let id = admin.get("/v2/users/me").await.id();
    let question = evaluation_request(user(&id), "fetchUser", user(&id));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (admin, question, answered) = (admin.clone(), question.clone(), Arc::clone(&answered));
        tasks.spawn(async move {
            let mut own = Vec::new();
            // Until the service no longer responds.
            for index in 0.. {
                let id = format!("load-{task}-{index}");
                let headers = [("content-type", "application/json"), ("x-request-id", id.as_str())];
                let body = Some(serde_json::to_vec(&question).unwrap());
                match admin.try_send(Method::POST, EVALUATION, &headers, body).await {
                    Ok(reply) => assert_eq!(reply.expect(StatusCode::OK)["decision"], true),
                    Err(_) => break,
                }
                answered.fetch_add(1, Ordering::SeqCst);
                own.push(id);
            }
            own
        });
    }
    while answered.load(Ordering::SeqCst) < 200 {
        tokio::task::yield_now().await;
    }
    send_signal("-TERM", running.id());
    let request_ids: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(running.wait().success());
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["dropped"].is_null(), "{line}");
        // The first admin is created without a request.
        *lines.entry(line["requestId"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert!(request_ids.len() >= 200);
    for id in request_ids {
        assert_eq!(lines.get(&id), Some(&1), "{id}");
    }
}

#[tokio::test]
async fn a_logged_decision_can_be_replayed_and_contains_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::All)).await;
    let guest = app.user(Scope::Guest).await;
    let key = guest.key(&[Scope::Guest]).await;
    app.bearer(&key).get("/v2/forms").await.expect_problem(403, "forbidden");
    guest.patch("/v2/users/me", json!({ "givenName": "Ada" })).await.expect(StatusCode::OK);
    let lines = read_log_lines(&app, directory.path());
    let text = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    for secret in [key.as_str(), guest.bearer.as_deref().unwrap(), PASSWORD, "@example.com"] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
    let schema = std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap();
    let schema: cedar_policy::Schema = schema.parse().unwrap();
    let mut decided = 0;
    for line in lines.iter().filter(|line| line["caller"]["user"] == guest.id.as_str()) {
        // The inputs are complete: Cedar makes the same decision from the inputs and the policies alone.
        let uid = |kind: &Value, id: &Value| {
            format!("{}::{}", kind.as_str().unwrap(), id).parse::<cedar_policy::EntityUid>().unwrap()
        };
        let action = format!("Action::{}", line["action"]).parse().unwrap();
        let entities = line["inputs"]["entities"].clone();
        let entities = cedar_policy::Entities::from_json_value(entities, None).unwrap();
        let mut context = line["inputs"]["context"].clone();
        if !line["action"].as_str().unwrap().starts_with("update") {
            context.as_object_mut().unwrap().remove("changes");
        }
        let context = cedar_policy::Context::from_json_value(context, None).unwrap();
        let request = cedar_policy::Request::new(
            uid(&line["subject"]["type"], &line["subject"]["id"]),
            action,
            uid(&line["resource"]["type"], &line["resource"]["id"]),
            context,
            Some(&schema),
        )
        .unwrap();
        let files = ["scopes", "self", "service", "tenancy"]
            .map(|name| std::fs::read_to_string(project_file(&format!("policies/{name}.cedar"))).unwrap());
        let policies: cedar_policy::PolicySet = files.join("\n").parse().unwrap();
        let response = cedar_policy::Authorizer::new().is_authorized(&request, &policies, &entities);
        let allowed = response.decision() == cedar_policy::Decision::Allow;
        assert_eq!(line["decision"], allowed, "{line}");
        decided += 1;
    }
    assert!(decided >= 4, "{text}");
}

#[tokio::test]
async fn a_logged_decision_has_its_own_context() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::All)).await;
    let (admin, person) = (app.admin().await, app.user(Scope::Agent).await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let resource = json!({ "type": "Conversation", "id": conversation });
    let question = evaluation_request(user(&person.id), "fetchConversation", resource);
    for _ in 0..3 {
        admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
        admin.get("/v2/forms").await.expect(StatusCode::OK);
        admin
            .patch(&format!("/v2/users/{}", person.id), json!({ "givenName": "Ada" }))
            .await
            .expect(StatusCode::OK);
        app.clock.advance(1_000);
    }
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in read_log_lines(&app, directory.path()) {
        let mut context = line["inputs"]["context"].clone();
        let now = context.as_object_mut().unwrap().remove("now");
        assert_eq!(now, Some(json!({ "__extn": { "fn": "datetime", "arg": line["time"] } })), "{line}");
        seen.entry(line["action"].as_str().unwrap().to_owned()).or_default().push(context);
    }
    let entity = |kind: &str, id: &str| json!({ "__entity": { "type": kind, "id": id } });
    let by_password = json!({ "credential": entity("Credential", "session"), "ip": { "__extn": { "fn": "ip", "arg": "127.0.0.1" } } });
    assert_eq!(seen["fetchConversation"], [json!({}), json!({}), json!({})]);
    assert_eq!(seen["listForms"], [by_password.clone(), by_password.clone(), by_password.clone()]);
    let mut changing = by_password;
    changing["changes"] = json!([entity("Field", "givenName")]);
    assert_eq!(seen["updateUser"][0], changing);
}

/// The text of a field of a decision or a problem.
fn evaluation_id(answer: &Value) -> String {
    let id = match answer["context"]["evaluation_id"].as_str() {
        Some(id) => id,
        None => answer["evaluation_id"].as_str().unwrap_or_else(|| panic!("no evaluation_id: {answer}")),
    };
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    id.to_owned()
}

#[tokio::test]
async fn answers_and_lines_have_the_same_evaluation_id() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::All)).await;
    let (admin, person, guest) =
        (app.admin().await, app.user(Scope::Agent).await, app.user(Scope::Guest).await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let resource = json!({ "type": "Conversation", "id": conversation });
    let permitted = evaluation_request(user(&person.id), "fetchConversation", resource.clone());
    let denied = evaluation_request(user(&person.id), "deleteConversation", resource.clone());
    let missing = json!({ "type": "Conversation", "id": person.id });
    let missing = evaluation_request(user(&person.id), "fetchConversation", missing);
    let unknown = evaluation_request(user(&conversation), "fetchConversation", resource.clone());
    let mut expected = Vec::new();
    for (question, decision) in
        [(&permitted, true), (&permitted, true), (&denied, false), (&missing, false), (&unknown, false)]
    {
        let answer = admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
        expected.push((evaluation_id(&answer), "question", decision));
    }
    let answer = admin.post("/v2/authorize", permitted.clone()).await.expect(StatusCode::OK);
    expected.push((evaluation_id(&answer), "question", true));
    let batch = json!({ "evaluations": [permitted, denied, unknown, { "action": {} }] });
    let answer = admin.post(EVALUATIONS, batch).await.expect(StatusCode::OK);
    for (item, decision) in answer["evaluations"].as_array().unwrap().iter().zip([true, false, false, false])
    {
        expected.push((evaluation_id(item), "question", decision));
    }
    // What the service itself enforces.
    for (client, path) in [(&guest, "/v2/forms"), (&guest, "/v2/forms/599e1fce9da1c72645c9588f")] {
        let reply = client.get(path).await;
        reply.expect_problem(403, "forbidden");
        expected.push((evaluation_id(&reply.json), "enforcement", false));
    }
    // The caller may not ask about somebody else.
    let reply = guest.post(EVALUATION, permitted.clone()).await;
    reply.expect_problem(403, "forbidden");
    expected.push((evaluation_id(&reply.json), "prerequisite", false));
    let answer = guest.post(EVALUATIONS, json!({ "evaluations": [permitted] })).await.expect(StatusCode::OK);
    expected.push((evaluation_id(&answer["evaluations"][0]), "prerequisite", false));

    let lines = read_log_lines(&app, directory.path());
    let mut ids: Vec<&str> = lines.iter().map(|line| line["evaluation_id"].as_str().unwrap()).collect();
    for (id, purpose, decision) in expected {
        let found: Vec<&Value> = lines.iter().filter(|line| line["evaluation_id"] == id.as_str()).collect();
        let [line] = found[..] else { panic!("{id}: {found:?}") };
        assert_eq!((&line["purpose"], &line["decision"]), (&json!(purpose), &json!(decision)), "{line}");
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "two lines have the same id");
}

#[tokio::test]
async fn allowed_prerequisites_are_in_the_full_log_only() {
    for (filter, expected) in [(DecisionLogFilter::All, 0), (DecisionLogFilter::Full, 2)] {
        let directory = tempfile::tempdir().unwrap();
        let app = TestApp::start_with(logging_to(directory.path(), filter)).await;
        let (admin, person) = (app.admin().await, app.user(Scope::Agent).await);
        let conversation = admin.post("/v2/conversations", json!({})).await.id();
        let resource = json!({ "type": "Conversation", "id": conversation });
        let question = evaluation_request(user(&person.id), "fetchConversation", resource);
        let headers = [("content-type", "application/json"), ("x-request-id", "question")];
        let body = Some(question.to_string().into_bytes());
        admin.send(Method::POST, EVALUATION, &headers, body).await.expect(StatusCode::OK);
        let lines = read_log_lines(&app, directory.path());
        let of_request = lines.iter().filter(|line| line["requestId"] == "question");
        let prerequisites: Vec<&str> = of_request
            .clone()
            .filter(|line| line["purpose"] == "prerequisite")
            .map(|line| line["action"].as_str().unwrap())
            .collect();
        assert_eq!(prerequisites.len(), expected, "{prerequisites:?}");
        assert_eq!(of_request.filter(|line| line["purpose"] == "question").count(), 1);
    }
}

#[tokio::test]
async fn the_denials_setting_logs_denials_only() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::Denials)).await;
    let guest = app.user(Scope::Guest).await;
    guest.get("/v2/users/me").await.expect(StatusCode::OK);
    guest.get("/v2/forms").await.expect_problem(403, "forbidden");
    let lines = read_log_lines(&app, directory.path());
    assert!(lines.iter().all(|line| line["decision"] == false));
    let denied: Vec<&Value> = lines.iter().filter(|line| line["action"] == "listForms").collect();
    assert_eq!(denied.len(), 1, "{denied:?}");
}

#[tokio::test]
async fn batch_items_are_logged_individually_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let app = TestApp::start_with(logging_to(directory.path(), DecisionLogFilter::All)).await;
    let (admin, person) = (app.admin().await, app.user(Scope::Agent).await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    // More than one batch of records.
    let actions: Vec<&str> =
        (0..99).map(|index| ["fetchConversation", "deleteConversation"][index % 2]).collect();
    let resource = json!({ "type": "Conversation", "id": conversation });
    let items: Vec<Value> = actions.iter().map(|action| json!({ "action": { "name": action } })).collect();
    let batch = json!({ "subject": user(&person.id), "resource": resource, "evaluations": items });
    let headers = [("content-type", "application/json"), ("x-request-id", "batch")];
    let body = Some(batch.to_string().into_bytes());
    admin.send(Method::POST, EVALUATIONS, &headers, body).await.expect(StatusCode::OK);
    let lines = read_log_lines(&app, directory.path());
    let lines = lines.iter().filter(|line| line["requestId"] == "batch");
    assert!(lines.map(|line| line["action"].as_str().unwrap()).eq(actions));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reopens_the_log_file() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions.ndjson");
    let settings = [("CEDARGATE_ADMIN_PASSWORD", PASSWORD), ("CEDARGATE_DECISION_LOG", "all")];
    let running = start(directory.path(), &settings);
    std::fs::rename(&log, directory.path().join("old")).unwrap();
    send_signal("-HUP", running.id());
    // No decision is made in the meantime.
    let started = std::time::Instant::now();
    while !log.exists() {
        assert!(started.elapsed() < crate::multi_process::TIMEOUT, "{}", running.log());
        tokio::task::yield_now().await;
    }
}
