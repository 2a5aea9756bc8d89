//! The examples of the OpenAPI document, sent as they are to a service after its first start.

use crate::api_consistency::{document, operations};
use crate::support::{ADMIN, Client, TestApp};
use cedargate::types::Id;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::process::Command;

/// The example of a JSON body: that of the operation, or that of its schema.
fn body_example(document: &Value, operation: &Value) -> Option<Value> {
    let content = &operation["requestBody"]["content"]["application/json"];
    if content.is_null() {
        return None;
    }
    let reference = content["schema"]["$ref"].as_str();
    let schema = reference.map(|reference| document.pointer(reference.trim_start_matches('#')).unwrap());
    let of_schema = schema.map(|schema| schema["example"].clone());
    let example = [content["example"].clone(), of_schema.unwrap_or_default()];
    let example = example.into_iter().find(|example| !example.is_null());
    Some(example.unwrap_or_else(|| panic!("{} has no example", operation["operationId"])))
}

/// Creates a resource with the example of its creation, and returns its id.
async fn create(client: &Client, document: &Value, base: &str) -> String {
    let body = body_example(document, &document["paths"][base]["post"]).unwrap();
    let body = with_conversation(client, document, body).await;
    let created = client.post(base, body).await.expect(StatusCode::CREATED);
    created["id"].as_str().unwrap().to_owned()
}

/// Replaces the example id in a body by that of a conversation: every other reference is optional.
async fn with_conversation(client: &Client, document: &Value, body: Value) -> Value {
    let (text, example) = (body.to_string(), Id::EXAMPLE.to_string());
    if !text.contains(&example) {
        return body;
    }
    let creation = body_example(document, &document["paths"]["/v2/conversations"]["post"]).unwrap();
    let id = client.post("/v2/conversations", creation).await.expect(StatusCode::CREATED)["id"].clone();
    serde_json::from_str(&text.replace(&example, id.as_str().unwrap())).unwrap()
}

/// Replaces the placeholders of a path by the examples of its parameters, and the example id by that of a resource which the
/// example of its creation creates.
async fn with_examples(
    app: &TestApp,
    client: &Client,
    document: &Value,
    path: &str,
    operation: &Value,
) -> String {
    let (mut path, mut query) = (path.to_owned(), Vec::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] != "path" {
            match &parameter["example"] {
                Value::Null => assert_ne!(parameter["required"], true, "{path}: {parameter}"),
                Value::String(text) => query.push((parameter["name"].as_str().unwrap(), text.clone())),
                other => query.push((parameter["name"].as_str().unwrap(), other.to_string())),
            }
            continue;
        }
        let name = parameter["name"].as_str().unwrap();
        let example =
            parameter["example"].as_str().unwrap_or_else(|| panic!("{path}: {name} has no example"));
        let value = if example == Id::EXAMPLE.to_string() {
            match name {
                "keyId" => create(client, document, "/v2/users/me/keys").await,
                "sessionId" => {
                    app.log_in(ADMIN).await;
                    let sessions = client.get("/v2/users/me/sessions").await.expect(StatusCode::OK);
                    let other =
                        sessions.as_array().unwrap().iter().find(|session| session["current"] == false);
                    other.unwrap()["id"].as_str().unwrap().to_owned()
                }
                _ => create(client, document, path.split_once("/{").unwrap().0).await,
            }
        } else {
            example.to_owned()
        };
        path = path.replace(&format!("{{{name}}}"), &value);
    }
    let query: Vec<(&str, &str)> = query.iter().map(|(name, text)| (*name, text.as_str())).collect();
    if query.is_empty() { path } else { crate::lists::query(&path, &query) }
}

#[tokio::test]
async fn the_example_of_every_operation_works_after_the_first_start() {
    let mut document = document();
    // Keys are created under the path of their user.
    let keys = document["paths"]["/v2/users/{id}/keys"].clone();
    document["paths"]["/v2/users/me/keys"] = keys;
    let shared = TestApp::start().await;
    let mut checked = 0;
    for (path, method, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        // The token in the query string is a secret, of which there is no example. Forward authentication answers proxies.
        if ["refreshToken", "forward"].contains(&name) || path == "/v2/users/me/keys" {
            continue;
        }
        let content = operation["requestBody"]["content"].as_object();
        if content.is_some_and(|content| !content.contains_key("application/json")) {
            // A form with a token.
            continue;
        }
        // The example of a user has an email address, which is in use once it was created.
        let own_app = if path.starts_with("/v2/users") { Some(TestApp::start().await) } else { None };
        let app = own_app.as_ref().unwrap_or(&shared);
        let client = app.admin().await;
        let (path, body) = match name {
            // The active version is in the answer of another operation.
            "fetchPolicyVersion" => {
                let versions = client.get("/v2/policies/versions").await.expect(StatusCode::OK);
                let version = versions[0]["version"].as_str().unwrap().to_owned();
                (path.replace("{version}", &version), None)
            }
            _ => {
                let path = with_examples(app, &client, &document, &path, &operation).await;
                let body = match body_example(&document, &operation) {
                    Some(body) => Some(with_conversation(&client, &document, body).await),
                    None => None,
                };
                (path, body)
            }
        };
        let reply = client.call(method.clone(), &path, body.clone()).await;
        assert!(
            reply.status.is_success(),
            "{name}: {method} {path} {body:?}: {} {}",
            reply.status,
            reply.text
        );
        let expected = operation["responses"].as_object().unwrap();
        assert!(expected.contains_key(reply.status.as_str()), "{name}: {}", reply.status);
        checked += 1;
    }
    assert!(checked > 65, "{checked}");
}

#[tokio::test]
async fn list_parameters_may_be_separated_by_commas_or_repeated() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (name, status) in [("b", "draft"), ("a", "draft"), ("c", "published")] {
        admin
            .post("/v2/kbitems", json!({ "title": name, "status": status }))
            .await
            .expect(StatusCode::CREATED);
    }
    let list = async |query: &str| admin.get(&format!("/v2/kbitems?{query}")).await.expect(StatusCode::OK);
    let joined = list("sort=-status,title&select=title,status").await;
    assert_eq!(joined.as_array().unwrap().len(), 3);
    assert_eq!((&joined[0]["title"], &joined[1]["title"]), (&json!("c"), &json!("a")));
    assert_eq!(list("sort=-status&select=title&sort=title&select=status").await, joined);
    let both = admin.get("/v2/kbitems?sort=title&sort=title").await;
    assert_eq!(both.field_errors(), [("sort".to_owned(), "duplicate".to_owned())]);
    let id = joined[0]["id"].as_str().unwrap();
    let single =
        admin.get(&format!("/v2/kbitems/{id}?select=title&select=status")).await.expect(StatusCode::OK);
    assert_eq!(single, joined[0]);
    let limit = admin.get("/v2/kbitems?limit=1&limit=2").await;
    assert_eq!(limit.field_errors(), [("limit".to_owned(), "duplicate".to_owned())]);
}

/// Values of filters, as clients send them.
const FILTERS: &[(&str, &str, &[&str])] = &[
    (
        "/v2/conversations",
        "createdAt",
        &[
            ">=2020-09-30",
            "<2024-02-29",
            ">1999-12-31",
            ">2026-11-30T07:28:03.866Z",
            ">=2026-01-31T12:00:00+02:00",
            "!2026-01-31T12:00:00.000Z",
            "[2026-01-31T12:00:00Z,2026-10-31T12:00:00.5Z,null]",
            "!null",
        ],
    ),
    (
        "/v2/conversations",
        "status",
        &[
            "in-progress",
            "[in-progress,on_hold]",
            "![a b, c]",
            "\"!a, \\\"b\\\"\"",
            "~é",
            "^\"x\"",
            ">=a b",
            "null",
        ],
    ),
    ("/v2/kbitems", "title", &["[\"a,b\",c]", "What? [1]", "~[", ">\"\"", "!~x"]),
    ("/v2/messages", "delay", &["[1,2]", ">=5", "!null", "<100000"]),
    ("/v2/users", "role", &["[guest,agent]", "!admin"]),
];

/// The values of the object `meta`.
const FREE_FILTERS: &[&str] =
    &["order", "[order,5]", "\"5\"", ">=-2.5", "!~part", "^a", "<b", "null", "true", "é", "0", "[\"a,b\"]"];

#[tokio::test]
async fn the_patterns_of_filters_match_what_the_service_accepts() {
    let document = document();
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut checks = Vec::new();
    for (path, name, values) in FILTERS {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let parameter = parameters.iter().find(|parameter| parameter["name"] == *name).unwrap();
        let schema = &parameter["schema"];
        let alternatives = schema["anyOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let patterns: Vec<Value> = alternatives.iter().map(|schema| schema["pattern"].clone()).collect();
        for value in *values {
            admin.get(&crate::lists::query(path, &[(name, value)])).await.expect(StatusCode::OK);
            checks.push(json!([patterns, value, alternatives]));
        }
    }
    let parameters = document["paths"]["/v2/contacts"]["get"]["parameters"].as_array().unwrap();
    let parameter = parameters.iter().find(|parameter| parameter["name"] == "meta.key").unwrap();
    let pattern = parameter["schema"]["additionalProperties"]["pattern"].clone();
    for value in FREE_FILTERS {
        admin.get(&crate::lists::query("/v2/contacts", &[("meta.x", value)])).await.expect(StatusCode::OK);
        checks.push(json!([[pattern], value, []]));
    }
    // The regular expressions of JSON Schema are those of JavaScript.
    let script = "for (const [patterns, value, schemas] of JSON.parse(process.argv[1])) \
                  if (!patterns.some((pattern) => pattern && new RegExp(pattern, 'u').test(value)) \
                    && !schemas.some((schema) => schema.enum?.includes(value))) console.log(value)";
    let output = Command::new("node").args(["-e", script, &json!(checks).to_string()]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("", ""));
}
