//! The OpenAPI document agrees with the service, and the generated files are up to date.

use crate::support::{TestApp, project_file};
use cedargate::authz::{Bundle, Engine, Sources, matrix};
use cedargate::http::openapi;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn document() -> Value {
    serde_json::from_str(&std::fs::read_to_string(project_file("openapi/openapi.json")).unwrap()).unwrap()
}

/// All operations: method, path, and their description in the document.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation.clone()))
        })
        .collect()
}

#[test]
fn the_committed_document_is_up_to_date() {
    let committed = std::fs::read_to_string(project_file("openapi/openapi.json")).unwrap();
    let generated = openapi::document_json(&openapi::document(&cedargate::api::all_routes()));
    assert!(committed == generated, "openapi/openapi.json is out of date; run `make generated`");
}

#[test]
fn the_committed_matrix_is_up_to_date() {
    let committed = std::fs::read_to_string(project_file("policies/MATRIX.md")).unwrap();
    let sources = Sources {
        schema: vec![project_file("schema")],
        policies: vec![project_file("policies")],
        stored: vec![],
    };
    let generated = matrix(&Engine::new(Bundle::read(&sources).unwrap()).unwrap());
    assert_eq!(committed, generated, "policies/MATRIX.md is out of date; run `make generated`");
}

#[tokio::test]
async fn the_service_serves_the_committed_document_and_a_page_for_it() {
    let app = TestApp::start().await;
    let served = app.anonymous().get("/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    let mut served = served.expect(StatusCode::OK);
    let servers = served.as_object_mut().unwrap().shift_remove("servers");
    assert_eq!(servers, Some(json!([{ "url": app.base }])));
    let mut committed = document();
    let servers = committed.as_object_mut().unwrap().shift_remove("servers").unwrap();
    assert_eq!(servers[0]["url"], "http://127.0.0.1:8080");
    assert_eq!(served, committed);
    let page = app.anonymous().get("/docs").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("swagger-ui"), "{}", page.text);
    assert!(!page.text.contains("https://"), "the page must not need another server");
}

#[test]
fn every_operation_has_a_unique_id_and_is_documented() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "duplicate operation id {name}");
        assert!(operation["summary"].is_string(), "{name}");
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status.starts_with('2')), "{name}");
        let secured = operation["security"][0]["bearer"].is_array();
        assert_eq!(operation["x-cedar-action"].is_string() || name == "refreshToken", secured, "{name}");
        if secured {
            assert!(answers.contains_key("401") && answers.contains_key("403"), "{name}");
        }
        for (status, answer) in answers {
            let kind = match (name, status.starts_with('2')) {
                ("metrics", true) => "text/plain",
                (_, true) => "application/json",
                (_, false) => "application/problem+json",
            };
            // An allowed forward-auth request has a status and headers only.
            let has_body =
                status != "204" && status != "304" && (name, status.as_str()) != ("forward", "200");
            // The problem responses are shared by all operations.
            let answer = match answer["$ref"].as_str() {
                Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
                None => answer,
            };
            assert_eq!(answer["content"][kind]["schema"].is_object(), has_body, "{name} {status}");
        }
        let placeholders: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<&str> = parameters
            .iter()
            .filter(|one| one["in"] == "path")
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(placeholders, named, "{method} {path}");
    }
    assert!(names.len() >= 50);
}

#[test]
fn operation_ids_match_their_actions() {
    // If two routes use one action, one of the operations has its own name.
    let others = BTreeMap::from([
        ("createMessages", "createMessage"),
        ("listChanges", "listConversations"),
        ("listConversationMessages", "listMessages"),
        ("replaceMessage", "updateMessage"),
        ("evaluation", "evaluateAccess"),
        ("evaluations", "evaluateAccess"),
        ("filterResources", "evaluateAccess"),
        ("searchSubjects", "evaluateAccess"),
        ("searchResources", "evaluateAccess"),
        ("searchActions", "evaluateAccess"),
        ("filterResources", "evaluateAccess"),
        ("listPermissions", "evaluateAccess"),
        ("forward", "evaluateAccess"),
        ("deleteSessions", "deleteSession"),
        ("logOut", "deleteSession"),
        ("listPolicyVersions", "fetchPolicies"),
        ("fetchPolicyVersion", "fetchPolicies"),
    ]);
    for (_, _, operation) in operations(&document()) {
        let name = operation["operationId"].as_str().unwrap();
        if let Some(action) = operation["x-cedar-action"].as_str() {
            // Changes of all resources that match have the plural.
            let singular = name.strip_suffix('s').unwrap_or_default();
            let is_bulk =
                ["update", "delete"].iter().any(|verb| name.starts_with(verb)) && action == singular;
            assert!(is_bulk || others.get(name).copied().unwrap_or(name) == action, "{name}: {action}");
        }
    }
}

#[test]
fn every_reference_in_the_document_resolves() {
    fn visit_references(value: &Value, root: &Value, seen: &mut usize) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.trim_start_matches('#');
                    assert!(root.pointer(pointer).is_some(), "unresolved reference {reference}");
                    *seen += 1;
                }
                fields.values().for_each(|value| visit_references(value, root, seen));
            }
            Value::Array(items) => items.iter().for_each(|value| visit_references(value, root, seen)),
            _ => {}
        }
    }
    let document = document();
    let mut seen = 0;
    visit_references(&document, &document, &mut seen);
    assert!(seen > 100);
}

#[test]
fn texts_and_lists_of_bodies_have_limits() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in ["Name", "Label", "ShortText", "LongText", "Url", "Email"] {
        let inline = schemas.get(name).cloned();
        // Small schemas are inlined where they are used.
        if let Some(schema) = inline {
            assert!(schema["maxLength"].is_u64(), "{name}");
        }
    }
    let name = &schemas["FormBody"]["properties"]["name"];
    let name = name
        .get("$ref")
        .and_then(Value::as_str)
        .map_or(name, |reference| document.pointer(reference.trim_start_matches('#')).unwrap());
    assert_eq!((name["minLength"].as_u64(), name["maxLength"].as_u64()), (Some(1), Some(200)));
}

/// The routes without authentication.
const PUBLIC_ROUTES: [&str; 9] = [
    "POST /v2/auth/token",
    "GET /v2/auth/token",
    "POST /v2/auth/revoke",
    "GET /.well-known/authzen-configuration",
    "GET /.well-known/jwks.json",
    "GET /.well-known/oauth-authorization-server",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
];

#[test]
fn every_form_of_a_filter_is_declared_with_a_schema_and_an_example() {
    let document = document();
    let content = &document["paths"]["/access/v1/filter"]["post"]["responses"]["200"]["content"];
    let expected = [
        ("application/json", "FilterAnswer"),
        ("application/vnd.cedargate.ucast+json", "UcastFilterAnswer"),
        ("application/vnd.cedargate.sql.postgresql+json", "SqlFilterAnswer"),
        ("application/vnd.cedargate.sql.sqlite+json", "SqlFilterAnswer"),
    ];
    let declared: BTreeSet<&String> = content.as_object().unwrap().keys().collect();
    assert_eq!(declared.len(), expected.len(), "{declared:?}");
    for (kind, schema) in expected {
        let reference = format!("#/components/schemas/{schema}");
        assert_eq!(content[kind]["schema"]["$ref"], reference, "{kind}");
        assert!(content[kind]["example"]["filter"].is_object(), "{kind}: {}", content[kind]);
    }
}

#[tokio::test]
async fn every_non_public_route_requires_a_credential() {
    let app = TestApp::start().await;
    let all = cedargate::api::all_routes();
    let mut public = Vec::new();
    for route in all.iter().flat_map(|part| part.routes()) {
        if route.action.is_none() {
            public.push(format!("{} {}", route.method, route.path));
            continue;
        }
        let method: Method = route.method.as_str().parse().unwrap();
        let path = route
            .path
            .replace("{id}", "599e1fcd9da1c72645c95886")
            .replace("{keyId}", "599e1fcd9da1c72645c95886")
            .replace("{sessionId}", "599e1fcd9da1c72645c95886");
        let anonymous = app.anonymous();
        let reply = anonymous.call(method.clone(), &path, None).await;
        reply.expect_problem(401, "missing_token");
        assert_eq!(reply.header("www-authenticate"), "Bearer", "{path}");
        let garbage = app.bearer("94c70d470e391bdc16a8d8363b5d4891").call(method, &path, None).await;
        garbage.expect_problem(401, "invalid_token");
        assert!(garbage.header("www-authenticate").starts_with("Bearer error=\"invalid_token\""), "{path}");
    }
    assert_eq!(public, PUBLIC_ROUTES);
    // Refreshing by GET requires a bearer token (see "Refresh requests" in docs/decisions.md).
    app.anonymous().get("/v2/auth/token?refreshToken=x").await.expect_problem(401, "missing_token");
}

#[tokio::test]
async fn get_routes_accept_head_and_other_methods_list_the_allowed_ones() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let head = admin.call(Method::HEAD, "/v2/users/me", None).await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    let wrong = admin.call(Method::PUT, "/v2/users/me", None).await;
    wrong.expect_problem(405, "method_not_allowed");
    let mut allowed: Vec<&str> = wrong.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH"]);
    admin.get("/v2/nothing").await.expect_problem(404, "route_not_found");
}
