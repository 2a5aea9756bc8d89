//! An external domain, a vault, with what the document store does not have: tags, context fields, times, actions without a
//! permit, and required and supplied attributes.

use crate::authzen::{
    EVALUATION, EVALUATIONS, entity, error_code, evaluate, evaluation_request, is_permitted,
};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use cedargate::config::{Config, DecisionLogFilter};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;

const SCHEMA: &str = r#"
namespace Vault {
  entity Staff;
  entity Clerk in [Staff] = { badge?: Long };
  entity Robot;
  entity Safe = { label?: String } tags String;
  entity Crate;
  action open appliesTo { principal: Clerk, resource: Safe, context: { alarm?: Bool, now?: datetime } };
  action smash appliesTo { principal: Clerk, resource: Safe };
  action move appliesTo { principal: [Clerk, Robot], resource: [Safe, Crate] };
}"#;

const POLICIES: &str = r#"
@id("vault.open")
permit (principal in Vault::Staff::"all", action == Vault::Action::"open", resource)
when { resource has label && resource.label == "everyday" };
@id("vault.sealed")
forbid (principal, action == Vault::Action::"open", resource) when { resource.hasTag("sealed") };
@id("vault.alarm")
forbid (principal, action == Vault::Action::"open", resource) when { context has alarm && context.alarm };
@id("vault.opening-day")
forbid (principal, action == Vault::Action::"open", resource)
unless { context has now && context.now >= datetime("2026-01-31") };
@id("vault.move.clerk")
permit (principal is Vault::Clerk in Vault::Staff::"all", action == Vault::Action::"move", resource)
when { resource has label };
@id("vault.move.eve")
permit (principal == Vault::Clerk::"eve", action == Vault::Action::"move", resource == Vault::Safe::"gold");
@id("vault.move.robot")
permit (principal is Vault::Robot, action == Vault::Action::"move", resource is Vault::Safe);"#;

const DATA: &str = r#"[
  { "uid": { "type": "Vault::Staff", "id": "all" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Vault::Clerk", "id": "ada" }, "attrs": {}, "parents": [{ "type": "Vault::Staff", "id": "all" }] },
  { "uid": { "type": "Vault::Clerk", "id": "eve" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Vault::Safe", "id": "cash" }, "attrs": { "label": "everyday" }, "parents": [] },
  { "uid": { "type": "Vault::Safe", "id": "gold" }, "attrs": {}, "tags": { "sealed": "by the board" }, "parents": [] }
]"#;

/// A secret that must not appear in any log.
const SECRET: &str = "eyJhbGciOiJIUzI1NiJ9.secret";

async fn start() -> TestApp {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> TestApp {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("vault.cedarschema"), SCHEMA).unwrap();
    std::fs::write(at("vault.cedar"), POLICIES).unwrap();
    std::fs::write(at("vault.json"), DATA).unwrap();
    TestApp::start_with(|config| {
        config.schema.push(directory.path().to_owned());
        config.policies.push(directory.path().to_owned());
        change(config);
    })
    .await
}

fn clerk(id: &str) -> Value {
    entity("Vault::Clerk", id)
}

fn safe(id: &str) -> Value {
    entity("Vault::Safe", id)
}

fn safe_with(id: &str, properties: Value) -> Value {
    json!({ "type": "Vault::Safe", "id": id, "properties": properties })
}

#[tokio::test]
async fn request_properties_do_not_remove_stored_tags() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let everyday = json!({ "label": "everyday" });
    for (question, permitted) in [
        (evaluation_request(clerk("ada"), "open", safe("cash")), true),
        (evaluation_request(clerk("ada"), "open", safe("gold")), false),
        (evaluation_request(clerk("ada"), "open", safe_with("gold", everyday.clone())), false),
        (evaluation_request(clerk("ada"), "open", safe_with("unheard-of", everyday.clone())), true),
        (evaluation_request(clerk("bob"), "open", safe("cash")), false),
    ] {
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{question}");
    }
    let mut sealed = evaluation_request(clerk("ada"), "open", safe_with("gold", everyday));
    sealed["context"] = json!({ "explain": true });
    let answer = evaluate(&bot, sealed).await;
    assert_eq!(answer["context"]["policies"][0]["id"], "vault.sealed", "{answer}");
}

#[tokio::test]
async fn action_properties_reach_the_context_at_every_endpoint() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    for (alarm, permitted) in [(json!({ "alarm": false }), true), (json!({ "alarm": true }), false)] {
        let mut question = evaluation_request(clerk("ada"), "open", safe("cash"));
        question["action"]["properties"] = alarm.clone();
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{alarm}");
        let plain = bot.post("/v2/authorize", question.clone()).await.expect(StatusCode::OK);
        assert_eq!(plain["decision"], permitted, "{alarm}: {plain}");
        let batch = bot.post(EVALUATIONS, json!({ "evaluations": [question] })).await;
        let batch = batch.expect_decisions(StatusCode::OK);
        assert_eq!(batch["evaluations"], json!([{ "decision": permitted }]), "{alarm}");
        let mut with_context = evaluation_request(clerk("ada"), "open", safe("cash"));
        with_context["context"] = alarm.clone();
        assert_eq!(is_permitted(&bot, with_context).await, permitted, "{alarm}");
    }
}

/// The denial reason of a question.
async fn denial_reason(bot: &Client, mut question: Value) -> Value {
    question["context"] = json!({ "explain": true });
    evaluate(bot, question).await["context"]["missing"].clone()
}

#[tokio::test]
async fn a_denial_states_its_reason() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    for (question, kind, policies) in [
        // Unmet: only the condition; only the principal; both.
        (evaluation_request(clerk("ada"), "open", safe("unheard-of")), "conditions", vec!["vault.open"]),
        (evaluation_request(clerk("bob"), "open", safe("cash")), "conditions", vec!["vault.open"]),
        (evaluation_request(clerk("bob"), "open", safe("unheard-of")), "conditions", vec!["vault.open"]),
        (evaluation_request(clerk("bob"), "open", safe("gold")), "forbidden", vec!["vault.sealed"]),
        (evaluation_request(clerk("ada"), "smash", safe("cash")), "nothing", vec![]),
        // Policies that fail only in their condition, or only in one constraint of their scope, else those with the fewest unmet
        // parts. Types must match.
        (
            evaluation_request(clerk("ada"), "move", safe("unheard-of")),
            "conditions",
            vec!["vault.move.clerk"],
        ),
        (evaluation_request(clerk("bob"), "move", safe("cash")), "conditions", vec!["vault.move.clerk"]),
        (evaluation_request(clerk("bob"), "move", safe("gold")), "conditions", vec!["vault.move.eve"]),
        (
            evaluation_request(entity("Vault::Robot", "r2"), "move", entity("Vault::Crate", "x")),
            "conditions",
            vec!["vault.move.eve"],
        ),
    ] {
        let found = denial_reason(&bot, question.clone()).await;
        assert_eq!(found["kind"], kind, "{question}: {found}");
        let named = found["policies"].as_array().into_iter().flatten();
        let named: Vec<&str> = named.map(|policy| policy["id"].as_str().unwrap()).collect();
        assert_eq!(named, policies, "{question}");
    }
    // A sufficient scope takes precedence over an unmet condition.
    let app = crate::authzen::start_with_policies(
        r#"@id("late") permit (principal in Scope::"bot", action == Action::"deleteForm", resource)
           when { context has credential && context.credential == Credential::"terminal" };"#,
    )
    .await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let form = entity("Form", &admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    let found =
        denial_reason(&admin, evaluation_request(entity("User", &guest.id), "deleteForm", form)).await;
    assert_eq!((&found["kind"], &found["scope"]), (&json!("scope"), &json!("admin")), "{found}");
}

/// Closes the decision log and returns the lines about this action.
fn read_log_lines(app: &TestApp, directory: &Path, action: &str) -> Vec<Value> {
    app.state.decision_log.close();
    let text = std::fs::read_to_string(directory.join("decisions.ndjson")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["action"].as_str().unwrap().contains(action)).collect()
}

#[tokio::test]
async fn every_answer_is_logged_including_errors() {
    let directory = tempfile::tempdir().unwrap();
    let app = start_with(|config| {
        config.decision_log = DecisionLogFilter::All;
        config.decision_log_path = directory.path().join("decisions.ndjson").display().to_string();
    })
    .await;
    let bot = app.user(Scope::Bot).await;
    let admin = app.admin().await;
    let blocked = app.user(Scope::Guest).await.id;
    admin.patch(&format!("/v2/users/{blocked}"), json!({ "status": "blocked" })).await.expect(StatusCode::OK);
    let user = |id: &str| entity("User", id);
    let unknown_user = crate::authorize::UNKNOWN_ID;
    let mistyped_clerk = json!({ "type": "Vault::Clerk", "id": "ada", "properties": { "badge": SECRET } });
    let cases = [
        (evaluation_request(clerk("ada"), "open", safe("cash")), true, ""),
        (
            evaluation_request(clerk("ada"), "open", safe_with("gold", json!({ "label": 5 }))),
            false,
            "invalid_attribute",
        ),
        (evaluation_request(mistyped_clerk, "open", safe("cash")), false, "invalid_attribute"),
        (evaluation_request(clerk("ada"), "open", entity("Vault::Cellar", "x")), false, "undecidable"),
        (evaluation_request(entity("Vault::Nobody", "x"), "open", safe("cash")), false, "unknown_subject"),
        (evaluation_request(user(unknown_user), "open", safe("cash")), false, "unknown_subject"),
        (evaluation_request(user(&blocked), "open", safe("cash")), false, "blocked"),
        (evaluation_request(entity("Vault::Nobody", SECRET), "open", safe("cash")), false, "unknown_subject"),
    ];
    for (index, (question, permitted, code)) in cases.iter().enumerate() {
        let id = format!("one-{index}");
        let headers = [("content-type", "application/json"), ("x-request-id", id.as_str())];
        let body = Some(serde_json::to_vec(question).unwrap());
        let answer = bot.send(Method::POST, EVALUATION, &headers, body).await.expect(StatusCode::OK);
        assert_eq!(answer["decision"], *permitted, "{question}: {answer}");
        if !code.is_empty() {
            assert_eq!(error_code(&answer), *code, "{question}");
        }
    }
    let mut batch: Vec<&Value> = cases.iter().map(|(question, ..)| question).collect();
    let incomplete = json!({ "action": { "name": "open" }, "resource": safe("cash") });
    batch.push(&incomplete);
    let mistyped = json!({ "action": { "name": "open" }, "context": SECRET });
    batch.push(&mistyped);
    let defaults = json!({ "name": "open" });
    let batch = json!({ "action": defaults, "evaluations": batch });
    bot.post(EVALUATIONS, batch).await.expect(StatusCode::OK);
    app.state.decision_log.close();
    let text = std::fs::read_to_string(directory.path().join("decisions.ndjson")).unwrap();
    assert!(!text.contains(SECRET), "invalid input may be a misplaced secret");

    let lines = read_log_lines(&app, directory.path(), "open");
    assert_eq!(lines.len(), 2 * cases.len() + 2, "{lines:#?}");
    for (index, (question, permitted, code)) in cases.iter().enumerate() {
        let matching: Vec<&Value> =
            lines.iter().filter(|line| line["requestId"] == format!("one-{index}")).collect();
        let [line] = matching.as_slice() else { panic!("{question}: expected one line, got {matching:?}") };
        assert_eq!(line["decision"], *permitted);
        assert_eq!(line["time"], "2026-01-31T12:00:00.000Z", "{line}");
        for part in ["subject", "resource"] {
            assert_eq!(line[part]["type"], question[part]["type"], "{line}");
            // The id is omitted if the type is unknown.
            let is_id = !["Vault::Nobody", "Vault::Cellar"].contains(&line[part]["type"].as_str().unwrap());
            assert_eq!(
                line[part]["id"],
                if is_id { question[part]["id"].clone() } else { json!("") },
                "{line}"
            );
        }
        let errors = if code.is_empty() { json!([]) } else { json!([code]) };
        assert_eq!(line["errors"], errors, "{line}");
        assert_eq!(line["inputs"].is_null(), !code.is_empty(), "{line}");
    }
}
