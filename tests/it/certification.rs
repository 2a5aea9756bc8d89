//! The certification scenario of the AuthZEN Authorization API 1.0, from `fixtures/authzen/cases.json`. Every case is a test
//! whose name begins with the number of the case.

use crate::support::{Client, Reply, TestApp, project_file, without_evaluation_ids};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The public URL of the service in the scenario.
const PUBLIC_URL: &str = "https://pdp.example.com";

/// The sections of the scenario that each level requires. Section 5 is required for all; 6.6 is for services without metadata.
const LEVELS: [(&str, &str); 7] = [
    (
        "Basic Core",
        "2.2.1 2.2.2 2.2.3 2.2.8 2.2.9 2.3.1 2.3.2 2.4.1 2.4.2 2.4.3 2.4.4 2.4.5 2.4.6 2.5.1 2.5.2 2.6 5.2 5.5",
    ),
    ("Basic Properties", "2.2.4 2.2.5 2.2.6 2.2.7"),
    ("Batch Core", "3.2.1 3.2.2 3.2.5 3.2.6 3.3.1 3.3.2 3.3.3 3.3.4 3.4.1 3.4.2 3.4.3"),
    ("Batch Properties", "3.2.3 3.2.4 3.2.7"),
    (
        "Search Core",
        "4.2.1 4.2.2 4.2.3 4.3.1 4.3.2 4.3.3 4.4.1 4.4.2 4.5.1 4.5.2 4.5.3 4.5.4 4.6.1 4.6.2 4.7.1 4.7.2",
    ),
    ("Search Properties", "4.2.4 4.3.4 4.4.3"),
    ("Discovery", "6.1 6.2 6.3 6.4 6.5"),
];

macro_rules! cases {
    ($($name:ident)*) => {
        /// The names of the tests.
        const TESTS: &[&str] = &[$(stringify!($name)),*];

        $(
            #[tokio::test]
            async fn $name() {
                run(stringify!($name)).await;
            }
        )*
    };
}

cases! {
    case_2_2_1_a_permit
    case_2_2_2_a_denial
    case_2_2_3_a_context_field_that_no_policy_reads
    case_2_2_4_a_denial_by_a_property_of_the_resource
    case_2_2_5_a_permit_by_a_property_of_the_subject
    case_2_2_6_a_permit_by_a_property_of_the_action
    case_2_2_7_a_denial_by_a_property_of_the_action
    case_2_2_8_additional_properties
    case_2_2_9_unknown_fields
    case_2_3_1_the_decision_is_a_boolean
    case_2_3_2_the_response_context_is_an_object
    case_2_4_1_a_required_field_is_missing
    case_2_4_2_a_required_member_of_a_field_is_missing
    case_2_4_3_another_content_type
    case_2_4_4_malformed_json
    case_2_4_5_an_empty_body
    case_2_4_6_a_field_of_the_wrong_type
    case_2_5_1_the_request_id_is_echoed
    case_2_5_2_a_request_without_an_id
    case_2_6_a_repeated_question
    case_3_2_1_several_resources
    case_3_2_2_several_actions
    case_3_2_3_properties_of_the_resources
    case_3_2_4_properties_of_the_subjects
    case_3_2_5_items_without_defaults
    case_3_2_6_an_inherited_context_and_an_overridden_one
    case_3_2_7_defaults_are_overridden_as_whole_objects
    case_3_3_1_as_many_decisions_as_items
    case_3_3_2_the_decisions_are_in_the_order_of_the_items
    case_3_3_3_each_item_has_a_decision
    case_3_3_4_a_batch_has_no_overall_decision
    case_3_4_1_an_invalid_item_is_denied
    case_3_4_2_a_request_without_evaluations_is_a_single_evaluation
    case_3_4_3_empty_evaluations_are_a_single_evaluation
    case_4_2_1_subjects_that_may_read_a_resource
    case_4_2_2_a_subject_search_with_a_context
    case_4_2_3_the_id_of_the_subject_is_ignored
    case_4_2_4_a_subject_search_with_properties_of_the_resource
    case_4_3_1_resources_that_a_subject_may_read
    case_4_3_2_a_resource_search_with_a_context
    case_4_3_3_the_id_of_the_resource_is_ignored
    case_4_3_4_a_resource_search_with_properties_of_the_subject
    case_4_4_1_actions_that_a_subject_may_perform
    case_4_4_2_an_action_search_with_a_context
    case_4_4_3_an_action_search_with_properties
    case_4_5_1_a_page_with_a_limit
    case_4_5_2_the_pages_contain_all_results
    case_4_5_3_the_form_of_a_page
    case_4_5_4_an_empty_page
    case_4_6_1_an_unknown_id
    case_4_6_2_an_unknown_type
    case_4_7_1_a_required_field_is_missing
    case_4_7_2_a_required_member_of_a_field_is_missing
    case_5_2_a_success_is_200_with_json
    case_5_5_unknown_fields_are_ignored_everywhere
    case_6_1_the_url_of_the_metadata
    case_6_2_the_metadata_are_json
    case_6_3_the_required_metadata
    case_6_4_the_optional_metadata
    case_6_5_the_urls_use_https
}

#[test]
fn every_case_has_a_test_and_every_level_is_complete() {
    let cases = cases();
    let names: Vec<String> = cases.iter().map(name).collect();
    assert_eq!(names, TESTS);
    for (level, parts) in LEVELS {
        let of_level = cases.iter().filter(|case| case["level"] == level);
        let ids: BTreeSet<&str> = of_level.map(|case| text(&case["id"])).collect();
        assert_eq!(ids, parts.split(' ').collect(), "{level}");
    }
}

fn cases() -> Vec<Value> {
    let file = project_file("tests/fixtures/authzen/cases.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string"))
}

/// The name of a case's test.
fn name(case: &Value) -> String {
    let id = text(&case["id"]).replace('.', "_");
    let words = text(&case["what"]).to_lowercase();
    format!("case_{id}_{}", words.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

/// Starts the service with the fixture of the scenario.
pub async fn start() -> TestApp {
    TestApp::start_with(|config| {
        config.schema.push(project_file("tests/fixtures/authzen/schema"));
        config.policies.push(project_file("tests/fixtures/authzen/policies"));
        config.public_url = Some(PUBLIC_URL.into());
    })
    .await
}

async fn run(test: &str) {
    let cases = cases();
    let case = cases.iter().find(|case| name(case) == test).unwrap_or_else(|| panic!("no case for {test}"));
    let app = start().await;
    let client = app.admin().await;
    for request in requests(case) {
        for _ in 0..request["repeat"].as_u64().unwrap_or(1) {
            check(&client, &cases, &request).await;
        }
    }
}

/// The requests of a case. Each inherits the fields of the case that it does not override.
fn requests(case: &Value) -> Vec<Value> {
    let mut shared = case.as_object().unwrap().clone();
    let Some(requests) = shared.remove("requests") else { return vec![shared.into()] };
    let each = |request: &Value| {
        let mut all = shared.clone();
        let further = request.as_object().unwrap();
        all.extend(further.iter().map(|(name, value)| (name.clone(), value.clone())));
        Value::from(all)
    };
    requests.as_array().unwrap().iter().map(each).collect()
}

/// Sends a request. The content type is JSON by default; an empty one sends no header.
async fn send(client: &Client, request: &Value) -> Reply {
    let method: Method = text(&request["method"]).parse().unwrap();
    let path = text(&request["path"]);
    if method == Method::GET {
        return Client { bearer: None, ..client.clone() }.get(path).await;
    }
    let none = Map::new();
    let named = request["headers"].as_object().unwrap_or(&none);
    let mut headers: Vec<(&str, &str)> =
        named.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    if !named.contains_key("content-type") {
        headers.push(("content-type", "application/json"));
    }
    headers.retain(|(_, value)| !value.is_empty());
    let body = match request.get("text") {
        Some(body) => text(body).as_bytes().to_vec(),
        None => serde_json::to_vec(&request["body"]).unwrap(),
    };
    client.send(method, path, &headers, Some(body)).await
}

async fn check(client: &Client, cases: &[Value], request: &Value) {
    let reply = send(client, request).await;
    let exchange = format!("{request}\n-> {} {}", reply.status, reply.text);
    assert_eq!(u64::from(reply.status.as_u16()), request["status"].as_u64().unwrap(), "{exchange}");
    if reply.status.is_success() {
        assert!(reply.header("content-type").starts_with("application/json"), "{exchange}");
    }
    for (what, value) in request["expect"].as_object().unwrap() {
        let body = &reply.json;
        match what.as_str() {
            "body" if value["decision"].is_boolean() || value["evaluations"].is_array() => {
                assert_eq!(without_evaluation_ids(body.clone()), *value, "{exchange}");
            }
            "body" => assert_eq!(body, value, "{exchange}"),
            "decision" => assert_eq!(&body["decision"], value, "{exchange}"),
            "context" => assert!(body["context"].is_object(), "{exchange}"),
            "decisions" => check_decisions(body, value.as_array().unwrap(), &exchange),
            "problem" => {
                assert_eq!(reply.header("content-type"), "application/problem+json", "{exchange}");
                assert!(body["code"].is_string() && body["detail"].is_string(), "{exchange}");
            }
            "headers" => {
                for (name, value) in value.as_object().unwrap() {
                    assert_eq!(reply.header(name), text(value), "{exchange}");
                }
            }
            "results" => {
                let found = results(body);
                assert!(value.as_array().unwrap().iter().all(|wanted| found.contains(&wanted)), "{exchange}");
            }
            "type" => {
                let has_type = |found: &&Value| found["type"] == *value && found["id"].is_string();
                assert!(results(body).iter().all(has_type), "{exchange}");
            }
            "empty" => assert!(results(body).is_empty(), "{exchange}"),
            "page" => drop(check_page(body, value.as_u64().unwrap())),
            "pages" => {
                for repeats_limit in [true, false] {
                    let found = pages(client, request, repeats_limit).await;
                    assert_eq!(
                        sorted(&found),
                        results_of_case(client, cases, &request["expect"]["as"]).await,
                        "{exchange}"
                    );
                }
            }
            "as" if request["expect"].get("pages").is_none() => {
                let found: Vec<Value> = results(body).into_iter().cloned().collect();
                assert_eq!(sorted(&found), results_of_case(client, cases, value).await, "{exchange}");
            }
            "as" => {}
            "has" => {
                for (name, value) in value.as_object().unwrap() {
                    assert_eq!(&body[name], value, "{exchange}");
                }
            }
            "https" => check_addresses(body, text(value)),
            other => panic!("unknown expectation {other}"),
        }
    }
}

fn check_decisions(body: &Value, expected: &[Value], exchange: &str) {
    let answers = body["evaluations"].as_array().unwrap_or_else(|| panic!("{exchange}"));
    assert_eq!(answers.len(), expected.len(), "{exchange}");
    assert_eq!(body.get("decision"), None, "{exchange}");
    for (answer, expected) in answers.iter().zip(expected) {
        assert!(answer["decision"].is_boolean(), "{exchange}");
        assert!(expected.is_null() || answer["decision"] == *expected, "{exchange}");
        assert!(answer.get("context").is_none_or(Value::is_object), "{exchange}");
    }
}

fn results(body: &Value) -> Vec<&Value> {
    body["results"].as_array().unwrap_or_else(|| panic!("no results in {body}")).iter().collect()
}

/// The results as sorted strings. Fails if a result occurs twice.
fn sorted(found: &[Value]) -> BTreeSet<String> {
    let all: BTreeSet<String> = found.iter().map(Value::to_string).collect();
    assert_eq!(all.len(), found.len(), "{found:?}");
    all
}

/// The results of another case's request.
async fn results_of_case(client: &Client, cases: &[Value], id: &Value) -> BTreeSet<String> {
    let case = cases.iter().find(|case| case["id"] == *id).unwrap();
    let reply = send(client, case).await;
    sorted(&results(&reply.json).into_iter().cloned().collect::<Vec<_>>())
}

/// Checks the form of a page, and returns the token of the next page.
fn check_page(body: &Value, limit: u64) -> String {
    let (results, page) = (results(body), &body["page"]);
    assert!(results.len() as u64 <= limit, "{body}");
    assert_eq!(page["count"], results.len(), "{body}");
    page["next_token"].as_str().unwrap_or_else(|| panic!("no next_token in {body}")).to_owned()
}

/// The results of all pages. A page token includes the limit, which need not be repeated.
async fn pages(client: &Client, request: &Value, repeats_limit: bool) -> Vec<Value> {
    let mut request = request.clone();
    let limit = request["expect"]["pages"].as_u64().unwrap();
    let mut found = Vec::new();
    loop {
        let reply = send(client, &request).await;
        assert_eq!(reply.status, 200, "{request}: {}", reply.text);
        let token = check_page(&reply.json, limit);
        let is_empty = results(&reply.json).is_empty();
        assert!(found.is_empty() || !is_empty, "a token where nothing follows: {}", reply.text);
        found.extend(results(&reply.json).into_iter().cloned());
        assert!(found.len() < 100, "too many pages");
        if token.is_empty() {
            return found;
        }
        request["body"]["page"] =
            if repeats_limit { json!({ "limit": limit, "token": token }) } else { json!({ "token": token }) };
    }
}

fn check_addresses(body: &Value, base: &str) {
    let fields = body.as_object().unwrap();
    let endpoints: Vec<&str> =
        fields.iter().filter(|(name, _)| name.ends_with("_endpoint")).map(|(_, value)| text(value)).collect();
    // With the extension for filters.
    assert_eq!(endpoints.len(), 6, "{body}");
    assert!(endpoints.iter().all(|endpoint| endpoint.starts_with(&format!("{base}/"))), "{body}");
    if let Some(capabilities) = body.get("capabilities") {
        assert!(capabilities.as_array().is_some_and(|all| all.iter().all(Value::is_string)), "{body}");
    }
}
