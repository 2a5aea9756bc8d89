//! `POST` with an array creates all resources or none, each as a single request would.

use crate::authzen::start_with_policies;
use crate::resources::{ResourceSpec, UNKNOWN_ID, create_resource, resource_specs, unique_email};
use crate::support::{Client, PASSWORD, TestApp};
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The body with an email address of its own, if it has one.
fn distinct(path: &str, body: &Value) -> Value {
    let mut body = body.clone();
    if path == "/v2/users" {
        body["email"] = unique_email().into();
    }
    body
}

/// The resource without what differs from creation to creation.
fn comparable(path: &str, resource: &Value) -> Value {
    let mut resource = resource.clone();
    let fields = resource.as_object_mut().unwrap();
    assert!(fields.shift_remove("id").is_some());
    match path {
        "/v2/users" => drop(fields.shift_remove("email")),
        "/v2/organizations" => drop(fields.shift_remove("path")),
        _ => {}
    }
    resource
}

fn ids(resources: &Value) -> Vec<String> {
    resources.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

async fn total(client: &Client, path: &str) -> String {
    client.get(&format!("{path}?limit=1")).await.header("x-total-count").to_owned()
}

/// The kinds of the audit events after `seq`, in their order.
async fn events_after(admin: &Client, seq: i64) -> Vec<Value> {
    let events = admin.get(&format!("/v2/audit?seq=>{seq}&limit=1000")).await.expect(StatusCode::OK);
    let events = events.as_array().unwrap().iter();
    events.map(|event| json!([event["event"], event["targetType"], event["details"]])).collect()
}

async fn last_seq(admin: &Client) -> i64 {
    admin.get("/v2/audit?sort=-seq&limit=1").await.json[0]["seq"].as_i64().unwrap()
}

#[tokio::test]
async fn an_array_creates_what_single_requests_create() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, full, .. } in resource_specs(&admin).await {
        // Different mixtures of required and optional fields.
        for pattern in [0b1_u32, 0b10, 0b1_0110, 0b1101_0010] {
            let length = 32 - pattern.leading_zeros();
            let bodies: Vec<&Value> =
                (0..length).map(|bit| if pattern >> bit & 1 == 1 { &full } else { &minimal }).collect();
            let before = last_seq(&admin).await;
            let mut singles = Vec::new();
            for body in &bodies {
                let created = admin.post(path, distinct(path, body)).await.expect(StatusCode::CREATED);
                singles.push(comparable(path, &created));
            }
            let events = events_after(&admin, before).await;
            let before = last_seq(&admin).await;
            let array: Value = bodies.iter().map(|body| distinct(path, body)).collect();
            let created = admin.post(path, array).await.expect(StatusCode::CREATED);
            let resources: Vec<Value> =
                created.as_array().unwrap().iter().map(|one| comparable(path, one)).collect();
            assert_eq!(resources, singles, "{path}");
            assert_eq!(events_after(&admin, before).await, events, "{path}");
            // They are stored as they were returned, and lists have the order of the array.
            let listed = admin.get(&format!("{path}?id=[{}]", ids(&created).join(","))).await;
            assert_eq!(listed.expect(StatusCode::OK), created, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decisions_of_an_array_are_those_of_single_requests() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("decisions.ndjson");
    let app = TestApp::start_with(|config| {
        config.decision_log = DecisionLogFilter::Full;
        config.decision_log_path = file.display().to_string();
    })
    .await;
    let admin = app.admin().await;
    let specs = resource_specs(&admin).await;
    for ResourceSpec { path, minimal, full, .. } in &specs {
        let send = async |body: Value, id: &str| {
            let headers = [("content-type", "application/json"), ("x-request-id", id)];
            let body = serde_json::to_vec(&body).unwrap();
            let reply = admin.send(reqwest::Method::POST, path, &headers, Some(body)).await;
            reply.expect(StatusCode::CREATED);
        };
        for body in [minimal, full] {
            send(distinct(path, body), "single").await;
        }
        send(json!([distinct(path, minimal), distinct(path, full)]), "array").await;
    }
    app.state.decision_log.close();
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(column) = ["single", "array"].iter().position(|id| line["requestId"] == *id) else {
            continue;
        };
        let kind = format!("{} {} {}", line["action"], line["resource"]["type"], line["decision"]);
        counts.entry(kind).or_default()[column] += 1;
    }
    assert!(counts.len() > 18, "{counts:?}");
    for (kind, [single, array]) in counts {
        // What several elements refer to is decided once.
        let is_equal =
            if kind.starts_with("\"referTo\"") { array <= single && array > 0 } else { array == single };
        assert!(is_equal, "{kind}: {single} single, {array} in an array");
    }
}

#[tokio::test]
async fn each_invalid_field_of_each_element_is_named_and_nothing_is_created() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let before = total(&admin, "/v2/forms").await;
    let array = json!([
        { "name": "valid" },
        { "name": "" },
        "text",
        { "nme": 1, "fields": [{ "name": "a" }, { "name": 7 }] },
        { "name": "valid", "organization": UNKNOWN_ID },
    ]);
    let refused = admin.post("/v2/forms", array).await;
    refused.expect_problem(400, "invalid_fields");
    let expected = [
        ("[1].name", "too_short"),
        ("[2]", "invalid_type"),
        ("[3].nme", "unknown_field"),
        ("[3].fields.1.name", "invalid_type"),
        ("[3].name", "required"),
    ];
    let mut errors = refused.field_errors();
    errors.sort_unstable();
    let mut expected: Vec<(String, String)> =
        expected.iter().map(|(field, code)| ((*field).to_owned(), (*code).to_owned())).collect();
    expected.sort_unstable();
    assert_eq!(errors, expected);
    // What needs the database is checked when all bodies are valid, of all elements, too.
    let array = json!([
        { "organization": UNKNOWN_ID },
        {},
        { "conversation": UNKNOWN_ID },
        { "organization": UNKNOWN_ID },
    ]);
    let refused = admin.post("/v2/contacts", array).await;
    let mut fields = refused.expect_problem(400, "invalid_fields");
    fields.sort_unstable();
    assert_eq!(fields, ["[0].organization", "[2].conversation", "[3].organization"]);
    assert_eq!(total(&admin, "/v2/forms").await, before);
    // At most 20 errors are listed.
    let many: Value = (0..1000).map(|_| json!({})).collect();
    assert_eq!(admin.post("/v2/forms", many).await.expect_problem(400, "invalid_fields").len(), 20);
    let elements = (0..1001).map(|_| json!({ "name": "a" })).collect::<Value>();
    let refused = admin.post("/v2/forms", elements).await;
    refused.expect_problem(400, "invalid_fields");
    assert_eq!(refused.field_errors(), [(String::new(), "too_many_items".to_owned())]);
    let refused = admin.post("/v2/forms", json!([])).await;
    assert_eq!(refused.field_errors(), [(String::new(), "too_few_items".to_owned())]);
    for text in ["7", "null", "\"a\""] {
        let headers = [("content-type", "application/json")];
        let body = Some(text.as_bytes().to_vec());
        let refused = admin.send(reqwest::Method::POST, "/v2/forms", &headers, body).await;
        refused.expect_problem(400, "bad_request");
    }
    assert_eq!(total(&admin, "/v2/forms").await, before);
}

#[tokio::test]
async fn a_denied_element_denies_all_and_is_named() {
    let app = start_with_policies(
        r#"@id("drafts") forbid (principal, action == Action::"createKnowledgeItem", resource is KnowledgeItem)
           when { resource has status && resource.status == KnowledgeStatus::"archived" };"#,
    )
    .await;
    let admin = app.admin().await;
    let before = total(&admin, "/v2/kbitems").await;
    let item = |status: &str| json!({ "title": "title", "status": status });
    let refused = admin
        .post("/v2/kbitems", json!([item("draft"), item("archived"), item("draft"), item("archived")]))
        .await;
    refused.expect_problem(403, "forbidden");
    let denied = |index: usize| (format!("[{index}]"), "not_allowed".to_owned());
    assert_eq!(refused.field_errors(), [denied(1), denied(3)]);
    assert_eq!(total(&admin, "/v2/kbitems").await, before);
    // Who may create none gets the same problem as for one.
    let guest = app.user(Scope::Guest).await;
    guest.post("/v2/kbitems", json!([item("draft")])).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_conflict_names_the_element_and_leaves_no_trace() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let taken = unique_email();
    create_resource(&admin, "/v2/users", json!({ "email": taken })).await;
    let (users, seq) = (total(&admin, "/v2/users").await, last_seq(&admin).await);
    let email = unique_email();
    for (emails, index) in
        [([&unique_email(), &taken, &unique_email()], 1), ([&email, &unique_email(), &email], 2)]
    {
        let array: Value =
            emails.iter().map(|email| json!({ "email": email, "password": PASSWORD })).collect();
        let refused = admin.post("/v2/users", array).await;
        refused.expect_problem(409, "conflict");
        assert_eq!(refused.field_errors(), [(format!("[{index}].email"), "already_in_use".to_owned())]);
    }
    assert_eq!((total(&admin, "/v2/users").await, last_seq(&admin).await), (users, seq));
}

#[tokio::test]
async fn the_passwords_of_an_array_are_hashed_and_limited() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let users: Value = (0..3).map(|_| json!({ "email": unique_email(), "password": PASSWORD })).collect();
    let created = admin.post("/v2/users", users).await.expect(StatusCode::CREATED);
    for user in created.as_array().unwrap() {
        app.log_in(user["email"].as_str().unwrap()).await;
    }
    let weak = json!([{ "email": unique_email(), "password": PASSWORD }, { "email": unique_email(), "password": "12345678" }]);
    let refused = admin.post("/v2/users", weak).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["[1].password"]);
    let many: Value = (0..101).map(|_| json!({ "email": unique_email(), "password": PASSWORD })).collect();
    let refused = admin.post("/v2/users", many).await;
    refused.expect_problem(400, "invalid_fields");
    assert_eq!(refused.field_errors(), [("[100].password".to_owned(), "too_many_items".to_owned())]);
    let without: Value = (0..101).map(|_| json!({ "email": unique_email() })).collect();
    admin.post("/v2/users", without).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_thousand_resources_are_created_at_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let array: Value = (0..1000).map(|index| json!({ "name": format!("form {index}") })).collect();
    let created = admin.post("/v2/forms", array).await.expect(StatusCode::CREATED);
    let names: Vec<&str> =
        created.as_array().unwrap().iter().map(|form| form["name"].as_str().unwrap()).collect();
    assert!(names.iter().enumerate().all(|(index, name)| *name == format!("form {index}")));
    assert_eq!(total(&admin, "/v2/forms").await, "1000");
    assert_eq!(ids(&admin.get("/v2/forms?limit=1000").await.json), ids(&created));
}
