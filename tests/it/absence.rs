//! Neither the time of an answer nor an id tells what exists in another tenant: that an id is of nothing is remembered as
//! that it is of something, until it is of something; and ids have nothing in common but their second.

use crate::access::{evaluate, may, thing};
use crate::support::{Client, TestApp};
use cedargate::api::forms::Form;
use cedargate::authz::Undecided;
use cedargate::http::{Caller, Gate};
use cedargate::values::{Clock, Id};
use reqwest::StatusCode;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Copies a form under another id, unseen by the service.
async fn copy_form(app: &TestApp, from: &str, to: &str) {
    let columns = "organization, name, fields, meta, created_at, updated_at";
    app.sql(&format!(
        "INSERT INTO forms (id, {columns}) SELECT '{to}', {columns} FROM forms WHERE id = '{from}'"
    ))
    .await;
}

/// The same of a user, with another email.
async fn copy_user(app: &TestApp, from: &str, to: &str) {
    let columns =
        "organization, given_name, family_name, name, avatar, role, status, meta, created_at, updated_at";
    app.sql(&format!(
        "INSERT INTO users (id, email, {columns}) SELECT '{to}', 'copy@example.com', {columns} FROM users \
         WHERE id = '{from}'"
    ))
    .await;
}

/// Creates a form with this id as the service does.
async fn create(app: &TestApp, id: &str) {
    let root = app.parts.store.root().await.unwrap().unwrap();
    let engine = app.parts.policies.in_force();
    let caller = Caller::at_terminal(&engine, root.clone());
    let gate = Gate::new(Arc::clone(&app.parts), caller, "createForm");
    let form: Form = serde_json::from_value(json!({
        "id": id, "organization": root.own(), "name": "form", "fields": [], "meta": {},
        "createdAt": "2026-01-31T12:00:00Z", "updatedAt": "2026-01-31T12:00:00Z",
    }))
    .unwrap();
    let form = gate.decide_new(&root, Undecided::new(form, root.clone())).unwrap();
    let work = gate.begin().await.unwrap();
    work.insert(form).await.unwrap();
    work.commit().await.unwrap();
}

/// Whether a client finds a form, by its route and as the resource of a question.
async fn finds(client: &Client, id: &str) -> (bool, bool) {
    let question = may(thing("User", "me"), "fetchForm", thing("Form", id));
    let fetched = client.get(&format!("/v2/forms/{id}")).await.status == StatusCode::OK;
    (fetched, evaluate(client, question).await["decision"] == true)
}

#[tokio::test]
async fn that_an_id_is_of_nothing_is_remembered() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let user = admin.post("/v2/users", json!({ "email": "one@example.com" })).await.id();
    let [asked, unasked, nobody] = [(); 3].map(|()| Id::new(&Clock::system()).to_string());
    assert_eq!(finds(&admin, &asked).await, (false, false));
    let about = |id: &str| may(thing("User", id), "fetchUser", thing("User", id));
    assert_eq!(evaluate(&admin, about(&nobody)).await["decision"], false);
    // Only a query would find these.
    copy_form(&app, &form, &asked).await;
    copy_form(&app, &form, &unasked).await;
    copy_user(&app, &user, &nobody).await;
    assert_eq!(finds(&admin, &asked).await, (false, false));
    assert_eq!(evaluate(&admin, about(&nobody)).await["decision"], false);
    assert_eq!(finds(&admin, &unasked).await, (true, true));
}

#[tokio::test]
async fn an_id_of_nothing_is_forgotten_when_something_is_created_with_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = Id::new(&Clock::system()).to_string();
    for _ in 0..2 {
        assert_eq!(finds(&admin, &id).await, (false, false));
    }
    create(&app, &id).await;
    assert_eq!(finds(&admin, &id).await, (true, true));
    admin.delete(&format!("/v2/forms/{id}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(finds(&admin, &id).await, (false, false));
    create(&app, &id).await;
    assert_eq!(finds(&admin, &id).await, (true, true));
}

#[tokio::test]
async fn an_id_of_nothing_is_forgotten_when_another_process_creates_something_with_it() {
    let app = TestApp::start().await;
    if app.postgres().is_none() {
        return; // SQLite has one process that serves.
    }
    let other = app.again(|_| ()).await;
    let admin = other.admin().await;
    let id = Id::new(&Clock::system()).to_string();
    for _ in 0..2 {
        assert_eq!(finds(&admin, &id).await, (false, false));
    }
    create(&app, &id).await;
    let told = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while finds(&admin, &id).await != (true, true) {
            tokio::task::yield_now().await;
        }
    });
    told.await.expect("the other process is told");
}

#[tokio::test]
async fn ids_of_one_second_have_nothing_else_in_common() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    }
    let seconds: BTreeSet<&str> = ids.iter().map(|id| &id[..8]).collect();
    assert_eq!(seconds.len(), 1, "the clock stands still");
    for start in [8, 16] {
        let parts: BTreeSet<&str> = ids.iter().map(|id| &id[start..start + 8]).collect();
        assert_eq!(parts.len(), ids.len(), "{parts:?}");
    }
}
