//! AuthZEN evaluations: batches of questions, their defaults, and the evaluation semantics.

use crate::authorize::user;
use crate::authzen::{
    EVALUATION, EVALUATIONS, entity, error_code, evaluate, evaluation_request, is_permitted,
    start_with_records,
};
use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Sends a batch and returns the responses.
async fn post_batch(client: &Client, body: Value) -> Vec<Value> {
    let reply = client.post(EVALUATIONS, body.clone()).await;
    assert!(reply.header("x-policy-version").len() >= 8, "{body}: {:?}", reply.headers);
    let answer = reply.expect_decisions(StatusCode::OK);
    assert_eq!(answer.as_object().unwrap().len(), 1, "{body}: {answer}");
    answer["evaluations"].as_array().unwrap_or_else(|| panic!("{body}: {answer}")).clone()
}

/// The decisions of a batch.
async fn batch_decisions(client: &Client, body: Value) -> Vec<bool> {
    post_batch(client, body).await.iter().map(|answer| answer["decision"].as_bool().unwrap()).collect()
}

/// The field errors of an item that could not be parsed: field and code.
fn field_errors(answer: &Value) -> Vec<(&str, &str)> {
    let errors = answer["context"]["error"]["errors"].as_array().unwrap_or_else(|| panic!("{answer}"));
    errors.iter().map(|error| (error["field"].as_str().unwrap(), error["code"].as_str().unwrap())).collect()
}

/// A batch in which alice writes these records. `broken` is an invalid record.
fn writes(semantic: &str, records: &[&str]) -> Value {
    let items = records.iter().map(|record| match *record {
        "broken" => json!({ "resource": { "type": "record" } }),
        "unknown" => json!({ "resource": entity("spaceship", "x") }),
        record => json!({ "resource": entity("record", record) }),
    });
    let mut body = json!({
        "subject": entity("user", "alice"), "action": { "name": "write" }, "evaluations": items.collect::<Vec<_>>()
    });
    if !semantic.is_empty() {
        body["options"] = json!({ "evaluations_semantic": semantic });
    }
    body
}

#[tokio::test]
async fn short_circuit_semantics_end_with_the_deciding_item() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let (yes, no) = ("record-1", "record-2");
    for (semantic, records, expected) in [
        ("", vec![yes, no, yes], vec![true, false, true]),
        ("execute_all", vec![no, yes, no], vec![false, true, false]),
        ("deny_on_first_deny", vec![yes, no, yes], vec![true, false]),
        ("deny_on_first_deny", vec![no, yes, yes], vec![false]),
        ("deny_on_first_deny", vec![yes, yes], vec![true, true]),
        ("deny_on_first_deny", vec![yes, "broken", yes], vec![true, false]),
        ("deny_on_first_deny", vec![yes, "unknown", yes], vec![true, false]),
        ("permit_on_first_permit", vec![no, yes, no], vec![false, true]),
        ("permit_on_first_permit", vec![yes, no, no], vec![true]),
        ("permit_on_first_permit", vec![no, no], vec![false, false]),
        ("permit_on_first_permit", vec!["broken", "unknown", yes, no], vec![false, false, true]),
    ] {
        assert_eq!(
            batch_decisions(&admin, writes(semantic, &records)).await,
            expected,
            "{semantic} {records:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_evaluations_semantic_is_rejected() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    for semantic in [json!("deny_all"), json!("EXECUTE_ALL"), json!(""), json!(1)] {
        let mut body = writes("", &["record-1"]);
        body["options"] = json!({ "evaluations_semantic": semantic });
        let reply = admin.post(EVALUATIONS, body).await;
        assert_eq!(
            reply.expect_problem(400, "invalid_fields"),
            ["options.evaluations_semantic"],
            "{semantic}"
        );
    }
    let mut body = writes("execute_all", &["record-1"]);
    body["options"]["another_option"] = json!("value");
    assert_eq!(batch_decisions(&admin, body).await, [true]);
}

#[tokio::test]
async fn defaults_are_overridden_as_whole_objects() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    // An object of an item replaces the default as a whole: neither properties nor context fields remain.
    let body = json!({
        "subject": { "type": "user", "id": "nobody", "properties": { "role": "admin" } },
        "action": { "name": "delete", "properties": { "soft": true } },
        "resource": { "type": "record", "id": "new", "properties": { "status": "archived" } },
        "context": { "soft": false },
        "evaluations": [
            { "action": { "name": "write" } },
            { "action": { "name": "write" }, "subject": entity("user", "nobody") },
            { "action": { "name": "write" }, "resource": entity("record", "new") },
            { "subject": entity("user", "alice") },
            { "subject": entity("user", "alice"), "context": {} },
            { "subject": entity("user", "alice"), "context": {}, "action": { "name": "delete" } },
            { "subject": entity("user", "alice"), "context": { "soft": true }, "action": { "name": "delete" } },
        ]
    });
    assert_eq!(batch_decisions(&admin, body).await, [true, false, false, false, true, false, true]);
}

#[tokio::test]
async fn without_items_a_batch_is_a_single_evaluation() {
    let app = start_with_records().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let question = evaluation_request(entity("user", "alice"), "read", entity("record", "record-1"));
    for items in [None, Some(json!([]))] {
        let with_items = |mut question: Value| {
            if let Some(items) = &items {
                question["evaluations"] = items.clone();
            }
            question
        };
        let reply = admin.post(EVALUATIONS, with_items(question.clone())).await;
        assert_eq!(reply.expect_decisions(StatusCode::OK), json!({ "decision": true }));
        guest.post(EVALUATIONS, with_items(question.clone())).await.expect_problem(403, "forbidden");
        let reply = admin.post(EVALUATIONS, with_items(json!({ "subject": question["subject"] }))).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    }
    for items in [json!({}), json!("all"), json!(null), json!(1)] {
        let mut question = question.clone();
        question["evaluations"] = items.clone();
        let reply = admin.post(EVALUATIONS, question).await;
        let is_none = items.is_null() && reply.status == StatusCode::OK;
        assert!(is_none || reply.status == StatusCode::BAD_REQUEST, "{items}: {}", reply.text);
    }
}

#[tokio::test]
async fn an_invalid_item_is_denied_individually() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let good = json!({ "resource": entity("record", "record-1") });
    for (wrong, field, code) in [
        (json!({}), "resource", "required"),
        (json!({ "resource": "record-1" }), "resource", "invalid_type"),
        (json!({ "resource": { "type": "record" } }), "resource.id", "required"),
        (json!({ "resource": { "type": "record", "id": 1 } }), "resource.id", "invalid_type"),
        (json!({ "resource": entity("record", "record-1"), "action": {} }), "action.name", "required"),
        (
            json!({ "resource": entity("record", "record-1"), "subject": null, "action": 5 }),
            "action",
            "invalid_type",
        ),
        (json!({ "resource": entity("record", "record-1"), "context": "now" }), "context", "invalid_type"),
    ] {
        let body = json!({
            "subject": entity("user", "alice"), "action": { "name": "read" },
            "evaluations": [good, wrong, good]
        });
        let answers = post_batch(&admin, body.clone()).await;
        assert_eq!(answers.len(), 3, "{wrong}");
        for index in [0, 2] {
            assert_eq!(answers[index], json!({ "decision": true }), "{wrong}");
        }
        assert_eq!((error_code(&answers[1]), field_errors(&answers[1])), ("invalid", vec![(field, code)]));
        // The same errors as for a single question.
        let mut single = wrong.clone();
        for default in ["subject", "action"] {
            if single[default].is_null() {
                single[default] = body[default].clone();
            }
        }
        let rejected = admin.post(EVALUATION, single).await;
        rejected.expect_problem(400, "invalid_fields");
        assert_eq!(rejected.field_errors(), [(field.to_owned(), code.to_owned())], "{wrong}");
    }
    // An array with the field values is not an object.
    let question = evaluation_request(entity("user", "alice"), "read", entity("record", "record-1"));
    let fields = json!([question["subject"], question["action"], question["resource"], {}, [{}], {}]);
    let reply = admin.post(EVALUATIONS, fields).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    let items = json!([[question["subject"], question["action"], question["resource"], {}], question]);
    let answers = post_batch(&admin, json!({ "evaluations": items })).await;
    assert_eq!(error_code(&answers[0]), "invalid");
    assert_eq!(answers[1], json!({ "decision": true }));
    // An invalid string is invalid JSON, also in a field of an item that is not used.
    let mut more = question;
    more["more"] = json!("?");
    let mut body = serde_json::to_vec(&json!({ "evaluations": [more] })).unwrap();
    let mark = body.iter().rposition(|byte| *byte == b'?').unwrap();
    body[mark] = 0xff;
    let reply =
        admin.send(Method::POST, EVALUATIONS, &[("content-type", "application/json")], Some(body)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
}

#[tokio::test]
async fn defaults_are_validated_only_if_used() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let mut complete = evaluation_request(entity("user", "alice"), "read", entity("record", "record-1"));
    complete["context"] = json!({});
    let duplicate_property = r#"{"type":"record","id":"record-1","properties":{"status":"a","status":"b"}}"#;
    for (field, value, path, code) in [
        ("subject", r#""alice""#, "subject", "invalid_type"),
        ("subject", r#"{"type":"user"}"#, "subject.id", "required"),
        ("action", r#"{"name":1}"#, "action.name", "invalid_type"),
        ("action", r#"{"name":"read","name":"write"}"#, "action.name", "duplicate"),
        ("resource", "[]", "resource", "invalid_type"),
        ("resource", duplicate_property, "resource.properties.status", "duplicate"),
        ("context", "1", "context", "invalid_type"),
        ("context", r#"{"a":{"b":1,"b":2}}"#, "context.a.b", "duplicate"),
    ] {
        let mut partial = complete.clone();
        partial.as_object_mut().unwrap().shift_remove(field).unwrap();
        let body = format!(r#"{{"{field}":{value},"evaluations":[{complete},{partial},{complete}]}}"#);
        let reply = send(&admin, &body).await;
        let answers = reply.expect_decisions(StatusCode::OK)["evaluations"].as_array().unwrap().clone();
        assert_eq!((&answers[0], &answers[2]), (&json!({ "decision": true }), &json!({ "decision": true })));
        assert_eq!(error_code(&answers[1]), "invalid", "{body}");
        assert_eq!(field_errors(&answers[1]), [(path, code)], "{body}");
    }
}

/// Sends a batch with this text as its body.
async fn send(client: &Client, body: &str) -> Reply {
    let headers = [("content-type", "application/json")];
    client.send(Method::POST, EVALUATIONS, &headers, Some(body.as_bytes().to_vec())).await
}

#[tokio::test]
async fn duplicate_keys_deny_an_item_or_fail_the_batch() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let good = evaluation_request(entity("user", "alice"), "read", entity("record", "record-1"));
    let twice = format!(r#"{{"context":{{"amount":99,"amount":1}},{}"#, &good.to_string()[1..]);
    let reply = send(&admin, &format!(r#"{{"evaluations":[{good},{twice},{good}]}}"#)).await;
    let answers = reply.expect_decisions(StatusCode::OK)["evaluations"].as_array().unwrap().clone();
    assert_eq!((&answers[0], &answers[2]), (&json!({ "decision": true }), &json!({ "decision": true })));
    assert_eq!(error_code(&answers[1]), "invalid");
    assert_eq!(field_errors(&answers[1]), [("context.amount", "duplicate")]);
    for (body, key) in [
        (format!(r#"{{"evaluations":[{good}],"evaluations":[]}}"#), "evaluations"),
        (format!(r#"{{"evaluations":[{good}],"later":1,"later":2}}"#), "later"),
        (format!(r#"{{"evaluations":[{good}],"later":[{{"a":1,"a":2}}]}}"#), "later.0.a"),
        (format!(r#"{{"evaluations":[{good}],"options":{{"x":1,"x":2}}}}"#), "options.x"),
    ] {
        assert_eq!(send(&admin, &body).await.expect_problem(400, "duplicate_key"), [key], "{body}");
    }
}

#[tokio::test]
async fn the_permission_to_evaluate_is_checked_for_every_item() {
    let app = start_with_records().await;
    let (guest, agent) = (app.user(Scope::Guest).await, app.user(Scope::Agent).await);
    for caller in [&guest, &agent] {
        let other = if caller.id == guest.id { &agent } else { &guest };
        let body = json!({ "evaluations": [
            evaluation_request(user(&caller.id), "fetchUser", user(&caller.id)),
            evaluation_request(user(&other.id), "fetchUser", user(&other.id)),
            evaluation_request(entity("user", "alice"), "read", entity("record", "record-1")),
            evaluation_request(user(&caller.id), "fetchUser", user(&other.id)),
            evaluation_request(user(&caller.id), "updateUser", user(&caller.id)),
        ] });
        let answers = post_batch(caller, body).await;
        assert_eq!(answers.len(), 5);
        assert_eq!(error_code(&answers[1]), "forbidden");
        assert_eq!(error_code(&answers[2]), "forbidden");
        for (index, permitted) in [(0, true), (3, false), (4, true)] {
            assert_eq!(answers[index], json!({ "decision": permitted }), "{index}");
        }
    }
}

#[tokio::test]
async fn batch_items_are_explained_on_request() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let mut body = writes("", &["record-1", "record-2"]);
    body["context"] = json!({ "explain": true });
    body["evaluations"][1]["context"] = json!({ "explain": false });
    let answers = post_batch(&admin, body.clone()).await;
    assert_eq!(answers[0]["context"]["policies"][0]["id"], "authzen.write");
    assert_eq!(answers[0]["context"]["policies"][0]["effect"], "permit");
    assert_eq!(answers[1], json!({ "decision": false }));
    let mut one = evaluation_request(entity("user", "alice"), "write", entity("record", "record-1"));
    one["context"] = json!({ "explain": true });
    assert_eq!(answers[0], evaluate(&admin, one).await);

    body["context"] = json!({});
    let headers = [("content-type", "application/json"), ("x-explain", "true")];
    let body = Some(serde_json::to_vec(&body).unwrap());
    let reply = admin.send(Method::POST, EVALUATIONS, &headers, body).await;
    let version = reply.header("x-policy-version").to_owned();
    let answer = reply.expect_decisions(StatusCode::OK);
    assert_eq!(answer["evaluations"][0], answers[0]);
    assert_eq!(answer["evaluations"][0]["context"]["version"], version.as_str());
}

#[tokio::test]
async fn a_batch_answers_1000_items_in_order_and_rejects_more() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let question = |index: usize| match index % 4 {
        0 => (evaluation_request(entity("user", "alice"), "write", entity("record", "record-1")), true),
        1 => (
            evaluation_request(user(&admin.id), "fetchConversation", entity("Conversation", &conversation)),
            true,
        ),
        2 => (evaluation_request(entity("user", "bob"), "write", entity("record", "record-1")), false),
        _ => {
            let mut question = evaluation_request(
                entity("user", &format!("u{index}")),
                "write",
                entity("record", &format!("r{index}")),
            );
            question["resource"]["properties"] = json!({ "status": "archived" });
            let is_admin = index % 8 == 3;
            question["subject"]["properties"] = json!({ "role": if is_admin { "admin" } else { "guest" } });
            (question, is_admin)
        }
    };
    let (questions, expected): (Vec<Value>, Vec<bool>) = (0..1000).map(question).unzip();
    assert_eq!(batch_decisions(&admin, json!({ "evaluations": questions })).await, expected);
    for (question, expected) in questions.iter().zip(&expected).take(8) {
        assert_eq!(is_permitted(&admin, question.clone()).await, *expected);
    }
    let more: Vec<&Value> = questions.iter().chain(&questions[..1]).collect();
    let reply = admin.post(EVALUATIONS, json!({ "evaluations": more })).await;
    reply.expect_problem(400, "invalid_fields");
    assert_eq!(reply.field_errors(), [("evaluations".to_owned(), "too_many_items".to_owned())]);
}

#[tokio::test]
async fn the_batch_limit_is_configurable_and_published() {
    let app = TestApp::start_with(|config| config.access_batch_limit = 3).await;
    let admin = app.admin().await;
    let question = evaluation_request(user(&admin.id), "fetchUser", user(&admin.id));
    let batch_of = |count: usize| json!({ "evaluations": vec![&question; count] });
    assert_eq!(batch_decisions(&admin, batch_of(3)).await, [true; 3]);
    let reply = admin.post(EVALUATIONS, batch_of(4)).await;
    reply.expect_problem(400, "invalid_fields");
    assert_eq!(reply.field_errors(), [("evaluations".to_owned(), "too_many_items".to_owned())]);
    let metadata = app.anonymous().get("/.well-known/authzen-configuration").await.expect(StatusCode::OK);
    let is_limit = |(name, value): (&String, &Value)| name.contains("limit") && *value == 3;
    assert!(metadata.as_object().unwrap().iter().any(is_limit), "{metadata}");
}

#[tokio::test]
async fn without_a_public_url_the_metadata_use_the_request_host() {
    let app = TestApp::start().await;
    let metadata = app.anonymous().get("/.well-known/authzen-configuration").await.expect(StatusCode::OK);
    let endpoint = metadata["access_evaluation_endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with("http") && endpoint.ends_with(EVALUATION), "{metadata}");
    assert_eq!(endpoint, format!("{}{EVALUATION}", metadata["policy_decision_point"].as_str().unwrap()));
}

#[tokio::test]
async fn an_unparsable_item_is_denied_and_the_others_are_decided() {
    let app = start_with_records().await;
    let admin = app.admin().await;
    let good = json!({ "resource": entity("record", "record-1") }).to_string();
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for wrong in [r#""\ud800""#, "1e999", &deep] {
        let item =
            format!(r#"{{"resource":{{"type":"record","id":"record-1","properties":{{"x":{wrong}}}}}}}"#);
        let body = format!(
            r#"{{"subject":{},"action":{{"name":"write"}},"evaluations":[{good},{item},{good}]}}"#,
            entity("user", "alice")
        );
        let headers = [("content-type", "application/json")];
        let reply = admin.send(Method::POST, EVALUATIONS, &headers, Some(body.into_bytes())).await;
        let answers = reply.expect_decisions(StatusCode::OK)["evaluations"].as_array().unwrap().clone();
        assert_eq!((&answers[0], &answers[2]), (&json!({ "decision": true }), &json!({ "decision": true })));
        assert_eq!(error_code(&answers[1]), "invalid", "{wrong}");
    }
}
