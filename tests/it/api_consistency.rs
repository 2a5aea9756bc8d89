//! Rules that hold for all operations of the OpenAPI document alike.

use crate::resources::{UNKNOWN_ID, create_resource, resource_specs};
use crate::support::{Client, PASSWORD, Reply, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The committed OpenAPI document.
pub(crate) fn document() -> Value {
    serde_json::from_str(&std::fs::read_to_string(project_file("openapi/openapi.json")).unwrap()).unwrap()
}

/// All operations of a document: path, method, and description.
pub(crate) fn operations(document: &Value) -> Vec<(String, Method, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| {
                (path.clone(), method.to_uppercase().parse().unwrap(), operation.clone())
            })
        })
        .collect()
}

/// Replaces references to components by what they refer to, one level deep.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// The names of the parameters of an operation in the query string.
fn query_parameters(operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let in_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
    in_query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

/// The schema of a parameter of an operation.
fn parameter<'a>(operation: &'a Value, name: &str) -> Option<&'a Value> {
    operation["parameters"].as_array()?.iter().find(|parameter| parameter["name"] == name)
}

/// Creates one resource of each type, and returns their ids by the base path.
async fn one_of_each(admin: &Client) -> BTreeMap<&'static str, String> {
    let mut ids = BTreeMap::new();
    for spec in resource_specs(admin).await {
        ids.insert(spec.path, create_resource(admin, spec.path, spec.full.clone()).await);
    }
    ids
}

/// A path whose placeholders are replaced by existing ids.
fn with_ids(path: &str, ids: &BTreeMap<&'static str, String>) -> String {
    let Some((base, _)) = path.split_once("/{") else { return path.to_owned() };
    let id = ids.get(base).map_or(UNKNOWN_ID, String::as_str);
    path.replace("{id}", id).replace("{keyId}", UNKNOWN_ID).replace("{sessionId}", UNKNOWN_ID)
}

/// Sends a request with the content type of the operation.
async fn send(client: &Client, method: &Method, path: &str, operation: &Value) -> Reply {
    let content = operation["requestBody"]["content"].as_object();
    let kind = content.and_then(|content| content.keys().next().cloned());
    let headers: Vec<(&str, &str)> = kind.iter().map(|kind| ("content-type", kind.as_str())).collect();
    let body = kind.as_ref().map(|kind| if kind == "application/json" { "{}" } else { "" }.into());
    client.send(method.clone(), path, &headers, body).await
}

#[tokio::test]
async fn unknown_parameters_are_rejected_by_every_operation() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ids = one_of_each(&admin).await;
    let document = document();
    let mut checked = 0;
    for (path, method, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        if name == "forward" {
            // Its query string is that of the request that is asked about.
            continue;
        }
        // A HEAD request has no body to look at, and a GET that accepts it is the same route.
        let path = format!("{}?unknownParameter=1", with_ids(&path, &ids));
        let refused = send(&admin, &method, &path, &operation).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}: {}", refused.text);
        let errors = refused.field_errors();
        let unknown = ("unknownParameter".to_owned(), "unknown_field".to_owned());
        assert!(
            errors.contains(&unknown) || refused.text.contains("unknownParameter: unknown parameter"),
            "{name}: {}",
            refused.text
        );
        // The error names all parameters that would be accepted.
        for parameter in query_parameters(&operation) {
            // Values in free objects are parameters with names such as `meta.intent`.
            let parameter = parameter.replace(".key", ".*");
            assert!(refused.text.contains(&parameter), "{name} {parameter}: {}", refused.text);
        }
        checked += 1;
    }
    assert!(checked > 70, "{checked}");
    // A declared parameter twice is ambiguous.
    let twice = admin.get("/v2/users/me/permissions?basis=role&basis=role").await;
    assert_eq!(twice.field_errors(), [("basis".to_owned(), "duplicate".to_owned())]);
    // The credential is checked first.
    let anonymous = app.anonymous();
    anonymous.get("/v2/policies?unknownParameter=1").await.expect_problem(401, "missing_token");
    // OAuth clients get an OAuth error.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let refused = anonymous.send(Method::POST, "/v2/auth/token?x=1", &form, Some(b"a=b".to_vec())).await;
    assert_eq!((refused.status.as_u16(), refused.json["error"].as_str()), (400, Some("invalid_request")));
}

#[tokio::test]
async fn forward_authentication_ignores_the_query_string_of_the_original_request() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let plain = admin.get("/v2/authorize/forward").await;
    let with_query = admin.get("/v2/authorize/forward?unknownParameter=1").await;
    assert_eq!((plain.status, &plain.json["code"]), (with_query.status, &with_query.json["code"]));
}

/// The properties of a schema, those of its alternatives included.
fn properties(document: &Value, schema: &Value) -> Vec<String> {
    let schema = resolve(document, schema);
    let own = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let parts = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    own.chain(parts.flat_map(|part| properties(document, part))).collect()
}

#[tokio::test]
async fn an_error_about_an_unknown_field_names_all_accepted_fields() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ids = one_of_each(&admin).await;
    let document = document();
    let mut checked = 0;
    for (path, method, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        // AuthZEN requires that unknown fields are ignored (section 5).
        if body.is_null() || path.starts_with("/access/v1/") {
            continue;
        }
        let path = with_ids(&path, &ids);
        // A change of all that match requires a filter.
        let is_bulk = parameter(&operation, "dryRun").is_some();
        let path = if is_bulk { format!("{path}?createdAt=>2020-09-14") } else { path };
        let refused = admin.call(method, &path, Some(json!({ "unknownField": 1 }))).await;
        let errors = refused.json["errors"].as_array().cloned().unwrap_or_default();
        let error = errors
            .iter()
            .find(|error| error["field"].as_str().is_some_and(|field| field.ends_with("unknownField")));
        let error = error.unwrap_or_else(|| panic!("{name}: {}", refused.text));
        assert_eq!(error["code"], "unknown_field", "{name}");
        let message = error["message"].as_str().unwrap();
        let words: Vec<&str> = message.split([' ', ',', '`']).collect();
        for property in properties(&document, body) {
            assert!(words.contains(&property.as_str()), "{name}: {property} is not in {message:?}");
        }
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[tokio::test]
async fn errors_of_lists_name_everything_that_is_accepted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ids = one_of_each(&admin).await;
    let document = document();
    let mut checked = 0;
    for (path, _, operation) in operations(&document) {
        let path = with_ids(&path, &ids);
        // Of these parameters, the document lists the accepted values.
        for name in ["sort", "select", "populate", "include"] {
            let Some(parameter) = parameter(&operation, name) else { continue };
            let schema = &parameter["schema"];
            let values = schema["items"]["enum"].as_array().or_else(|| schema["enum"].as_array()).unwrap();
            let refused = admin.get(&format!("{path}?{name}=unknownValue")).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [name], "{path}");
            for value in values.iter().filter_map(Value::as_str) {
                let value = value.trim_start_matches('-');
                assert!(refused.text.contains(value), "{path} {name}: {value} is not in {}", refused.text);
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
    // An operator that a field does not have.
    for (filter, operators) in
        [("id=>1", "a value, [a,b]"), ("createdAt=~1", ">, >=, <, <="), ("type=>x", "a value, [a,b]")]
    {
        let refused = admin.get(&format!("/v2/conversations?{filter}")).await;
        assert_eq!(refused.field_errors()[0].1, "unknown_operator", "{filter}");
        assert!(refused.text.contains(operators), "{filter}: {}", refused.text);
    }
}

#[tokio::test]
async fn an_unknown_subject_gives_the_same_answer_in_both_decision_endpoints() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let blocked = app.user(Scope::Guest).await;
    let admin = app.admin().await;
    admin
        .patch(&format!("/v2/users/{}", blocked.id), json!({ "status": "blocked" }))
        .await
        .expect(StatusCode::OK);
    let question = |subject: &Value| {
        json!({
            "subject": subject, "action": { "name": "fetchUser" },
            "resource": { "type": "User", "id": ours.id },
        })
    };
    let user = |id: &str| json!({ "type": "User", "id": id });
    let type_and_id = |kind: &str| json!({ "type": kind, "id": "x" });
    let with_basis = json!({ "type": "User", "id": ours.id, "basis": "credential" });
    for (client, subject, code) in [
        (&ours, user(UNKNOWN_ID), "unknown_subject"),
        (&ours, user(&theirs.id), "unknown_subject"),
        (&ours, user("no-id"), "unknown_subject"),
        (&ours, user(""), "unknown_subject"),
        (&ours, type_and_id("Conversation"), "unknown_subject"),
        (&ours, type_and_id("Nobody::Person"), "unknown_subject"),
        (&ours, type_and_id("not a type"), "unknown_subject"),
        (&admin, user(&blocked.id), "blocked"),
        (&admin, with_basis, "invalid"),
    ] {
        let mut answers = Vec::new();
        for path in ["/v2/authorize", "/access/v1/evaluation"] {
            let answer = client.post(path, question(&subject)).await.expect(StatusCode::OK);
            answers.push((answer["decision"].clone(), answer["context"]["error"].clone()));
        }
        assert_eq!(answers[0], answers[1], "{subject}");
        assert_eq!((&answers[0].0, &answers[0].1["code"]), (&json!(false), &json!(code)), "{subject}");
    }
    // Who may evaluate nobody else gets the same refusal.
    let guest = app.user(Scope::Guest).await;
    for path in ["/v2/authorize", "/access/v1/evaluation"] {
        for id in [UNKNOWN_ID, &admin.id] {
            guest.post(path, question(&user(id))).await.expect_problem(403, "forbidden");
        }
    }
}

#[tokio::test]
async fn blank_message_texts_are_rejected_wherever_messages_are_written() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let message = json!({ "conversation": conversation, "text": "Hello" });
    let message = create_resource(&admin, "/v2/messages", message).await;
    let nested = format!("/v2/conversations/{conversation}/messages");
    // Also spaces that are not ASCII, and characters that are not displayed.
    for text in [
        "",
        " ",
        "\n",
        " \t\r\n ",
        "\u{200b}",
        " \u{200d}\u{fe0f}\n",
        "\u{a0}\u{3000}\u{2028}",
        "\u{3164}\u{ad}",
    ] {
        let refused = [
            (admin.post("/v2/messages", json!({ "conversation": conversation, "text": text })).await, "text"),
            (admin.patch(&format!("/v2/messages/{message}"), json!({ "text": text })).await, "text"),
            (admin.post(&nested, json!({ "text": text })).await, "text"),
            (admin.post(&nested, json!([{ "text": "a" }, { "text": text }])).await, "[1].text"),
            (
                admin.post("/v2/conversations", json!({ "messages": [{ "text": text }] })).await,
                "messages.0.text",
            ),
        ];
        for (reply, field) in refused {
            assert_eq!(reply.expect_problem(400, "invalid_fields"), [field], "{text:?}");
            assert_eq!(reply.field_errors()[0].1, "too_short");
        }
    }
    assert_eq!(admin.get(&nested).await.expect(StatusCode::OK).as_array().unwrap().len(), 1);
    for text in [" .", "\u{200b}a", "👩\u{200d}💻"] {
        admin.post(&nested, json!({ "text": text })).await.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_user_participates_at_most_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ada = create_resource(&admin, "/v2/users", json!({ "email": "ada@example.com" })).await;
    let twice = json!([{ "user": ada }, { "user": admin.id }, { "user": ada, "role": "host" }]);
    let refused = admin.post("/v2/conversations", json!({ "participants": twice })).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["participants"]);
    assert_eq!(refused.field_errors()[0].1, "duplicate");
    assert!(refused.text.contains(&ada), "{}", refused.text);
    // The caller is the first participant, whether it is named or not, and may be named once.
    let own_twice = json!([{ "user": admin.id }, { "user": admin.id }]);
    let refused = admin.post("/v2/conversations", json!({ "participants": own_twice })).await;
    assert_eq!(refused.field_errors()[0].1, "duplicate");
    let once = json!({ "participants": [{ "user": ada }, { "user": admin.id }] });
    let id = create_resource(&admin, "/v2/conversations", once).await;
    let path = format!("/v2/conversations/{id}");
    let refused = admin.patch(&path, json!({ "participants": twice })).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["participants"]);
    // Concurrent updates each replace the whole list, so that no user is in it twice.
    let add =
        |user: &str| admin.patch(&path, json!({ "participants": [{ "user": user }, { "user": admin.id }] }));
    for _ in 0..5 {
        let (one, other) = tokio::join!(add(&ada), add(&ada));
        assert_eq!((one.status, other.status), (StatusCode::OK, StatusCode::OK));
        let stored = admin.get(&path).await.expect(StatusCode::OK);
        assert_eq!(stored["participants"].as_array().unwrap().len(), 2, "{stored}");
    }
}

#[tokio::test]
async fn an_api_key_has_at_most_the_scopes_of_the_role_of_its_user() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "role": "agent" });
    let agent = create_resource(&admin, "/v2/users", body).await;
    let path = format!("/v2/users/{agent}/keys");
    for scopes in [json!(["bot"]), json!(["admin"]), json!(["guest", "agent", "bot"])] {
        let refused = admin.post(&path, json!({ "name": "k", "scopes": scopes })).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["scopes"], "{scopes}");
        assert_eq!(refused.field_errors()[0].1, "not_allowed");
    }
    for scopes in [json!(["agent"]), json!(["guest"]), json!(["agent", "guest"])] {
        admin.post(&path, json!({ "name": "k", "scopes": scopes })).await.expect(StatusCode::CREATED);
    }
    // Beyond the credential of the creator is a matter of the policies, as before.
    let own = app.client("ada@example.com").await;
    own.post("/v2/users/me/keys", json!({ "name": "k", "scopes": ["bot"] }))
        .await
        .expect_problem(403, "forbidden");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK).as_array().unwrap().len(), 3);
}
