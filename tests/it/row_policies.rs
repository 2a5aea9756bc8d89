//! Policies that take rows out of lists: pages, totals, orders, nested lists and searches.

use crate::authorize::user;
use crate::authzen::{evaluation_request, is_permitted};
use crate::authzen_search::{RESOURCE_SEARCH, search};
use crate::lists::{column, fetch_all_pages, query};
use crate::reload::PolicyFiles;
use crate::resources::create_resource;
use crate::support::{Client, TestApp, project_file};
use cedargate::authz::{Bundle, Rule, Scope, Sources, StoredType};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const DRAFTS: &str = r#"
@id("drafts") @doc("Only admins list drafts.")
forbid (principal, action == Action::"listKnowledgeItems", resource is KnowledgeItem)
when { resource has status && resource.status == KnowledgeStatus::"draft" }
unless { principal in Scope::"admin" };

@id("notes") @doc("Only admins list internal notes.")
forbid (principal, action == Action::"listMessages", resource)
when { resource is Message && resource has isBackchannel && resource.isBackchannel }
unless { principal in Scope::"admin" };

@id("secrets") @doc("Only admins fetch secret conversations.")
forbid (principal, action in [Action::"fetchConversation", Action::"listConversations"], resource is Conversation)
when { resource has category && resource.category like "secret*" }
unless { principal in Scope::"admin" };

@id("even") @doc("No filter states this condition.")
forbid (principal, action == Action::"fetchOrganization", resource)
when { resource has level && resource.level * 2 == 2 }
unless { principal in Scope::"admin" };
"#;

/// Starts the service with policies about rows.
async fn start() -> TestApp {
    let files = PolicyFiles::new();
    files.write("policies/rows.cedar", DRAFTS);
    files.serve().await
}

async fn create_item(client: &Client, title: &str, status: &str) {
    create_resource(client, "/v2/kbitems", json!({ "title": title, "status": status, "kbase": title })).await;
}

/// Status, body and total of a list, and its link.
async fn answer(client: &Client, path: &str) -> (StatusCode, Value, String, String) {
    let reply = client.get(path).await;
    (
        reply.status,
        reply.json.clone(),
        reply.header("x-total-count").to_owned(),
        reply.header("link").to_owned(),
    )
}

#[tokio::test]
async fn a_list_has_no_rows_that_a_policy_forbids() {
    let app = start().await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    for (title, status) in
        [("a", "draft"), ("b", "published"), ("c", "draft"), ("d", "archived"), ("e", "published")]
    {
        create_item(&admin, title, status).await;
        app.clock.advance(1000);
    }
    for (client, expected) in [(&admin, "a b c d e"), (&agent, "b d e")] {
        let list = client.get("/v2/kbitems?sort=title").await;
        assert_eq!(list.header("x-total-count"), expected.split(' ').count().to_string());
        assert_eq!(column(&list.expect(StatusCode::OK), "title").join(" "), expected);
        // By cursor and by offset, in both directions.
        for path in ["/v2/kbitems?limit=1", "/v2/kbitems?limit=2&sort=title", "/v2/kbitems?limit=1&offset=0"]
        {
            let pages = fetch_all_pages(client, path).await;
            let titles: Vec<String> = pages.iter().flat_map(|page| column(page, "title")).collect();
            assert_eq!(titles.join(" "), expected, "{path}");
            let limit = if path.contains("limit=2") { 2 } else { 1 };
            assert!(pages.iter().rev().skip(1).all(|page| page.as_array().unwrap().len() == limit), "{path}");
        }
        let last = client.get("/v2/kbitems?sort=-title&limit=1").await.expect(StatusCode::OK);
        assert_eq!(column(&last, "title"), ["e"]);
    }
    let drafts = agent.get("/v2/kbitems?status=draft").await;
    assert_eq!(drafts.header("x-total-count"), "0");
    assert_eq!(drafts.expect(StatusCode::OK), json!([]));
    // An organization without a visible row has an empty list.
    let (tenant, tenant_admin) = app.tenant("hidden").await;
    create_item(&tenant_admin, "x", "draft").await;
    let body = json!({ "email": "bot@hidden.example", "password": crate::support::PASSWORD, "role": "bot",
                       "organization": tenant });
    tenant_admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
    let bot = app.client("bot@hidden.example").await;
    assert_eq!(bot.get("/v2/kbitems").await.expect(StatusCode::OK), json!([]));
}

#[tokio::test]
async fn a_condition_on_the_organization_is_tested_on_each_row() {
    let files = PolicyFiles::new();
    let own = r#"
        @id("own") @doc("Contacts are listed by users of their own organization only.")
        forbid (principal, action == Action::"listContacts", resource is Contact)
        unless { resource.organization == principal.organization };
    "#;
    files.write("policies/rows.cedar", own);
    let app = files.serve().await;
    let (root, (organization, tenant)) = (app.admin().await, app.tenant("acme").await);
    for (client, name) in [(&root, "root"), (&tenant, "acme")] {
        create_resource(client, "/v2/contacts", json!({ "profile": { "name": name } })).await;
    }
    // The root may list both organizations, each on its own and together.
    let below = format!("/v2/contacts?organization={organization}");
    for (client, path, expected) in [
        (&root, "/v2/contacts", vec!["root"]),
        (&root, &below, vec![]),
        (&tenant, "/v2/contacts", vec!["acme"]),
        (&tenant, &below, vec!["acme"]),
    ] {
        let list = client.get(path).await;
        assert_eq!(list.header("x-total-count"), expected.len().to_string(), "{path}");
        let list = list.expect(StatusCode::OK);
        let names =
            list.as_array().unwrap().iter().map(|contact| contact["profile"]["name"].as_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), expected, "{path}");
    }
    // Bulk requests match what the list contains.
    let filter = "/v2/contacts?id=!null&dryRun=true";
    let dry_run = root.call(Method::DELETE, filter, None).await.expect(StatusCode::OK);
    assert_eq!(dry_run["count"], 1, "{dry_run}");
}

#[tokio::test]
async fn rows_that_are_not_visible_change_no_answer() {
    let app = start().await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    for (title, status) in [("m", "published"), ("k", "archived"), ("z", "published"), ("K", "archived")] {
        create_item(&admin, title, status).await;
        app.clock.advance(1000);
    }
    let cursor = agent.get("/v2/kbitems?limit=1&sort=kbase").await.header("link").to_owned();
    let cursor = cursor.split("after=").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let mut paths: Vec<String> = [
        "/v2/kbitems",
        "/v2/kbitems?sort=-title",
        "/v2/kbitems?sort=kbase,-createdAt&limit=2",
        "/v2/kbitems?limit=2&offset=1&sort=title",
        "/v2/kbitems?limit=4",
        "/v2/kbitems?total=false&limit=4",
        "/v2/kbitems?select=title&include=permissions",
        "/v2/kbitems?populate=organization",
    ]
    .map(str::to_owned)
    .into();
    for (name, value) in [
        ("title", "l"),
        ("title", "~L"),
        ("title", "^l"),
        ("title", ">k"),
        ("title", "!l"),
        ("title", "[l,m]"),
        ("status", "draft"),
        ("status", "!draft"),
        ("status", "[draft,published]"),
        ("meta.secret", "1"),
        ("meta.secret", "!null"),
        ("createdAt", ">2026-01-31"),
    ] {
        paths.push(query("/v2/kbitems", &[(name, value)]));
        paths.push(query("/v2/kbitems", &[(name, value), ("sort", "-title"), ("limit", "1")]));
    }
    paths.push(format!("/v2/kbitems?limit=1&sort=kbase&after={cursor}"));
    let mut before = Vec::new();
    for path in &paths {
        before.push(answer(&agent, path).await);
    }
    for title in ["a", "l", "L", "zz"] {
        let body = json!({ "title": title, "status": "draft", "kbase": title, "meta": { "secret": "1" } });
        create_resource(&admin, "/v2/kbitems", body).await;
    }
    for (path, before) in paths.iter().zip(&before) {
        assert_eq!(&answer(&agent, path).await, before, "{path}");
        assert_ne!(answer(&admin, path).await.0, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    assert_eq!(admin.get("/v2/kbitems").await.header("x-total-count"), "8");
}

#[tokio::test]
async fn the_messages_of_a_conversation_are_filtered_as_all_messages_are() {
    let app = start().await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    let messages = json!([
        { "text": "one" }, { "text": "note", "isBackchannel": true }, { "text": "two" }
    ]);
    let conversation = admin.post("/v2/conversations", json!({ "messages": messages })).await.id();
    let nested = format!("/v2/conversations/{conversation}/messages");
    for path in [nested.clone(), format!("/v2/messages?conversation={conversation}")] {
        for (client, expected) in [(&admin, "one note two"), (&bot, "one two")] {
            let list = client.get(&path).await;
            assert_eq!(list.header("x-total-count"), expected.split(' ').count().to_string(), "{path}");
            let mut texts = column(&list.expect(StatusCode::OK), "text");
            texts.sort_by_key(|text| expected.find(text.as_str()));
            assert_eq!(texts.join(" "), expected, "{path}");
        }
    }
    let populated = bot.get(&format!("{nested}?populate=conversation,user&include=permissions")).await;
    let populated = populated.expect(StatusCode::OK);
    assert_eq!(column(&populated, "text").len(), 2);
    assert!(populated[0]["conversation"]["participants"].is_array(), "{populated}");
    assert!(!populated.to_string().contains("note"), "{populated}");
    // A query for the note, by any of its values.
    for filter in ["text=note", "isBackchannel=true", "text=~NOTE"] {
        let found = bot.get(&format!("{nested}?{filter}")).await;
        assert_eq!((found.header("x-total-count"), &found.json), ("0", &json!([])), "{filter}");
    }
}

#[tokio::test]
async fn populate_inserts_no_resource_that_a_policy_forbids_to_fetch() {
    let app = start().await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    for category in ["secret plan", "open"] {
        let body = json!({ "category": category, "messages": [{ "text": category }] });
        admin.post("/v2/conversations", body).await.expect(StatusCode::CREATED);
    }
    let list = bot.get("/v2/messages?populate=conversation&sort=text").await.expect(StatusCode::OK);
    let conversations: Vec<bool> =
        list.as_array().unwrap().iter().map(|message| message["conversation"].is_object()).collect();
    assert_eq!(
        (column(&list, "text").join(","), conversations),
        ("open,secret plan".to_owned(), vec![true, false])
    );
    assert_eq!(bot.get("/v2/conversations").await.header("x-total-count"), "1");
}

#[tokio::test]
async fn a_search_agrees_with_evaluation_whether_or_not_its_policies_are_a_filter() {
    let app = start().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let (mut conversations, mut organizations) = (Vec::new(), Vec::new());
    for name in ["one", "two"] {
        let (organization, tenant_admin) = app.tenant(name).await;
        let body = json!({ "name": "below", "parent": organization });
        organizations.push(tenant_admin.post("/v2/organizations", body).await.id());
        organizations.push(organization);
        for category in [json!("secret"), json!("open"), json!(null), json!("SECRET"), json!("secrets")] {
            let body = json!({ "category": category });
            conversations.push(tenant_admin.post("/v2/conversations", body).await.id());
        }
    }
    organizations.push(crate::authorize::home_organization(&admin).await);
    for (kind, action, all) in [
        ("Conversation", "fetchConversation", &conversations),
        ("Organization", "fetchOrganization", &organizations),
    ] {
        for subject in [&admin.id, &bot.id] {
            let question =
                |id: &str| evaluation_request(user(subject), action, json!({ "type": kind, "id": id }));
            let mut expected = BTreeSet::new();
            for id in all {
                if is_permitted(&admin, question(id)).await {
                    expected.insert(id.clone());
                }
            }
            let is_filtered = *subject == bot.id;
            assert_eq!(expected.len() < all.len(), is_filtered, "{kind}");
            let mut pages = question("");
            pages["resource"] = json!({ "type": kind });
            for limit in [1, 2, 100] {
                pages["page"] = json!({ "limit": limit });
                assert_eq!(search(&admin, RESOURCE_SEARCH, pages.clone()).await, expected, "{kind} {limit}");
            }
        }
    }
}

/// The bundle of the shipped policies and these ones, or the rules and texts of its errors.
fn load(text: &str) -> Result<Bundle, Vec<(Rule, String)>> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rows.cedar"), text).unwrap();
    let sources = Sources {
        schema: vec![project_file("schema")],
        policies: vec![project_file("policies"), directory.path().to_owned()],
        stored: cedargate::api::resource_types().iter().map(StoredType::from).collect(),
    };
    Bundle::read(&sources)
        .map_err(|errors| errors.0.into_iter().map(|error| (error.rule, error.to_string())).collect())
}

#[test]
fn a_policy_of_a_list_that_no_condition_on_rows_states_is_not_loaded() {
    let policy = |action: &str, condition: &str| {
        format!(
            "@id(\"rows\") @doc(\"-\")\nforbid (principal, action == Action::\"{action}\", resource)\nwhen {{ {condition} }};"
        )
    };
    let record = "{ it: resource.organization } == { it: principal.organization }";
    let errors = load(&policy("listMessages", record)).unwrap_err();
    let [(Rule::RowPolicy, message)] = errors.as_slice() else { panic!("{errors:?}") };
    assert!(
        message.contains("rows.cedar:1:") && message.contains("Message cannot be filtered by"),
        "{message}"
    );
    // It cannot be reached by a request without a scope above guest, and is refused all the same.
    let guarded = format!("principal in Scope::\"admin\" && {record}");
    assert_eq!(load(&policy("listForms", &guarded)).unwrap_err()[0].0, Rule::RowPolicy);
    // Other actions evaluate each resource.
    load(&policy("fetchMessage", record)).unwrap();
    load(&policy("listOrganizations", record)).unwrap();
    // A condition on the organization that the type of the rows makes impossible.
    load(&policy("listMessages", "resource has level && resource.level * 2 == 2")).unwrap();
}

#[test]
fn a_permit_of_rows_is_reported() {
    let permit = r#"@id("rows") @doc("-")
        permit (principal, action == Action::"listForms", resource is Form);"#;
    let bundle = load(permit).unwrap();
    let rules: Vec<Rule> = bundle.warnings().iter().map(|warning| warning.rule).collect();
    assert_eq!(rules, [Rule::RowPermit]);
}
