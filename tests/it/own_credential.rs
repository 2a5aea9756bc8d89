//! A question about the caller itself is answered for the credential in hand, not for the user's whole role (decision 31).

use crate::access::{EVALUATION, EVALUATIONS, decides, may, obstacle, thing, with_policies};
use crate::access_search::{ACTIONS, RESOURCES, SUBJECTS, find};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The same user with an API key of this scope.
async fn keyed(app: &TestApp, user: &Client, scope: Scope) -> Client {
    Client { id: user.id.clone(), ..app.bearer(&user.key(&[scope]).await) }
}

/// A question with this basis of the subject.
fn on(basis: &str, mut question: Value) -> Value {
    question["subject"]["basis"] = json!(basis);
    question
}

async fn actions(client: &Client, path: &str) -> Vec<String> {
    let answer = client.get(path).await.expect(StatusCode::OK);
    answer["actions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_permissions_of_oneself_are_those_of_the_credential() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let guest_key = keyed(&app, &admin, Scope::Guest).await;
    let other = app.user(Scope::Guest).await.id;
    let deletes = |actions: &[String]| actions.iter().any(|name| name == "deleteOrganization");
    for of in ["me", &admin.id] {
        let path = format!("/v2/users/{of}/permissions");
        assert!(deletes(&actions(&admin, &path).await), "{of}");
        assert!(!deletes(&actions(&guest_key, &path).await), "{of}");
        let by_credential = format!("{path}?basis=credential");
        assert!(!deletes(&actions(&guest_key, &by_credential).await), "{of}");
        let by_role = format!("{path}?basis=role");
        assert_eq!(actions(&guest_key, &by_role).await, actions(&admin, &path).await, "{of}");
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
async fn a_question_about_oneself_is_answered_for_the_credential() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = thing("Form", &admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    for (scope, permitted) in [(Scope::Guest, false), (Scope::Bot, false), (Scope::Admin, true)] {
        let key = keyed(&app, &admin, scope).await;
        for subject in [thing("User", &admin.id), thing("User", "me")] {
            let question = may(subject, "deleteForm", form.clone());
            // The second and third time it is a question that was understood before.
            for _ in 0..3 {
                assert_eq!(decides(&key, question.clone()).await, permitted, "{scope}");
                assert_eq!(decides(&key, on("credential", question.clone())).await, permitted, "{scope}");
                assert!(decides(&key, on("role", question.clone())).await, "{scope}");
                assert!(decides(&admin, question.clone()).await);
            }
            let batch = json!({ "evaluations": [question, on("role", question.clone())] });
            let answers = key.post(EVALUATIONS, batch).await.expect(StatusCode::OK)["evaluations"].clone();
            assert_eq!(answers, json!([{ "decision": permitted }, { "decision": true }]), "{scope}");
            for (asked, expected) in [(question.clone(), permitted), (on("role", question.clone()), true)] {
                let answer = key.post("/v2/authorize", asked).await.expect(StatusCode::OK);
                assert_eq!(answer["decision"], expected, "{scope}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn the_kind_of_the_credential_counts_where_policies_read_it() {
    let policy = r#"@id("keys") forbid (principal, action == Action::"listServices", resource)
        when { context has credential && context.credential == "apiKey" };"#;
    let app = with_policies(policy).await;
    let admin = app.admin().await;
    let key = keyed(&app, &admin, Scope::Admin).await;
    let home = admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    let question = may(thing("User", &admin.id), "listServices", thing("Organization", &home));
    // The same words of the same user with the same scopes.
    for _ in 0..3 {
        assert!(decides(&admin, question.clone()).await);
        assert!(!decides(&key, question.clone()).await);
        assert!(decides(&key, on("role", question.clone())).await, "of a role no credential is known");
    }
}

#[tokio::test]
async fn only_the_caller_itself_has_a_credential_in_hand() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let other = app.user(Scope::Guest).await;
    let question = || may(thing("User", &other.id), "fetchUser", thing("User", &other.id));
    let answer = admin.post(EVALUATION, on("credential", question())).await.expect(StatusCode::OK);
    assert_eq!(obstacle(&answer), "invalid");
    let refused = admin.post("/v2/authorize", on("credential", question())).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["subject.basis"]);
    assert!(decides(&admin, on("role", question())).await);
    for path in [EVALUATION, "/v2/authorize"] {
        let refused = admin.post(path, on("scopes", question())).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["subject.basis"], "{path}");
    }
}

#[tokio::test]
async fn searches_find_oneself_by_the_credential() {
    let app = TestApp::start().await;
    let (admin, second) = (app.admin().await, app.user(Scope::Admin).await);
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let key = keyed(&app, &admin, Scope::Bot).await;
    let form_id = BTreeSet::from([form.clone()]);
    let form = thing("Form", &form);

    let who = may(json!({ "type": "User" }), "deleteForm", form.clone());
    let both = BTreeSet::from([admin.id.clone(), second.id.clone()]);
    let without_key = BTreeSet::from([second.id.clone()]);
    assert_eq!(find(&admin, SUBJECTS, who.clone()).await, both);
    assert_eq!(find(&key, SUBJECTS, who.clone()).await, without_key);
    assert_eq!(find(&key, SUBJECTS, on("credential", who.clone())).await, without_key);
    assert_eq!(find(&key, SUBJECTS, on("role", who)).await, both);

    let what = may(thing("User", "me"), "deleteForm", json!({ "type": "Form" }));
    assert_eq!(find(&admin, RESOURCES, what.clone()).await, form_id);
    assert_eq!(find(&key, RESOURCES, what.clone()).await, BTreeSet::new());
    assert_eq!(find(&key, RESOURCES, on("role", what)).await, form_id);

    let how = json!({ "subject": thing("User", &admin.id), "resource": form });
    assert!(find(&admin, ACTIONS, how.clone()).await.contains("deleteForm"));
    assert!(!find(&key, ACTIONS, how.clone()).await.contains("deleteForm"));
    assert!(find(&key, ACTIONS, on("role", how)).await.contains("deleteForm"));
}

#[tokio::test]
async fn the_metadata_say_that_stored_attributes_take_precedence() {
    let app = TestApp::start().await;
    let metadata = app.anonymous().get("/.well-known/authzen-configuration").await.expect(StatusCode::OK);
    assert_eq!(metadata["stored_attributes_take_precedence"], true);
}
