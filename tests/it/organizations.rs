//! Organizations: the tree that they form, moving in it, and that nothing is left behind without one.

use crate::resources::{NOBODY, fields, kinds, make};
use crate::support::{Client, TestApp};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn below(client: &Client, parent: &str, name: &str) -> String {
    make(client, "/v2/organizations", json!({ "name": name, "parent": parent })).await
}

async fn place(client: &Client, id: &str) -> (String, i64) {
    let found = client.get(&format!("/v2/organizations/{id}")).await.expect(StatusCode::OK);
    (found["path"].as_str().unwrap().to_owned(), found["level"].as_i64().unwrap())
}

async fn root(client: &Client) -> String {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    own["organization"].as_str().unwrap().to_owned()
}

async fn move_to(client: &Client, id: &str, parent: impl Into<Value>) -> crate::support::Reply {
    client.patch(&format!("/v2/organizations/{id}"), json!({ "parent": parent.into() })).await
}

#[tokio::test]
async fn an_organization_knows_its_path_and_level() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    assert_eq!(place(&admin, &top).await, (top.clone(), 0));
    let a = below(&admin, &top, "a").await;
    let b = below(&admin, &a, "b").await;
    assert_eq!(place(&admin, &a).await, (format!("{top}#{a}"), 1));
    assert_eq!(place(&admin, &b).await, (format!("{top}#{a}#{b}"), 2));
}

#[tokio::test]
async fn what_is_below_an_organization_moves_with_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    let a = below(&admin, &top, "a").await;
    let b = below(&admin, &a, "b").await;
    let c = below(&admin, &b, "c").await;
    let aside = below(&admin, &a, "aside").await;
    let target = below(&admin, &top, "target").await;
    let form = make(&admin, "/v2/forms", json!({ "name": "form", "organization": c })).await;

    let moved = move_to(&admin, &b, target.as_str()).await.expect(StatusCode::OK);
    assert_eq!(
        (&moved["parent"], &moved["path"], &moved["level"]),
        (&json!(target), &json!(format!("{top}#{target}#{b}")), &json!(2))
    );
    assert_eq!(place(&admin, &b).await, (format!("{top}#{target}#{b}"), 2));
    assert_eq!(place(&admin, &c).await, (format!("{top}#{target}#{b}#{c}"), 3));
    assert_eq!(place(&admin, &aside).await, (format!("{top}#{a}#{aside}"), 2));

    move_to(&admin, &b, top.as_str()).await.expect(StatusCode::OK);
    assert_eq!(place(&admin, &c).await, (format!("{top}#{b}#{c}"), 2));
    assert_eq!(admin.get(&format!("/v2/forms/{form}")).await.json["organization"], c.as_str());
}

#[tokio::test]
async fn who_reaches_a_thing_changes_with_the_place_of_its_organization() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (from, left) = app.tenant("from").await;
    let (to, right) = app.tenant("to").await;
    let moving = below(&admin, &from, "moving").await;
    let deep = below(&admin, &moving, "deep").await;
    let form =
        format!("/v2/forms/{}", make(&left, "/v2/forms", json!({ "name": "f", "organization": deep })).await);
    right.get(&form).await.expect_problem(404, "not_found");
    move_to(&admin, &moving, to.as_str()).await.expect(StatusCode::OK);
    left.get(&form).await.expect_problem(404, "not_found");
    right.get(&form).await.expect(StatusCode::OK);
    assert_eq!(left.get("/v2/forms").await.json, json!([]));
    assert_eq!(right.get("/v2/forms").await.header("x-total-count"), "1");
}

#[tokio::test]
async fn no_organization_stands_below_itself() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    let a = below(&admin, &top, "a").await;
    let b = below(&admin, &a, "b").await;
    let c = below(&admin, &b, "c").await;
    let before = [place(&admin, &a).await, place(&admin, &b).await, place(&admin, &c).await];
    for (what, parent) in [(&a, &a), (&a, &b), (&a, &c), (&b, &c), (&top, &top), (&top, &c)] {
        let refused = move_to(&admin, what, parent.as_str()).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["parent"], "{what} below {parent}");
    }
    assert_eq!([place(&admin, &a).await, place(&admin, &b).await, place(&admin, &c).await], before);
    assert_eq!(place(&admin, &top).await, (top, 0));
}

#[tokio::test]
async fn two_moves_at_once_make_no_cycle() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    for round in 0..5 {
        let a = below(&admin, &top, &format!("a{round}")).await;
        let b = below(&admin, &top, &format!("b{round}")).await;
        let (one, two) = tokio::join!(move_to(&admin, &a, b.as_str()), move_to(&admin, &b, a.as_str()));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "{} {}", one.text, two.text);
        let (inner, outer) = if one.status == StatusCode::OK { (&a, &b) } else { (&b, &a) };
        assert_eq!(place(&admin, outer).await, (format!("{top}#{outer}"), 1));
        assert_eq!(place(&admin, inner).await, (format!("{top}#{outer}#{inner}"), 2));
    }
}

#[tokio::test]
async fn every_organization_but_the_root_keeps_one_above_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    let a = below(&admin, &top, "a").await;
    assert_eq!(move_to(&admin, &a, Value::Null).await.expect_problem(400, "invalid_fields"), ["parent"]);
    assert_eq!(move_to(&admin, &a, NOBODY).await.expect_problem(400, "invalid_fields"), ["parent"]);
    assert_eq!(place(&admin, &a).await, (format!("{top}#{a}"), 1));
    // The root may be changed, if it stays where it is.
    let renamed =
        admin.patch(&format!("/v2/organizations/{top}"), json!({ "name": "Top", "parent": null })).await;
    assert_eq!(renamed.expect(StatusCode::OK)["name"], "Top");
}

#[tokio::test]
async fn an_organization_with_things_in_it_stays_and_the_answer_says_what_it_holds() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    let conversations = "/v2/conversations";
    for kind in kinds(&admin).await {
        let holder = below(&admin, &top, "holder").await;
        let organization = format!("/v2/organizations/{holder}");
        let mut body = kind.least.clone();
        let mut things = Vec::new();
        if kind.path == "/v2/messages" {
            let conversation = make(&admin, conversations, json!({ "organization": holder })).await;
            things.push(format!("{conversations}/{conversation}"));
            body["conversation"] = json!(conversation);
        } else {
            let field = if kind.path == "/v2/organizations" { "parent" } else { "organization" };
            body[field] = json!(holder);
        }
        things.push(format!("{}/{}", kind.path, make(&admin, kind.path, body).await));
        let refused = admin.delete(&organization).await;
        refused.expect_problem(409, "conflict");
        let noun = match kind.path {
            "/v2/organizations" => "Organization",
            "/v2/orggroups" => "OrganizationGroup",
            "/v2/users" => "User",
            "/v2/conversations" => "Conversation",
            "/v2/messages" => "Message",
            "/v2/contacts" => "Contact",
            "/v2/kbitems" => "KnowledgeItem",
            "/v2/forms" => "Form",
            _ => "Service",
        };
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("1 of type {noun}")), "{detail}");
        admin.get(&organization).await.expect(StatusCode::OK);
        for thing in things.iter().rev() {
            admin.get(thing).await.expect(StatusCode::OK);
            admin.delete(thing).await.expect(StatusCode::NO_CONTENT);
        }
        admin.delete(&organization).await.expect(StatusCode::NO_CONTENT);
        admin.get(&organization).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn nobody_deletes_the_ground_under_its_own_feet() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    admin.delete(&format!("/v2/organizations/{home}")).await.expect_problem(409, "conflict");
    let top = app.admin().await;
    top.delete(&format!("/v2/organizations/{}", root(&top).await)).await.expect_problem(409, "conflict");
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_thing_that_moves_to_another_organization_takes_along_what_belongs_to_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root(&admin).await;
    let target = below(&admin, &top, "target").await;
    for kind in kinds(&admin).await {
        if ["/v2/organizations", "/v2/messages"].contains(&kind.path) {
            continue;
        }
        let thing = format!("{}/{}", kind.path, make(&admin, kind.path, kind.full).await);
        let before = admin.get(&thing).await.expect(StatusCode::OK);
        let moved = admin.patch(&thing, json!({ "organization": target })).await.expect(StatusCode::OK);
        for (field, value) in fields(&before) {
            let expected = if field == "organization" { &json!(target) } else { value };
            assert_eq!(moved[field], *expected, "{} {field}", kind.path);
        }
    }
    // The organization of a message is that of its conversation.
    let first = json!({ "messages": [{ "text": "one" }, { "text": "two" }] });
    let conversation = make(&admin, "/v2/conversations", first).await;
    let thing = format!("/v2/conversations/{conversation}");
    admin.patch(&thing, json!({ "organization": target })).await.expect(StatusCode::OK);
    let messages =
        admin.get(&format!("/v2/messages?conversation={conversation}")).await.expect(StatusCode::OK);
    let held: Vec<&Value> =
        messages.as_array().unwrap().iter().map(|message| &message["organization"]).collect();
    assert_eq!(held, [&json!(target), &json!(target)]);
}
