//! `CEDARGATE_CACHES_OFF`: without a cache, a change made directly in the database takes effect with the next request.

use crate::authzen::{entity, evaluate, evaluation_request};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use cedargate::config::CacheName;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Starts the service without these caches.
async fn start_without(caches: &[CacheName]) -> TestApp {
    TestApp::start_with(|config| config.caches_off = caches.to_vec()).await
}

/// Sends a request, changes rows directly in the database, and sends the request again. Returns both results.
async fn before_and_after<T>(app: &TestApp, change: &str, request: impl AsyncFn() -> T) -> [T; 2] {
    let before = request().await;
    app.sql(change).await;
    [before, request().await]
}

/// Whether an unnoticed change in the database takes effect: of a session, of a user in a question, and of a form.
async fn changes_take_effect(app: &TestApp) -> [bool; 3] {
    let admin = app.admin().await;
    let guest = app.user(Scope::Guest).await;
    let form = admin.post("/v2/forms", json!({ "name": "old" })).await.id();

    let path = format!("/v2/forms/{form}");
    let fetch = async || admin.get(&path).await.json["name"].clone();
    let [old, new] = before_and_after(app, "UPDATE forms SET name = 'new'", fetch).await;
    assert_eq!(old, json!("old"));
    let is_form_changed = new != old;

    let question = evaluation_request(
        entity("User", &guest.id),
        "listForms",
        entity("Organization", &home(&admin).await),
    );
    let ask = async || evaluate(&admin, question.clone()).await["decision"].clone();
    let change = format!("UPDATE users SET role = 'bot' WHERE id = '{}'", guest.id);
    let [old, new] = before_and_after(app, &change, ask).await;
    assert_eq!(old, json!(false));
    let is_user_changed = new != old;

    let status = async || guest.get("/v2/users/me").await.status;
    let change = format!("UPDATE sessions SET ended_at = 1 WHERE \"user\" = '{}'", guest.id);
    let [old, new] = before_and_after(app, &change, status).await;
    assert_eq!(old, StatusCode::OK);
    [new != old, is_user_changed, is_form_changed]
}

async fn home(client: &Client) -> String {
    let user: Value = client.get("/v2/users/me").await.json;
    user["organization"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_a_cache_every_change_takes_effect_with_the_next_request() {
    for (caches, expected) in [
        (&[][..], [false; 3]),
        (&[CacheName::Callers], [true, false, false]),
        (&[CacheName::Users], [false, true, false]),
        (&[CacheName::Rows], [false, false, true]),
        (&[CacheName::Callers, CacheName::Users, CacheName::Rows, CacheName::Decisions], [true; 3]),
    ] {
        let app = start_without(caches).await;
        assert_eq!(changes_take_effect(&app).await, expected, "{caches:?}");
    }
}

#[tokio::test]
async fn without_the_decision_cache_every_decision_is_evaluated() {
    for (caches, is_cached) in [(&[][..], true), (&[CacheName::Decisions], false)] {
        let app = start_without(caches).await;
        let admin = app.admin().await;
        for _ in 0..3 {
            admin.get("/v2/users/me").await.expect(StatusCode::OK);
        }
        let text = admin.get("/metrics").await.text;
        let hits = text.lines().find_map(|line| line.strip_prefix("cedargate_decision_cache_hits_total "));
        assert_eq!(hits.unwrap() != "0", is_cached, "{text}");
    }
}
