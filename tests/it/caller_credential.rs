//! Questions about the caller itself use the credential in hand, not the user's role (see "Questions about oneself" in
//! docs/decisions.md).

use crate::authzen::{
    EVALUATION, EVALUATIONS, entity, error_code, evaluation_request, is_permitted, start_with_policies,
};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH, search};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The same user with an API key of this scope.
async fn with_api_key(app: &TestApp, user: &Client, scope: Scope) -> Client {
    Client { id: user.id.clone(), ..app.bearer(&user.key(&[scope]).await) }
}

/// The question with a `basis` of the subject.
fn with_basis(basis: &str, mut question: Value) -> Value {
    question["subject"]["basis"] = json!(basis);
    question
}

async fn permitted_actions(client: &Client, path: &str) -> Vec<String> {
    let answer = client.get(path).await.expect(StatusCode::OK);
    answer["actions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn own_permissions_are_those_of_the_credential() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest_key = with_api_key(&app, &admin, Scope::Guest).await;
    let other = app.user(Scope::Guest).await.id;
    let deletes = |actions: &[String]| actions.iter().any(|name| name == "deleteOrganization");
    for path_user in ["me", &admin.id] {
        let path = format!("/v2/users/{path_user}/permissions");
        assert!(deletes(&permitted_actions(&admin, &path).await), "{path_user}");
        assert!(!deletes(&permitted_actions(&guest_key, &path).await), "{path_user}");
        let by_credential = format!("{path}?basis=credential");
        assert!(!deletes(&permitted_actions(&guest_key, &by_credential).await), "{path_user}");
        let by_role = format!("{path}?basis=role");
        assert_eq!(
            permitted_actions(&guest_key, &by_role).await,
            permitted_actions(&admin, &path).await,
            "{path_user}"
        );
    }
    for query in ["basis=", "basis=Role", "basis=scope", "basis=role&basis=role"] {
        let refused = admin.get(&format!("/v2/users/me/permissions?{query}")).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["basis"], "{query}");
    }
    let refused = admin.get(&format!("/v2/users/{other}/permissions?basis=credential")).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["basis"]);
    let by_role =
        admin.get(&format!("/v2/users/{other}/permissions?basis=role")).await.expect(StatusCode::OK);
    assert_eq!(by_role, admin.get(&format!("/v2/users/{other}/permissions")).await.json);
}

#[tokio::test]
async fn a_question_about_the_caller_is_answered_for_its_credential() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = entity("Form", &admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    for (scope, permitted) in [(Scope::Guest, false), (Scope::Bot, false), (Scope::Admin, true)] {
        let key = with_api_key(&app, &admin, scope).await;
        for subject in [entity("User", &admin.id), entity("User", "me")] {
            let question = evaluation_request(subject, "deleteForm", form.clone());
            // The second and third request use the question cache.
            for _ in 0..3 {
                assert_eq!(is_permitted(&key, question.clone()).await, permitted, "{scope}");
                assert_eq!(
                    is_permitted(&key, with_basis("credential", question.clone())).await,
                    permitted,
                    "{scope}"
                );
                assert!(is_permitted(&key, with_basis("role", question.clone())).await, "{scope}");
                assert!(is_permitted(&admin, question.clone()).await);
            }
            let batch = json!({ "evaluations": [question, with_basis("role", question.clone())] });
            let answers = key.post(EVALUATIONS, batch).await.expect_decisions(StatusCode::OK);
            let answers = answers["evaluations"].clone();
            assert_eq!(answers, json!([{ "decision": permitted }, { "decision": true }]), "{scope}");
            for (request, expected) in
                [(question.clone(), permitted), (with_basis("role", question.clone()), true)]
            {
                let answer = key.post("/v2/authorize", request).await.expect(StatusCode::OK);
                assert_eq!(answer["decision"], expected, "{scope}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn policies_see_the_credential_type_of_the_caller() {
    let policy = r#"@id("keys") forbid (principal, action == Action::"listServices", resource)
        when { context has credential && context.credential == Credential::"apiKey" };"#;
    let app = start_with_policies(policy).await;
    let admin = app.admin().await;
    let key = with_api_key(&app, &admin, Scope::Admin).await;
    let home = admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    let question =
        evaluation_request(entity("User", &admin.id), "listServices", entity("Organization", &home));
    // The same question by the same user with the same scopes.
    for _ in 0..3 {
        assert!(is_permitted(&admin, question.clone()).await);
        assert!(!is_permitted(&key, question.clone()).await);
        assert!(is_permitted(&key, with_basis("role", question.clone())).await, "a role has no credential");
    }
}

#[tokio::test]
async fn the_credential_basis_applies_to_the_caller_only() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let other = app.user(Scope::Guest).await;
    let question = || evaluation_request(entity("User", &other.id), "fetchUser", entity("User", &other.id));
    for path in [EVALUATION, "/v2/authorize"] {
        let answer = admin.post(path, with_basis("credential", question())).await.expect(StatusCode::OK);
        assert_eq!(error_code(&answer), "invalid", "{path}");
    }
    assert!(is_permitted(&admin, with_basis("role", question())).await);
    for path in [EVALUATION, "/v2/authorize"] {
        let refused = admin.post(path, with_basis("scopes", question())).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["subject.basis"], "{path}");
    }
}

#[tokio::test]
async fn searches_evaluate_the_caller_by_its_credential() {
    let app = TestApp::start().await;
    let (admin, second) = (app.admin().await, app.user(Scope::Admin).await);
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let key = with_api_key(&app, &admin, Scope::Bot).await;
    let form_id = BTreeSet::from([form.clone()]);
    let form = entity("Form", &form);

    let subject_query = evaluation_request(json!({ "type": "User" }), "deleteForm", form.clone());
    let both = BTreeSet::from([admin.id.clone(), second.id.clone()]);
    let without_key = BTreeSet::from([second.id.clone()]);
    assert_eq!(search(&admin, SUBJECT_SEARCH, subject_query.clone()).await, both);
    assert_eq!(search(&key, SUBJECT_SEARCH, subject_query.clone()).await, without_key);
    assert_eq!(
        search(&key, SUBJECT_SEARCH, with_basis("credential", subject_query.clone())).await,
        without_key
    );
    assert_eq!(search(&key, SUBJECT_SEARCH, with_basis("role", subject_query)).await, both);

    let resource_query = evaluation_request(entity("User", "me"), "deleteForm", json!({ "type": "Form" }));
    assert_eq!(search(&admin, RESOURCE_SEARCH, resource_query.clone()).await, form_id);
    assert_eq!(search(&key, RESOURCE_SEARCH, resource_query.clone()).await, BTreeSet::new());
    assert_eq!(search(&key, RESOURCE_SEARCH, with_basis("role", resource_query)).await, form_id);

    let action_query = json!({ "subject": entity("User", &admin.id), "resource": form });
    assert!(search(&admin, ACTION_SEARCH, action_query.clone()).await.contains("deleteForm"));
    assert!(!search(&key, ACTION_SEARCH, action_query.clone()).await.contains("deleteForm"));
    assert!(search(&key, ACTION_SEARCH, with_basis("role", action_query)).await.contains("deleteForm"));
}

#[tokio::test]
async fn the_metadata_state_that_stored_attributes_take_precedence() {
    let app = TestApp::start().await;
    let metadata = app.anonymous().get("/.well-known/authzen-configuration").await.expect(StatusCode::OK);
    assert_eq!(metadata["stored_attributes_take_precedence"], true);
}
