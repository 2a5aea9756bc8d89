//! Repeated questions: a question with the same bytes gets the same response as one with other bytes, after any change.

use crate::authzen::{EVALUATION, evaluation_request};
use crate::reload::PolicyFiles;
use crate::support::{Client, TestApp, without_evaluation_ids};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::cell::Cell;

/// A client that sends one question, with the same bytes and with other ones.
struct RepeatedQuestion {
    client: Client,
    question: Value,
    /// The number of spaces after the JSON, which makes the bytes new each time.
    next_padding: Cell<usize>,
}

impl RepeatedQuestion {
    fn new(client: Client, question: Value) -> Self {
        Self { client, question, next_padding: Cell::new(1) }
    }

    async fn send(&self, body: String) -> (StatusCode, Value) {
        let headers = [("content-type", "application/json")];
        let reply = self.client.send(Method::POST, EVALUATION, &headers, Some(body.into_bytes())).await;
        let mut answer = reply.json;
        // The ids differ each time.
        answer.as_object_mut().unwrap().shift_remove("requestId");
        answer.as_object_mut().unwrap().shift_remove("evaluation_id");
        if answer["decision"].is_boolean() {
            answer = without_evaluation_ids(answer);
        }
        (reply.status, answer)
    }

    /// The decision, or else the code of the error. Asserts that the same bytes and other ones get the same response.
    async fn answer(&self) -> String {
        let body = self.question.to_string();
        let same = self.send(body.clone()).await;
        let unused = self.next_padding.replace(self.next_padding.get() + 1);
        assert_eq!(same, self.send(body.clone() + &" ".repeat(unused)).await, "{body}");
        // Once more, since parts of the response may come from a cache now.
        assert_eq!(same, self.send(body.clone()).await, "{body}");
        let (status, answer) = same;
        match (status, answer["context"]["error"]["code"].as_str()) {
            (StatusCode::OK, None) => answer["decision"].to_string(),
            (StatusCode::OK, Some(code)) => code.to_owned(),
            _ => answer["code"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

async fn home_organization(admin: &Client) -> String {
    admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_repeated_question_reflects_every_change() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let admin = app.admin().await;
    let (tenant, owner) = app.tenant("one").await;
    let other = admin.post("/v2/organizations", json!({ "name": "other" })).await.id();
    let form = owner.post("/v2/forms", json!({ "name": "form" })).await.id();
    let bot = app.user(Scope::Bot).await;
    let weaker = app.bearer(&bot.key(&[Scope::Agent]).await);
    let bot = Client { bearer: Some(bot.key(&[Scope::Bot]).await), ..bot };
    let subject = json!({ "type": "User", "id": owner.id });
    let question = evaluation_request(subject.clone(), "deleteForm", json!({ "type": "Form", "id": form }));
    let repeated = RepeatedQuestion::new(bot.clone(), question);
    let user = async |id: &str, change: Value| {
        admin.patch(&format!("/v2/users/{id}"), change).await.expect(StatusCode::OK);
    };
    let policy = async |text: &str| {
        files.write("policies/late.cedar", text);
        admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    };
    assert_eq!(repeated.answer().await, "true");

    // Changes of the subject.
    user(&owner.id, json!({ "role": "agent" })).await;
    assert_eq!(repeated.answer().await, "false");
    user(&owner.id, json!({ "role": "admin" })).await;
    assert_eq!(repeated.answer().await, "true");
    user(&owner.id, json!({ "status": "blocked" })).await;
    assert_eq!(repeated.answer().await, "blocked");
    user(&owner.id, json!({ "status": "active" })).await;
    assert_eq!(repeated.answer().await, "true");
    user(&owner.id, json!({ "organization": other })).await;
    assert_eq!(repeated.answer().await, "false");
    user(&owner.id, json!({ "organization": tenant })).await;
    assert_eq!(repeated.answer().await, "true");

    // Changes of the organization of both.
    let move_to = async |parent: Value| {
        let change = json!({ "parent": parent });
        admin.patch(&format!("/v2/organizations/{tenant}"), change).await.expect(StatusCode::OK);
    };
    let root = json!(home_organization(&admin).await);
    move_to(json!(other)).await;
    assert_eq!(repeated.answer().await, "true");
    user(&bot.id, json!({ "organization": tenant })).await;
    assert_eq!(repeated.answer().await, "true");
    user(&bot.id, json!({ "organization": other })).await;
    move_to(root).await;
    assert_eq!(repeated.answer().await, "unknown_subject");
    user(&bot.id, json!({ "organization": tenant })).await;
    assert_eq!(repeated.answer().await, "true");

    // Changes of the caller.
    user(&bot.id, json!({ "role": "agent" })).await;
    assert_eq!(repeated.answer().await, "forbidden");
    user(&bot.id, json!({ "role": "bot" })).await;
    assert_eq!(repeated.answer().await, "true");
    let weaker = RepeatedQuestion {
        client: weaker,
        question: repeated.question.clone(),
        next_padding: Cell::new(100),
    };
    assert_eq!(weaker.answer().await, "forbidden");

    // Changes of the policies for the question and for its prerequisites.
    for (action, answer) in [("deleteForm", "false"), ("evaluateAccess", "forbidden"), ("referTo", "false")] {
        policy(&format!("@id(\"late\") forbid (principal, action == Action::\"{action}\", resource);")).await;
        assert_eq!(repeated.answer().await, answer, "{action}");
        policy("").await;
        assert_eq!(repeated.answer().await, "true");
    }

    // Changes of the resource.
    let move_form = async |to: &str| {
        let change = json!({ "organization": to });
        admin.patch(&format!("/v2/forms/{form}"), change).await.expect(StatusCode::OK);
    };
    user(&bot.id, json!({ "organization": home_organization(&admin).await })).await;
    assert_eq!(repeated.answer().await, "true");
    move_form(&other).await;
    assert_eq!(repeated.answer().await, "false");
    move_form(&tenant).await;
    assert_eq!(repeated.answer().await, "true");
    admin.delete(&format!("/v2/forms/{form}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(repeated.answer().await, "false");
    user(&bot.id, json!({ "status": "blocked" })).await;
    assert_eq!(repeated.answer().await, "invalid_token");
}

#[tokio::test]
async fn time_dependent_policies_are_evaluated_on_every_repetition() {
    for (action, answer) in
        [("fetchConversation", "false"), ("evaluateAccess", "forbidden"), ("referTo", "false")]
    {
        let files = PolicyFiles::new();
        let late = format!(
            "@id(\"late\") forbid (principal, action == Action::\"{action}\", resource) \
             when {{ context has now && context.now >= datetime(\"2026-02-01\") }};"
        );
        files.write("policies/late.cedar", &late);
        let app = files.serve().await;
        let admin = app.admin().await;
        let admin = Client { bearer: Some(admin.key(&[Scope::Admin]).await), ..admin };
        let resource = admin.post("/v2/conversations", json!({})).await.id();
        let subject = json!({ "type": "User", "id": admin.id });
        let resource = json!({ "type": "Conversation", "id": resource });
        let repeated =
            RepeatedQuestion::new(admin.clone(), evaluation_request(subject, "fetchConversation", resource));
        assert_eq!(repeated.answer().await, "true", "{action}");
        app.clock.advance(2 * 86_400_000);
        assert_eq!(repeated.answer().await, answer, "{action}");
    }
}

#[tokio::test]
async fn a_repeated_question_returns_reasons_only_if_requested() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let subject = json!({ "type": "User", "id": admin.id });
    let question = evaluation_request(
        subject,
        "fetchConversation",
        json!({ "type": "Conversation", "id": conversation }),
    );
    for _ in 0..3 {
        let bare = admin.post(EVALUATION, question.clone()).await.expect_decisions(StatusCode::OK);
        assert_eq!(bare, json!({ "decision": true }));
        let headers = [("content-type", "application/json"), ("x-explain", "true")];
        let body = Some(question.to_string().into_bytes());
        let full = admin.send(Method::POST, EVALUATION, &headers, body).await.expect(StatusCode::OK);
        assert_eq!(full["context"]["policies"][0]["id"], "guest", "{full}");
    }
}
