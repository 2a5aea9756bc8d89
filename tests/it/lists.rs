//! Lists: filters, sort orders, projections and paging.

use crate::resources::{UNKNOWN_ID, create_resource, fields, resource_specs};
use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};

/// Parameters of a query string.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// A path with these query parameters.
pub(crate) fn query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://host").unwrap().join(path).unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    format!("{}?{}", url.path(), url.query().unwrap())
}

/// The target of `Link: <…>; rel="next"`.
pub(crate) fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link");
    if link.is_empty() {
        return None;
    }
    let address = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
    Some(address.unwrap_or_else(|| panic!("{link}")).to_owned())
}

pub(crate) fn column(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().unwrap_or_else(|| panic!("{list} is not a bare array"));
    items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

/// All pages, by following the `next` links.
pub(crate) async fn fetch_all_pages(client: &Client, path: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut next_path = Some(path.to_owned());
    while let Some(path) = next_path {
        let reply = client.get(&path).await;
        next_path = next(&reply).map(|address| {
            address
                .strip_prefix(&client.base)
                .unwrap_or_else(|| panic!("{address} is on another server"))
                .to_owned()
        });
        pages.push(reply.expect(StatusCode::OK));
        assert!(pages.len() < 100, "the links form a cycle");
    }
    pages
}

async fn create_messages(client: &Client, conversation: &str, texts: &[String]) {
    let body: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
    let path = format!("/v2/conversations/{conversation}/messages");
    client.post(&path, json!(body)).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_list_is_a_json_array_with_a_count_header() {
    let app = TestApp::start().await;
    let (_, admin) = app.tenant("acme").await;
    for kind in resource_specs(&admin).await {
        let before: usize = admin.get(kind.path).await.header("x-total-count").parse().unwrap();
        let created = [
            create_resource(&admin, kind.path, kind.minimal).await,
            create_resource(&admin, kind.path, kind.full).await,
        ];
        let list = admin.get(kind.path).await;
        assert_eq!(list.header("x-total-count"), (before + 2).to_string(), "{}", kind.path);
        assert_eq!(list.header("link"), "", "{}", kind.path);
        let ids = column(&list.expect(StatusCode::OK), "id");
        assert_eq!(ids.len(), before + 2);
        assert!(created.iter().all(|id| ids.contains(id)), "{}", kind.path);
    }
}

#[tokio::test]
async fn a_list_has_100_items_by_default_and_at_most_1000() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let texts: Vec<String> = (0..1000).map(|index| format!("{index}")).collect();
    create_messages(&admin, &conversation, &texts).await;
    create_messages(&admin, &conversation, &texts[..1]).await;
    for (path, length) in [
        ("/v2/messages", 100),
        ("/v2/messages?limit=1", 1),
        ("/v2/messages?limit=1000", 1000),
        ("/v2/messages?limit=1000&offset=1000", 1),
        ("/v2/messages?offset=1001", 0),
        ("/v2/messages?offset=9223372036854775807", 0),
    ] {
        let list = admin.get(path).await;
        assert_eq!(list.header("x-total-count"), "1001", "{path}");
        assert_eq!(list.expect(StatusCode::OK).as_array().unwrap().len(), length, "{path}");
    }
    for (path, field) in [
        ("/v2/messages?limit=0", "limit"),
        ("/v2/messages?limit=1001", "limit"),
        ("/v2/messages?limit=-1", "limit"),
        ("/v2/messages?limit=1.5", "limit"),
        ("/v2/messages?limit=", "limit"),
        ("/v2/messages?limit=ten", "limit"),
        ("/v2/messages?limit=99999999999999999999999", "limit"),
        ("/v2/messages?offset=-1", "offset"),
        ("/v2/messages?offset=x", "offset"),
        ("/v2/messages?offset=99999999999999999999999", "offset"),
    ] {
        assert_eq!(admin.get(path).await.expect_problem(400, "invalid_fields"), [field], "{path}");
    }
}

#[tokio::test]
async fn following_the_links_visits_every_item_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    let other = create_resource(&admin, "/v2/conversations", json!({})).await;
    // Every text occurs three times, so that the sort key alone does not determine the order.
    let texts: Vec<String> = (0..33).map(|index| format!("text {:02}", index % 11)).collect();
    create_messages(&admin, &conversation, &texts).await;
    create_messages(&admin, &other, &texts).await;
    for sort in ["text", "-text", "createdAt", "type,-text", "-id", "id"] {
        let pairs = [("conversation", conversation.as_str()), ("sort", sort), ("limit", "5")];
        let pages = fetch_all_pages(&admin, &query("/v2/messages", &pairs)).await;
        let lengths: Vec<usize> = pages.iter().map(|page| page.as_array().unwrap().len()).collect();
        assert_eq!(lengths, [5, 5, 5, 5, 5, 5, 3], "{sort}");
        let mut ids: Vec<String> = pages.iter().flat_map(|page| column(page, "id")).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 33, "{sort}");
        let found: Vec<String> = pages.iter().flat_map(|page| column(page, "text")).collect();
        let mut sorted = found.clone();
        sorted.sort();
        match sort {
            "text" => assert_eq!(found, sorted),
            "-text" | "type,-text" => assert_eq!(found, sorted.into_iter().rev().collect::<Vec<_>>()),
            _ => {}
        }
    }
    // A full last page is not followed by an empty one.
    let pages =
        fetch_all_pages(&admin, &query("/v2/messages", &[("conversation", &other), ("limit", "11")])).await;
    assert_eq!(pages.len(), 3);
}

#[tokio::test]
async fn the_next_link_keeps_every_filter() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let category = "a&b=c #d+e%20 \"ä\"; <f>, g";
    for name in ["1", "2", "3"] {
        create_resource(
            &admin,
            "/v2/conversations",
            json!({ "name": name, "category": category, "meta": { "k": "&" } }),
        )
        .await;
        create_resource(&admin, "/v2/conversations", json!({ "name": name })).await;
    }
    let pairs = [("category", category), ("meta", r#"{"k":"&"}"#), ("sort", "-name"), ("limit", "2")];
    let first = admin.get(&query("/v2/conversations", &pairs)).await;
    let address = Url::parse(&next(&first).unwrap()).unwrap();
    let parameters: Vec<(String, String)> = address.query_pairs().into_owned().collect();
    for (name, value) in &pairs {
        assert_eq!(
            parameters.iter().filter(|pair| (pair.0.as_str(), pair.1.as_str()) == (*name, *value)).count(),
            1
        );
    }
    assert_eq!(parameters.len(), pairs.len() + 1, "{address}");
    // A cursor by default, and an offset if the request has one.
    assert!(parameters.iter().any(|(name, _)| name == "after"), "{address}");
    let by_offset = admin.get(&query("/v2/conversations", &[&pairs[..], &[("offset", "0")]].concat())).await;
    let address = next(&by_offset).unwrap();
    assert!(address.contains("offset=2") && !address.contains("after"), "{address}");
    let pages = fetch_all_pages(&admin, &query("/v2/conversations", &pairs)).await;
    let names: Vec<String> = pages.iter().flat_map(|page| column(page, "name")).collect();
    assert_eq!(names, ["3", "2", "1"]);
}

#[tokio::test]
async fn the_next_link_uses_the_public_url() {
    let app =
        TestApp::start_with(|config| config.public_url = Some("https://api.example.com/gate/".into())).await;
    let admin = app.admin().await;
    for name in ["1", "2"] {
        create_resource(&admin, "/v2/forms", json!({ "name": name })).await;
    }
    let link = next(&admin.get("/v2/forms?limit=1&sort=name").await).unwrap();
    assert!(link.starts_with("https://api.example.com/gate/v2/forms?"), "{link}");
    let aliased = TestApp::start().await;
    let admin = aliased.admin().await;
    for title in ["1", "2"] {
        create_resource(&admin, "/v2/kbitems", json!({ "title": title })).await;
    }
    let link = next(&admin.get("/v2/knowledge-items?limit=1").await).unwrap();
    assert!(link.starts_with(&format!("{}/v2/knowledge-items?", aliased.base)), "{link}");
}

#[tokio::test]
async fn a_list_can_be_sorted_by_several_fields() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (name, kind) in [("b", "x"), ("a", "y"), ("a", "x"), ("c", "x"), ("b", "y")] {
        create_resource(&admin, "/v2/services", json!({ "name": name, "type": kind })).await;
        app.clock.advance(1);
    }
    for (sort, expected) in [
        ("name,type", "ax ay bx by cx"),
        ("name,-type", "ay ax by bx cx"),
        ("-name,type", "cx bx by ax ay"),
        ("-type,-name", "by ay cx bx ax"),
        // By creation time, which also breaks ties.
        ("createdAt", "bx ay ax cx by"),
        ("-createdAt", "by cx ax ay bx"),
        ("name", "ay ax bx by cx"),
        ("-type", "ay by bx ax cx"),
    ] {
        let list = admin.get(&query("/v2/services", &[("sort", sort)])).await.expect(StatusCode::OK);
        let found: Vec<String> = column(&list, "name")
            .into_iter()
            .zip(column(&list, "type"))
            .map(|(name, kind)| format!("{name}{kind}"))
            .collect();
        assert_eq!(found.join(" "), expected, "{sort}");
    }
    let unsorted = admin.get("/v2/services").await.expect(StatusCode::OK);
    assert_eq!(column(&unsorted, "name"), ["b", "a", "a", "c", "b"]);
    for sort in [
        "",
        "nome",
        "name,",
        "name,,type",
        "--name",
        "name;type",
        "organization.path",
        "password",
        "created_at",
    ] {
        let refused = admin.get(&query("/v2/services", &[("sort", sort)])).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["sort"], "{sort}");
    }
}

/// A field of a resource as a query parameter.
fn as_parameter(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[tokio::test]
async fn every_field_can_be_filtered_and_sorted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for kind in resource_specs(&admin).await {
        create_resource(&admin, kind.path, kind.minimal).await;
        app.clock.advance(60_000);
        let id = create_resource(&admin, kind.path, kind.full).await;
        app.clock.advance(60_000);
        let resource = admin.patch(&format!("{}/{id}", kind.path), kind.patch).await.expect(StatusCode::OK);
        let all = admin.get(kind.path).await.expect(StatusCode::OK);
        for (field, value) in fields(&resource) {
            let sorted = admin.get(&query(kind.path, &[("sort", field)])).await;
            if value.is_object() || value.is_array() {
                assert_eq!(sorted.expect_problem(400, "invalid_fields"), ["sort"]);
            } else {
                let sorted = sorted.expect(StatusCode::OK);
                assert_eq!(sorted.as_array().unwrap().len(), all.as_array().unwrap().len());
            }
            if value.is_null() {
                continue;
            }
            let filtered = admin.get(&query(kind.path, &[(field, &as_parameter(value))])).await;
            let total = filtered.header("x-total-count").to_owned();
            let mut filtered = column(&filtered.expect(StatusCode::OK), "id");
            let mut expected: Vec<String> = all
                .as_array()
                .unwrap()
                .iter()
                .filter(|other| other[field] == *value)
                .map(|other| other["id"].as_str().unwrap().to_owned())
                .collect();
            assert!(expected.contains(&id));
            filtered.sort();
            expected.sort();
            assert_eq!(filtered, expected, "{}?{field}={value}", kind.path);
            assert_eq!(total, expected.len().to_string(), "{}?{field}={value}", kind.path);
        }
    }
}

#[tokio::test]
async fn filters_are_combined_and_compare_the_whole_value() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let body = json!({ "name": "Search", "type": "index", "params": { "b": 1, "a": [2] } });
    let id = create_resource(&admin, "/v2/services", body).await;
    create_resource(&admin, "/v2/services", json!({ "name": "Search", "type": "other" })).await;
    for (pairs, found) in [
        (vec![("name", "Search"), ("type", "index")], true),
        (vec![("type", "index"), ("params", r#"{ "a": [2], "b": 1 }"#)], true),
        (vec![("name", "Search"), ("type", "none")], false),
        (vec![("type", "inde")], false),
        (vec![("type", "inde%")], false),
        (vec![("type", "index' OR '1'='1")], false),
        (vec![("params", r#"{"a":[2]}"#)], false),
        (vec![("id", UNKNOWN_ID)], false),
    ] {
        let list = admin.get(&query("/v2/services", &pairs)).await.expect(StatusCode::OK);
        let expected = if found { vec![id.clone()] } else { Vec::new() };
        assert_eq!(column(&list, "id"), expected, "{pairs:?}");
    }
    let user = create_resource(&admin, "/v2/users", json!({ "email": "Ada@Example.com" })).await;
    let list = admin.get("/v2/users?email=ADA%40example.com").await.expect(StatusCode::OK);
    assert_eq!(column(&list, "id"), [user]);
}

#[tokio::test]
async fn an_unknown_parameter_or_an_invalid_value_is_named() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut cases: Vec<(&str, Pairs<'_>, Vec<&str>)> = vec![
        ("/v2/users", vec![("password", "t0pZ3kR3t")], vec!["password"]),
        ("/v2/users", vec![("given_name", "Ada")], vec!["given_name"]),
        ("/v2/users", vec![("role", "root")], vec!["role"]),
        ("/v2/users", vec![("status", "Active")], vec!["status"]),
        ("/v2/users", vec![("createdAt", "yesterday")], vec!["createdAt"]),
        ("/v2/messages", vec![("isBackchannel", "yes")], vec!["isBackchannel"]),
        ("/v2/messages", vec![("delay", "soon")], vec!["delay"]),
        ("/v2/messages", vec![("conversation", "none")], vec!["conversation"]),
        ("/v2/services", vec![("params", "{")], vec!["params"]),
        ("/v2/services", vec![("name", "a\0b")], vec!["name"]),
        ("/v2/services", vec![("name", ">")], vec!["name"]),
        ("/v2/services", vec![("name", "[a, ]")], vec!["name"]),
        ("/v2/services", vec![("nome", "x"), ("limit", "0"), ("name", "x")], vec!["nome", "limit"]),
    ];
    let unknown: Vec<&str> = resource_specs(&admin).await.into_iter().map(|kind| kind.path).collect();
    for path in unknown {
        for name in ["colour", "q", "Limit", "id[]", "filter", ""] {
            cases.push((path, vec![(name, "x")], vec![name]));
        }
    }
    for (path, pairs, wrong) in cases {
        let refused = admin.get(&query(path, &pairs)).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), wrong, "{path} {pairs:?}");
    }
    admin.get("/v2/services?name=%ff").await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn a_list_covers_the_callers_subtree_or_the_given_organization() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (home, admin) = app.tenant("acme").await;
    let below = create_resource(&admin, "/v2/organizations", json!({ "name": "below" })).await;
    let deeper =
        create_resource(&admin, "/v2/organizations", json!({ "name": "deeper", "parent": below })).await;
    let (abroad, _) = app.tenant("other").await;
    for (name, organization) in [("home", &home), ("below", &below), ("deeper", &deeper), ("abroad", &abroad)]
    {
        create_resource(&root, "/v2/forms", json!({ "name": name, "organization": organization })).await;
    }
    let list = async |client: &Client, path: &str| {
        let reply = client.get(path).await;
        let total = reply.header("x-total-count").to_owned();
        let names = column(&reply.expect(StatusCode::OK), "name");
        assert_eq!(total, names.len().to_string());
        names.join(" ")
    };
    assert_eq!(list(&root, "/v2/forms?sort=name").await, "abroad below deeper home");
    assert_eq!(list(&admin, "/v2/forms?sort=name").await, "below deeper home");
    for (organization, names) in [(&home, "home"), (&below, "below"), (&deeper, "deeper")] {
        assert_eq!(list(&admin, &format!("/v2/forms?organization={organization}")).await, names);
    }
    assert_eq!(list(&admin, &format!("/v2/forms?organization={below}&name=home")).await, "");
    assert_eq!(list(&admin, "/v2/organizations?sort=name").await, "acme below deeper");
    assert_eq!(list(&admin, &format!("/v2/organizations?parent={home}")).await, "below");
    for organization in [abroad.as_str(), UNKNOWN_ID] {
        let refused = admin.get(&format!("/v2/forms?organization={organization}")).await;
        refused.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_list_is_not_filtered_by_fetch_permissions() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "form" })).await;
    let bot = app.user(Scope::Bot).await;
    bot.get(&format!("/v2/forms/{form}")).await.expect_problem(403, "forbidden");
    let list = bot.get("/v2/forms").await;
    assert_eq!(list.header("x-total-count"), "1");
    assert_eq!(column(&list.expect(StatusCode::OK), "id"), [form]);
}
