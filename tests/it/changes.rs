//! `GET /v2/changes`: the feed of created, changed and deleted resources.

use crate::reload::PolicyFiles;
use crate::support::{Client, TestApp, run_sql, wait_until};
use cedargate::authz::Scope;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Waits until all committed changes can be delivered: PostgreSQL has transactions of other tests, which delay them.
async fn settle(app: &TestApp) {
    if app.postgres().is_some() {
        let pending =
            "SELECT COUNT(*) FROM changes WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
        wait_until(async || match app.count(pending).await {
            0 => Ok(()),
            count => Err(format!("{count} changes are pending")),
        })
        .await;
    }
}

/// The cursor of the present.
pub(crate) async fn now(app: &TestApp, client: &Client) -> String {
    settle(app).await;
    let page = client.get("/v2/changes").await.expect(StatusCode::OK);
    assert_eq!((&page["changes"], &page["hasMore"]), (&json!([]), &json!(false)));
    page["cursor"].as_str().unwrap().to_owned()
}

/// All changes after a cursor, and the cursor at their end.
async fn all_after(app: &TestApp, client: &Client, cursor: &str, parameters: &str) -> (Vec<Value>, String) {
    settle(app).await;
    read_after(client, cursor, parameters).await
}

/// As [`all_after`], as far as they can be delivered.
async fn read_after(client: &Client, cursor: &str, parameters: &str) -> (Vec<Value>, String) {
    let (mut changes, mut cursor) = (Vec::new(), cursor.to_owned());
    loop {
        let page =
            client.get(&format!("/v2/changes?after={cursor}{parameters}")).await.expect(StatusCode::OK);
        changes.extend(page["changes"].as_array().unwrap().clone());
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["hasMore"] == false {
            return (changes, cursor);
        }
    }
}

/// What of changes the tests compare: type, change and id.
fn summary(changes: &[Value]) -> Vec<(String, String, String)> {
    let text = |change: &Value, name: &str| change[name].as_str().unwrap().to_owned();
    changes.iter().map(|change| (text(change, "type"), text(change, "change"), text(change, "id"))).collect()
}

fn entry(kind: &str, change: &str, id: &str) -> (String, String, String) {
    (kind.to_owned(), change.to_owned(), id.to_owned())
}

#[actix_web::test]
async fn created_changed_and_deleted_resources_are_reported_in_order() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let start = now(&app, &admin).await;
    let form = admin.post("/v2/forms", json!({"name": "A"})).await.id();
    let (changes, second) = all_after(&app, &admin, &start, "").await;
    assert_eq!(summary(&changes), [entry("forms", "created", &form)]);
    assert_eq!(changes[0]["resource"], admin.get(&format!("/v2/forms/{form}")).await.json);
    assert_eq!(changes[0]["cursor"].as_str().map(str::len), Some(second.len()));

    let item = admin.post("/v2/kbitems", json!({"title": "B"})).await.id();
    admin.patch(&format!("/v2/forms/{form}"), json!({"name": "C"})).await.expect(StatusCode::OK);
    admin.patch(&format!("/v2/kbitems/{item}"), json!({"title": "D"})).await.expect(StatusCode::OK);
    let (changes, third) = all_after(&app, &admin, &second, "").await;
    // Each resource once, where it was changed last.
    assert_eq!(summary(&changes), [entry("forms", "changed", &form), entry("kbitems", "created", &item)]);
    assert_eq!(
        (&changes[0]["resource"]["name"], &changes[1]["resource"]["title"]),
        (&json!("C"), &json!("D"))
    );

    admin.delete(&format!("/v2/forms/{form}")).await.expect(StatusCode::NO_CONTENT);
    let (changes, fourth) = all_after(&app, &admin, &third, "").await;
    assert_eq!(summary(&changes), [entry("forms", "deleted", &form)]);
    assert!(changes[0].get("resource").is_none());
    assert_eq!(all_after(&app, &admin, &fourth, "").await.0, [] as [Value; 0]);
    // From the start, a resource that is gone is only deleted, and the pages do not matter.
    let expected = [entry("forms", "deleted", &form), entry("kbitems", "created", &item)];
    let (changes, _) = all_after(&app, &admin, &start, "").await;
    assert_eq!(summary(&changes).into_iter().collect::<BTreeSet<_>>(), expected.clone().into());
    let (changes, _) = all_after(&app, &admin, &start, "&limit=1").await;
    let last: BTreeMap<String, String> =
        summary(&changes).into_iter().map(|(_, change, id)| (id, change)).collect();
    assert_eq!(last, [(form, "deleted".to_owned()), (item.clone(), "changed".to_owned())].into());
    // Of the selected types only; the cursor of a change continues after it.
    let (changes, _) = all_after(&app, &admin, &start, "&types=kbitems,messages").await;
    assert_eq!(summary(&changes), [entry("kbitems", "created", &item)]);
    let cursor = changes[0]["cursor"].as_str().unwrap();
    assert_eq!(summary(&all_after(&app, &admin, cursor, "&types=kbitems").await.0), []);
}

#[actix_web::test]
async fn rows_that_the_database_changes_itself_are_reported() {
    let app = TestApp::start().await;
    let (organization, _) = app.tenant("acme").await;
    let admin = app.admin().await;
    let created = admin.post("/v2/conversations", json!({"messages": [{"text": "1"}, {"text": "2"}]})).await;
    let conversation = created.id();
    let path = format!("/v2/conversations/{conversation}");
    let start = now(&app, &admin).await;
    // A message changes its conversation.
    let message = admin.post("/v2/messages", json!({"conversation": conversation, "text": "3"})).await.id();
    let (changes, second) = all_after(&app, &admin, &start, "").await;
    let expected = [entry("messages", "created", &message), entry("conversations", "changed", &conversation)];
    assert_eq!(summary(&changes), expected);
    // A move to another organization moves the messages.
    admin.patch(&path, json!({"organization": organization})).await.expect(StatusCode::OK);
    let (changes, third) = all_after(&app, &admin, &second, "").await;
    let kinds: Vec<(String, String)> =
        summary(&changes).into_iter().map(|(kind, change, _)| (kind, change)).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == ("messages".into(), "changed".into())).count(), 3);
    // The messages of a deleted conversation are deleted with it.
    admin.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let (changes, _) = all_after(&app, &admin, &third, "").await;
    let deleted = summary(&changes);
    assert!(deleted.iter().all(|(_, change, _)| change == "deleted"), "{deleted:?}");
    assert_eq!(deleted.iter().filter(|(kind, ..)| kind == "messages").count(), 3);
    assert!(deleted.contains(&entry("conversations", "deleted", &conversation)));
}

#[actix_web::test]
async fn a_caller_sees_the_changes_of_what_it_may_list() {
    let app = TestApp::start().await;
    let (_, tenant) = app.tenant("acme").await;
    let admin = app.admin().await;
    let (agent, guest) = (app.user(Scope::Agent).await, app.user(Scope::Guest).await);
    let root = admin.get("/v2/users/me").await.json["organization"].clone();
    let organization = tenant.get("/v2/users/me").await.json["organization"].clone();
    let starts = [now(&app, &admin).await, now(&app, &tenant).await, now(&app, &agent).await];
    let own = tenant.post("/v2/forms", json!({"name": "own"})).await.id();
    let other = admin.post("/v2/forms", json!({"name": "other"})).await.id();
    let contact = admin.post("/v2/contacts", json!({"profile": {"name": "Ada"}})).await.id();
    let forms = [entry("forms", "created", &own), entry("forms", "created", &other)];
    assert_eq!(summary(&all_after(&app, &admin, &starts[0], "&types=forms").await.0), forms);
    let (changes, tenant_cursor) = all_after(&app, &tenant, &starts[1], "").await;
    assert_eq!(summary(&changes), [entry("forms", "created", &own)]);
    // Agents list contacts, and no forms.
    let (changes, _) = all_after(&app, &agent, &starts[2], "").await;
    let listed: Vec<String> = summary(&changes).into_iter().map(|(kind, ..)| kind).collect();
    assert!(listed.contains(&"contacts".to_owned()), "{listed:?}");
    let is_listed = async |path: &str| agent.get(path).await.status == StatusCode::OK;
    assert_eq!(listed.contains(&"forms".to_owned()), is_listed("/v2/forms").await);
    // A type that the caller named has to be permitted; without any, the feed is not.
    for types in ["users", "users,contacts"] {
        let reply = guest.get(&format!("/v2/changes?types={types}")).await;
        assert_eq!(reply.status, guest.get("/v2/users").await.status, "{types}: {}", reply.text);
    }
    // The refusal names every list that is missing.
    for (client, path, missing) in [
        (&guest, "/v2/changes?types=users,forms", "listUsers, listForms"),
        (&guest, "/v2/changes?types=users", "listUsers"),
        (&agent, "/v2/changes?types=contacts,users,forms", "listUsers, listForms"),
    ] {
        let refused = client.get(path).await;
        refused.expect_problem(403, "forbidden");
        assert_eq!(refused.json["detail"], format!("Not authorized to perform {missing}."), "{path}");
    }
    let refused = guest.get("/v2/changes").await;
    refused.expect_problem(403, "forbidden");
    let detail = refused.json["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("Not authorized to perform any of "), "{detail}");
    for action in ["listUsers", "listForms", "listContacts", "listConversations", "listServices"] {
        assert!(detail.contains(action), "{detail}");
    }
    app.anonymous().get("/v2/changes").await.expect_problem(401, "missing_token");
    // A resource that leaves an organization is deleted for those who see that one only.
    let path = format!("/v2/forms/{own}");
    admin.patch(&path, json!({"organization": root})).await.expect(StatusCode::OK);
    let (changes, tenant_cursor) = all_after(&app, &tenant, &tenant_cursor, "").await;
    assert_eq!(summary(&changes), [entry("forms", "deleted", &own)]);
    admin.delete(&format!("/v2/contacts/{contact}")).await.expect(StatusCode::NO_CONTENT);
    admin.patch(&path, json!({"organization": organization})).await.expect(StatusCode::OK);
    let (changes, _) = all_after(&app, &tenant, &tenant_cursor, "").await;
    assert_eq!(summary(&changes), [entry("forms", "changed", &own)]);
}

#[actix_web::test]
async fn invalid_parameters_and_cursors_are_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let cursor = now(&app, &admin).await;
    for (query, field, code) in [
        ("types=", "types", "unknown_value"),
        ("types=keys", "types", "unknown_value"),
        ("types=forms,forms", "types", "duplicate"),
        ("limit=0", "limit", "out_of_range"),
        ("limit=1001", "limit", "out_of_range"),
        ("wait=61", "wait", "out_of_range"),
        ("wait=x", "wait", "invalid_format"),
        ("after=x", "after", "invalid_format"),
        (&format!("after={cursor}&after={cursor}"), "after", "duplicate"),
        ("sort=name", "sort", "unknown_field"),
    ] {
        let reply = admin.get(&format!("/v2/changes?{query}")).await;
        reply.expect_problem(400, "invalid_fields");
        assert_eq!(reply.field_errors(), [(field.to_owned(), code.to_owned())], "{query}");
    }
    // A cursor of another database.
    let other = TestApp::start().await;
    let foreign = now(&other, &other.admin().await).await;
    admin.get(&format!("/v2/changes?after={foreign}")).await.expect_problem(410, "cursor_expired");
}

#[actix_web::test]
async fn changes_are_deleted_after_their_retention_and_older_cursors_expire() {
    let app = TestApp::start_with(|config| config.changes_retention = 3_600).await;
    let admin = app.admin().await;
    let start = now(&app, &admin).await;
    for name in ["a", "b"] {
        admin.post("/v2/forms", json!({ "name": name })).await.expect(StatusCode::CREATED);
    }
    let middle = now(&app, &admin).await;
    assert_eq!(app.state.clean_up().await.unwrap().changes, 0);
    app.sql("UPDATE changes SET time = time - 3601000").await;
    let last = admin.post("/v2/forms", json!({"name": "c"})).await.id();
    settle(&app).await;
    let deleted = app.state.clean_up().await.unwrap().changes;
    assert!(deleted >= 2, "{deleted}");
    assert_eq!(app.count("SELECT COUNT(*) FROM changes").await, 1);
    admin.get(&format!("/v2/changes?after={start}")).await.expect_problem(410, "cursor_expired");
    // Nothing after this one was deleted.
    let (changes, end) = all_after(&app, &admin, &middle, "").await;
    assert_eq!(summary(&changes), [entry("forms", "created", &last)]);
    app.sql("UPDATE changes SET time = time - 3601000").await;
    settle(&app).await;
    assert_eq!(app.state.clean_up().await.unwrap().changes, 1);
    assert_eq!(all_after(&app, &admin, &end, "").await.0, [] as [Value; 0]);
    admin.get(&format!("/v2/changes?after={middle}")).await.expect_problem(410, "cursor_expired");
}

#[actix_web::test]
async fn a_waiting_request_is_answered_when_another_process_writes() {
    let app = TestApp::start().await;
    let replica = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    let mut reader = Client { base: replica.base.clone(), ..admin.clone() };
    let mut cursor = now(&app, &reader).await;
    // On SQLite, a process is not notified of others.
    let writer = if app.postgres().is_some() { admin } else { reader.clone() };
    for round in 0..5 {
        let path = format!("/v2/changes?after={cursor}&wait=20&types=forms");
        let waiting = tokio::spawn(async move { reader_get(reader.clone(), path).await });
        wait_until(async || match replica.state.change_feed.waiting() {
            0 => Err("nobody waits".to_owned()),
            _ => Ok(()),
        })
        .await;
        // One of another type does not end the wait.
        writer.post("/v2/kbitems", json!({"title": "x"})).await.expect(StatusCode::CREATED);
        let started = Instant::now();
        let form = writer.post("/v2/forms", json!({"name": format!("{round}")})).await.id();
        let (page, same_reader) = waiting.await.unwrap();
        assert_eq!(summary(page["changes"].as_array().unwrap()), [entry("forms", "created", &form)]);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        cursor = page["cursor"].as_str().unwrap().to_owned();
        reader = same_reader;
    }
    let page = reader.get(&format!("/v2/changes?after={cursor}&wait=1&types=forms")).await;
    assert_eq!(page.expect(StatusCode::OK)["changes"], json!([]));
    assert_eq!(replica.state.change_feed.waiting(), 0);
}

async fn reader_get(reader: Client, path: String) -> (Value, Client) {
    (reader.get(&path).await.expect(StatusCode::OK), reader)
}

#[actix_web::test]
async fn concurrent_writers_lose_no_change() {
    let app = TestApp::start_with(|config| config.database_connections = 8).await;
    let replica = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    let start = now(&app, &admin).await;
    let clients = [admin.clone(), Client { base: replica.base.clone(), ..admin.clone() }];
    let writers = (0..6).map(|writer| {
        let client = clients[writer % 2].clone();
        async move {
            let mut ids = Vec::new();
            for index in 0..25 {
                ids.push(client.post("/v2/forms", json!({"name": format!("{writer} {index}")})).await.id());
            }
            ids
        }
    });
    // Reads while they write, and never goes back.
    let (mut seen, mut cursor) = (Vec::new(), start);
    let mut written = Box::pin(join_all(writers));
    let ids = loop {
        let path = format!("/v2/changes?types=forms&after={cursor}&limit=7");
        tokio::select! {
            ids = &mut written => break ids.concat(),
            page = admin.get(&path) => {
                let page = page.expect(StatusCode::OK);
                seen.extend(page["changes"].as_array().unwrap().clone());
                cursor = page["cursor"].as_str().unwrap().to_owned();
            }
        }
    };
    wait_until(async || {
        let (more, end) = read_after(&admin, &cursor, "&types=forms").await;
        seen.extend(more);
        cursor = end;
        if seen.len() >= ids.len() { Ok(()) } else { Err(format!("{} of {}", seen.len(), ids.len())) }
    })
    .await;
    let seen: Vec<String> = summary(&seen).into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(seen.len(), 150);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
}

#[actix_web::test]
async fn a_transaction_that_commits_late_is_not_overtaken() {
    use sea_orm::{ConnectionTrait, TransactionTrait};
    let app = TestApp::start().await;
    if app.postgres().is_none() {
        return;
    }
    let admin = app.admin().await;
    let start = now(&app, &admin).await;
    let first = admin.post("/v2/forms", json!({"name": "A"})).await.id();
    let second = admin.post("/v2/forms", json!({"name": "B"})).await.id();
    for round in 0..5 {
        let cursor = now(&app, &admin).await;
        // Begins before, and commits after, another transaction.
        let late = sea_orm::Database::connect(app.url()).await.unwrap();
        let transaction = late.begin().await.unwrap();
        let update = format!("UPDATE forms SET name = 'late {round}' WHERE id = '{first}'");
        transaction.execute_unprepared(&update).await.unwrap();
        let patch = json!({"name": format!("early {round}")});
        admin.patch(&format!("/v2/forms/{second}"), patch).await.expect(StatusCode::OK);
        let (before, cursor) = read_after(&admin, &cursor, "").await;
        assert_eq!(summary(&before), [], "an earlier transaction has not ended");
        transaction.commit().await.unwrap();
        late.close().await.unwrap();
        let (mut seen, mut cursor) = (Vec::new(), cursor);
        wait_until(async || {
            let (more, end) = read_after(&admin, &cursor, "").await;
            seen.extend(more);
            cursor = end;
            if seen.len() >= 2 { Ok(()) } else { Err(format!("{} changes", seen.len())) }
        })
        .await;
        let expected = [entry("forms", "changed", &first), entry("forms", "changed", &second)];
        assert_eq!(summary(&seen), expected);
    }
    // All of them, from the beginning.
    assert_eq!(summary(&all_after(&app, &admin, &start, "").await.0).len(), 2);
}

#[actix_web::test]
async fn changes_of_another_postgresql_server_begin_a_new_feed() {
    let app = TestApp::start().await;
    if app.postgres().is_none() {
        return;
    }
    let admin = app.admin().await;
    let cursor = now(&app, &admin).await;
    // As if restored from a server that has had many more transactions.
    run_sql(app.url(), "UPDATE changes SET xid = xid + 1000000000000").await;
    let replica = app.start_replica(|_| ()).await;
    let reader = Client { base: replica.base.clone(), ..admin.clone() };
    reader.get(&format!("/v2/changes?after={cursor}")).await.expect_problem(410, "cursor_expired");
    let start = now(&replica, &reader).await;
    let form = reader.post("/v2/forms", json!({"name": "A"})).await.id();
    assert_eq!(summary(&all_after(&app, &reader, &start, "").await.0), [entry("forms", "created", &form)]);
}

/// Only admins list drafts.
const DRAFTS: &str = r#"
@id("drafts") @doc("Only admins list drafts.")
forbid (principal, action == Action::"listKnowledgeItems", resource is KnowledgeItem)
when { resource has status && resource.status == KnowledgeStatus::"draft" }
unless { principal in Scope::"admin" };
"#;

#[actix_web::test]
async fn rows_that_policies_take_out_of_a_list_are_not_in_the_feed() {
    let files = PolicyFiles::new();
    files.write("policies/drafts.cedar", DRAFTS);
    let app = files.serve().await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let mut cursor = now(&app, &agent).await;
    let mut ids = Vec::new();
    for status in ["draft", "published"] {
        let item = admin.post("/v2/kbitems", json!({"title": status, "status": status})).await;
        ids.push(item.id());
    }
    let mut seen = async |client: &Client| {
        let (changes, end) = all_after(&app, client, &cursor, "&types=kbitems").await;
        if client.id == agent.id {
            cursor = end;
        }
        summary(&changes)
    };
    assert_eq!(seen(&admin).await.len(), 2);
    assert_eq!(seen(&agent).await, [entry("kbitems", "created", &ids[1])]);
    // A row appears when it becomes visible, and is not reported when it no longer is.
    for (id, status) in [(&ids[0], "published"), (&ids[1], "draft")] {
        let patch = json!({ "status": status });
        admin.patch(&format!("/v2/kbitems/{id}"), patch).await.expect(StatusCode::OK);
    }
    assert_eq!(seen(&agent).await, [entry("kbitems", "changed", &ids[0])]);
    // Whether the agent saw a deleted row is unknown. The policy does not apply to the admin.
    for id in &ids {
        admin.delete(&format!("/v2/kbitems/{id}")).await.expect(StatusCode::NO_CONTENT);
    }
    assert_eq!(seen(&admin).await, ids.iter().map(|id| entry("kbitems", "deleted", id)).collect::<Vec<_>>());
    assert_eq!(seen(&agent).await, []);
}
