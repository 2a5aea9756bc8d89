//! Queries of the audit log: who can read which entries, filters, and paging.

use crate::audit::events;
use crate::reload::PolicyFiles;
use crate::support::{Client, PASSWORD, TestApp};
use crate::tokens::{email, request_token};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn admins_see_the_entries_of_their_organization_and_its_descendants() {
    let app = TestApp::start().await;
    let (ours, our_admin) = app.tenant("ours").await;
    let (theirs, their_admin) = app.tenant("theirs").await;
    let below = our_admin.post("/v2/organizations", json!({ "name": "below" })).await.id();
    let body = json!({ "email": "ada@below.example", "organization": below });
    let ada = our_admin.post("/v2/users", body).await.id();
    request_token(&app, json!({ "email": "nobody@example.com", "password": PASSWORD })).await;
    let root = app.admin().await;
    let organizations = async |client: &Client, query: &str| -> BTreeSet<String> {
        let found = events(client, query).await;
        found.iter().map(|one| one["organization"].as_str().unwrap_or("none").to_owned()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let top = app.state.store.root().await.unwrap().unwrap().org_id().to_string();
    assert_eq!(organizations(&our_admin, "").await, set(&[&ours, &below]));
    assert_eq!(organizations(&our_admin, &format!("organization={below}")).await, set(&[&below]));
    assert_eq!(organizations(&their_admin, "").await, set(&[&theirs]));
    assert_eq!(organizations(&root, "").await, set(&["none", &top, &ours, &theirs, &below]));
    assert_eq!(organizations(&root, &format!("organization={ours}")).await, set(&[&ours, &below]));
    // Entries about a deleted user keep its organization.
    our_admin.delete(&format!("/v2/users/{ada}")).await.expect(StatusCode::NO_CONTENT);
    our_admin.delete(&format!("/v2/organizations/{below}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(organizations(&our_admin, "").await, set(&[&ours, &below]));
    for scope in [Scope::Guest, Scope::Agent, Scope::Bot] {
        app.user(scope).await.get("/v2/audit").await.expect_problem(403, "forbidden");
    }
    // A key of an admin needs the admin scope, too.
    app.bearer(&root.key(&[Scope::Bot]).await).get("/v2/audit").await.expect_problem(403, "forbidden");
    app.bearer(&root.key(&[Scope::Admin]).await).get("/v2/audit").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_policy_may_hide_the_entries_of_an_organization() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let (ours, _) = app.tenant("ours").await;
    let (theirs, _) = app.tenant("theirs").await;
    let admin = app.admin().await;
    let text = format!(
        "@id(\"kept\") forbid (principal, action == Action::\"listAuditEvents\", resource == Organization::\"{ours}\");"
    );
    files.write("policies/kept.cedar", &text);
    admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    let found = events(&admin, "").await;
    assert!(found.iter().all(|one| one["organization"] != json!(ours)));
    assert!(found.iter().any(|one| one["organization"] == json!(theirs)));
    assert!(found.iter().any(|one| one["organization"].is_null()), "the entry of the reload");
    admin.get(&format!("/v2/audit?organization={ours}")).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn entries_can_be_filtered_sorted_and_paged() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let start = app.clock.now();
    app.clock.advance(60_000);
    request_token(&app, json!({ "email": email(&user).await, "password": "wrong" })).await;
    let admin = app.admin().await;
    let total = events(&admin, "").await.len();
    let later = start.plus_seconds(60);
    for (query, expected) in [
        ("event=login.failed".to_owned(), 1),
        ("outcome=failed".to_owned(), 1),
        (format!("target={}&event=login.failed", user.id), 1),
        (format!("target={}&outcome=ok", user.id), 2),
        (format!("actor={}", user.id), 1),
        (format!("from={later}"), 2),
        (format!("to={later}"), total - 2),
        (format!("from={later}&to={later}"), 0),
        ("seq=1".to_owned(), 1),
        ("requestId=nothing".to_owned(), 0),
    ] {
        assert_eq!(events(&admin, &query).await.len(), expected, "{query}");
    }
    let seqs = |page: &Value| -> Vec<u64> {
        page.as_array().unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect()
    };
    let newest = admin.get("/v2/audit?sort=-seq&limit=2").await;
    assert_eq!(newest.header("x-total-count"), total.to_string());
    let next = newest.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    let next = admin.get(next.strip_prefix(&app.base).unwrap()).await.expect(StatusCode::OK);
    let total = total as u64;
    assert_eq!(seqs(&newest.json), [total, total - 1]);
    assert_eq!(seqs(&next), [total - 2, total - 3]);
    for wrong in [
        "event=login",
        "outcome=yes",
        "actor=x",
        "from=soon",
        "sort=time",
        "sort=from",
        "limit=1001",
        "hash=x",
    ] {
        admin.get(&format!("/v2/audit?{wrong}")).await.expect_problem(400, "invalid_fields");
    }
}
