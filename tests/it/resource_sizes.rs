//! The sizes of resources and lists, and what searches read of resources.

use crate::resources::{create_resource, resource_specs};
use crate::support::{ADMIN, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_resource_has_at_most_256_kib() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let actions = |count: usize| vec![json!({ "a": "x".repeat(60_000) }); count];
    let body = |count: usize| json!({ "text": "t", "conversation": conversation, "actions": actions(count) });
    let message = |count: usize| json!({ "text": "t", "actions": actions(count) });
    let path = format!("/v2/conversations/{conversation}/messages");
    admin.post("/v2/messages", body(5)).await.expect_problem(413, "resource_too_large");
    admin.post(&path, message(5)).await.expect_problem(413, "resource_too_large");
    admin.post(&path, json!([message(0), message(5)])).await.expect_problem(413, "resource_too_large");
    let first = json!({ "messages": [message(5)] });
    admin.post("/v2/conversations", first).await.expect_problem(413, "resource_too_large");
    assert_eq!(admin.get("/v2/messages").await.header("x-total-count"), "0");
    assert_eq!(admin.get("/v2/conversations").await.header("x-total-count"), "1");

    let id = create_resource(&admin, "/v2/messages", body(4)).await;
    let path = format!("/v2/messages/{id}");
    admin.patch(&path, json!({ "actions": actions(5) })).await.expect_problem(413, "resource_too_large");
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["actions"].as_array().unwrap().len(), 4);
    // A caller without permission gets only that information.
    let guest = app.user(Scope::Guest).await;
    let form = json!({ "name": "x", "meta": {} });
    guest.post("/v2/forms", form).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn pages_are_limited_in_bytes_and_linked() {
    let max_bytes = 20_000;
    let app = TestApp::start_with(|config| config.list_max_bytes = max_bytes).await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    // Small and large rows, and one that exceeds the page size.
    let texts: Vec<Value> = (0..40)
        .map(|index| json!({ "text": "ä".repeat(if index == 7 { max_bytes } else { (index % 5 * 1000).max(1) }), "role": format!("{}", index % 3) }))
        .collect();
    admin
        .post(&format!("/v2/conversations/{conversation}/messages"), json!(texts))
        .await
        .expect(StatusCode::CREATED);
    for query in ["limit=1000", "limit=9&sort=-role,text", "sort=role&limit=1000"] {
        let (mut ids, mut pages) = (Vec::new(), 0);
        let mut next = Some(format!("/v2/messages?{query}"));
        while let Some(path) = next {
            let reply = admin.get(&path).await;
            assert_eq!(reply.header("x-total-count"), "40");
            let link = reply.header("link").strip_prefix(&format!("<{}", app.base));
            next = link.and_then(|link| link.strip_suffix(">; rel=\"next\"")).map(str::to_owned);
            let length = reply.text.len();
            let rows = reply.expect(StatusCode::OK);
            let rows = rows.as_array().unwrap();
            assert!(length <= max_bytes || rows.len() == 1, "{} rows have {length} bytes", rows.len());
            assert!(!rows.is_empty());
            ids.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
            pages += 1;
        }
        assert!(pages > 5, "{query}: {pages} pages");
        assert_eq!(ids.len(), 40, "{query}");
        assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), 40, "{query}");
    }
    // The audit log has the same limit.
    for _ in 0..60 {
        app.log_in(ADMIN).await;
    }
    let reply = admin.get("/v2/audit?limit=1000").await;
    assert!(reply.text.len() <= max_bytes && !reply.header("link").is_empty());
}

#[tokio::test]
async fn a_search_reads_only_the_columns_that_a_decision_needs() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let names = [
        ("/v2/organizations", "Organization"),
        ("/v2/orggroups", "OrganizationGroup"),
        ("/v2/users", "User"),
        ("/v2/conversations", "Conversation"),
        ("/v2/messages", "Message"),
        ("/v2/contacts", "Contact"),
        ("/v2/kbitems", "KnowledgeItem"),
        ("/v2/forms", "Form"),
        ("/v2/services", "Service"),
    ];
    let home = admin.get("/v2/users/me").await.json["organization"].clone();
    for kind in resource_specs(&admin).await {
        let id = create_resource(&admin, kind.path, kind.full).await;
        let (path, name) = names.iter().find(|(path, _)| *path == kind.path).unwrap();
        let table = path.strip_prefix("/v2/").unwrap();
        app.sql(&format!("UPDATE {table} SET meta = '[]'")).await;
        // A replica has no cached rows.
        let other = app.start_replica(|_| ()).await;
        let reader = other.bearer(admin.bearer.as_deref().unwrap());
        let fetch = format!("fetch{name}");
        if *name == "User" {
            let question = json!({
                "subject": { "type": "User" },
                "action": { "name": "fetchOrganization" },
                "resource": { "type": "Organization", "id": home }
            });
            let found = reader.post("/access/v1/search/subject", question).await.expect(StatusCode::OK);
            assert!(
                found["results"].as_array().unwrap().contains(&json!({ "type": "User", "id": admin.id }))
            );
        }
        let found = reader
            .post(
                "/access/v1/search/resource",
                json!({
                    "subject": { "type": "User", "id": admin.id },
                    "action": { "name": fetch },
                    "resource": { "type": name }
                }),
            )
            .await
            .expect(StatusCode::OK);
        let ids: Vec<&str> =
            found["results"].as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap()).collect();
        assert!(ids.contains(&id.as_str()), "{name}: {found}");
        let row = reader.get(&format!("{}/{id}", kind.path)).await;
        assert_eq!(row.status, StatusCode::INTERNAL_SERVER_ERROR, "{name}: the column must be read");
        app.sql(&format!("UPDATE {table} SET meta = '{{}}'")).await;
    }
}
