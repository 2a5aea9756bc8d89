//! Neither response times nor ids disclose what exists in another tenant: missing ids are cached as existing ones are, until
//! they are created, and ids have only their second in common.

use crate::authzen::{entity, evaluate, evaluation_request};
use crate::support::{Client, TestApp};
use cedargate::api::forms::Form;
use cedargate::application::{Authorizer, Caller};
use cedargate::authz::Unchecked;
use cedargate::types::{Clock, Id};
use reqwest::StatusCode;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Copies a form under another id directly in the database.
async fn copy_form(app: &TestApp, from: &str, to: &str) {
    let columns = "organization, name, fields, meta, created_at, updated_at";
    app.sql(&format!(
        "INSERT INTO forms (id, {columns}) SELECT '{to}', {columns} FROM forms WHERE id = '{from}'"
    ))
    .await;
}

/// Copies a user under another id and email directly in the database.
async fn copy_user(app: &TestApp, from: &str, to: &str) {
    let columns =
        "organization, given_name, family_name, name, avatar, role, status, meta, created_at, updated_at";
    app.sql(&format!(
        "INSERT INTO users (id, email, {columns}) SELECT '{to}', 'copy@example.com', {columns} FROM users \
         WHERE id = '{from}'"
    ))
    .await;
}

/// Creates a form with this id through the store, as the service does.
async fn create_form(app: &TestApp, id: &str) {
    let root = app.state.store.root().await.unwrap().unwrap();
    let engine = app.state.policies.current_guard();
    let caller = Caller::for_terminal(&engine, root.clone());
    let authorizer = Authorizer::new(Arc::clone(&app.state), caller, "createForm");
    let form: Form = serde_json::from_value(json!({
        "id": id, "organization": root.org_id(), "name": "form", "fields": [], "meta": {},
        "createdAt": "2026-01-31T12:00:00Z", "updatedAt": "2026-01-31T12:00:00Z",
    }))
    .unwrap();
    let form = authorizer.authorize_new(&root, Unchecked::new(form, root.clone())).unwrap();
    let work = authorizer.begin().await.unwrap();
    work.insert(form).await.unwrap();
    work.commit().await.unwrap();
}

/// Whether a client finds a form, by its route and as the resource of a question.
async fn form_visibility(client: &Client, id: &str) -> (bool, bool) {
    let question = evaluation_request(entity("User", "me"), "fetchForm", entity("Form", id));
    let fetched = client.get(&format!("/v2/forms/{id}")).await.status == StatusCode::OK;
    (fetched, evaluate(client, question).await["decision"] == true)
}

#[tokio::test]
async fn a_missing_id_is_cached_as_missing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let user = admin.post("/v2/users", json!({ "email": "one@example.com" })).await.id();
    let [looked_up, not_looked_up, missing_user] = [(); 3].map(|()| Id::new(&Clock::system()).to_string());
    assert_eq!(form_visibility(&admin, &looked_up).await, (false, false));
    let about = |id: &str| evaluation_request(entity("User", id), "fetchUser", entity("User", id));
    assert_eq!(evaluate(&admin, about(&missing_user)).await["decision"], false);
    // These can only be found by a query.
    copy_form(&app, &form, &looked_up).await;
    copy_form(&app, &form, &not_looked_up).await;
    copy_user(&app, &user, &missing_user).await;
    assert_eq!(form_visibility(&admin, &looked_up).await, (false, false));
    assert_eq!(evaluate(&admin, about(&missing_user)).await["decision"], false);
    assert_eq!(form_visibility(&admin, &not_looked_up).await, (true, true));
}

#[tokio::test]
async fn creation_invalidates_the_cached_absence_of_an_id() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = Id::new(&Clock::system()).to_string();
    for _ in 0..2 {
        assert_eq!(form_visibility(&admin, &id).await, (false, false));
    }
    create_form(&app, &id).await;
    assert_eq!(form_visibility(&admin, &id).await, (true, true));
    admin.delete(&format!("/v2/forms/{id}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(form_visibility(&admin, &id).await, (false, false));
    create_form(&app, &id).await;
    assert_eq!(form_visibility(&admin, &id).await, (true, true));
}

#[tokio::test]
async fn creation_in_another_process_invalidates_the_cached_absence_of_an_id() {
    let app = TestApp::start().await;
    if app.postgres().is_none() {
        return; // SQLite has one process that serves.
    }
    let other = app.start_replica(|_| ()).await;
    let admin = other.admin().await;
    let id = Id::new(&Clock::system()).to_string();
    for _ in 0..2 {
        assert_eq!(form_visibility(&admin, &id).await, (false, false));
    }
    create_form(&app, &id).await;
    let notified = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while form_visibility(&admin, &id).await != (true, true) {
            tokio::task::yield_now().await;
        }
    });
    notified.await.expect("the other process must be notified");
}

#[tokio::test]
async fn ids_of_the_same_second_share_only_their_timestamp() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    }
    let seconds: BTreeSet<&str> = ids.iter().map(|id| &id[..8]).collect();
    assert_eq!(seconds.len(), 1, "the clock must stand still");
    for start in [8, 16] {
        let parts: BTreeSet<&str> = ids.iter().map(|id| &id[start..start + 8]).collect();
        assert_eq!(parts.len(), ids.len(), "{parts:?}");
    }
}
