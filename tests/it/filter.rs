//! `POST /access/v1/filter`: policies as conditions for the database of another service, on SQLite and PostgreSQL.

use crate::authorize::user;
use crate::authzen::{entity, evaluation_request, is_permitted};
use crate::support::{Client, Database, PASSWORD, Reply, TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::{Method, StatusCode};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FILTER: &str = "/access/v1/filter";
const UCAST: &str = "application/vnd.cedargate.ucast+json";
const POSTGRES: &str = "application/vnd.cedargate.sql.postgresql+json";
const SQLITE: &str = "application/vnd.cedargate.sql.sqlite+json";

async fn start_with_documents() -> TestApp {
    TestApp::start_with(|config| {
        config.schema.push(project_file("examples/documents/schema"));
        config.policies.push(project_file("examples/documents/policies"));
    })
    .await
}

/// Starts the service with a further domain, whose files are this schema and these policies.
async fn start_with_domain(schema: &str, policies: &str) -> (TestApp, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.cedarschema"), schema).unwrap();
    std::fs::write(directory.path().join("x.cedar"), policies).unwrap();
    let app = TestApp::start_with(|config| {
        config.schema.push(directory.path().to_owned());
        config.policies.push(directory.path().to_owned());
    })
    .await;
    (app, directory)
}

async fn filter(client: &Client, accept: &str, body: Value) -> Reply {
    let headers = [("content-type", "application/json"), ("accept", accept)];
    client.send(Method::POST, FILTER, &headers, Some(body.to_string().into_bytes())).await
}

fn question(subject: Value, action: &str, kind: &str) -> Value {
    json!({ "subject": subject, "action": { "name": action }, "resource": { "type": kind } })
}

/// The columns of the table of the document store, as docs/decision-api.md shows them.
fn document_columns() -> Value {
    json!({
        "resource": "id", "resource in Docs::Folder": "folder_id", "owner": "owner_id", "state": "state",
        "readers": "readers", "readerGroups": "reader_groups", "editors": "editors", "editorGroups": "editor_groups"
    })
}

/// A document of the store: id, folder, owner, state, readers and editor groups.
type Document = (
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
    &'static [&'static str],
    &'static [&'static str],
);

const DOCUMENTS: &[Document] = &[
    ("1", None, Some("ann"), None, &[], &[]),
    ("2", None, Some("ben"), Some("draft"), &["dan", "ann"], &[]),
    ("3", None, Some("ben"), Some("final"), &["dan"], &["engineers"]),
    ("4", None, None, None, &[], &["staff"]),
    ("5", None, None, Some("final"), &[], &[]),
    ("6", Some("handbook-it"), None, None, &[], &[]),
    ("7", Some("home-of-ann"), Some("dan"), None, &[], &[]),
];

/// The table of the document store on the database of the tests.
async fn document_table() -> (Database, sea_orm::DatabaseConnection) {
    let database = Database::new().await;
    let set = if database.server.is_some() { "text[]" } else { "text" };
    let create = format!(
        "CREATE TABLE documents (id text PRIMARY KEY, folder_id text, owner_id text, state text, readers {set}, \
         reader_groups {set}, editors {set}, editor_groups {set})"
    );
    database.sql(&create).await;
    let quoted = |text: &str| format!("'{text}'");
    let nullable = |value: Option<&str>| value.map_or_else(|| "NULL".to_owned(), quoted);
    let set = |ids: &[&str]| match (ids, database.server.is_some()) {
        ([], _) => "NULL".to_owned(),
        (ids, true) => format!("ARRAY[{}]", ids.iter().map(|id| quoted(id)).collect::<Vec<_>>().join(", ")),
        (ids, false) => quoted(&json!(ids).to_string()),
    };
    for (id, folder, owner, state, readers, editor_groups) in DOCUMENTS {
        let values = [
            quoted(id),
            nullable(*folder),
            nullable(*owner),
            nullable(*state),
            set(readers),
            "NULL".into(),
            "NULL".into(),
            set(editor_groups),
        ];
        database.sql(&format!("INSERT INTO documents VALUES ({})", values.join(", "))).await;
    }
    let connection = sea_orm::Database::connect(&database.url).await.unwrap();
    (database, connection)
}

/// The ids of the rows of a table that the SQL of a filter selects, and the query.
async fn select_ids(
    connection: &sea_orm::DatabaseConnection,
    table: &str,
    answer: &Value,
) -> (BTreeSet<String>, String) {
    let sql =
        format!("SELECT id FROM {table} WHERE {} ORDER BY id", answer["filter"]["sql"].as_str().unwrap());
    let parameters = answer["filter"]["parameters"].as_array().unwrap().iter();
    let values = parameters.map(|value| sea_orm::Value::from(value.as_str().unwrap()));
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql.clone(), values);
    let rows = connection.query_all_raw(statement).await.unwrap();
    (rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect(), sql)
}

#[tokio::test]
async fn a_document_store_filters_its_own_table() {
    let app = start_with_documents().await;
    let bot = app.user(Scope::Bot).await;
    let (database, connection) = document_table().await;
    let (accept, backend) = match database.server.is_some() {
        true => (POSTGRES, DbBackend::Postgres),
        false => (SQLITE, DbBackend::Sqlite),
    };
    let mut selected_rows = 0;
    for who in ["ann", "ben", "cleo", "dan", "eve", "unknown"] {
        for action in ["read", "edit", "share", "delete"] {
            let mut body = question(entity("Docs::Person", who), action, "Docs::Document");
            body["columns"] = document_columns();
            let reply = filter(&bot, accept, body).await;
            assert_eq!(reply.header("content-type"), accept);
            assert_eq!(reply.header("vary"), "Accept");
            let answer = reply.expect(StatusCode::OK);
            let (selected, sql) = select_ids(&connection, "documents", &answer).await;
            for (id, folder, owner, state, readers, editor_groups) in DOCUMENTS {
                let mut properties = json!({});
                if let Some(owner) = owner {
                    properties["owner"] = json!({ "type": "Docs::Person", "id": owner });
                }
                if let Some(state) = state {
                    properties["state"] = json!(state);
                }
                let set = |kind: &str, ids: &[&str]| {
                    ids.iter().map(|id| json!({ "type": kind, "id": id })).collect::<Value>()
                };
                if !readers.is_empty() {
                    properties["readers"] = set("Docs::Person", readers);
                }
                if !editor_groups.is_empty() {
                    properties["editorGroups"] = set("Docs::Group", editor_groups);
                }
                let document = json!({ "type": "Docs::Document", "id": id, "properties": properties });
                let by_attributes =
                    is_permitted(&bot, evaluation_request(entity("Docs::Person", who), action, document))
                        .await;
                // A question cannot say in which folder a document is.
                let by_folder = match folder {
                    Some("handbook-it") => action == "read" && ["ann", "ben", "cleo"].contains(&who),
                    Some("home-of-ann") => who == "ann",
                    _ => false,
                };
                assert_eq!(selected.contains(*id), by_attributes || by_folder, "{who} {action} {id}: {sql}");
            }
            selected_rows += selected.len();
        }
    }
    println!(
        "24 filters of {} documents on {backend:?} select {selected_rows} rows as evaluations do",
        DOCUMENTS.len()
    );
    assert!(selected_rows > 20);
}

#[tokio::test]
async fn a_filter_has_three_kinds_and_names_its_policy_version() {
    let app = start_with_documents().await;
    let bot = app.user(Scope::Bot).await;
    let ask = async |who: &str, action: &str| {
        filter(&bot, "*/*", question(entity("Docs::Person", who), action, "Docs::Document")).await
    };
    let never = ask("eve", "read").await;
    let version = never.header("x-policy-version").to_owned();
    let never = never.expect(StatusCode::OK);
    assert_eq!((&never["kind"], &never["filter"]), (&json!("never"), &Value::Null));
    assert_eq!(never["policyVersion"], version.as_str());
    assert_eq!(never["evaluation_id"].as_str().unwrap().len(), 32);
    let unknown = filter(&bot, "*/*", question(user("599e1fcd9da1c72645c95899"), "fetchForm", "Form")).await;
    assert_eq!(unknown.expect(StatusCode::OK)["kind"], "never");
    let when = ask("zoe", "edit").await.expect(StatusCode::OK);
    assert_eq!(when["kind"], "when");
    let text = when["filter"].to_string();
    for part in [r#""path":["owner"]"#, r#"{"type":"Docs::Person","id":"zoe"}"#, r#"{"value":"final"}"#] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (app, _directory) = start_with_domain(
        "namespace X { entity Person; entity Thing; action see appliesTo { principal: Person, resource: Thing }; }",
        "@id(\"x.see\") @doc(\"d\") permit (principal, action == X::Action::\"see\", resource);",
    )
    .await;
    let bot = app.user(Scope::Bot).await;
    let body = question(entity("X::Person", "1"), "see", "X::Thing");
    let always = filter(&bot, "application/json", body.clone()).await.expect(StatusCode::OK);
    assert_eq!((&always["kind"], &always["filter"]), (&json!("always"), &Value::Null));
    let sql = filter(&bot, SQLITE, body).await.expect(StatusCode::OK);
    assert_eq!(sql["filter"], json!({ "dialect": "sqlite", "sql": "1 = 1", "parameters": [] }));
}

#[tokio::test]
async fn own_resources_are_filtered_by_organization() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (organization, acme) = app.tenant("Acme").await;
    let home =
        acme.get("/v2/users/me").await.expect(StatusCode::OK)["organization"].as_str().unwrap().to_owned();
    assert_eq!(home, organization);
    let answer = filter(&acme, "*/*", question(user("me"), "fetchForm", "Form")).await.expect(StatusCode::OK);
    let expected = json!({
        "type": "in", "entity": { "path": [] }, "entities": [{ "type": "Organization", "id": organization }]
    });
    assert_eq!((&answer["kind"], &answer["filter"]), (&json!("when"), &expected));
    // The caller's own user, besides the users that its scopes permit.
    let guest = app.user(Scope::Guest).await;
    let answer =
        filter(&guest, "*/*", question(user("me"), "fetchUser", "User")).await.expect(StatusCode::OK);
    assert!(answer["filter"].to_string().contains(&guest.id), "{answer}");
    // Nobody lists rows but within a list.
    let rows = filter(&admin, "*/*", question(user("me"), "listForms", "Form")).await.expect(StatusCode::OK);
    assert_eq!(rows["kind"], "never");
}

#[tokio::test]
async fn a_filter_of_own_resources_contains_all_organizations_below_those_that_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let policy = "@id(\"own.tree\") @doc(\"d\") forbid (principal, action == Action::\"deleteForm\", resource) \
                  when { principal has email && resource in principal.organization && principal in Scope::\"admin\" };";
    std::fs::write(directory.path().join("own.cedar"), policy).unwrap();
    let app = TestApp::start_with(|config| config.policies.push(directory.path().to_owned())).await;
    let admin = app.admin().await;
    let (_, acme) = app.tenant("Acme").await;
    let (_, other) = app.tenant("Other").await;
    let below = acme.post("/v2/organizations", json!({ "name": "Below" })).await;
    let below = below.expect(StatusCode::CREATED)["id"].clone();
    let mut users = vec![admin.id.clone(), acme.id.clone(), other.id.clone()];
    for (client, role, organization) in [(&acme, "agent", Value::Null), (&acme, "admin", below.clone())] {
        let email = format!("{role}@below.example");
        let body =
            json!({ "email": email, "password": PASSWORD, "role": role, "organization": organization });
        let user = client.post("/v2/users", body).await.expect(StatusCode::CREATED);
        users.push(user["id"].as_str().unwrap().to_owned());
    }
    for (client, organization) in
        [(&admin, Value::Null), (&acme, Value::Null), (&acme, below), (&other, Value::Null)]
    {
        for name in ["a", "b"] {
            let body = json!({ "name": name, "organization": organization });
            client.post("/v2/forms", body).await.expect(StatusCode::CREATED);
        }
    }
    let connection = sea_orm::Database::connect(app.url()).await.unwrap();
    let backend = connection.get_database_backend();
    let accept = if backend == DbBackend::Postgres { POSTGRES } else { SQLITE };
    let mut counts = BTreeSet::new();
    for (caller, subjects) in [(&admin, users.as_slice()), (&acme, &users[1..2]), (&other, &users[2..3])] {
        for (subject, action) in subjects.iter().flat_map(|id| [(id, "fetchForm"), (id, "deleteForm")]) {
            let mut body = question(user(subject), action, "Form");
            let found = caller.post("/access/v1/search/resource", body.clone()).await.expect(StatusCode::OK);
            let found = found["results"].as_array().unwrap().iter();
            let found: BTreeSet<String> = found.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
            body["columns"] = json!({ "resource": "id", "resource in Organization": "organization" });
            let answer = filter(caller, accept, body.clone()).await.expect(StatusCode::OK);
            let (selected, sql) = select_ids(&connection, "forms", &answer).await;
            assert_eq!(selected, found, "{action} by {subject}: {sql}");
            counts.insert(selected.len());
            let ucast = filter(caller, UCAST, body).await.expect(StatusCode::OK);
            assert_eq!(ucast["kind"], answer["kind"]);
        }
    }
    assert_eq!(counts, BTreeSet::from([0, 2, 4, 8]));
}

#[tokio::test]
async fn the_form_is_negotiated() {
    let app = start_with_documents().await;
    let bot = app.user(Scope::Bot).await;
    let mut body = question(entity("Docs::Person", "dan"), "read", "Docs::Document");
    body["columns"] = document_columns();
    let ucast = filter(&bot, &format!("text/html, */*;q=0.1, {UCAST};q=0.9"), body.clone()).await;
    assert_eq!(ucast.header("content-type"), UCAST);
    let ucast = ucast.expect(StatusCode::OK);
    let owned = json!({ "type": "field", "operator": "eq", "field": "owner_id", "value": "dan" });
    assert!(ucast["filter"].to_string().contains(&owned.to_string()), "{ucast}");
    assert_eq!(
        filter(&bot, "application/xml", body.clone()).await.expect_problem(406, "not_acceptable"),
        Vec::<String>::new()
    );
    body["columns"] = json!({ "owner": "owner_id" });
    let missing = filter(&bot, POSTGRES, body.clone()).await;
    assert!(missing.expect_problem(422, "missing_columns").contains(&"columns.readers".to_owned()));
    for name in ["owner\"; DROP TABLE documents; --", "", "a.b.c.d", "1a", &"a".repeat(64)] {
        body["columns"] = json!({ "owner": name });
        let reply = filter(&bot, POSTGRES, body.clone()).await;
        reply.expect_problem(400, "invalid_fields");
        assert_eq!(
            reply.field_errors(),
            [("columns.owner".to_owned(), "invalid_format".to_owned())],
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_translated_is_named() {
    let (app, _directory) = start_with_domain(
        "namespace X { entity Person; entity Thing = { size: Long, address?: ipaddr } tags String;
         action see, near appliesTo { principal: Person, resource: Thing }; }",
        "@id(\"x.tag\") @doc(\"d\") permit (principal, action == X::Action::\"see\", resource)
           when { resource.hasTag(\"open\") };
         @id(\"x.square\") @doc(\"d\") forbid (principal, action == X::Action::\"see\", resource)
           when { resource.size * 2 > 10 };
         @id(\"x.near\") @doc(\"d\") permit (principal, action == X::Action::\"near\", resource)
           when { resource has address && resource.address.isInRange(ip(\"10.0.0.0/8\")) };",
    )
    .await;
    let bot = app.user(Scope::Bot).await;
    let refused = filter(&bot, "*/*", question(entity("X::Person", "1"), "see", "X::Thing")).await;
    assert_eq!(refused.expect_problem(422, "untranslatable"), ["policies.x.square", "policies.x.tag"]);
    let messages = refused.json["errors"].to_string();
    assert!(messages.contains("resource.size * 2") && messages.contains("hasTag"), "{messages}");
    let mut near = question(entity("X::Person", "1"), "near", "X::Thing");
    near["columns"] = json!({ "address": "address" });
    filter(&bot, SQLITE, near.clone()).await.expect_problem(422, "unsupported_filter");
    let sql = filter(&bot, POSTGRES, near).await.expect(StatusCode::OK);
    assert_eq!(sql["filter"]["sql"], r#"("address" <<= CAST(CAST($1 AS text) AS inet))"#);
}

#[tokio::test]
async fn a_filter_is_authorized_and_recorded_like_an_evaluation() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("decisions");
    let app = TestApp::start_with(|config| {
        config.schema.push(project_file("examples/documents/schema"));
        config.policies.push(project_file("examples/documents/policies"));
        config.decision_log = DecisionLogFilter::All;
        config.decision_log_path = file.display().to_string();
    })
    .await;
    let bot = app.user(Scope::Bot).await;
    let guest = app.user(Scope::Guest).await;
    let body = question(entity("Docs::Person", "dan"), "read", "Docs::Document");
    filter(&guest, "*/*", body.clone()).await.expect_problem(403, "forbidden");
    filter(&app.anonymous(), "*/*", body.clone()).await.expect_problem(401, "missing_token");
    let wrong = filter(&bot, "*/*", question(entity("Docs::Person", "dan"), "raed", "Docs::Document")).await;
    wrong.expect_problem(400, "invalid_fields");
    let answer = filter(&bot, "*/*", body).await.expect(StatusCode::OK);
    app.state.decision_log.close();
    let log = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["evaluation_id"] == answer["evaluation_id"]).unwrap();
    assert_eq!(line["purpose"], "filter");
    assert_eq!(line["resource"], json!({ "type": "Docs::Document", "id": "" }));
    assert_eq!((&line["decision"], &line["inputs"]), (&json!(true), &Value::Null));
    let metadata = app.anonymous().get("/.well-known/authzen-configuration").await.expect(StatusCode::OK);
    assert!(metadata["filter_endpoint"].as_str().unwrap().ends_with(FILTER));
    assert!(metadata["filter_media_types"].as_array().unwrap().contains(&json!(UCAST)));
}
