//! Random bodies and query strings: every request gets a response, and none is an internal error.

use crate::bad_input::create_resources;
use crate::resources::{UNKNOWN_ID, create_resource};
use crate::support::TestApp;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};

/// Any JSON of limited depth.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            UNKNOWN_ID,
            "me",
            "admin",
            "active",
            "contact",
            "a@b.example",
            "2026-01-31T12:00:00Z"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(any_name(), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A likely field name.
fn any_name() -> impl Strategy<Value = String> {
    let known = vec![
        "id",
        "name",
        "email",
        "password",
        "currentPassword",
        "role",
        "status",
        "organization",
        "parent",
        "tags",
        "meta",
        "title",
        "text",
        "conversation",
        "contact",
        "participants",
        "messages",
        "user",
        "profile",
        "fields",
        "params",
        "type",
        "actions",
        "delay",
        "refreshToken",
        "clientId",
        "subject",
        "action",
        "resource",
        "context",
        "scopes",
        "format",
        "limit",
        "offset",
        "sort",
        "createdAt",
        "level",
        "path",
        "isBackchannel",
        "event",
        "outcome",
        "actor",
        "from",
        "to",
    ];
    prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Runs `one` with many values of a strategy.
async fn for_random_values<T: std::fmt::Debug>(
    values: impl Strategy<Value = T>,
    mut one: impl AsyncFnMut(T),
) {
    // The same values in every run. `PROPTEST_CASES` sets their number.
    let mut runner = TestRunner::deterministic();
    for _ in 0..ProptestConfig::default().cases {
        let value = values.new_tree(&mut runner).unwrap().current();
        one(value).await;
    }
}

#[tokio::test]
async fn random_bodies_cause_no_server_error() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let mut targets = vec![
        (Method::POST, "/v2/auth/token".to_owned()),
        (Method::POST, "/v2/authorize".to_owned()),
        (Method::POST, "/v2/users/me/keys".to_owned()),
        (Method::POST, format!("/v2/conversations/{conversation}/messages")),
    ];
    for (path, resource_path, _) in create_resources(&admin).await {
        targets.push((Method::POST, path.to_owned()));
        targets.push((Method::PATCH, resource_path));
    }
    let bodies = prop_oneof![
        1 => any_json(),
        4 => prop::collection::hash_map(any_name(), any_json(), 0..6)
            .prop_map(|fields| Value::Object(fields.into_iter().collect())),
    ];
    for_random_values((0..targets.len(), bodies), async |(index, body)| {
        let (method, path) = &targets[index];
        let reply = admin.call(method.clone(), path, Some(body.clone())).await;
        assert!(!reply.status.is_server_error(), "{method} {path} {body}: {}", reply.text);
        if reply.status.is_client_error() {
            let code = reply.json["code"].as_str().unwrap_or_default().to_owned();
            reply.expect_problem(reply.status.as_u16(), &code);
        }
    })
    .await;
}

#[tokio::test]
async fn random_query_strings_cause_no_server_error() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut paths: Vec<String> =
        create_resources(&admin).await.into_iter().map(|(path, ..)| path.to_owned()).collect();
    // The filters of the audit log get as many cases as all others together.
    paths.extend(std::iter::repeat_n("/v2/audit".to_owned(), paths.len()));
    paths.push("/v2/auth/token".into());
    let value = prop_oneof![any::<String>(), any_json().prop_map(|value| value.to_string()), any_name()];
    let pairs = prop::collection::vec((any_name(), value), 0..4);
    let raw = "[ -~]{0,30}";
    for_random_values((0..paths.len(), pairs, raw), async |(index, pairs, raw)| {
        let mut url = reqwest::Url::parse("http://host").unwrap();
        url.query_pairs_mut().extend_pairs(&pairs);
        for query in [url.query().unwrap_or_default(), &raw.replace('#', "%23")] {
            let reply = admin.get(&format!("{}?{query}", paths[index])).await;
            assert!(!reply.status.is_server_error(), "{} {query}: {}", paths[index], reply.text);
            if reply.status.is_client_error() {
                let code = reply.json["code"].as_str().unwrap_or_default().to_owned();
                reply.expect_problem(reply.status.as_u16(), &code);
            }
        }
    })
    .await;
}
