//! Denials in the audit log: one entry per caller, action and minute, with a count, and none is lost.

use crate::audit::{events, verify_chain};
use crate::command_line::{client, run};
use crate::multi_process::{log_in, serve_with};
use crate::support::{ADMIN, Client, Database, PASSWORD, TestApp};
use cedargate::application::audit;
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::block_in_place;

/// The details of the denial entries, in the order of the log.
async fn denials(admin: &Client) -> Vec<Value> {
    let found = events(admin, "event=access.denied").await;
    found.iter().map(|one| json!([one["actor"], one["details"]["action"], one["details"]["count"]])).collect()
}

#[tokio::test]
async fn denials_are_aggregated_per_caller_action_and_minute() {
    let app = TestApp::start().await;
    let (one, other) = (app.user(Scope::Guest).await, app.user(Scope::Guest).await);
    let admin = app.admin().await;
    let before = verify_chain(&app).await.seq;
    let cause_denials = async |client: &Client, count: usize| {
        for index in 0..count {
            let user = format!("/v2/users/{index:024x}");
            client.delete(&user).await.expect_problem(403, "forbidden");
        }
    };
    cause_denials(&one, 30).await;
    cause_denials(&other, 3).await;
    for _ in 0..20 {
        one.post("/v2/policies/reload", json!({})).await.expect_problem(403, "forbidden");
    }
    audit::write_pending(&app.state).await.unwrap();
    assert_eq!(verify_chain(&app).await.seq, before, "the minute is not over");
    let last = app.clock.now();
    app.clock.advance(60_000);
    cause_denials(&one, 4).await;
    audit::write_pending(&app.state).await.unwrap();
    let first = [
        json!([one.id, "deleteUser", 30]),
        json!([other.id, "deleteUser", 3]),
        json!([one.id, "reloadPolicies", 20]),
    ];
    let mut found = denials(&admin).await;
    found.sort_by_key(|entry| first.iter().position(|one| one == entry));
    assert_eq!(found, first);
    let entry = &events(&admin, &format!("event=access.denied&actor={}", one.id)).await;
    let entry = entry.iter().find(|entry| entry["details"]["action"] == "deleteUser").unwrap();
    assert_eq!(entry["details"]["last"], last.to_string());
    assert_eq!(entry["target"], format!("{:024x}", 0));
    assert_eq!(entry["details"]["otherTargets"].as_array().unwrap().len(), 10);
    app.clock.advance(60_000);
    audit::write_pending(&app.state).await.unwrap();
    assert_eq!(denials(&admin).await.last(), Some(&json!([one.id, "deleteUser", 4])));
    verify_chain(&app).await;
}

#[tokio::test]
async fn the_number_of_entries_does_not_disclose_whether_a_target_exists() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let mut entries = Vec::new();
    for targets in
        [[&*theirs.id, "599e1fcd9da1c72645c95886"], ["599e1fcd9da1c72645c95887", "599e1fcd9da1c72645c95886"]]
    {
        let before = verify_chain(&app).await.seq;
        for target in targets {
            ours.delete(&format!("/v2/users/{target}")).await.expect_problem(404, "not_found");
        }
        audit::flush_on_shutdown(&app.state).await;
        entries.push(verify_chain(&app).await.seq - before);
    }
    assert_eq!(entries, [1, 1]);
}

#[tokio::test]
async fn denials_are_kept_until_the_database_is_available_again() {
    let app = TestApp::start().await;
    let guest = app.user(Scope::Guest).await;
    app.sql("ALTER TABLE audit RENAME TO away").await;
    for _ in 0..3 {
        guest.post("/v2/policies/reload", json!({})).await.expect_problem(403, "forbidden");
        app.clock.advance(60_000);
        assert!(audit::write_pending(&app.state).await.is_err());
    }
    app.sql("ALTER TABLE away RENAME TO audit").await;
    audit::write_pending(&app.state).await.unwrap();
    let found = denials(&app.admin().await).await;
    assert_eq!(found, vec![json!([guest.id, "reloadPolicies", 1]); 3]);
    verify_chain(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_loses_no_denial() {
    const DENIALS: u64 = 150;
    let database = Database::new().await;
    let settings = [("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0")];
    let running = block_in_place(|| serve_with(&database, &settings));
    let bearer = |tokens: &Value| tokens["token"].as_str().unwrap().to_owned();
    let admin = log_in(&running.base, ADMIN).await;
    let admin = Client { bearer: Some(bearer(&admin)), ..client(&running.base) };
    let body = json!({ "email": "guest@example.com", "password": PASSWORD, "role": "guest" });
    let id = admin.post("/v2/users", body).await.expect(StatusCode::CREATED)["id"].clone();
    let guest = log_in(&running.base, "guest@example.com").await;
    let guest = Client { bearer: Some(bearer(&guest)), ..client(&running.base) };
    for _ in 0..DENIALS {
        guest.post("/v2/policies/reload", json!({})).await.expect_problem(403, "forbidden");
    }
    block_in_place(|| running.stop());

    let running = block_in_place(|| serve_with(&database, &settings));
    let admin = log_in(&running.base, ADMIN).await;
    let admin = Client { bearer: Some(bearer(&admin)), ..client(&running.base) };
    let found = events(&admin, "event=access.denied").await;
    assert!(found.iter().all(|one| one["actor"] == id));
    // A minute may have passed between two of them.
    assert!((1..=2).contains(&found.len()), "{found:?}");
    assert_eq!(found.iter().map(|one| one["details"]["count"].as_u64().unwrap()).sum::<u64>(), DENIALS);
    let verified = block_in_place(|| {
        let url = [("CEDARGATE_DATABASE_URL", database.url.as_str())];
        run(database.directory.path(), &url, &["audit", "verify"])
    });
    assert!(verified.status.success(), "{verified:?}");
}
