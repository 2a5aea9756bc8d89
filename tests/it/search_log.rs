//! Searches in the decision log: one line per search, with the id of its answer, and without the decisions on its candidates.

use crate::authorize::user;
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH};
use crate::command_line::{run, text};
use crate::support::{TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::path::Path;

const SECRET: &str = "s3cr3t-in-the-wrong-field";

async fn serve(directory: &Path, filter: DecisionLogFilter, mask: &[&str]) -> TestApp {
    let file = directory.join("log").display().to_string();
    TestApp::start_with(|config| {
        config.decision_log = filter;
        config.decision_log_path = file;
        config.decision_log_mask = mask.iter().map(|name| (*name).to_owned()).collect();
    })
    .await
}

/// The lines of searches in the log, which is closed, and its text.
fn searches(app: &TestApp, directory: &Path) -> (Vec<Value>, String) {
    app.state.decision_log.close();
    let text = std::fs::read_to_string(directory.join("log")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (lines.filter(|line| line["kind"] == "search").collect(), text)
}

#[tokio::test]
async fn each_search_is_logged_once_with_the_id_of_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let app = serve(directory.path(), DecisionLogFilter::All, &[]).await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    admin.post("/v2/conversations", json!({})).await.id();
    let conversation = json!({ "type": "Conversation", "id": conversation });
    let context = json!({ "changes": ["role"], "token": SECRET });
    let fetch = json!({ "name": "fetchConversation", "properties": { "note": SECRET } });
    let questions = [
        (
            SUBJECT_SEARCH,
            json!({ "subject": { "type": "User" }, "action": fetch, "resource": conversation }),
            json!({ "search": "subject", "subject": { "type": "User" }, "action": "fetchConversation",
                "resource": conversation, "results": 2, "examined": 2 }),
        ),
        (
            RESOURCE_SEARCH,
            json!({ "subject": user(&agent.id), "action": fetch, "resource": { "type": "Conversation" } }),
            json!({ "search": "resource", "subject": { "type": "User", "id": agent.id },
                "action": "fetchConversation", "resource": { "type": "Conversation" }, "results": 2 }),
        ),
        (
            ACTION_SEARCH,
            json!({ "subject": user(&agent.id), "resource": user(&agent.id), "context": context }),
            json!({ "search": "action", "subject": user(&agent.id), "action": null, "resource": user(&agent.id) }),
        ),
        (
            RESOURCE_SEARCH,
            json!({ "subject": user(SECRET), "action": fetch, "resource": { "type": "Conversation" } }),
            json!({ "search": "resource", "subject": { "type": "User", "id": "" }, "results": 0, "examined": 0 }),
        ),
    ];
    let mut answers = Vec::new();
    for (path, question, _) in &questions {
        let reply = admin.post(path, question.clone()).await;
        answers.push((reply.header("x-policy-version").to_owned(), reply.expect(StatusCode::OK)));
    }
    let (lines, text) = searches(&app, directory.path());
    assert_eq!(lines.len(), questions.len(), "{text}");
    for ((line, (version, answer)), (_, _, expected)) in lines.iter().zip(&answers).zip(&questions) {
        let id = answer["context"]["evaluation_id"].as_str().unwrap();
        assert_eq!(line["evaluation_id"], id);
        assert_eq!(line["policyVersion"], version.as_str());
        assert_eq!(line["results"], answer["page"]["count"], "{line}");
        assert_eq!((&line["purpose"], &line["complete"]), (&json!("question"), &json!(true)));
        assert_eq!(line["caller"]["user"], admin.id.as_str());
        assert_eq!(line.get("decision"), None, "{line}");
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {line}");
        }
    }
    let role = json!({ "__entity": { "type": "Field", "id": "role" } });
    assert_eq!(lines[2]["inputs"]["context"]["changes"], json!([role]), "{}", lines[2]);
    assert!(!text.contains(SECRET), "undeclared fields and malformed ids are not logged");
    // The candidates are not logged.
    assert!(!text.contains("\"fetchConversation\",\"resource\":{\"type\":\"Conversation\",\"id\":\"\"}"));
    assert_eq!(text.matches("\"purpose\":\"question\"").count(), questions.len());
}

#[tokio::test]
async fn a_page_of_a_search_says_that_there_are_more() {
    let directory = tempfile::tempdir().unwrap();
    let app = serve(directory.path(), DecisionLogFilter::All, &[]).await;
    let admin = app.admin().await;
    for _ in 0..3 {
        admin.post("/v2/forms", json!({ "name": "form" })).await.expect(StatusCode::CREATED);
    }
    let mut question = json!({
        "subject": user(&admin.id), "action": { "name": "fetchForm" }, "resource": { "type": "Form" },
        "page": { "limit": 2 }
    });
    let first = admin.post(RESOURCE_SEARCH, question.clone()).await.expect(StatusCode::OK);
    question["page"]["token"] = first["page"]["next_token"].clone();
    let second = admin.post(RESOURCE_SEARCH, question).await.expect(StatusCode::OK);
    assert_ne!(first["context"]["evaluation_id"], second["context"]["evaluation_id"]);
    let (lines, _) = searches(&app, directory.path());
    let pages: Vec<_> = lines.iter().map(|line| (&line["results"], &line["complete"])).collect();
    assert_eq!(pages, [(&json!(2), &json!(false)), (&json!(1), &json!(true))]);
}

#[tokio::test]
async fn masked_fields_of_a_search_are_masked_and_a_log_of_denials_has_no_search() {
    let question = |id: &str| {
        json!({ "subject": { "type": "User" }, "action": { "name": "updateUser" }, "resource": user(id),
            "context": { "changes": ["password"] } })
    };
    for (filter, expected) in [(DecisionLogFilter::Full, 1), (DecisionLogFilter::Denials, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let app = serve(directory.path(), filter, &["changes"]).await;
        let admin = app.admin().await;
        let answer = admin.post(SUBJECT_SEARCH, question(&admin.id)).await.expect(StatusCode::OK);
        assert!(answer["context"]["evaluation_id"].is_string());
        let (lines, _) = searches(&app, directory.path());
        assert_eq!(lines.len(), expected);
        for line in lines {
            assert_eq!(line["masked"], true, "{line}");
            assert_eq!(line["inputs"]["context"]["changes"], "***", "{line}");
        }
    }
}

#[tokio::test]
async fn a_replay_counts_searches_and_they_use_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let app = serve(directory.path(), DecisionLogFilter::All, &[]).await;
    let admin = app.admin().await;
    let key = app.bearer(&admin.key(&[Scope::Admin]).await);
    let question = json!({ "subject": { "type": "User", "id": "me" }, "resource": user(&admin.id) });
    key.post(ACTION_SEARCH, question).await.expect(StatusCode::OK);
    let (lines, _) = searches(&app, directory.path());
    assert_eq!(lines.len(), 1);
    let (schema, policies) = (project_file("schema"), project_file("policies"));
    let settings =
        [("CEDARGATE_SCHEMA", schema.to_str().unwrap()), ("CEDARGATE_POLICIES", policies.to_str().unwrap())];
    let replay = run(directory.path(), &settings, &["policy", "replay", "log", "--format", "json"]);
    assert!(replay.status.success(), "{}{}", text(&replay.stdout), text(&replay.stderr));
    let report: Value = serde_json::from_slice(&replay.stdout).unwrap();
    assert_eq!((&report["searches"], &report["invalid"]["count"]), (&json!(1), &json!(0)), "{report}");
    let analyze = run(directory.path(), &settings, &["policy", "analyze", "--log", "log"]);
    let analysis = text(&analyze.stdout);
    assert!(!analysis.contains("are no decisions") && !analysis.contains("[unused-key]"), "{analysis}");
}
