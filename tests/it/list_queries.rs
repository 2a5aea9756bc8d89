//! The query language of lists, case by case: operators, escapes, organizations, and errors that list what is accepted.

use crate::lists::{column, fetch_all_pages, next, query};
use crate::resources::{UNKNOWN_ID, create_resource};
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::json;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// The values of a field in a list, sorted and joined.
async fn found(client: &Client, path: &str, pairs: Pairs<'_>, field: &str) -> String {
    let list = client.get(&query(path, pairs)).await;
    let total = list.header("x-total-count").to_owned();
    let list = list.expect(StatusCode::OK);
    let mut values: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item[field].as_str().unwrap_or("null").to_owned())
        .collect();
    assert_eq!(total, values.len().to_string(), "{pairs:?}");
    values.sort();
    values.join(" ")
}

#[tokio::test]
async fn every_operator_selects_the_resources_that_it_describes() {
    let app = TestApp::start().await;
    for (name, kind, url) in [
        ("alpha", json!("index"), json!("https://a.example")),
        ("Alphabet", json!("a,b"), json!(null)),
        ("beta", json!(null), json!("https://b.example")),
        ("100%", json!("!x"), json!(null)),
        ("100x", json!("null"), json!(null)),
    ] {
        let body = json!({ "name": name, "type": kind, "url": url });
        create_resource(&app.admin().await, "/v2/services", body).await;
        app.clock.advance(24 * 60 * 60 * 1000);
    }
    let admin = app.admin().await;
    let cases: [(Pairs<'_>, &str); 38] = [
        (&[("name", "alpha")], "alpha"),
        (&[("name", "!alpha")], "100% 100x Alphabet beta"),
        (&[("name", "[alpha,beta]")], "alpha beta"),
        (&[("name", "![alpha,beta]")], "100% 100x Alphabet"),
        (&[("name", "[]")], ""),
        (&[("name", "![]")], "100% 100x Alphabet alpha beta"),
        (&[("type", "null")], "beta"),
        (&[("type", "!null")], "100% 100x Alphabet alpha"),
        (&[("type", "[null,index]")], "alpha beta"),
        (&[("type", "!index")], "100% 100x Alphabet beta"),
        // Escapes.
        (&[("type", "\"null\"")], "100x"),
        (&[("type", "\"!x\"")], "100%"),
        (&[("type", "!\"!x\"")], "100x Alphabet alpha beta"),
        (&[("type", "a,b")], "Alphabet"),
        (&[("type", "[\"a,b\",index]")], "Alphabet alpha"),
        (&[("type", "[a,b]")], ""),
        (&[("type", "\"\\u0069ndex\"")], "alpha"),
        // Texts.
        (&[("name", "~ALPHA")], "Alphabet alpha"),
        (&[("name", "!~alpha")], "100% 100x beta"),
        (&[("name", "~0%")], "100%"),
        (&[("name", "~0_")], ""),
        (&[("name", "^alpha")], "alpha"),
        (&[("name", "^1")], "100% 100x"),
        (&[("name", "!^1")], "Alphabet alpha beta"),
        (&[("name", "^100%")], "100%"),
        (&[("name", ">beta")], ""),
        (&[("name", ">=alpha")], "alpha beta"),
        (&[("name", "<A")], "100% 100x"),
        (&[("url", "<=https://a.example")], "alpha"),
        (&[("url", "!>https://a.example")], "100% 100x Alphabet alpha"),
        // Times. The clock begins at noon of 31 January 2026.
        (&[("createdAt", ">2026-02-01")], "100% 100x Alphabet beta"),
        (&[("createdAt", ">=2026-02-01T12:00:00Z")], "100% 100x Alphabet beta"),
        (&[("createdAt", ">2026-02-01T13:00:00+01:00")], "100% 100x beta"),
        (&[("createdAt", "<2026-02-01")], "alpha"),
        (&[("createdAt", "2026-01-31T12:00:00Z")], "alpha"),
        // Several conditions, also on one field.
        (&[("createdAt", ">=2026-02-01"), ("createdAt", "<2026-02-03")], "Alphabet beta"),
        (&[("name", "~alpha"), ("type", "index")], "alpha"),
        (&[("name", "~alpha"), ("name", "!alpha")], "Alphabet"),
    ];
    for (pairs, expected) in cases {
        assert_eq!(found(&admin, "/v2/services", pairs, "name").await, expected, "{pairs:?}");
    }
}

#[tokio::test]
async fn nested_fields_are_tested_by_any_of_their_values() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let ada = create_resource(&admin, "/v2/users", json!({ "email": "ada@example.com" })).await;
    let bob = create_resource(&admin, "/v2/users", json!({ "email": "bob@example.com" })).await;
    let own = admin.id.as_str();
    for (name, participants, meta) in [
        (
            "one",
            json!([{ "user": ada, "role": "host" }]),
            json!({ "intent": "order", "count": 5, "vip": true }),
        ),
        (
            "two",
            json!([{ "user": ada, "active": false }, { "user": bob, "role": "guest" }]),
            json!({ "intent": ["order", "help"], "count": "5", "vip": "true" }),
        ),
        // PostgreSQL's type `jsonb` cannot hold the character U+0000.
        (
            "three",
            json!([]),
            json!({ "order": { "id": "7", "total": 9.5 }, "count": null, "x": "\u{0}", "\u{0}": "x" }),
        ),
    ] {
        let body = json!({ "name": name, "participants": participants, "meta": meta });
        create_resource(&admin, "/v2/conversations", body).await;
    }
    let body = json!({ "profile": { "email": "Ada@EXAMPLE.com", "telephone": "+43 1 234" } });
    let contact = create_resource(&admin, "/v2/contacts", body).await;
    create_resource(&admin, "/v2/contacts", json!({})).await;
    create_resource(&admin, "/v2/organizations", json!({ "name": "tagged", "tags": ["big", "old"] })).await;
    create_resource(&admin, "/v2/organizations", json!({ "name": "untagged" })).await;
    let conversations: [(Pairs<'_>, &str); 17] = [
        (&[("participants.user", &ada)], "one two"),
        (&[("participants.user", own)], "one three two"),
        (&[("participants.user", &format!("[{bob},{UNKNOWN_ID}]"))], "two"),
        (&[("participants.user", &format!("!{ada}"))], "three"),
        (&[("participants.role", "^ho")], "one"),
        (&[("participants.role", "null")], "three"),
        (&[("participants.active", "false")], "two"),
        (&[("meta.intent", "order")], "one two"),
        (&[("meta.intent", "~ELP")], "two"),
        // Of its own type.
        (&[("meta.count", "5")], "one"),
        (&[("meta.count", "\"5\"")], "two"),
        (&[("meta.count", ">4")], "one"),
        (&[("meta.count", "null")], "three"),
        (&[("meta.vip", "true")], "one"),
        (&[("meta.order.id", "\"7\"")], "three"),
        (&[("meta.order.total", ">=9.5")], "three"),
        (&[("meta.order", "!null")], "three"),
    ];
    for (pairs, expected) in conversations {
        assert_eq!(found(&admin, "/v2/conversations", pairs, "name").await, expected, "{pairs:?}");
    }
    for pairs in [
        [("profile.email", "ada@example.com")],
        [("profile.email", "~ADA")],
        [("profile.telephone", "+43 1 234")],
        [("profile.telephone", "^+43")],
        [("profile.email", "!null")],
    ] {
        assert_eq!(found(&admin, "/v2/contacts", &pairs, "id").await, contact, "{pairs:?}");
    }
    for (text, expected) in [("old", "tagged"), ("[old,new]", "tagged"), ("~LD", "tagged"), ("new", "")] {
        assert_eq!(found(&admin, "/v2/organizations", &[("tags", text)], "name").await, expected, "{text}");
    }
    assert!(found(&admin, "/v2/organizations", &[("tags", "null")], "name").await.ends_with("untagged"));
}

#[tokio::test]
async fn an_organization_and_those_below_it_are_selected_by_path() {
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
    let path = admin.get(&format!("/v2/organizations/{deeper}")).await.expect(StatusCode::OK);
    let path = path["path"].as_str().unwrap();
    let subtree = format!("^{below}");
    let listed = format!("[{home},{deeper},{abroad},{UNKNOWN_ID}]");
    let cases: [(Pairs<'_>, &str); 8] = [
        (&[("orgPath", &subtree)], "below deeper"),
        (&[("orgPath", &format!("^{path}"))], "deeper"),
        (&[("orgPath", path)], "deeper"),
        (&[("orgPath", &below)], "below"),
        (&[("orgPath", &subtree), ("name", "~deep")], "deeper"),
        // The accessible ones of several organizations.
        (&[("organization", &listed)], "deeper home"),
        (&[("organization", &format!("!{home}"))], "below deeper"),
        (&[("organization", &below)], "below"),
    ];
    for (pairs, expected) in cases {
        assert_eq!(found(&admin, "/v2/forms", pairs, "name").await, expected, "{pairs:?}");
    }
    for organization in [abroad.as_str(), UNKNOWN_ID] {
        for prefix in ["", "^"] {
            let refused =
                admin.get(&query("/v2/forms", &[("orgPath", &format!("{prefix}{organization}"))])).await;
            refused.expect_problem(404, "not_found");
        }
    }
    let (inside, outside) = (("orgPath", subtree.as_str()), ("organization", abroad.as_str()));
    for (pairs, conflict) in [([inside, outside], "organization"), ([outside, inside], "orgPath")] {
        let expected = [(conflict.to_owned(), "conflict".to_owned())];
        assert_eq!(root.get(&query("/v2/forms", &pairs)).await.field_errors(), expected);
        let all = [pairs[0], pairs[1], ("dryRun", "true")];
        let deletion = root.send(Method::DELETE, &query("/v2/forms", &all), &[], None).await;
        assert_eq!(deletion.field_errors(), expected);
    }
    // A filter by several organizations selects among those of the path.
    let others = format!("!{below}");
    for pairs in [[inside, ("organization", &*others)], [("organization", &*others), inside]] {
        assert_eq!(found(&admin, "/v2/forms", &pairs, "name").await, "deeper", "{pairs:?}");
    }
}

#[tokio::test]
async fn an_invalid_query_names_the_parameter_and_what_is_accepted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let many = format!("[{}]", vec!["a"; 201].join(","));
    let long = format!("~{}", "a".repeat(201));
    for (path, name, text, code) in [
        ("/v2/forms", "name", "!!a", "invalid_format"),
        ("/v2/forms", "name", "\"a", "invalid_format"),
        ("/v2/forms", "name", "[a", "invalid_format"),
        ("/v2/forms", "name", "[a,]", "invalid_format"),
        ("/v2/forms", "name", "[\"a\"b]", "invalid_format"),
        ("/v2/forms", "name", many.as_str(), "too_many_items"),
        ("/v2/forms", "name", "~", "too_short"),
        ("/v2/forms", "name", long.as_str(), "too_long"),
        ("/v2/forms", "createdAt", "~2020", "unknown_operator"),
        ("/v2/forms", "createdAt", "2020-09-14", "invalid_format"),
        ("/v2/forms", "createdAt", ">2020-13-14", "invalid_format"),
        ("/v2/forms", "createdAt", ">yesterday", "invalid_format"),
        ("/v2/forms", "organization", "[a]", "invalid_format"),
        ("/v2/forms", "organization", "none", "invalid_format"),
        ("/v2/forms", "organization", "", "invalid_format"),
        ("/v2/forms", "orgPath", "~a", "unknown_operator"),
        ("/v2/forms", "orgPath", "none", "invalid_format"),
        ("/v2/forms", "orgPath", "^none", "invalid_format"),
        ("/v2/forms", "orgPath", "none#599e1fcd9da1c72645c95885", "invalid_format"),
        ("/v2/audit", "organization", "none", "invalid_format"),
        ("/v2/audit", "organization", "!none", "invalid_format"),
        ("/v2/forms", "meta.a", "9007199254740993", "out_of_range"),
        ("/v2/forms", "meta.a", ">true", "invalid_format"),
        ("/v2/forms", "meta.", "a", "unknown_field"),
        ("/v2/forms", "meta.\"", "a", "unknown_field"),
        ("/v2/forms", "meta.a.b.c.d.e.f.g.h.i", "a", "unknown_field"),
        ("/v2/forms", "name.a", "a", "unknown_field"),
        ("/v2/forms", "fields.id", "a", "unknown_field"),
        ("/v2/users", "password", "~a", "unknown_field"),
        ("/v2/users", "role", ">guest", "unknown_operator"),
        ("/v2/users", "role", "[guest,root]", "unknown_value"),
        ("/v2/users", "id", "^599e", "unknown_operator"),
        ("/v2/messages", "isBackchannel", "~t", "unknown_operator"),
        ("/v2/messages", "delay", "[1,x]", "invalid_format"),
        ("/v2/messages", "delay", ">86400001", "out_of_range"),
        ("/v2/conversations", "participants.active", "yes", "invalid_format"),
        ("/v2/conversations", "participants.password", "yes", "unknown_field"),
        ("/v2/forms", "total", "no", "invalid_format"),
        ("/v2/forms", "after", "x", "mismatch"),
        ("/v2/forms", "select", "name,colour", "unknown_field"),
        ("/v2/forms", "select", "name,name", "duplicate"),
        ("/v2/forms", "select", "", "unknown_field"),
        ("/v2/forms", "populate", "meta", "unknown_field"),
        ("/v2/forms", "populate", "organization.parent.parent.parent", "too_deep"),
        ("/v2/forms", "include", "secrets", "unknown_value"),
        ("/v2/audit", "from", ">2020-09-14", "unknown_operator"),
        ("/v2/audit", "select", "seq", "unknown_field"),
    ] {
        let refused = admin.get(&query(path, &[(name, text)])).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [(name.to_owned(), code.to_owned())], "{path}?{name}={text}");
    }
    let refused = admin.get("/v2/conversations?colour=1").await;
    let message = refused.json["errors"][0]["message"].as_str().unwrap().to_owned();
    for name in ["after", "total", "populate", "participants.user", "meta.*", "orgPath", "updatedAt"] {
        assert!(message.contains(name), "{name}: {message}");
    }
    assert!(!message.ends_with('…'), "{message}");
}

#[tokio::test]
async fn requests_of_the_platforms_client_library_work_as_they_are() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let own = admin.get("/v2/users/me").await.expect(StatusCode::OK);
    let home = own["organization"].as_str().unwrap();
    for index in 0..12 {
        let body = json!({ "profile": { "telephone": format!("+31{index}") } });
        create_resource(&admin, "/v2/contacts", body).await;
        app.clock.advance(1);
    }
    create_resource(&admin, "/v2/services", json!({ "name": "sms", "type": "twilio" })).await;
    let conversation = create_resource(&admin, "/v2/conversations", json!({})).await;
    // The library encodes every value by itself, and joins arrays as `[a,b]`.
    for (path, length) in [
        ("/v2/contacts?limit=5&sort=-createdAt".to_owned(), 5),
        (format!("/v2/contacts?profile.telephone=%2B317&organization={home}"), 1),
        (format!("/v2/services?organization={home}&type=twilio"), 1),
        (format!("/v2/services?organization=[{home},{UNKNOWN_ID}]&sort=organization"), 1),
        ("/v2/conversations?sort=-createdAt&limit=1".to_owned(), 1),
    ] {
        let list = admin.get(&path).await.expect(StatusCode::OK);
        assert_eq!(list.as_array().unwrap().len(), length, "{path}");
    }
    let selected = admin.get(&format!("/v2/conversations/{conversation}?select=participants")).await;
    let selected = selected.expect(StatusCode::OK);
    assert_eq!(selected["participants"][0]["user"], json!(admin.id));
    assert_eq!(selected.as_object().unwrap().len(), 2);
    // Pages in slices: the library sends limit and offset, and follows the links.
    let pages = fetch_all_pages(&admin, "/v2/contacts?limit=5&offset=0").await;
    let lengths: Vec<usize> = pages.iter().map(|page| page.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [5, 5, 2]);
}

#[tokio::test]
async fn a_cursor_continues_where_the_page_ended_although_rows_are_created_and_deleted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (name, kind) in
        [("a", json!("x")), ("b", json!(null)), ("c", json!("x")), ("d", json!(null)), ("e", json!("y"))]
    {
        create_resource(&admin, "/v2/services", json!({ "name": name, "type": kind })).await;
    }
    for (sort, expected) in [
        ("type,name", "a c e b d"),
        ("-type,name", "e a c b d"),
        ("type,-name", "c a e d b"),
        ("-name", "e d c b a"),
        ("-createdAt,-id", ""),
    ] {
        let path = query("/v2/services", &[("sort", sort), ("limit", "1")]);
        let pages = fetch_all_pages(&admin, &path).await;
        let names: Vec<String> = pages.iter().flat_map(|page| column(page, "name")).collect();
        if expected.is_empty() {
            assert_eq!(names.len(), 5, "{sort}");
        } else {
            assert_eq!(names.join(" "), expected, "{sort}");
        }
    }
    let first = admin.get("/v2/services?sort=name&limit=2").await;
    let link = next(&first).unwrap();
    let link = link.strip_prefix(&admin.base).unwrap();
    let ids = column(&first.json, "id");
    admin.delete(&format!("/v2/services/{}", ids[1])).await.expect(StatusCode::NO_CONTENT);
    create_resource(&admin, "/v2/services", json!({ "name": "aa" })).await;
    let second = admin.get(link).await.expect(StatusCode::OK);
    assert_eq!(column(&second, "name"), ["c", "d"]);
}

#[tokio::test]
async fn a_cursor_of_another_list_or_a_changed_one_is_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for name in ["a", "b"] {
        create_resource(&admin, "/v2/forms", json!({ "name": name })).await;
        create_resource(&admin, "/v2/services", json!({ "name": name })).await;
    }
    let first = admin.get("/v2/forms?limit=1&sort=name&name=!x").await;
    let link = reqwest::Url::parse(&next(&first).unwrap()).unwrap();
    let (_, cursor) = link.query_pairs().find(|(name, _)| name == "after").unwrap();
    let ok = admin
        .get(&format!("/v2/forms?name=!x&sort=name&select=name&total=false&limit=5&after={cursor}"))
        .await;
    assert_eq!(ok.header("x-total-count"), "");
    assert_eq!(column(&ok.expect(StatusCode::OK), "name"), ["b"]);
    let changed = cursor.replace('2', "3");
    for path in [
        format!("/v2/forms?limit=1&sort=-name&name=!x&after={cursor}"),
        format!("/v2/forms?limit=1&sort=name&after={cursor}"),
        format!("/v2/forms?limit=1&sort=name&name=!y&after={cursor}"),
        format!("/v2/services?limit=1&sort=name&name=!x&after={cursor}"),
        format!("/v2/forms?limit=1&sort=name&name=!x&after={}", &cursor[..cursor.len() - 2]),
        format!("/v2/forms?limit=1&sort=name&name=!x&after={}", &cursor[..10]),
        format!("/v2/forms?limit=1&sort=name&name=!x&after={changed}"),
        "/v2/forms?limit=1&sort=name&name=!x&after=".to_owned(),
    ] {
        let refused = admin.get(&path).await;
        refused.expect_problem(400, "invalid_fields");
        assert_eq!(refused.field_errors(), [("after".to_owned(), "mismatch".to_owned())], "{path}");
    }
    let both = admin.get(&format!("/v2/forms?limit=1&sort=name&name=!x&offset=1&after={cursor}")).await;
    assert_eq!(both.field_errors(), [("after".to_owned(), "conflict".to_owned())]);
}

#[tokio::test]
async fn without_a_total_pages_still_end() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for name in ["a", "b", "c"] {
        create_resource(&admin, "/v2/forms", json!({ "name": name })).await;
    }
    let list = admin.get("/v2/forms?total=false&limit=3").await;
    assert_eq!((list.header("x-total-count"), list.header("link")), ("", ""));
    assert_eq!(list.json.as_array().unwrap().len(), 3);
    for path in ["/v2/forms?total=false&limit=2", "/v2/forms?total=false&limit=2&offset=0"] {
        let pages = fetch_all_pages(&admin, path).await;
        assert_eq!(
            pages.iter().map(|page| page.as_array().unwrap().len()).collect::<Vec<_>>(),
            [2, 1],
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_sort_by_a_text_without_a_short_limit_has_offset_links() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for name in ["a", "b"] {
        create_resource(&admin, "/v2/orggroups", json!({ "name": name, "description": name })).await;
        create_resource(&admin, "/v2/kbitems", json!({ "title": name, "content": name })).await;
        app.user(Scope::Guest).await;
    }
    for (path, sort, has_cursor) in [
        ("/v2/orggroups", "name", true),
        ("/v2/orggroups", "description", false),
        ("/v2/kbitems", "title", true),
        ("/v2/kbitems", "content", false),
        ("/v2/kbitems", "title,content", false),
        ("/v2/users", "email", true),
        ("/v2/users", "name", false),
    ] {
        let page = admin.get(&format!("{path}?limit=1&sort={sort}")).await;
        let link = next(&page).unwrap();
        assert_eq!((link.contains("after="), link.contains("offset=")), (has_cursor, !has_cursor), "{link}");
    }
}
