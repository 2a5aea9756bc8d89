//! The document store of `examples/documents`: an external domain that is added without code.

use crate::authorize::user;
use crate::authzen::{
    EVALUATION, EVALUATIONS, entity, error_code, evaluate, evaluation_request, is_permitted,
};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH, search};
use crate::support::{Client, PASSWORD, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

const PEOPLE: [&str; 5] = ["ann", "ben", "cleo", "dan", "eve"];
const ACTION_NAMES: [&str; 4] = ["delete", "edit", "read", "share"];

/// The permissions of each person on each resource, as the first letters of the actions.
const PERMISSIONS: [(&str, &str, [&str; 5]); 9] = [
    ("Folder", "handbook", ["r", "r", "ders", "", ""]),
    ("Folder", "handbook-it", ["r", "r", "r", "", ""]),
    ("Folder", "home-of-ann", ["ders", "", "", "", ""]),
    ("Folder", "projects", ["er", "er", "", "", ""]),
    ("Document", "welcome", ["r", "r", "r", "", ""]),
    ("Document", "vpn", ["r", "ders", "r", "", ""]),
    ("Document", "diary", ["ders", "", "", "", ""]),
    ("Document", "plan", ["er", "ders", "", "r", ""]),
    ("Document", "report", ["r", "r", "rs", "", ""]),
];

async fn start() -> TestApp {
    TestApp::start_with(|config| {
        config.schema.push(project_file("examples/documents/schema"));
        config.policies.push(project_file("examples/documents/policies"));
    })
    .await
}

fn person(id: &str) -> Value {
    entity("Docs::Person", id)
}

fn document(id: &str) -> Value {
    entity("Docs::Document", id)
}

/// A document with these properties.
fn document_with(id: &str, properties: Value) -> Value {
    json!({ "type": "Docs::Document", "id": id, "properties": properties })
}

/// A cell of the table: person, action, type and id of the resource, and whether it is permitted.
type Cell = (&'static str, &'static str, String, &'static str, bool);

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (kind, id, rights) in PERMISSIONS {
        for (person, rights) in PEOPLE.into_iter().zip(rights) {
            for action in ACTION_NAMES {
                cells.push((person, action, format!("Docs::{kind}"), id, rights.contains(&action[..1])));
            }
        }
    }
    cells
}

#[tokio::test]
async fn every_cell_of_the_table_is_decided_individually_and_in_a_batch() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let mut questions = Vec::new();
    let mut expected = Vec::new();
    for (who, action, kind, id, permitted) in cells() {
        let question = evaluation_request(person(who), action, entity(&kind, id));
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{who} {action} {id}");
        questions.push(question);
        expected.push(json!({ "decision": permitted }));
    }
    let batch = bot.post(EVALUATIONS, json!({ "evaluations": questions })).await;
    assert_eq!(batch.expect_decisions(StatusCode::OK)["evaluations"], Value::from(expected));
}

#[tokio::test]
async fn searches_agree_with_the_table() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let cells_matching = |fits: &dyn Fn(&Cell) -> bool, index: usize| -> BTreeSet<String> {
        let found = cells().into_iter().filter(|cell| cell.4 && fits(cell));
        found.map(|cell| [cell.0, cell.1, cell.3][index].to_owned()).collect()
    };
    for (kind, id, _) in PERMISSIONS {
        let kind = format!("Docs::{kind}");
        for action in ACTION_NAMES {
            let mut question = evaluation_request(person(""), action, entity(&kind, id));
            question["subject"] = json!({ "type": "Docs::Person" });
            let expected = cells_matching(&|cell| cell.3 == id && cell.1 == action, 0);
            assert_eq!(search(&bot, SUBJECT_SEARCH, question).await, expected, "who may {action} {id}");
        }
        for who in PEOPLE {
            let question = json!({ "subject": person(who), "resource": entity(&kind, id) });
            let expected = cells_matching(&|cell| cell.3 == id && cell.0 == who, 1);
            assert_eq!(search(&bot, ACTION_SEARCH, question).await, expected, "what {who} may do to {id}");
        }
    }
    for who in PEOPLE {
        for action in ACTION_NAMES {
            for kind in ["Docs::Folder", "Docs::Document"] {
                let question = evaluation_request(person(who), action, json!({ "type": kind }));
                let expected = cells_matching(&|cell| cell.0 == who && cell.1 == action && cell.2 == kind, 2);
                assert_eq!(
                    search(&bot, RESOURCE_SEARCH, question).await,
                    expected,
                    "what {who} may {action}"
                );
            }
        }
    }
}

#[tokio::test]
async fn searches_evaluate_the_properties_of_the_given_entity() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let mut question = evaluation_request(
        person(""),
        "read",
        document_with("4711", json!({ "readerGroups": [entity("Docs::Group", "staff")] })),
    );
    question["subject"] = json!({ "type": "Docs::Person" });
    let staff = BTreeSet::from(["ann", "ben", "cleo"].map(str::to_owned));
    assert_eq!(search(&bot, SUBJECT_SEARCH, question).await, staff);
    let mut dan = person("dan");
    dan["properties"] = json!({ "home": entity("Docs::Folder", "projects") });
    let question = evaluation_request(dan.clone(), "edit", json!({ "type": "Docs::Document" }));
    assert_eq!(search(&bot, RESOURCE_SEARCH, question).await, BTreeSet::from(["plan".to_owned()]));
    let question = json!({ "subject": dan, "resource": document("plan") });
    assert_eq!(search(&bot, ACTION_SEARCH, question).await, ACTION_NAMES.map(str::to_owned).into());
}

#[tokio::test]
async fn an_action_is_looked_up_in_the_namespace_of_the_resource() {
    let app = start().await;
    let admin = app.admin().await;
    for (name, resource, permitted) in [
        ("read", document("plan"), true),
        ("Docs::Action::\"read\"", document("plan"), true),
        ("Docs::Action::\"delete\"", document("plan"), false),
        ("read", entity("Docs::Folder", "projects"), false),
    ] {
        assert_eq!(
            is_permitted(&admin, evaluation_request(person("dan"), name, resource)).await,
            permitted,
            "{name}"
        );
    }
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let conversation = entity("Conversation", &conversation);
    assert!(
        is_permitted(&admin, evaluation_request(user(&admin.id), "fetchConversation", conversation.clone()))
            .await
    );
    assert!(
        is_permitted(
            &admin,
            evaluation_request(user(&admin.id), "Action::\"fetchConversation\"", conversation.clone())
        )
        .await
    );
    for question in [
        evaluation_request(person("dan"), "Action::\"read\"", document("plan")),
        evaluation_request(person("dan"), "Other::Action::\"read\"", document("plan")),
        evaluation_request(person("dan"), "fetchConversation", document("plan")),
        evaluation_request(person("dan"), "Read", document("plan")),
        evaluation_request(user(&admin.id), "read", conversation.clone()),
        evaluation_request(user(&admin.id), "read", document("plan")),
        evaluation_request(user(&admin.id), "Docs::Action::\"read\"", conversation.clone()),
        evaluation_request(person("dan"), "fetchConversation", conversation),
        evaluation_request(entity("Person", "dan"), "read", document("plan")),
        evaluation_request(person("dan"), "read", entity("Document", "plan")),
    ] {
        assert!(!error_code(&evaluate(&admin, question).await).is_empty());
    }
}

#[tokio::test]
async fn stored_attributes_take_precedence_over_properties() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let dan = json!({ "type": "Docs::Person", "id": "dan" });
    for (who, action, resource, permitted) in [
        // A document that is not in the data has only the properties of the question.
        ("dan", "edit", document("4711"), false),
        ("dan", "edit", document_with("4711", json!({ "owner": dan })), true),
        ("dan", "edit", document_with("4711", json!({ "owner": { "__entity": dan } })), true),
        ("ann", "edit", document_with("4711", json!({ "owner": dan })), false),
        (
            "ann",
            "read",
            document_with("4711", json!({ "readerGroups": [entity("Docs::Group", "staff")] })),
            true,
        ),
        (
            "dan",
            "read",
            document_with("4711", json!({ "readerGroups": [entity("Docs::Group", "staff")] })),
            false,
        ),
        // Stored attributes take precedence. Attributes that are not stored may be supplied.
        ("ben", "edit", document_with("plan", json!({ "state": "final" })), false),
        ("ben", "share", document_with("plan", json!({ "state": "final" })), true),
        ("ben", "share", document_with("plan", json!({ "owner": dan })), true),
        ("dan", "share", document_with("plan", json!({ "owner": dan })), false),
        ("dan", "edit", document_with("plan", json!({ "editors": [dan] })), true),
        ("dan", "read", document_with("plan", json!({ "readers": [] })), true),
        ("dan", "edit", document_with("plan", json!({ "editorGroups": [], "editors": [dan] })), true),
        ("cleo", "edit", document_with("report", json!({ "state": "draft" })), false),
        // Stored attributes are not validated against the supplied ones.
        ("dan", "read", document_with("plan", json!({ "owner": "dan", "readers": null })), true),
        ("ann", "delete", document_with("diary", json!({ "owner": dan })), true),
        // Undeclared properties are ignored. Parents cannot be supplied.
        ("dan", "read", document_with("plan", json!({ "title": "Plan", "size": 1.5, "tags": [null] })), true),
        (
            "ann",
            "read",
            document_with("4711", json!({ "parents": [entity("Docs::Folder", "handbook")] })),
            false,
        ),
    ] {
        let question = evaluation_request(person(who), action, resource);
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{question}");
    }
    let mut placed = evaluation_request(person("ann"), "read", document("4711"));
    placed["resource"]["parents"] = json!([entity("Docs::Folder", "handbook")]);
    assert!(!is_permitted(&bot, placed).await);
    for (id, properties, attribute) in [
        ("4711", json!({ "owner": "dan" }), "owner"),
        ("4711", json!({ "readers": dan }), "readers"),
        ("4711", json!({ "readers": [dan, "dan"] }), "readers.1"),
        ("plan", json!({ "state": 1 }), "state"),
    ] {
        let question = evaluation_request(person("ben"), "read", document_with(id, properties.clone()));
        let answer = evaluate(&bot, question).await;
        assert_eq!(error_code(&answer), "invalid_attribute", "{properties}");
        let named = answer["context"]["error"]["attribute"].as_str().unwrap();
        assert_eq!(named, format!("resource.properties.{attribute}"));
    }
}

#[tokio::test]
async fn properties_of_the_subject_and_the_action_are_evaluated() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let with =
        |id: &str, properties: Value| json!({ "type": "Docs::Person", "id": id, "properties": properties });
    let home = json!({ "home": entity("Docs::Folder", "projects") });
    for (subject, permitted) in [
        (person("ann"), true),
        (with("ann", json!({ "suspended": true })), false),
        (with("eve", json!({ "suspended": false })), false),
        (with("dan", home.clone()), true),
        (with("stranger", home), true),
        (person("stranger"), false),
    ] {
        let question = evaluation_request(subject, "edit", document("plan"));
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{question}");
    }
    for (who, properties, context, permitted) in [
        ("ben", json!({}), json!({}), true),
        ("ben", json!({ "outside": true }), json!({}), false),
        ("ben", json!({}), json!({ "outside": true }), false),
        ("ben", json!({ "outside": true }), json!({ "outside": false }), true),
        ("ben", json!({ "outside": false }), json!({ "outside": true }), false),
    ] {
        let mut question = evaluation_request(person(who), "share", document("plan"));
        question["action"]["properties"] = properties;
        question["context"] = context;
        assert_eq!(is_permitted(&bot, question.clone()).await, permitted, "{question}");
    }
}

#[tokio::test]
async fn an_answer_names_the_determining_policies() {
    let app = start().await;
    let bot = app.user(Scope::Bot).await;
    let source =
        std::fs::read_to_string(project_file("examples/documents/policies/documents.cedar")).unwrap();
    for (who, action, id, policies) in [
        ("ann", "edit", "plan", vec!["docs.editor"]),
        ("eve", "read", "welcome", vec!["docs.suspended"]),
        ("cleo", "edit", "report", vec!["docs.final"]),
        ("dan", "edit", "plan", vec![]),
    ] {
        let mut question = evaluation_request(person(who), action, document(id));
        question["context"] = json!({ "explain": true });
        let answer = evaluate(&bot, question).await;
        let named = answer["context"]["policies"].as_array().unwrap();
        let ids: Vec<&str> = named.iter().map(|policy| policy["id"].as_str().unwrap()).collect();
        assert_eq!(ids, policies, "{answer}");
        for policy in named {
            assert!(policy["file"].as_str().unwrap().ends_with("documents.cedar"), "{policy}");
            let line = usize::try_from(policy["line"].as_u64().unwrap()).unwrap();
            let found = source.lines().nth(line - 1).unwrap();
            assert!(found.contains(policy["id"].as_str().unwrap()), "{policy}: {found}");
        }
    }
}

#[tokio::test]
async fn only_bots_and_admins_may_evaluate_external_subjects() {
    let app = start().await;
    let (_, tenant) = app.tenant("tenant").await;
    let question = evaluation_request(person("dan"), "read", document("plan"));
    for client in [&tenant, &app.bearer(&tenant.key(&[Scope::Bot]).await)] {
        assert!(is_permitted(client, question.clone()).await);
    }
    let agent: &Client = &app.user(Scope::Agent).await;
    agent.post(EVALUATION, question).await.expect_problem(403, "forbidden");
}

#[test]
fn the_policy_tests_of_the_example_pass() {
    let list = |own: &str| {
        format!("{},{}", project_file(own).display(), project_file("examples/documents").join(own).display())
    };
    let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .current_dir(project_file("examples"))
        .env_clear()
        .envs([("CEDARGATE_SCHEMA", list("schema")), ("CEDARGATE_POLICIES", list("policies"))])
        .args(["policy", "test"])
        .arg(project_file("examples/documents/policies/cases/documents.json"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.ends_with(" passed, 0 failed\n") && !printed.starts_with("0 "), "{printed}");
}

/// The shell blocks of a README, each with the output that is shown below it, if any.
fn parse_shell_session(readme: &str) -> Vec<(&str, Option<&str>)> {
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split_once("```\n").unwrap());
    blocks.map(|(commands, rest)| (commands, rest.trim_start_matches('\n').strip_prefix("    "))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_its_readme_print_the_documented_answers() {
    let app = start().await;
    let readme = std::fs::read_to_string(project_file("examples/documents/README.md")).unwrap();
    assert!(readme.contains(&format!("CEDARGATE_ADMIN_PASSWORD={PASSWORD} cargo run")));
    let session = parse_shell_session(&readme);
    assert_eq!(session.len(), 9);
    let commands: Vec<&str> = session.iter().map(|(commands, _)| *commands).collect();
    // Only the address differs. The marker lines separate the outputs of the blocks.
    let script = commands.join("\necho; echo ----\n").replace("http://127.0.0.1:8080", &app.base);
    let output = Command::new("bash").args(["-euc", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = text.split("----\n").map(str::trim).collect();
    assert_eq!(answers.len(), session.len(), "{text}");
    for ((_, shown), answer) in session.iter().zip(answers).skip(1) {
        let shown = shown.unwrap().lines().next().unwrap();
        let is_shown = match shown.split_once('…') {
            Some((start, _)) => answer.starts_with(start),
            None => answer == shown,
        };
        assert!(is_shown, "expected {shown} as in the README, got {answer}");
    }
}
